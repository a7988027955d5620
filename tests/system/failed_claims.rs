//! What a failed claim tells a worker of PostgreSQL: whether a restart may help.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use test_support::postgres::TestDatabase;
use test_support::waiting::until;
use test_support::world::{World, use_postgres};
use tokio::task::JoinSet;
use verifyd::config::Settings;
use verifyd::domain::RunId;
use verifyd::domain::hint::Hint;
use verifyd::engine::pipeline::Processed;
use verifyd::engine::worker::Worker;
use verifyd::ports::store::{ClaimAnswer, ClaimPolicy};

/// A world on PostgreSQL, and a rule of its application.
struct Scene {
    world: World,
    /// Dropped after everything that is connected to it.
    database: TestDatabase,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let database = TestDatabase::migrated().await;
        let world = World::with(|settings| {
            use_postgres(settings, database.url());
            change(settings);
        })
        .await;
        Self { world, database }
    }

    /// A queued run of this tenant.
    async fn run(&self, tenant: u32) -> RunId {
        let connection = self.world.healthy(tenant).await;
        self.world.record(connection, |_| {}).await
    }

    async fn sql(&self) -> PgConnection {
        PgConnection::connect(&self.database.url()).await.unwrap()
    }

    /// Adds what happens before a claim is written.
    async fn add(&self, rule: &str) {
        let statements = format!(
            "CREATE SEQUENCE claims;
             CREATE FUNCTION apply() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN PERFORM nextval('claims'); {rule}; RETURN new; END $$;
             CREATE TRIGGER apply BEFORE UPDATE ON operation_runs FOR EACH ROW
                 EXECUTE FUNCTION apply()"
        );
        let statements = sqlx::raw_sql(AssertSqlSafe(statements));
        statements.execute(&mut self.sql().await).await.unwrap();
    }
}

/// As if claims had been without an answer. Returns for how long.
async fn without_answer(worker: &Worker) -> Duration {
    let failures = &worker.state.claim_failures;
    failures.failed(RunId(1_000_001));
    tokio::time::sleep(Duration::from_millis(20)).await;
    failures.failed(RunId(1_000_002));
    let lasted = failures.lasted();
    assert!(lasted > Duration::ZERO);
    lasted
}

/// Processes a run whose claim fails, while others would not.
async fn fail(worker: &Worker, run: RunId) {
    let processed = worker.pipeline.process(&Hint::new(run)).await;
    let has_failed = matches!(processed, Processed::Contended | Processed::Refused);
    assert!(has_failed, "{processed:?}");
}

/// A trigger says that the database only reads, or ends the session. Both are answers, though claims fail so without a
/// database, too: a restart would not change them. It does not end the session of a batch, which could still lock the run
/// when it is claimed by itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_does_to_claims_makes_no_process_unhealthy() {
    let scene = Scene::new(|_| {}).await;
    let runs = [scene.run(2).await, scene.run(3).await];
    scene
        .add(
            "IF old.tenant_id = 2 OR currval('claims') % 2 = 1 THEN
                 RAISE 'not today' USING errcode = '25006';
             END IF;
             PERFORM pg_terminate_backend(pg_backend_pid());
             PERFORM pg_sleep(3600)",
        )
        .await;
    let worker = scene.world.worker().await;
    for run in runs {
        without_answer(&worker).await;
        fail(&worker, run).await;
        let lasted = worker.state.claim_failures.lasted();
        assert_eq!(lasted, Duration::ZERO, "{run}");
    }
}

/// A batch that fails has its calls sent by themselves at once, on another connection. PostgreSQL sends an error before
/// it gives the locks back.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_failed_leaves_its_run_to_the_next_one() {
    let scene = Scene::new(|_| {}).await;
    scene
        .add("IF currval('claims') % 2 = 1 THEN RAISE 'not today'; END IF")
        .await;
    let worker = scene.world.worker().await;
    let policy = ClaimPolicy {
        max_attempts: 3,
        lease: Duration::from_secs(60),
        isolated: false,
    };
    let store = &scene.world.services.store;
    let connection = scene.world.healthy(2).await;
    for _ in 0..300 {
        let run = scene.world.record(connection, |_| {}).await;
        let answer = store.claim(run, &worker.state.id, &policy).await;
        assert!(matches!(answer, Ok(ClaimAnswer::Claimed(_))), "{answer:?}");
    }
}

/// A claim that waits has the only connection for claims.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_not_sent_is_no_answer() {
    let scene = Scene::new(|settings| {
        settings.database.max_connections = 3;
        settings.database.acquire_timeout = Duration::from_secs(5);
        settings.database.statement_timeout = Duration::from_secs(1800);
    })
    .await;
    let runs = [scene.run(2).await, scene.run(3).await];
    scene.add("PERFORM pg_sleep(3600)").await;
    let worker = scene.world.worker().await;
    let policy = ClaimPolicy {
        max_attempts: 3,
        lease: Duration::from_secs(60),
        isolated: true,
    };
    let (store, me) = (
        Arc::clone(&scene.world.services.store),
        worker.state.id.clone(),
    );
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { store.claim(runs[0], &me, &policy).await });
    let mut sql = scene.sql().await;
    until("the claim waits, after its short try", async || {
        let claims: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event = 'PgSleep'
                 AND query_start < now() - interval '2 seconds'",
        )
        .fetch_one(&mut sql)
        .await
        .unwrap();
        claims == 1
    })
    .await;
    let before = without_answer(&worker).await;
    fail(&worker, runs[1]).await;
    assert_eq!(worker.state.claim_failures.lasted(), before);
    waiting.shutdown().await;
}
