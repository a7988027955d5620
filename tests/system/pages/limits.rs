//! How much one address, one session and one token may ask of the pages.

use crate::api::scene::{ALL, Scene};
use crate::pages::person::{Person, tenant};
use std::time::Duration;
use test_support::waiting::until;
use verifyd::domain::access::{Binding, Scope};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_may_try_so_many_logins() {
    let scene = Scene::sqlite_with(|settings| settings.pages.logins_per_minute = 3).await;
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
        settings.pages.requests_per_minute = 5;
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
    let scene = Scene::sqlite_with(|settings| settings.pages.requests_per_minute = 5).await;
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
        // A session has one of them, a token two.
        settings.pages.max_streams = 4;
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
