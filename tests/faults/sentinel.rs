//! Sentinel makes another Redis the primary. Hints are taken from it and sent to it, and no run is lost.

use crate::scene::{Load, Producer, Scene};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::bench::Daemon;
use test_support::redis_server::{PrivateRedis, command, connection};
use test_support::waiting::until;

const NAME: &str = "mymaster";

/// Longest time of the workers for an answer of Redis, as `TIMEOUTS` says. Whoever waits for the former primary follows
/// no sooner after the failover has begun.
const TIMEOUT: Duration = Duration::from_secs(60);
const TIMEOUTS: [(&str, &str); 1] = [("VERIFYD__REDIS__RESPONSE_TIMEOUT", "1m")];

/// Fewer at a time than two workers take, so that hints do not pile up on a busy machine.
const LOAD: Load = Load {
    of_each: 1,
    most_open: 50,
    most: usize::MAX,
    sends_hints: false,
};

/// Two servers, one of which follows the other, and a Sentinel.
struct Watched {
    servers: [PrivateRedis; 2],
    sentinel: PrivateRedis,
    /// A replica keeps the copy that it was sent.
    _copies: TempDir,
}

impl Watched {
    fn start() -> Self {
        let copies = tempfile::tempdir().unwrap();
        let folder = copies.path().to_str().unwrap();
        let with = |copy, more: &[&str]| {
            let usual = ["--dir", folder, "--dbfilename", copy];
            // A replica is sent its copy at once.
            let at_once = ["--repl-diskless-sync-delay", "0"];
            PrivateRedis::start_with(&[&usual[..], &at_once, more].concat())
        };
        let first = with("first.rdb", &[]);
        let follows = format!("127.0.0.1 {}", first.port());
        let second = with("second.rdb", &["--replicaof", &follows]);
        let sentinel = PrivateRedis::sentinel(NAME, first.port(), "", &[]);
        Self {
            servers: [first, second],
            sentinel,
            _copies: copies,
        }
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        command(&mut connection(&self.sentinel.url()).await, words).await
    }

    /// Which of the two Sentinel names.
    async fn primary(&self) -> usize {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let (_, port): (String, u16) = self.ask(&question).await;
        let named = self.servers.iter().position(|server| server.port() == port);
        named.unwrap()
    }

    /// Waits until the other server has a copy and Sentinel knows: only then may it take over.
    async fn may_fail_over(&self) {
        until("the other server may take over", async || {
            let primary = self.primary().await;
            let other = &self.servers[1 - primary];
            let info: String = command(
                &mut connection(&other.url()).await,
                &["INFO", "replication"],
            )
            .await;
            let follows = format!("master_port:{}\r\n", self.servers[primary].port());
            let known: Vec<HashMap<String, String>> =
                self.ask(&["SENTINEL", "REPLICAS", NAME]).await;
            info.contains(&follows)
                && info.contains("master_link_status:up")
                && known.iter().any(|replica| {
                    replica["port"] == other.port().to_string() && replica["flags"] == "slave"
                })
        })
        .await;
    }

    /// Waits until Sentinel names another server than this one.
    async fn has_failed_over(&self, former: usize) {
        until("Sentinel names another primary", async || {
            self.primary().await != former
        })
        .await;
    }
}

/// Both ways through the primary that Sentinel names.
async fn hints_pass(scene: &mut Scene, watched: &Watched, workers: &[Daemon]) {
    scene.bench.redis_url = watched.servers[watched.primary().await].url();
    scene.bench.hint(&[1; 50]).await;
    scene.bench.until_taken().await;
    for worker in workers {
        let sent = worker.metric("verifyd_hints_sent_total").await;
        until("it sends hints", async || {
            worker.metric("verifyd_hints_sent_total").await > sent
        })
        .await;
        until("it takes no runs from the database any more", async || {
            worker.metric("verifyd_polling").await == 0.0
        })
        .await;
    }
}

/// None has waited for an answer of the former primary.
fn assert_soon(begun: Instant) {
    let took = begun.elapsed();
    assert!(took < TIMEOUT, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_redis_becomes_the_primary() {
    let mut watched = Watched::start();
    let mut scene = Scene::new().await;
    // One of the Sentinels is gone.
    let gone = PrivateRedis::stopped().port();
    let known = watched.sentinel.port();
    scene.bench.set(
        "REDIS_URL",
        format!("redis+sentinel://127.0.0.1:{gone},127.0.0.1:{known}/{NAME}/0"),
    );
    let found = scene.bench.examined("sentinel")["found"].to_string();
    let named = format!("Sentinel 127.0.0.1:{gone}: ");
    assert!(found.contains(&named), "{found}");
    let workers = [scene.bench.serve(&TIMEOUTS), scene.bench.serve(&TIMEOUTS)];
    let producer = Producer::start(&scene, LOAD);
    scene.completed_at_least(20).await;
    hints_pass(&mut scene, &watched, &workers).await;

    // On request. The former primary takes writes until Sentinel makes it a replica, seconds later.
    watched.may_fail_over().await;
    let former = watched.primary().await;
    let begun = Instant::now();
    let _: String = watched.ask(&["SENTINEL", "FAILOVER", NAME]).await;
    watched.has_failed_over(former).await;
    hints_pass(&mut scene, &watched, &workers).await;
    assert_soon(begun);

    // Because it is gone.
    watched.may_fail_over().await;
    let former = watched.primary().await;
    let soon = ["SENTINEL", "SET", NAME, "down-after-milliseconds", "500"];
    let _: String = watched.ask(&soon).await;
    let begun = Instant::now();
    watched.servers[former].stop();
    watched.has_failed_over(former).await;
    hints_pass(&mut scene, &watched, &workers).await;
    assert_soon(begun);

    assert!(producer.stop().await.len() > 20);
    scene.ends_as_meant().await;
    for worker in &workers {
        worker.ready().await;
    }
}
