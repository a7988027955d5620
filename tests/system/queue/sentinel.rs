//! Redis behind Sentinel: credentials, TLS, and what is wrong with an address. `tests/faults` has failovers.

use crate::queue::redis_error_causes::{assert_says, patient, ping};
use futures::future::join_all;
use redis::aio::MultiplexedConnection;
use test_support::bench::Bench;
use test_support::redis_server::{PrivateRedis, TlsFiles, command, connection};
use verifyd::queue::redis::RedisQueue;

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_and_primary_have_credentials_of_their_own() {
    let primary = PrivateRedis::start_with(&["--requirepass", "right-p4ss"]);
    let users = "requirepass other-p4ss\nuser asks on >own-p4ss &* +@all\n";
    let sentinel = PrivateRedis::sentinel("m", primary.port(), users, &[]);
    let with = |password: &str, behind: &str| {
        let port = sentinel.port();
        format!("redis+sentinel://:{password}@127.0.0.1:{port}/{behind}")
    };
    let asks = "sentinel_username=asks&sentinel_password=own-p4ss";
    let url = with("right-p4ss", &format!("m/1?{asks}"));
    let queue = RedisQueue::connect(&patient(&url), "host").unwrap();
    queue.ping().await.unwrap();
    queue.try_sending().await.unwrap();
    let default = with("right-p4ss", "m?sentinel_password=other-p4ss");
    let queue = RedisQueue::connect(&patient(&default), "host").unwrap();
    queue.ping().await.unwrap();

    let at = format!("Sentinel 127.0.0.1:{}: ", sentinel.port());
    let wrong = with("right-p4ss", "m?sentinel_password=wrong-p4ss");
    assert_says(&ping(&wrong).await, &[&at, "WRONGPASS"]);
    assert_says(&ping(&with("right-p4ss", "m")).await, &[&at, "NOAUTH"]);
    let named = format!("the primary that it names, 127.0.0.1:{}", primary.port());
    let wrong = with("wrong-p4ss", &format!("m?{asks}"));
    assert_says(&ping(&wrong).await, &[&at, &named, "WRONGPASS"]);
    let unknown = with("right-p4ss", &format!("n?{asks}"));
    assert_says(&ping(&unknown).await, &[&at, "no primary named \"n\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sentinel_that_does_not_help_is_named() {
    let server = PrivateRedis::start();
    let nobody = PrivateRedis::stopped();
    let error = ping(&format!(
        "redis+sentinel://127.0.0.1:{},127.0.0.1:{}/m",
        server.port(),
        nobody.port()
    ))
    .await;
    assert_says(
        &error,
        &[
            &format!(
                "Sentinel 127.0.0.1:{}: the server answers ERR",
                server.port()
            ),
            "unknown command",
            &format!(
                "Sentinel 127.0.0.1:{}: no server listens there",
                nobody.port()
            ),
        ],
    );
    let port = nobody.port();
    let error = ping(&format!("redis+sentinel://[::1]:{port}/m")).await;
    assert_says(&error, &[&format!("Sentinel [::1]:{port}: ")]);
    // Sentinel knows a primary, and nobody listens at its address.
    let sentinel = PrivateRedis::sentinel("m", nobody.port(), "", &[]);
    let error = ping(&format!("redis+sentinel://127.0.0.1:{}/m", sentinel.port())).await;
    assert_says(
        &error,
        &[
            &format!("that it names, 127.0.0.1:{}", nobody.port()),
            "no server listens there",
        ],
    );
    // Redis can be used, and yet one of the Sentinels is gone.
    let sentinel = PrivateRedis::sentinel("m", server.port(), "", &[]);
    let url = format!(
        "redis+sentinel://127.0.0.1:{},127.0.0.1:{}/m",
        sentinel.port(),
        nobody.port()
    );
    let queue = RedisQueue::connect(&patient(&url), "host").unwrap();
    queue.ping().await.unwrap();
    let failures = queue.unusable_sentinels().await;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_says(
        &failures[0],
        &[&format!(
            "Sentinel 127.0.0.1:{}: no server listens there",
            nobody.port()
        )],
    );
}

/// How many connections the server has taken.
async fn taken(server: &mut MultiplexedConnection) -> u64 {
    let stats: String = command(server, &["INFO", "stats"]).await;
    let mut lines = stats.lines();
    let count = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
    count.unwrap().parse().unwrap()
}

/// Its first calls come all at once, the others one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn calls_share_the_search_for_a_primary_that_is_gone() {
    // It takes connections as a Sentinel does, and leads nowhere.
    let server = PrivateRedis::start();
    let mut plain = connection(&server.url()).await;
    let url = format!("redis+sentinel://127.0.0.1:{}/m", server.port());
    let queue = RedisQueue::connect(&patient(&url), "host").unwrap();
    let before = taken(&mut plain).await;
    let at_once = join_all((0..100).map(|_| queue.ping())).await;
    assert!(at_once.iter().all(Result::is_err));
    let between = taken(&mut plain).await;
    assert!(between - before < 20, "{before} {between}");
    let mut after = between;
    for _ in 0..100 {
        queue.ping().await.unwrap_err();
        // Meanwhile the search ends whose result the next call would share.
        after = taken(&mut plain).await;
    }
    assert!(after - between < 20, "{between} {after}");
}

/// Its processes trust the servers' certificate.
#[tokio::test(flavor = "multi_thread")]
async fn sentinel_and_primary_are_reached_over_tls() {
    let files = TlsFiles::of("127.0.0.1");
    let ports = [
        PrivateRedis::stopped().port(),
        PrivateRedis::stopped().port(),
    ];
    let texts = ports.map(|port| port.to_string());
    let primary = PrivateRedis::start_with(&files.arguments(&texts[0]));
    let _sentinel = PrivateRedis::sentinel("m", ports[0], "", &files.arguments(&texts[1]));
    let mut bench = Bench::new().await;
    let id = bench.healthy(1).to_string();
    bench.set("VERIFYD__REDIS__RESPONSE_TIMEOUT", "1m");
    bench.set("SSL_CERT_FILE", files.certificate.as_str());
    bench.set(
        "REDIS_URL",
        format!("rediss+sentinel://127.0.0.1:{}/m", ports[1]),
    );
    let output = bench.success(&["enqueue", "--connection", &id]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("could not be sent"), "{said}");
    let mut plain = connection(&primary.url()).await;
    let active = format!("{}:active", bench.queue);
    assert_eq!(command::<u64>(&mut plain, &["LLEN", &active]).await, 1);
}
