//! Long disturbances: load without pause, faults at random, and the oracle at the end.
//!
//! `VERIFYD_TEST_CHAOS_SECONDS` says how long (15 by default), `VERIFYD_TEST_CHAOS_SEED` which
//! faults; the seed is printed, and the same seed gives the same faults in the same order.

use crate::bench::Daemon;
use crate::proxy::Proxy;
use crate::redis_support::{self, PrivateRedis};
use crate::scene::{Scene, hint};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Stop,
    Terminate,
    EndConnections,
    CutDatabase,
    SilenceDatabase,
    SlowDatabase,
    RestartRedis,
    FlushRedis,
    CutRedis,
    SilenceRedis,
    SlowRedis,
    RepeatHints,
    ForgeHints,
}

const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Terminate,
    Fault::EndConnections,
    Fault::CutDatabase,
    Fault::SilenceDatabase,
    Fault::SlowDatabase,
    Fault::RestartRedis,
    Fault::FlushRedis,
    Fault::CutRedis,
    Fault::SilenceRedis,
    Fault::SlowRedis,
    Fault::RepeatHints,
    Fault::ForgeHints,
];

/// Two workers that see database and Redis through proxies of their own.
struct Theatre {
    scene: Scene,
    redis: PrivateRedis,
    database: Proxy,
    queue: Proxy,
    by_proxy: [(String, String); 2],
    workers: Vec<Daemon>,
}

impl Theatre {
    async fn open() -> Self {
        let redis = PrivateRedis::start();
        let mut scene = Scene::new().await;
        scene.bench.redis_url = redis.url();
        let (database, database_url) = Proxy::before(&scene.bench.database.url()).await;
        let (queue, queue_url) = Proxy::before(&redis.url()).await;
        let mut theatre = Self {
            scene,
            redis,
            database,
            queue,
            by_proxy: [
                ("DATABASE_URL".to_owned(), database_url),
                ("REDIS_URL".to_owned(), queue_url),
            ],
            workers: Vec::new(),
        };
        for _ in 0..2 {
            let worker = theatre.start();
            theatre.workers.push(worker);
        }
        theatre
    }

    fn start(&self) -> Daemon {
        let extra: Vec<(&str, &str)> = self
            .by_proxy
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        self.scene.bench.serve(&extra)
    }

    fn calm(&self) {
        self.database.open();
        self.queue.open();
    }

    async fn strike(&mut self, fault: Fault, random: &mut StdRng) {
        let pause = Duration::from_millis(random.random_range(50..1500));
        let which = random.random_range(0..self.workers.len());
        match fault {
            Fault::Kill => {
                self.workers[which].signal("KILL");
                self.workers[which].ended();
                self.workers[which] = self.start();
            }
            Fault::Stop => {
                // Now and then past the lease.
                let long = pause * random.random_range(1..5);
                self.workers[which].signal("STOP");
                tokio::time::sleep(long).await;
                self.workers[which].signal("CONT");
            }
            Fault::Terminate => {
                self.workers[which].signal("TERM");
                self.workers[which].ended();
                self.workers[which] = self.start();
            }
            Fault::EndConnections => {
                self.scene
                    .bench
                    .numbers(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'verifyd'",
                    )
                    .await;
            }
            Fault::CutDatabase => {
                self.database.cut();
                tokio::time::sleep(pause).await;
            }
            Fault::SilenceDatabase => {
                self.database.silence();
                tokio::time::sleep(pause).await;
            }
            Fault::SlowDatabase => {
                self.database.slow(Duration::from_millis(30));
                tokio::time::sleep(pause).await;
            }
            Fault::RestartRedis => self.redis.restart(),
            Fault::FlushRedis => {
                let mut plain = redis_support::connection(&self.redis.url()).await;
                redis::cmd("FLUSHALL").exec_async(&mut plain).await.unwrap();
            }
            Fault::CutRedis => {
                self.queue.cut();
                tokio::time::sleep(pause).await;
            }
            Fault::SilenceRedis => {
                self.queue.silence();
                tokio::time::sleep(pause).await;
            }
            Fault::SlowRedis => {
                self.queue.slow(Duration::from_millis(100));
                tokio::time::sleep(pause).await;
            }
            Fault::RepeatHints => {
                let runs = self
                    .scene
                    .bench
                    .numbers("SELECT id FROM operation_runs ORDER BY random() LIMIT 50")
                    .await;
                hint(&self.redis.url(), &self.scene.bench.queue, &runs).await;
            }
            Fault::ForgeHints => {
                let unknown: Vec<i64> = (0..20).map(|_| random.random_range(1..i64::MAX)).collect();
                hint(&self.redis.url(), &self.scene.bench.queue, &unknown).await;
            }
        }
        self.calm();
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a whole number")),
    )
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::print_stdout,
    reason = "the seed repeats the test, and the figures are its result"
)]
async fn whatever_happens_nothing_is_lost_and_nothing_comes_twice() {
    let seconds = variable("VERIFYD_TEST_CHAOS_SECONDS").unwrap_or(15);
    let seed = variable("VERIFYD_TEST_CHAOS_SEED").unwrap_or_else(rand::random);
    println!("VERIFYD_TEST_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut theatre = Theatre::open().await;
    let producer = theatre.scene.producer();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut struck = 0;
    while Instant::now() < until {
        let fault = *FAULTS.choose(&mut random).unwrap();
        theatre.strike(fault, &mut random).await;
        struck += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
    }
    let recorded = producer.stop().await;
    let ended = theatre.scene.ends_soundly().await;
    let outcomes = |outcome: &str| ended.iter().filter(|r| r.outcome == outcome).count();
    println!(
        "{struck} faults in {seconds} s: {recorded} runs recorded, {} completed once each: {} \
         succeeded, {} failed, {} blocked",
        ended.len(),
        outcomes("succeeded"),
        outcomes("failed"),
        outcomes("blocked"),
    );
    assert!(ended.len() >= recorded, "a run is gone");
    assert!(outcomes("succeeded") > 0, "nothing worked at all");
}
