//! What every scenario begins and ends with.

use sqlx::{Connection as _, PgConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::bench::{Bench, Daemon, record};
use test_support::oracle::{self, Ended};
use test_support::postgres::TestDatabase;
use test_support::redis_server::{PrivateRedis, try_hint};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinHandle;
use verifyd_simulator::{Endpoint, Scenario, SimulatorOptions};

/// `worker.max_attempts`, as it is by default.
pub const MAX_ATTEMPTS: i64 = 3;

/// Shorter times than the defaults, in their proportions, so that a scenario takes seconds. A
/// worker that the test's machine holds up for long is still not dead to the others.
const QUICK: [(&str, &str); 9] = [
    ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "500ms"),
    ("VERIFYD__WORKER__DEAD_AFTER", "8s"),
    ("VERIFYD__WORKER__RUN_DEADLINE", "40s"),
    ("VERIFYD__RECONCILER__INTERVAL", "200ms"),
    ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
    // The simulator answers within this, also where a test's machine has much else to do.
    ("VERIFYD__MICROSOFT__REQUEST_TIMEOUT", "30s"),
    ("VERIFYD__REDIS__RESPONSE_TIMEOUT", "1250ms"),
    ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "12s"),
    // Time to open a connection on a busy machine.
    ("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "20s"),
];

/// A check has enough of it on a busy machine, and ends long before a completion that waits.
pub const TIME_FOR_A_CHECK: [(&str, &str); 2] = [
    ("VERIFYD__WORKER__RUN_DEADLINE", "25s"),
    ("VERIFYD__MICROSOFT__REQUEST_TIMEOUT", "20s"),
];

pub const COMPLETED: &str = "SELECT count(*) FROM operation_runs WHERE status = 'completed'";
pub const RUNNING: &str = "SELECT count(*) FROM operation_runs WHERE status = 'running'";

/// Runs of verifyd's that are not completed.
pub const OPEN: &str = "SELECT count(*) FROM operation_runs
    WHERE type = 'provider.connection.check' AND status IN ('queued', 'running')";

/// Ends all sessions of verifyd's in this database.
pub const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'verifyd'";

/// In the statements that claim a run, and in no other.
pub const CLAIMING: &str = "SET status = 'running'";

/// In the statement that completes a run, and in no other.
pub const COMPLETING: &str = "SET status = 'completed'";

/// A connection of the scene, and how its checks end.
pub struct Member {
    pub entra_tenant_id: String,
    pub outcome: &'static str,
}

/// Every scene is on this stage, beside others or alone.
static STAGE: RwLock<()> = RwLock::const_new(());

#[expect(dead_code, reason = "held until the scene ends")]
enum Place {
    Beside(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
    Nowhere,
}

/// Whether the long forms are asked for: `.ci/run` does.
pub fn long() -> bool {
    std::env::var_os("VERIFYD_TEST_LONG").is_some_and(|value| !value.is_empty())
}

/// Says what was measured, on standard error, past the test runner that keeps what passing tests
/// print.
pub fn tell(what: &str) {
    let _ = writeln!(std::io::stderr(), "measured: {what}");
}

pub struct Scene {
    pub bench: Bench,
    pub members: BTreeMap<i64, Member>,
    place: Place,
}

impl Scene {
    /// With connections that end succeeded, failed and blocked.
    pub async fn new() -> Self {
        Self::on(TestDatabase::create().await).await
    }

    /// The same on this Redis.
    pub async fn with_redis(redis: &PrivateRedis) -> Self {
        let mut scene = Self::new().await;
        scene.bench.use_redis(redis.url());
        scene
    }

    /// The same on a database of the caller's choice.
    pub async fn on(database: TestDatabase) -> Self {
        let mut scene = Self::empty(database, SimulatorOptions::default()).await;
        scene.add_of_every_outcome();
        scene
    }

    /// Adds connections that end succeeded, failed and blocked.
    pub fn add_of_every_outcome(&mut self) {
        self.add(Scenario::Healthy, 1);
        self.add(Scenario::HealthyIntune, 2);
        self.add(Scenario::SecretExpired, 3);
        let blocked = self.add(Scenario::Healthy, 4);
        let disable = ["connections", "disable", &blocked.to_string()];
        self.bench.success(&disable);
        self.members.get_mut(&blocked).unwrap().outcome = "blocked";
    }

    /// With one connection whose check takes about `seconds`: its provider answers slowly.
    pub async fn slow(seconds: f64) -> Self {
        let options = SimulatorOptions {
            // Sign-in, and three calls of Graph.
            slow_answer: Duration::from_secs_f64(seconds / 4.0),
            ..SimulatorOptions::default()
        };
        let mut scene = Self::empty(TestDatabase::create().await, options).await;
        scene.add(Scenario::Slow, 1);
        scene
    }

    /// With one connection with which everything is well.
    pub async fn healthy() -> Self {
        let mut scene = Self::without_connections().await;
        scene.add(Scenario::Healthy, 1);
        scene
    }

    pub async fn without_connections() -> Self {
        Self::empty(TestDatabase::create().await, SimulatorOptions::default()).await
    }

    pub async fn empty(database: TestDatabase, options: SimulatorOptions) -> Self {
        let place = Place::Beside(STAGE.read().await);
        Self::of(Bench::on(database, options).await, place).await
    }

    /// Without connections, and with everything that this program makes of an empty database.
    pub async fn made_by(program: &OsStr) -> Self {
        let place = Place::Beside(STAGE.read().await);
        let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
        bench.program = program.into();
        bench.success(&["migrate"]);
        Self::of(bench, place).await
    }

    async fn of(mut bench: Bench, place: Place) -> Self {
        for (key, value) in QUICK {
            bench
                .serve_environment
                .insert(key.to_owned(), value.to_owned());
        }
        oracle::watch(&bench).await;
        Self {
            place,
            bench,
            members: BTreeMap::new(),
        }
    }

    /// Waits until all other scenes have ended, and lets none begin before this one has ended: for
    /// measurements.
    pub async fn alone(mut self) -> Self {
        self.place = Place::Nowhere;
        self.place = Place::Alone(STAGE.write().await);
        self
    }

    /// Without the shorter times.
    pub fn with_default_times(mut self) -> Self {
        self.bench.serve_environment.clear();
        self
    }

    /// Adds a connection to a tenant of this scenario.
    pub fn add(&mut self, scenario: Scenario, number: u32) -> i64 {
        let entra_tenant_id = scenario.tenant_id(number);
        let expected = scenario.expectation();
        let id = self
            .bench
            .connection(i64::from(number), &entra_tenant_id, expected.module);
        let member = Member {
            entra_tenant_id,
            outcome: expected.outcome,
        };
        self.members.insert(id, member);
        id
    }

    /// Two workers.
    pub fn two(&self) -> (Daemon, Daemon) {
        (self.bench.serve(&[]), self.bench.serve(&[]))
    }

    /// A worker that sees the database, or Redis, by another address.
    pub fn serve_by(&self, variable: &str, url: &str) -> Daemon {
        self.bench.serve(&[(variable, url)])
    }

    /// Records so many runs of each connection, without hints.
    pub async fn record(&self, of_each: i64) -> Vec<i64> {
        let connections: Vec<i64> = self.members.keys().copied().collect();
        self.bench.record(&connections, of_each).await
    }

    /// Records a run of each connection again and again, without hints, until it is stopped.
    pub fn producer(&self) -> Producer {
        Producer::start(
            self,
            Load {
                of_each: 1,
                most_open: i64::MAX,
                most: usize::MAX,
                sends_hints: false,
            },
        )
    }

    /// How often the provider was asked for the directory of the only connection.
    pub fn asked(&self) -> u64 {
        let member = self.members.values().next().unwrap();
        let simulator = &self.bench.simulator;
        simulator.calls_of(&member.entra_tenant_id, Endpoint::Organization)
    }

    pub async fn number(&self, statement: &str) -> i64 {
        self.bench.numbers(statement).await[0]
    }

    /// Waits until the first number of the statement is as wanted.
    pub async fn until(&self, statement: &str, wanted: impl Fn(i64) -> bool) {
        self.bench.until(statement, wanted).await;
    }

    /// Waits until so many runs of verifyd's are completed.
    pub async fn completed_at_least(&self, wanted: i64) {
        self.until(COMPLETED, |n| n >= wanted).await;
    }

    /// Waits until nothing is left to do, then asks the oracle. How a run ended is not judged:
    /// where every attempt may have been disturbed, `failed` is right.
    pub async fn ends_soundly(&self) -> Vec<Ended> {
        self.bench.all_completed().await;
        oracle::examine(&self.bench, MAX_ATTEMPTS).await
    }

    /// The same; and every run ended as its connection makes it.
    pub async fn ends_as_meant(&self) -> Vec<Ended> {
        let ended = self.ends_soundly().await;
        for run in &ended {
            let meant = self.members[&run.connection].outcome;
            assert_eq!(run.outcome, meant, "{run:?}");
        }
        ended
    }

    /// The same; and no attempt was lost, and the provider was asked for no run of the only connection again.
    pub async fn each_run_is_checked_once(&self) {
        let ended = self.ends_as_meant().await;
        for run in &ended {
            assert_eq!(run.attempts, ["completed"]);
        }
        assert_eq!(self.asked(), ended.len() as u64);
    }

    /// Records so many runs of each connection, and waits until all that were ever recorded have
    /// ended as meant.
    pub async fn completes(&self, of_each: i64) -> Vec<Ended> {
        self.record(of_each).await;
        self.ends_as_meant().await
    }
}

/// What a producer records.
#[derive(Clone, Copy)]
pub struct Load {
    /// Runs of each connection that are recorded at once.
    pub of_each: i64,
    /// No more runs are recorded while so many are open.
    pub most_open: i64,
    /// So many runs in all.
    pub most: usize,
    /// Whether it sends hints for every second lot. The sweep finds the others.
    pub sends_hints: bool,
}

/// Records runs in the background. The database being unavailable does not matter to it.
pub struct Producer {
    /// Those whose recording was acknowledged.
    pub runs: Arc<Mutex<BTreeSet<i64>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Producer {
    pub fn start(scene: &Scene, load: Load) -> Self {
        let url = scene.bench.database.url();
        let (redis, queue) = (scene.bench.redis_url.clone(), scene.bench.queue.clone());
        let connections: Vec<i64> = scene.members.keys().copied().collect();
        let runs: Arc<Mutex<BTreeSet<i64>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (recorded, stopped) = (Arc::clone(&runs), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let more =
                || !stopped.load(Ordering::SeqCst) && recorded.lock().unwrap().len() < load.most;
            let mut hinted = false;
            while more() {
                if let Ok(mut sql) = PgConnection::connect(&url).await {
                    while more()
                        && let Ok(open) =
                            sqlx::query_scalar::<_, i64>(OPEN).fetch_one(&mut sql).await
                    {
                        if open < load.most_open {
                            let Ok(new) = record(&mut sql, &connections, load.of_each).await else {
                                break;
                            };
                            recorded.lock().unwrap().extend(&new);
                            hinted = load.sends_hints && !hinted;
                            if hinted {
                                // Redis may be unavailable: that is the sweep's business.
                                let _ = try_hint(&redis, &queue, &new).await;
                            }
                        }
                        tokio::time::sleep(Duration::from_millis(60)).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        });
        Self { runs, stop, task }
    }

    pub fn recorded(&self) -> usize {
        self.runs.lock().unwrap().len()
    }

    /// Stops it, and says which runs were recorded.
    pub async fn stop(self) -> BTreeSet<i64> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        self.runs.lock().unwrap().clone()
    }
}
