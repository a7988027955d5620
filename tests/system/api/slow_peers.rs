//! Peers that send or read slowly, in great number, and what they cannot keep from others.

use crate::api::scene::{ALL, Scene};
use crate::pages::person::Person;
use axum::extract::State;
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use test_support::waiting::{PATIENCE, until};
use test_support::world::operator;
use test_support::{own_process, test_name};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use verifyd::domain::access::Binding;
use verifyd::http::health;
use verifyd::ports::store::RunFilter;
use verifyd::telemetry::metrics::{self, Metrics};
use verifyd_simulator::Scenario;

/// Statements of this database that wait for a table.
const WAITING: &str = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                       WHERE d.datname = current_database() AND NOT granted AND locktype = 'relation'";

/// Times out nothing by itself while a test runs.
const LONG: Duration = Duration::from_secs(600);

async fn connect(scene: &Scene) -> TcpStream {
    let address = scene.base.strip_prefix("http://").unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// A connection that has sent this and sends no more.
pub async fn begun(scene: &Scene, text: &str) -> TcpStream {
    let mut stream = connect(scene).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Waits for the end of the connection; returns what came before.
pub async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all));
    let _ = ended.await.expect("the connection stays open");
    String::from_utf8_lossy(&all).into_owned()
}

/// Waits for this in what the server sends.
async fn expect(stream: &mut TcpStream, wanted: &str) {
    let mut all = Vec::new();
    let found = tokio::time::timeout(PATIENCE, async {
        while !String::from_utf8_lossy(&all).contains(wanted) {
            all.push(stream.read_u8().await.expect("the connection ends"));
        }
    });
    found.await.expect("it is not said");
}

const LOGIN: &str = "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                     Content-Length: 100\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_slow_connections_keeps_a_probe_from_its_answer() {
    let scene = Scene::postgres_with(|s| {
        s.http.max_connections = 64;
        s.http.max_connections_per_peer = 128;
        s.http.timeouts.head = LONG;
        s.http.timeouts.body = LONG;
    })
    .await;
    let healthz = format!("{}/healthz", scene.base);
    let done = Arc::new(AtomicBool::new(false));
    let probes = Arc::new(AtomicUsize::new(0));
    let probing = {
        let (done, probes) = (Arc::clone(&done), Arc::clone(&probes));
        tokio::spawn(async move {
            let client = reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .timeout(PATIENCE)
                .build()
                .unwrap();
            while !done.load(Ordering::Relaxed) {
                let answer = client.get(&healthz).send().await;
                assert_eq!(answer.expect("a probe is answered").status(), 200);
                probes.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut slow = Vec::new();
    for round in 0..100 {
        let seen = probes.load(Ordering::Relaxed);
        for text in ["", "GET /v1/runs HTTP/1.1\r\nHost: x\r\n", LOGIN] {
            slow.push(begun(&scene, text).await);
        }
        until("the probe goes on", async || {
            probing.is_finished() || probes.load(Ordering::Relaxed) > seen
        })
        .await;
        assert!(!probing.is_finished(), "a probe failed in round {round}");
    }
    assert_eq!(scene.get("", "/v1/openapi.json").await.status, 200);
    done.store(true, Ordering::Relaxed);
    probing.await.unwrap();
    // The oldest made room.
    for stream in slow.drain(..150) {
        assert_eq!(rest(stream).await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_every_connection_is_being_answered_health_still_is() {
    let scene = Scene::postgres_with(|s| {
        s.http.max_connections = 2;
        s.http.timeouts.head = LONG;
        s.http.timeouts.request = LONG;
        // They wait for a lock until they are released.
        s.database.statement_timeout = 6 * LONG;
    })
    .await;
    let token = scene.master().await;
    assert_eq!(scene.get(&token, "/v1/workers").await.status, 200);
    let mut other = scene.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE operation_runs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let ask = format!("GET /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut busy = [begun(&scene, &ask).await, begun(&scene, &ask).await];
    until("they wait", async || scene.sql(WAITING).await == 2).await;
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    let get = async |path: &str| {
        let answer = client.get(format!("{}{path}", scene.base)).send().await;
        let answer = answer.unwrap();
        let retry = answer.headers().contains_key("retry-after");
        let status = answer.status().as_u16();
        (status, retry, answer.text().await.unwrap())
    };
    // What waits for the database, too, takes no place of a probe: whole requests, and one whose body never comes.
    let mut measuring = Vec::new();
    for _ in 0..40 {
        for rest in ["", "Content-Length: 9\r\n"] {
            let ask = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{rest}\r\n");
            measuring.push(begun(&scene, &ask).await);
        }
        assert_eq!(get("/healthz").await.0, 200);
        let (status, retry, text) = get("/v1/openapi.json").await;
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, retry), (503, true));
        assert_eq!(body["type"], "urn:verifyd:problem:unavailable");
        let (status, retry, _) = get("/login").await;
        assert_eq!((status, retry), (503, true));
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    for stream in &mut busy {
        expect(stream, "HTTP/1.1 200").await;
    }
    until("a connection is free again", async || {
        get("/login").await.0 == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_the_database_is_asked_once_at_a_time() {
    let scene = Scene::postgres_with(|s| s.database.statement_timeout = 6 * LONG).await;
    let services = &scene.world.services;
    let worker = services.worker();
    let mut health = services.health(&worker, Metrics::detached(), scene.stop.clone());
    Arc::get_mut(&mut health).unwrap().check_timeout = LONG;
    let mut settings = services.settings.http.clone();
    settings.listen = "127.0.0.1:0".parse().unwrap();
    let listener = verifyd::http::bind(&settings).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = verifyd::http::router(health, None);
    let stop = scene.stop.clone();
    tokio::spawn(verifyd::http::serve(listener, router, &settings, stop));
    let mut other = scene.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE operation_runs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let mut asked = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        asked.push(stream);
    }
    // Two statements of one measurement read the table.
    until("they wait", async || scene.sql(WAITING).await >= 2).await;
    for _ in 0..20 {
        let alive = reqwest::get(format!("http://{address}/healthz")).await;
        assert_eq!(alive.unwrap().status(), 200);
        assert_eq!(scene.sql(WAITING).await, 2);
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    for stream in &mut asked {
        expect(stream, "HTTP/1.1 200").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let scene = Scene::postgres_with(|s| s.http.timeouts.body = Duration::from_millis(300)).await;
    let token = scene.master().await;
    let connection = scene.healthy(1).await;
    let check = format!(
        "POST /v1/connections/{connection}/checks HTTP/1.1\r\nHost: x\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
    );
    let answer = rest(begun(&scene, &check).await).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("urn:verifyd:problem:timeout"), "{answer}");
    let answer = rest(begun(&scene, LOGIN).await).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("did not arrive in time"), "{answer}");
    let runs = "SELECT count(*) FROM operation_runs";
    assert_eq!(scene.sql(runs).await, 0, "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_wants_costs_neither_answer_nor_connection() {
    let scene = Scene::postgres_with(|s| {
        s.http.timeouts.head = LONG;
        s.http.timeouts.body = LONG;
    })
    .await;
    // Small ones are discarded, also those that arrive in another segment than the head.
    for (path, status) in [
        ("/v1/connections/1/checks", 401),
        ("/v1/nothing", 404),
        ("/healthz", 405),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer vfd_wrong\r\n\
             Content-Length: 9\r\n\r\n"
        );
        let mut stream = begun(&scene, &head).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let next = "{\"a\": 12}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(next.as_bytes()).await.unwrap();
        expect(&mut stream, &format!("HTTP/1.1 {status}")).await;
        expect(&mut stream, "HTTP/1.1 200").await;
    }
    // Others end the connection: those that were not asked for, and large ones.
    let token = scene.master().await;
    let sent = "x".repeat(256 * 1024);
    for (token, fields, body, status) in [
        (
            "vfd_wrong",
            "Expect: 100-continue\r\nContent-Length: 9",
            "",
            401,
        ),
        (
            &*token,
            "Expect: 100-continue\r\nContent-Length: 70000",
            "",
            413,
        ),
        (&*token, "Content-Length: 20000000", &*sent, 413),
    ] {
        let request = format!(
            "POST /v1/connections/1/checks HTTP/1.1\r\nHost: x\r\n\
             Authorization: Bearer {token}\r\n{fields}\r\n\r\n{body}"
        );
        let answer = rest(begun(&scene, &request).await).await;
        let wanted = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&wanted), "{fields}: {answer}");
        assert!(answer.contains("connection: close"), "{fields}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_bodies_of_a_token_hold_up_nobody() {
    let scene = Scene::postgres_with(|s| {
        s.http.timeouts.body = LONG;
        s.http.timeouts.request = LONG;
    })
    .await;
    let one = scene.master().await;
    let connection = scene.healthy(1).await;
    let check = format!(
        "POST /v1/connections/{connection}/checks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
         Authorization: Bearer {one}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    );
    let mut open = Vec::new();
    for _ in 0..6 {
        let mut stream = begun(&scene, &check).await;
        // From now on the server waits for the body.
        expect(&mut stream, "100 Continue\r\n\r\n").await;
        open.push(stream);
    }
    for token in [&one, &scene.token(ALL, Binding::EVERYTHING).await] {
        let answer = tokio::time::timeout(PATIENCE, scene.get(token, "/v1/runs"));
        let answer = answer.await.expect("it waits for the bodies of others");
        assert_eq!(answer.status, 200);
    }
}

/// The token is valid when the head of a request to the API, or of a form, is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_while_a_body_arrives_starts_nothing() {
    let scene = Scene::sqlite_with(|s| s.http.timeouts.body = LONG).await;
    let store = &scene.world.services.store;
    let host = scene.base.trim_start_matches("http://");
    let runs = async || {
        let filter = RunFilter {
            limit: 100,
            ..RunFilter::default()
        };
        store.runs(&filter).await.unwrap().len()
    };
    for (number, (is_form, is_revoked)) in
        (1..).zip([(false, false), (false, true), (true, false), (true, true)])
    {
        let connection = scene.add(number, Scenario::Healthy).await;
        let token = scene.master().await;
        let person = Person::logged_in(&scene.base, &token).await;
        let (path, headers, body, wanted) = match is_form {
            false => (
                format!("/v1/connections/{connection}/checks"),
                format!("Authorization: Bearer {token}\r\nContent-Type: application/json"),
                "{}".to_owned(),
                ["HTTP/1.1 201", "HTTP/1.1 401"],
            ),
            true => (
                format!("/connections/{connection}/check"),
                format!(
                    "Cookie: {}\r\nOrigin: {}\r\nContent-Type: application/x-www-form-urlencoded",
                    person.cookie, scene.base
                ),
                format!("csrf={}", person.csrf().await),
                ["location: /runs/", "location: /login"],
            ),
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nExpect: 100-continue\r\n\
             {headers}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let before = runs().await;
        let mut stream = begun(&scene, &head).await;
        // From now on the server waits for the body.
        expect(&mut stream, "100 Continue\r\n\r\n").await;
        if is_revoked {
            for token in store.tokens().await.unwrap() {
                store.revoke_token(token.id, operator()).await.unwrap();
            }
        }
        stream.write_all(body.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        let wanted = wanted[usize::from(is_revoked)];
        assert!(answer.contains(wanted), "{path}: {answer}");
        assert_eq!(runs().await, before + usize::from(!is_revoked), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_read_is_given_up() {
    let scene = Scene::postgres_with(|s| {
        s.http.timeouts.write = Duration::from_millis(500);
        s.http.timeouts.head = LONG;
    })
    .await;
    let mut lazy = connect(&scene).await;
    // More than the buffers of both sides take.
    let many = "GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    let sent = tokio::time::timeout(PATIENCE, async {
        loop {
            // Fails once the server has closed the connection.
            if lazy.write_all(many.as_bytes()).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    sent.await.expect("the connection stays open");
}

#[test]
fn metrics_are_rendered_once_for_all_that_ask_at_the_same_time() {
    // They belong to the whole process.
    if !own_process::entered(
        test_name!(metrics_are_rendered_once_for_all_that_ask_at_the_same_time),
        &[],
    ) {
        return;
    }
    let metrics = metrics::install().unwrap();
    // On one thread, so that both ask before either is answered.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = Scene::sqlite().await;
        let services = &scene.world.services;
        let health = services.health(&services.worker(), metrics, CancellationToken::new());
        let ask = async || {
            let answer = health::metrics(State(Arc::clone(&health))).await;
            assert_eq!(
                answer.headers()["content-type"],
                "text/plain; charset=utf-8"
            );
            let frame = answer.into_body().frame().await.unwrap().unwrap();
            frame.into_data().unwrap()
        };
        let (one, other) = tokio::join!(ask(), ask());
        assert!(!one.is_empty());
        assert_eq!(one.as_ptr(), other.as_ptr());
    });
}

/// Whether the server lets anybody into this database; its refusal names the database.
async fn allow_connections(database: &str, allowed: bool) {
    use sqlx::Connection as _;
    let server = std::env::var("VERIFYD_TEST_DATABASE_URL").unwrap();
    let mut admin = sqlx::PgConnection::connect(&server).await.unwrap();
    let statement = format!("ALTER DATABASE {database} WITH ALLOW_CONNECTIONS {allowed}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut admin)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_a_class_and_no_message() {
    let (scene, proxy) = Scene::behind_a_proxy().await;
    let ready = async || {
        let answer = reqwest::get(format!("{}/readyz", scene.base)).await;
        let body: Value = answer.unwrap().json().await.unwrap();
        body["checks"]["database"].clone()
    };
    assert_eq!(ready().await, "ok");
    // The server's own message would name the database and the role.
    let name: String = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&mut scene.connection().await)
        .await
        .unwrap();
    let token = scene.master().await;
    assert_eq!(scene.get(&token, "/v1/runs").await.status, 200);
    allow_connections(&name, false).await;
    proxy.cut();
    until("it is not ready", async || ready().await != "ok").await;
    let said = ready().await;
    let allowed = [
        "unavailable; the log says why",
        "no answer within the timeout",
    ];
    assert!(allowed.contains(&said.as_str().unwrap()), "{said}");
    assert!(!said.to_string().contains(&name));
    let refused = scene.get(&token, "/v1/runs").await;
    assert_eq!(refused.refusal(), (503, "unavailable"));
    let page = reqwest::Client::new().get(format!("{}/runs", scene.base));
    let page = page.header("cookie", "verifyd_session=unknown").send();
    assert_eq!(page.await.unwrap().status(), 503);
    allow_connections(&name, true).await;
    until("it is ready again", async || ready().await == "ok").await;
    assert_eq!(scene.get(&token, "/v1/runs").await.status, 200);
}
