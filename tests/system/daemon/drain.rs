//! Signals: the first drains. What comes after the grace period, and with a second signal, is shown in `tests/faults`.

use std::time::Duration;
use test_support::bench::Bench;
use test_support::proxy::Proxy;
use verifyd_simulator::{Scenario, SimulatorOptions};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_finishes_what_is_in_work() {
    for signal in ["TERM", "INT"] {
        let options = SimulatorOptions {
            slow_answer: Duration::from_millis(700),
            ..SimulatorOptions::default()
        };
        let bench = Bench::with(options).await;
        let id = bench.connection(1, &Scenario::Slow.tenant_id(1), "health_check");
        let mut daemon = bench.serve(&[]);
        bench.enqueue(id);
        bench.count_is("running", 1).await;
        daemon.signal(signal);
        assert_eq!(daemon.ended(), Some(0), "{signal}");
        let succeeded = "operation_runs WHERE outcome = 'succeeded'";
        assert_eq!(bench.count(succeeded).await, 1, "{signal}");
        assert_eq!(bench.count("verifyd.workers").await, 0, "{signal}");
    }
}

/// The claim may wait for longer than a stop, with the time for releases, may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_up_a_claim_that_waits() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_sleep(3600); RETURN new; END';
             CREATE TRIGGER hold BEFORE UPDATE ON operation_runs FOR EACH ROW
                 EXECUTE FUNCTION hold()",
        )
        .await;
    let mut daemon = bench.serve(&[("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "1h")]);
    bench.record(&[connection], 1).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    bench.until(waiting, |n| n > 0).await;
    daemon.terminate();
    let queued = "operation_runs WHERE status = 'queued'";
    assert_eq!(bench.count(queued).await, 1);
    assert_eq!(bench.count("verifyd.workers").await, 0);
    assert_eq!(bench.count("verifyd.run_attempts").await, 0);
}

/// Each call to the database may take hours, as its statements may.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_while_nothing_passes_to_the_database() {
    let bench = Bench::new().await;
    let (way, url) = Proxy::before(&bench.database.url()).await;
    let mut daemon = bench.serve(&[
        ("DATABASE_URL", &url),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "1h"),
        ("VERIFYD__WORKER__GRACE_PERIOD", "1s"),
    ]);
    daemon.ready().await;
    way.silence();
    daemon.terminate();
}
