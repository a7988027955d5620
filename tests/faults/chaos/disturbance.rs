//! The faults, and the theatre in which they strike.

use crate::scene::{COMPLETING, Scene, TERMINATE};
use rand::Rng as _;
use rand::rngs::StdRng;
use sqlx::Executor as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use test_support::bench::{Daemon, PATIENCE};
use test_support::postgres::TestDatabase;
use test_support::private_postgres::PrivatePostgres;
use test_support::proxy::{Act, Proxy, Rule};
use test_support::redis_server::{self, PrivateRedis, command};
use verifyd_simulator::Scenario;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    Stop,
    Terminate,
    CrashDatabase,
    EndConnections,
    CutDatabase,
    SilenceDatabase,
    SlowDatabase,
    LoseReplies,
    LockTable,
    RestartRedis,
    FlushRedis,
    CutRedis,
    SilenceRedis,
    SlowRedis,
    RepeatHints,
    ForgeHints,
}

/// What a fault belongs to.
pub struct Kind {
    name: &'static str,
    faults: &'static [Fault],
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "processes",
        faults: &[Fault::Kill, Fault::Stop, Fault::Terminate],
    },
    Kind {
        name: "database",
        faults: &[
            Fault::CrashDatabase,
            Fault::EndConnections,
            Fault::CutDatabase,
            Fault::SilenceDatabase,
            Fault::SlowDatabase,
            Fault::LoseReplies,
            Fault::LockTable,
        ],
    },
    Kind {
        name: "redis",
        faults: &[
            Fault::RestartRedis,
            Fault::FlushRedis,
            Fault::CutRedis,
            Fault::SilenceRedis,
            Fault::SlowRedis,
        ],
    },
    Kind {
        name: "hints",
        faults: &[Fault::RepeatHints, Fault::ForgeHints],
    },
];

impl Kind {
    /// The faults of the kinds that are named.
    pub fn chosen(names: Option<&str>) -> Vec<Fault> {
        let names = names.unwrap_or("all");
        let wanted: Vec<&str> = names.split(',').map(str::trim).collect();
        for name in &wanted {
            let known = KINDS.iter().any(|kind| kind.name == *name);
            assert!(
                known || *name == "all" || *name == "none",
                "VERIFYD_TEST_CHAOS_FAULTS: what is {name:?}?"
            );
        }
        KINDS
            .iter()
            .filter(|kind| wanted.contains(&"all") || wanted.contains(&kind.name))
            .flat_map(|kind| kind.faults)
            .copied()
            .collect()
    }
}

impl Fault {
    /// Whether Redis starts anew by it.
    pub fn loses_hints(self) -> bool {
        matches!(self, Self::RestartRedis | Self::FlushRedis)
    }
}

/// A worker, and the ways on which it sees database and Redis.
struct Seat {
    worker: Daemon,
    database: Proxy,
    queue: Proxy,
    urls: [(&'static str, String); 2],
}

pub struct Theatre {
    seats: Vec<Seat>,
    pub scene: Scene,
    pub redis: PrivateRedis,
    server: PrivatePostgres,
    /// The workers' processes, those that were started last.
    pub pids: Arc<Mutex<Vec<u32>>>,
    /// How many workers ended without being told to.
    pub ended_alone: u32,
}

impl Theatre {
    /// Two workers with servers of their own, and connections of every kind that takes no longer
    /// than seconds.
    pub async fn open() -> Self {
        let redis = PrivateRedis::start();
        let server = PrivatePostgres::start();
        let mut scene = Scene::on(TestDatabase::create_on(&server.url()).await).await;
        for (number, scenario) in [
            Scenario::Healthy,
            Scenario::HealthyReadWrite,
            Scenario::HealthyOpaqueToken,
            Scenario::Flaky,
            Scenario::Slow,
            Scenario::ConsentMissing,
            Scenario::ResponseInvalid,
        ]
        .into_iter()
        .enumerate()
        {
            scene.add(scenario, 11 + u32::try_from(number).unwrap());
        }
        scene.bench.use_redis(redis.url());
        let mut seats = Vec::new();
        for _ in 0..2 {
            let (database, database_url) = Proxy::before(&scene.bench.database.url()).await;
            let (queue, queue_url) = Proxy::before(&redis.url()).await;
            let urls = [("DATABASE_URL", database_url), ("REDIS_URL", queue_url)];
            seats.push(Seat {
                worker: start(&scene, &urls),
                database,
                queue,
                urls,
            });
        }
        let theatre = Self {
            seats,
            scene,
            redis,
            server,
            pids: Arc::default(),
            ended_alone: 0,
        };
        theatre.note_pids();
        theatre
    }

    fn note_pids(&self) {
        *self.pids.lock().unwrap() = self.seats.iter().map(|seat| seat.worker.pid()).collect();
    }

    fn replace(&mut self, which: usize) {
        let seat = &mut self.seats[which];
        seat.worker.ended();
        seat.worker = start(&self.scene, &seat.urls);
        self.note_pids();
    }

    /// Starts again who has ended by itself, as a supervisor does.
    pub fn revive(&mut self) {
        for which in 0..self.seats.len() {
            if self.seats[which].worker.has_ended() {
                self.ended_alone += 1;
                self.replace(which);
            }
        }
    }

    /// The faults end, one after the other; so the next one finds everything in its place.
    pub async fn strike(&mut self, fault: Fault, random: &mut StdRng) {
        let pause = Duration::from_millis(random.random_range(50..1500));
        let which = random.random_range(0..self.seats.len());
        // One of the workers, or both.
        let both = random.random_bool(0.3);
        let struck: Vec<&Seat> = self
            .seats
            .iter()
            .enumerate()
            .filter(|(at, _)| both || *at == which)
            .map(|(_, seat)| seat)
            .collect();
        match fault {
            Fault::Kill => {
                self.seats[which].worker.signal("KILL");
                self.replace(which);
            }
            Fault::Terminate => {
                self.seats[which].worker.signal("TERM");
                self.replace(which);
            }
            Fault::Stop => {
                // Now and then past the lease.
                let worker = &self.seats[which].worker;
                worker.signal("STOP");
                tokio::time::sleep(pause * random.random_range(1..8)).await;
                worker.signal("CONT");
            }
            Fault::CrashDatabase => {
                self.server.crash();
                tokio::time::sleep(pause).await;
                self.server.resume();
            }
            Fault::EndConnections => {
                self.scene.number(TERMINATE).await;
            }
            Fault::CutDatabase => {
                struck.iter().for_each(|seat| seat.database.cut());
                tokio::time::sleep(pause).await;
            }
            Fault::SilenceDatabase => {
                struck.iter().for_each(|seat| seat.database.silence());
                // Now and then past the lease, when it is one of two.
                let times = if both { 1 } else { random.random_range(1..8) };
                tokio::time::sleep(pause * times).await;
                struck.iter().for_each(|seat| seat.database.open());
            }
            Fault::SlowDatabase => {
                let delay = Duration::from_millis(30);
                struck.iter().for_each(|seat| seat.database.slow(delay));
                tokio::time::sleep(pause).await;
                struck.iter().for_each(|seat| seat.database.open());
            }
            Fault::LoseReplies => struck.iter().for_each(|seat| {
                let lose = Rule::once(Act::LoseReply, "COMMIT").after(COMPLETING);
                seat.database.at(lose.times(3));
            }),
            Fault::LockTable => {
                let mut sql = self.scene.bench.sql().await;
                sql.execute("BEGIN; LOCK TABLE operation_runs IN ACCESS EXCLUSIVE MODE")
                    .await
                    .unwrap();
                tokio::time::sleep(pause).await;
                sql.execute("ROLLBACK").await.unwrap();
            }
            Fault::RestartRedis => self.redis.restart(),
            Fault::FlushRedis => {
                let mut plain = redis_server::connection(&self.redis.url()).await;
                command::<()>(&mut plain, &["FLUSHALL"]).await;
            }
            Fault::CutRedis => {
                struck.iter().for_each(|seat| seat.queue.cut());
                tokio::time::sleep(pause).await;
            }
            Fault::SilenceRedis => {
                struck.iter().for_each(|seat| seat.queue.silence());
                tokio::time::sleep(pause).await;
                struck.iter().for_each(|seat| seat.queue.open());
            }
            Fault::SlowRedis => {
                let delay = Duration::from_millis(100);
                struck.iter().for_each(|seat| seat.queue.slow(delay));
                tokio::time::sleep(pause).await;
                struck.iter().for_each(|seat| seat.queue.open());
            }
            Fault::RepeatHints => {
                let runs = self
                    .scene
                    .bench
                    .numbers("SELECT id FROM operation_runs ORDER BY random() LIMIT 50")
                    .await;
                self.scene.bench.hint(&runs).await;
            }
            Fault::ForgeHints => {
                let unknown: Vec<i64> = (0..20).map(|_| random.random_range(1..i64::MAX)).collect();
                self.scene.bench.hint(&unknown).await;
            }
        }
    }

    /// Waits until nothing is left in Redis but what the queue and its fetchers need: no payload,
    /// nothing that waits, and a number of keys that has nothing to do with the number of runs.
    pub async fn redis_is_clean(&self) {
        let queue = &self.scene.bench.queue;
        let mut plain = redis_server::connection(&self.redis.url()).await;
        let until = Instant::now() + PATIENCE;
        loop {
            let (waiting, payloads, keys): (u64, u64, u64) = redis::pipe()
                .cmd("LLEN")
                .arg(format!("{queue}:active"))
                .cmd("HLEN")
                .arg(format!("{queue}:data"))
                .cmd("DBSIZE")
                .query_async(&mut plain)
                .await
                .unwrap();
            if waiting == 0 && payloads == 0 && keys <= 20 {
                return;
            }
            assert!(
                Instant::now() < until,
                "in Redis are left {waiting} hints, {payloads} payloads, {keys} keys"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn start(scene: &Scene, urls: &[(&'static str, String); 2]) -> Daemon {
    let extra: Vec<(&str, &str)> = urls.iter().map(|(key, url)| (*key, url.as_str())).collect();
    scene.bench.serve(&extra)
}
