//! What `/metrics` says of requests, of connections, and of the build.

use reqwest::Method;
use reqwest::redirect::Policy;
use test_support::bench::{Bench, Daemon};
use test_support::redis_server::PrivateRedis;
use test_support::waiting::until;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use verifyd::telemetry::build_info::BUILD;

/// Waits until the metrics have this line.
pub async fn has_line(daemon: &Daemon, line: &str) {
    until(line, async || {
        let (_, metrics) = daemon.get("/metrics").await;
        metrics.lines().any(|there| there == line)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_route_method_and_class() {
    let bench = Bench::new().await;
    let token = bench.token(&["read"]);
    let daemon = bench.serve(&[]);
    let client = reqwest::Client::builder().redirect(Policy::none());
    let client = client.build().unwrap();
    for (method, path, status) in [
        ("GET", "/v1/runs", 200),
        ("GET", "/v1/runs/41", 404),
        ("GET", "/v1/runs/42", 404),
        ("HEAD", "/v1/runs", 200),
        ("BREW", "/v1/runs", 405),
        ("GET", "/v1/canary", 404),
        ("GET", "/canary/43", 404),
        ("CANARY", "/", 405),
        ("GET", "/", 303),
        ("GET", "/healthz", 200),
    ] {
        let address = format!("http://{}{path}", daemon.listening);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = client.request(method.clone(), address).bearer_auth(&token);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
    }
    let (_, metrics) = daemon.get("/metrics").await;
    let counted = metrics
        .lines()
        .filter(|line| line.starts_with("verifyd_http_requests_total"));
    let mut counted: Vec<&str> = counted.collect();
    counted.sort_unstable();
    let wanted = [
        r#"verifyd_http_requests_total{code="2xx",method="GET",route="/v1/runs"} 1"#,
        r#"verifyd_http_requests_total{code="2xx",method="HEAD",route="/v1/runs"} 1"#,
        r#"verifyd_http_requests_total{code="3xx",method="GET",route="/"} 1"#,
        r#"verifyd_http_requests_total{code="4xx",method="GET",route="/v1/runs/{run_id}"} 2"#,
        r#"verifyd_http_requests_total{code="4xx",method="GET",route="other"} 2"#,
        r#"verifyd_http_requests_total{code="4xx",method="other",route="/"} 1"#,
        r#"verifyd_http_requests_total{code="4xx",method="other",route="/v1/runs"} 1"#,
    ];
    assert_eq!(counted, wanted);
    for line in [
        r#"verifyd_http_request_duration_seconds_count{method="GET",route="/v1/runs/{run_id}"} 2"#,
        "verifyd_http_requests_in_flight 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    for raw in ["runs/4", "canary", "CANARY", "BREW", "healthz"] {
        assert!(!metrics.contains(raw), "{raw}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_in_flight_until_its_answer_or_the_end_of_its_peer() {
    let bench = Bench::new().await;
    let token = bench.token(&["read"]);
    let daemon = bench.serve(&[]);
    let mut other = bench.sql().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE provider_connections IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let mut peer = TcpStream::connect(&daemon.listening).await.unwrap();
    let request =
        format!("GET /v1/connections HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    peer.write_all(request.as_bytes()).await.unwrap();
    has_line(&daemon, "verifyd_http_requests_in_flight 1").await;
    drop(peer);
    has_line(&daemon, "verifyd_http_requests_in_flight 0").await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_connections_are_counted_by_the_limit_that_was_reached() {
    let bench = Bench::new().await;
    let daemon = bench.serve(&[("VERIFYD__HTTP__MAX_CONNECTIONS_PER_PEER", "2")]);
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(TcpStream::connect(&daemon.listening).await.unwrap());
    }
    until("a connection is closed for another one", async || {
        let (_, metrics) = daemon.get("/metrics").await;
        let mut counted = metrics.lines().filter_map(|line| {
            line.strip_prefix(r#"verifyd_http_connections_evicted_total{limit="peer"} "#)
        });
        counted.any(|count| count != "0")
    })
    .await;
    has_line(
        &daemon,
        r#"verifyd_http_connections_evicted_total{limit="all"} 0"#,
    )
    .await;
}

/// An old value looks like a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_gauge_that_cannot_be_read_in_time_has_no_value() {
    let bench = Bench::new().await;
    let daemon = bench.serve(&[]);
    has_line(&daemon, "verifyd_webhook_deliveries_pending 0").await;
    let mut other = bench.sql().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE verifyd.webhook_deliveries IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    has_line(&daemon, "verifyd_webhook_deliveries_pending NaN").await;
    has_line(&daemon, "verifyd_runs_queued 0").await;
    has_line(&daemon, "verifyd_runs_requeue_refused 0").await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    has_line(&daemon, "verifyd_webhook_deliveries_pending 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_build_are_measured() {
    let mut bench = Bench::new().await;
    let mut redis = PrivateRedis::start();
    bench.use_redis(redis.url());
    let daemon = bench.serve(&[("VERIFYD__DATABASE__MAX_CONNECTIONS", "7")]);
    for line in [
        r#"verifyd_database_connections_max{pool="main"} 7"#.to_owned(),
        r#"verifyd_database_connections{pool="main",state="used"} 0"#.to_owned(),
        format!(
            r#"verifyd_build_info{{commit="{}",rustc="{}",version="{}"}} 1"#,
            BUILD.commit, BUILD.rustc, BUILD.version
        ),
        "verifyd_redis_connected 1".to_owned(),
        "verifyd_polling 0".to_owned(),
    ] {
        has_line(&daemon, &line).await;
    }
    redis.stop();
    has_line(&daemon, "verifyd_redis_connected 0").await;
    redis.restart();
    has_line(&daemon, "verifyd_redis_connected 1").await;
}
