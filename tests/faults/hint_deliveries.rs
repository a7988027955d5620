//! Hints come in any number and order; the other application writes at the same time.

use crate::scene::{RUNNING, Scene};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use test_support::bench::Bench;
use test_support::postgres::TestDatabase;

/// In an order as if by chance, but the same in every run of the test.
fn fifty_of_each(runs: &[i64]) -> Vec<i64> {
    let mut hints: Vec<i64> = std::iter::repeat_n(runs, 50).flatten().copied().collect();
    hints.shuffle(&mut StdRng::seed_from_u64(1));
    hints
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_copies_of_every_hint() {
    let scene = Scene::new().await;
    let _two = scene.two();
    let completed = scene.record(3).await;
    scene.ends_as_meant().await;
    let foreign = scene
        .number("SELECT id FROM operation_runs WHERE type = 'inventory.sync'")
        .await;
    let mut hinted = scene.record(3).await;
    hinted.extend(completed);
    hinted.extend([foreign, 987_654_321, i64::MAX]);
    scene.bench.hint(&fifty_of_each(&hinted)).await;
    scene.bench.until_taken().await;
    for run in scene.ends_as_meant().await {
        assert!(run.at_once(), "{run:?}");
    }
    let untouched = format!(
        "SELECT count(*) FROM operation_runs WHERE id = {foreign} AND status = 'queued'
         AND started_at IS NULL AND context = '{{\"own\": true}}'"
    );
    assert_eq!(scene.number(&untouched).await, 1);
}

/// A database whose `operation_runs` belongs to another application: verifyd may not guard it.
async fn of_another_application() -> TestDatabase {
    let database = TestDatabase::create().await;
    let mut sql = PgConnection::connect(&database.url()).await.unwrap();
    sql.execute(
        "CREATE TABLE operation_runs (
             id bigserial PRIMARY KEY, workspace_id bigint NOT NULL, tenant_id bigint,
             type varchar(255) NOT NULL, status varchar(255) NOT NULL, outcome varchar(255),
             context jsonb, failure_summary jsonb, created_at timestamptz,
             started_at timestamptz, completed_at timestamptz)",
    )
    .await
    .unwrap();
    database
}

async fn context(bench: &Bench, run: i64) -> Value {
    sqlx::query_scalar("SELECT context FROM operation_runs WHERE id = $1")
        .bind(run)
        .fetch_one(&mut bench.sql().await)
        .await
        .unwrap()
}

/// Saves the whole column, as an ORM does with a model that it has read earlier.
async fn save(bench: &Bench, run: i64, context: &Value) {
    sqlx::query("UPDATE operation_runs SET context = $2 WHERE id = $1")
        .bind(run)
        .bind(context)
        .execute(&mut bench.sql().await)
        .await
        .unwrap();
}

/// The application saves again and again while verifyd works. The result is merged into what is
/// there when the run is completed.
#[tokio::test(flavor = "multi_thread")]
async fn the_context_is_overwritten_while_the_run_is_in_flight() {
    let mut scene = Scene::empty(
        of_another_application().await,
        verifyd_simulator::SimulatorOptions {
            // Long enough for a busy machine to look at the run meanwhile.
            slow_answer: std::time::Duration::from_secs(5),
            ..Default::default()
        },
    )
    .await;
    scene.add(verifyd_simulator::Scenario::Slow, 1);
    let run = scene.record(1).await[0];
    let mut older = context(&scene.bench, run).await;
    let _two = scene.two();
    scene.until(RUNNING, |n| n == 1).await;
    older["note"] = json!("saved by the application");
    save(&scene.bench, run, &older).await;
    scene.ends_as_meant().await;
    let stored = context(&scene.bench, run).await;
    assert_eq!(stored["note"], "saved by the application");
    assert_eq!(stored["verification_report"]["summary"]["overall"], "ready");
}

/// What is saved after the completion is out of verifyd's hands where the table is not its own:
/// outcome, time and failure summary stay, the latest report of the connection stays known by run,
/// fingerprint and outcome; the report itself is gone with the column. The run is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn the_context_is_overwritten_after_the_completion() {
    let mut scene = Scene::empty(of_another_application().await, Default::default()).await;
    let connection = scene.add(verifyd_simulator::Scenario::Healthy, 1);
    let run = scene.record(1).await[0];
    let older = context(&scene.bench, run).await;
    let _two = scene.two();
    scene.ends_as_meant().await;
    let completed = context(&scene.bench, run).await;
    save(&scene.bench, run, &older).await;
    scene.bench.hint(&fifty_of_each(&[run])).await;
    scene.bench.until_taken().await;
    let row = sqlx::query(
        "SELECT r.status, r.outcome, r.completed_at IS NOT NULL AS timed, l.fingerprint,
                (SELECT count(*) FROM verifyd.run_attempts) AS attempts
         FROM operation_runs r JOIN verifyd.latest_reports l ON l.operation_run_id = r.id
         WHERE r.id = $1 AND l.connection_id = $2",
    )
    .bind(run)
    .bind(connection)
    .fetch_one(&mut scene.bench.sql().await)
    .await
    .unwrap();
    assert_eq!(row.get::<String, _>("status"), "completed");
    assert_eq!(row.get::<String, _>("outcome"), "succeeded");
    assert!(row.get::<bool, _>("timed"));
    assert_eq!(row.get::<i64, _>("attempts"), 1);
    assert_eq!(
        completed["verification_report"]["fingerprint"],
        row.get::<String, _>("fingerprint")
    );
    // The next run of the connection works as always; there is no report any more to compare with.
    let next = scene.record(1).await[0];
    completed_now(&scene, next).await;
    assert_eq!(
        context(&scene.bench, next).await["verification_report"]["previous_report_id"],
        serde_json::Value::Null
    );
}

async fn completed_now(scene: &Scene, run: i64) {
    scene
        .until(
            &format!(
                "SELECT count(*) FROM operation_runs WHERE id = {run} AND outcome IS NOT NULL"
            ),
            |n| n == 1,
        )
        .await;
}

/// With the guards, which `migrate --enforce` adds at the request of the table's owner, it is as if the report
/// had not been saved over.
#[tokio::test(flavor = "multi_thread")]
async fn the_context_is_overwritten_after_the_completion_of_a_guarded_run() {
    let mut scene = Scene::empty(of_another_application().await, Default::default()).await;
    scene.bench.success(&["migrate", "--enforce"]);
    scene.add(verifyd_simulator::Scenario::Healthy, 1);
    let run = scene.record(1).await[0];
    let mut older = context(&scene.bench, run).await;
    let _two = scene.two();
    scene.ends_as_meant().await;
    let completed = context(&scene.bench, run).await;
    older["note"] = json!("saved by the application");
    save(&scene.bench, run, &older).await;
    save(&scene.bench, run, &json!({})).await;
    older["verification_report"] = json!("somebody else's");
    save(&scene.bench, run, &older).await;
    scene.bench.hint(&fifty_of_each(&[run])).await;
    scene.bench.until_taken().await;
    let mut stored = context(&scene.bench, run).await;
    assert_eq!(
        stored["verification_report"],
        completed["verification_report"]
    );
    assert_eq!(stored["note"].take(), "saved by the application");
    let ended = scene.ends_as_meant().await;
    assert!(ended[0].at_once(), "{ended:?}");
}
