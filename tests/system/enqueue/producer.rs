//! The producer for applications in Rust.

use std::process::Command;
use std::time::Duration;
use test_support::bench::Bench;
use verifyd::domain::{ConnectionId, Outcome, RunId, RunStatus};
use verifyd::operations::OperationError;
use verifyd::producer::{Producer, ProducerError};
use verifyd_simulator::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_ends_in_a_completed_run() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    let _worker = bench.serve(&[]);
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--example", "enqueue"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("DATABASE_URL", bench.database.url())
        // The example knows the default name of the queue only; without Redis the sweep finds it.
        .env_remove("REDIS_URL")
        .env("PROVIDER_CONNECTION_ID", connection.to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{printed}{said}");
    assert_eq!(said.trim(), "succeeded");
    assert!(printed.trim().parse::<i64>().is_ok(), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_active_run_is_returned_in_place_of_a_second_one() {
    let bench = Bench::new().await;
    let tenant = Scenario::Healthy.tenant_id(1);
    let connection = ConnectionId(bench.connection(1, &tenant, "intune"));
    let producer = Producer::connect(&bench.database.url(), None)
        .await
        .unwrap();
    let first = producer.check(connection).await.unwrap();
    let second = producer.check(connection).await.unwrap();
    assert!(first.created && !second.created);
    assert_eq!(first.run_id, second.run_id);
    assert_eq!(first.hint_not_sent, None);

    let patience = Duration::from_millis(1);
    let waiting = producer.wait(first.run_id, patience).await.unwrap();
    assert_eq!(waiting.status, RunStatus::Queued);
    let _worker = bench.serve(&[]);
    let done = producer
        .wait(first.run_id, test_support::bench::PATIENCE)
        .await;
    assert_eq!(done.unwrap().outcome, Some(Outcome::Succeeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named() {
    let bench = Bench::new().await;
    let producer = Producer::connect(&bench.database.url(), None)
        .await
        .unwrap();
    let named = |error: ProducerError, expected: &str| {
        let ProducerError::Operation(OperationError::NotFound { what, id }) = error else {
            panic!("{error}");
        };
        assert_eq!(format!("{what} {id}"), expected);
    };
    let check = producer.check(ConnectionId(404)).await;
    named(check.unwrap_err(), "connection 404");
    let run = producer.run(RunId(404)).await;
    named(run.unwrap_err(), "run 404");
    let nobody = Producer::connect("postgres://app:canary@127.0.0.1:1/app", None).await;
    let why = nobody.unwrap_err().to_string();
    assert!(why.contains("cannot open the database"), "{why}");
    assert!(!why.contains("canary"), "{why}");
}
