//! How much one address, one session and one token may ask of the pages.

use crate::api::scene::{ALL, Scene};
use crate::pages::person::{Person, tenant};
use serde_json::json;
use std::time::Duration;
use test_support::waiting::{PATIENCE, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use verifyd::domain::RunId;
use verifyd::domain::access::{Binding, Scope};
use verifyd::ports::store::RunFilter;
use verifyd_simulator::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_may_try_so_many_logins() {
    let scene = Scene::sqlite_with(|settings| {
        // Half of them for logins.
        settings.http.api.anonymous_requests_per_minute = 6;
    })
    .await;
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let person = Person::logged_in(&scene.base, &token).await;
    let nobody = Person::at(&scene.base);
    let mut tried = 0;
    let refused = loop {
        let answer = nobody.log_in("vfd_wrong").await;
        if answer.status() == 429 {
            break answer;
        }
        assert_eq!(answer.status(), 401);
        tried += 1;
        assert!(tried < 1_000, "nothing is refused");
    };
    let wait = refused.headers()["retry-after"].to_str().unwrap();
    let wait: u64 = wait.parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert!(refused.text().await.unwrap().contains("Too many requests"));
    // Whoever has logged in, and the page with the form, are not held up.
    assert_eq!(person.get("/runs").await.status(), 200);
    assert_eq!(nobody.get("/login").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_without_a_login_may_ask_so_often() {
    let scene = Scene::sqlite_with(|settings| {
        settings.http.api.requests_per_minute = 5;
        settings.http.api.anonymous_requests_per_minute = 3;
    })
    .await;
    let person = scene.operator().await;
    let nobody = Person::at(&scene.base);
    let mut tried = 0;
    while nobody.get("/login").await.status() != 429 {
        tried += 1;
        assert!(tried < 1_000, "nothing is refused");
    }
    for path in ["/", "/runs", "/live"] {
        assert!([303, 429].contains(&nobody.get(path).await.status().as_u16()));
    }
    assert_eq!(nobody.get("/assets/icon.svg").await.status(), 200);
    assert_eq!(person.get("/").await.status(), 200);
    // Cookies that are none are counted before they are looked up.
    let mut stranger = Person::at(&scene.base);
    let mut looked_up = 0;
    for n in 0..50 {
        stranger.cookie = format!("verifyd_session=unknown{n}");
        looked_up += usize::from(stranger.get("/runs").await.status() != 429);
    }
    assert!(looked_up < 50, "nothing is refused");
    assert_eq!(
        person.get("/").await.status(),
        200,
        "a session that is known"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_ask_so_often_by_all_its_sessions() {
    let scene = Scene::sqlite_with(|settings| settings.http.api.requests_per_minute = 5).await;
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let session = || Person::logged_in(&scene.base, &token);
    let sessions = [session().await, session().await];
    let mut answers = Vec::new();
    for _ in 0..50 {
        for person in &sessions {
            answers.push(person.get("/runs").await.status().as_u16());
        }
    }
    assert_eq!(answers[..5], [200; 5]);
    assert!(answers.contains(&429), "{answers:?}");
    assert_eq!(scene.operator().await.get("/runs").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_pages_are_bounded_for_a_session_and_for_a_token() {
    let scene = Scene::sqlite_with(|settings| {
        // Four live pages, of which a session has one, and a token two.
        settings.http.max_connections = 32;
    })
    .await;
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let session = || Person::logged_in(&scene.base, &token);
    let (one, two, three) = (session().await, session().await, session().await);
    let mut open = Vec::new();
    for (person, wanted) in [(&one, 200), (&one, 503), (&two, 200), (&three, 503)] {
        let answer = person.get("/live").await;
        assert_eq!(answer.status(), wanted);
        if wanted == 200 {
            open.push(answer);
        }
    }
    // Others have the rest of the places.
    let other = scene.person(&[Scope::Read], tenant(1)).await;
    let stream = other.get("/live").await;
    assert_eq!(stream.status(), 200);
    // What is closed is free again.
    drop(open.swap_remove(0));
    until("a place is given back", async || {
        one.get("/live").await.status() == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_page_may_be_silent_for_longer_than_any_time_limit() {
    let scene = Scene::sqlite_with(|settings| {
        settings.pages.live.keep_alive = Duration::from_secs(6);
        settings.http.timeouts.head = Duration::from_secs(3);
        settings.http.timeouts.body = Duration::from_secs(3);
        settings.http.timeouts.write = Duration::from_secs(3);
        settings.http.timeouts.request = Duration::from_secs(4);
    })
    .await;
    let person = scene.operator().await;
    let mut stream = person.get("/live").await;
    let mut comments = 0;
    while comments < 2 {
        let chunk = stream.chunk().await.unwrap();
        let chunk = chunk.expect("the stream goes on");
        comments += usize::from(chunk.starts_with(b":"));
    }
}

/// A run whose page is longer than the buffers of a connection.
async fn long_run(scene: &Scene) -> RunId {
    let id = scene.add(1, Scenario::SecretExpired).await;
    let mut context = scene.world.run(scene.check(id).await).await.context;
    let evidence = json!({ "kind": "found", "value": "<".repeat(290) });
    let checks = (0..190).map(|n| {
        json!({
            "key": format!("check.{n}"),
            "title": "<".repeat(190),
            "status": "warn",
            "severity": "low",
            "blocking": false,
            "reason_code": "auth_unknown",
            "message": "<".repeat(900),
            "evidence": vec![&evidence; 11],
            "next_steps": [],
        })
    });
    let report = &mut context["verification_report"];
    report["checks"] = checks.collect();
    report["summary"] = json!({
        "overall": "needs_attention",
        "counts": { "total": 190, "pass": 0, "fail": 0, "warn": 190, "skip": 0, "running": 0 },
    });
    let text = context.to_string().replace('\'', "''");
    let insert = format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, context, \
         completed_at) VALUES (1, 1, 'provider.connection.check', 'completed', 'failed', \
         '{text}', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
    );
    scene.world.sql(&insert).await;
    let newest = RunFilter {
        limit: 1,
        ..RunFilter::default()
    };
    scene.world.services.store.runs(&newest).await.unwrap()[0].id
}

/// A connection that has asked for a page, and reads no more than the beginning of its head.
async fn unread(person: &Person, path: &str) -> TcpStream {
    let address = person.base().strip_prefix("http://").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let cookie = &person.cookie;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut head));
    read.await.expect("it is answered").unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_are_not_read_hold_up_long_answers_of_their_token_alone() {
    let scene = Scene::sqlite_with(|settings| {
        settings.http.unsent_bytes = 1024 * 1024;
        settings.http.timeouts.write = Duration::from_secs(600);
    })
    .await;
    scene.work();
    let run = long_run(&scene).await;
    let (page, resource) = (format!("/runs/{run}"), format!("/v1/runs/{run}"));
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let person = Person::logged_in(&scene.base, &token).await;
    let length = person.page(&page).await.len();
    assert!(length > 4_000_000, "{length} bytes");
    // One takes the token's share.
    let lazy = unread(&person, &page).await;
    let refused = person.get(&page).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    let text = refused.text().await.unwrap();
    assert!(text.contains("Too many pages are being sent"), "{text}");
    let refused = scene.get(&token, &resource).await;
    assert_eq!(refused.refusal(), (503, "unavailable"));
    assert_eq!(refused.header("retry-after"), "5");
    // Short answers do not wait, nor does another token.
    assert_eq!(person.get("/runs").await.status(), 200);
    let shown = scene.operator().await.page(&page).await;
    assert!(shown.len() > 4_000_000, "{} bytes", shown.len());
    drop(lazy);
    until("the share is given back", async || {
        let answer = person.get(&page).await;
        let is_page = answer.status() == 200;
        answer.bytes().await.unwrap();
        is_page
    })
    .await;
    assert_eq!(scene.get(&token, &resource).await.status, 200);
}
