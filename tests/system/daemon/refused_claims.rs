//! A trigger of the application refuses every claim of some runs.

use crate::daemon::application_trigger::{before_update, raise_by_tenant};
use std::time::{Duration, Instant};
use test_support::bench::Bench;
use test_support::redis_server::keys_of;
use test_support::waiting::{until, within};

/// Slots of a worker, and refused runs that are before all others.
const SLOTS: &str = "4";
const REFUSED: i64 = 12;

/// Counts the claims of the tenant 2, which no rollback undoes in a sequence, then executes the other statements.
async fn count_claims(bench: &Bench, then: &str) {
    bench.execute("CREATE SEQUENCE refusals").await;
    let counted = format!("PERFORM nextval('refusals'); {then}");
    before_update(bench, "old.tenant_id = 2", &counted).await;
}

const REFUSE: &str = "RAISE 'not today'";

const REFUSALS: &str = "SELECT last_value FROM refusals";

/// In each line of the log about a claim that failed.
const FAILED: &str = "cannot claim the run";

/// No refused run is redelivered meanwhile: what keeps a slot until then would keep the others waiting for
/// longer than the test does.
#[tokio::test(flavor = "multi_thread")]
async fn refused_runs_keep_no_slot_from_the_others() {
    let bench = Bench::new().await;
    let [healthy, refused] = [1, 2].map(|tenant| bench.healthy(tenant));
    count_claims(&bench, REFUSE).await;
    let runs = bench.record(&[refused], REFUSED).await;
    bench.hint(&runs).await;
    let runs = bench.record(&[healthy], 4).await;
    bench.hint(&runs).await;
    let began = Instant::now();
    let mut daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", SLOTS),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ]);
    bench.count_is("completed", 4).await;
    bench.until_taken().await;
    let line = daemon.wait_for(FAILED);
    assert!(line.contains("not today"), "{line}");
    until("refused claims are counted", async || {
        let counted = daemon.metric("verifyd_claims_refused_total{class=\"refused\"}");
        counted.await >= 1.0
    })
    .await;
    let lines = daemon.lines.lock().unwrap().clone();
    let failed = lines.iter().filter(|line| line.contains(FAILED)).count();
    let most = 1 + began.elapsed().as_secs() / 60;
    assert!(failed as u64 <= most, "{failed} lines");
}

/// Runs of a tenant are completed before each refused run of another one has been tried, while every slot pauses.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_does_not_wait_behind_all_refused_runs_of_another_one() {
    const MANY: i64 = 120;
    let bench = Bench::new().await;
    let [healthy, refused] = [1, 2].map(|tenant| bench.healthy(tenant));
    count_claims(&bench, REFUSE).await;
    let runs = bench.record(&[refused], MANY).await;
    bench.hint(&runs).await;
    let runs = bench.record(&[healthy], 2).await;
    bench.hint(&runs).await;
    let _daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", SLOTS),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ]);
    bench.count_is("completed", 2).await;
    let refusals = bench.numbers(REFUSALS).await[0];
    assert!(refusals < MANY, "{refusals} claims were refused before");
}

/// Codes that also stand for failures of the whole database, each raised for one tenant.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_keep_no_slot_from_the_others_whatever_their_code() {
    const CODES: [&str; 9] = [
        "40001", "40P01", "55P03", "57014", "57P01", "53100", "58030", "08006", "25006",
    ];
    let bench = Bench::new().await;
    let healthy = bench.healthy(1);
    let tenants = 2..2 + CODES.len() as i64;
    let refused: Vec<i64> = tenants.map(|tenant| bench.healthy(tenant)).collect();
    before_update(&bench, "old.tenant_id > 1", &raise_by_tenant(&CODES)).await;
    let runs = bench.record(&refused, REFUSED).await;
    bench.hint(&runs).await;
    let runs = bench.record(&[healthy], 4).await;
    bench.hint(&runs).await;
    let _daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", SLOTS),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ]);
    bench.count_is("completed", 4).await;
}

/// A trigger waits for longer than a statement may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_waits_is_not_repeated_in_its_slot() {
    let bench = Bench::new().await;
    let [_, slow] = [1, 2].map(|tenant| bench.healthy(tenant));
    count_claims(&bench, "PERFORM pg_sleep(3600); RETURN new").await;
    let daemon = bench.serve(&[
        ("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "60s"),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "6s"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ]);
    bench.record(&[slow], 1).await;
    bench.until(REFUSALS, |n| n >= 2).await;
    until("the hint is given up", async || {
        let keys = keys_of(&bench.redis_url, &bench.queue).await;
        !keys.iter().any(|key| key.contains(":inflight:"))
    })
    .await;
    // In a batch, then by itself: a short try, and one for as long as a statement may take.
    let tries = bench.numbers(REFUSALS).await[0];
    // The sweep may send one beside that of the notification.
    let hints = daemon.metric("verifyd_hints_sent_total").await;
    assert!(tries as f64 <= 3.0 * hints, "{tries} for {hints} hints");
}

/// Connections for claims are taken by those that wait.
#[tokio::test(flavor = "multi_thread")]
async fn claims_that_are_not_sent_do_not_count_as_refused() {
    let bench = Bench::new().await;
    let [_, slow] = [1, 2].map(|tenant| bench.healthy(tenant));
    before_update(
        &bench,
        "old.tenant_id = 2",
        "PERFORM pg_sleep(3600); RETURN new",
    )
    .await;
    let daemon = bench.serve(&[
        ("VERIFYD__DATABASE__MAX_CONNECTIONS", "10"),
        ("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "10s"),
        // None of those that wait is cancelled meanwhile.
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "10m"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ]);
    bench.record(&[slow], REFUSED).await;
    until("a claim is not sent", async || {
        daemon.metric("verifyd_claims_unsent_total").await >= 1.0
    })
    .await;
    let (_, all) = daemon.get("/metrics").await;
    let refused = all
        .lines()
        .filter(|line| line.starts_with("verifyd_claims_refused_total{"));
    let refused: Vec<&str> = refused.collect();
    assert!(
        !refused.is_empty() && refused.iter().all(|line| line.ends_with(" 0")),
        "{refused:?}"
    );
}

/// A conflict of a second, as with a row that its application locks, while other claims are granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_conflict_is_waited_out_while_other_claims_are_granted() {
    let bench = Bench::new().await;
    let both = [1, 2].map(|tenant| bench.healthy(tenant));
    let conflict = "IF clock_timestamp() < old.created_at + interval '1 second' THEN
             RAISE 'not now' USING errcode = '40001';
         END IF;
         RETURN new";
    before_update(&bench, "old.tenant_id = 2", conflict).await;
    let daemon = bench.serve(&[("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h")]);
    daemon.ready().await;
    bench.record(&both, REFUSED).await;
    bench.all_completed().await;
}

/// As on a former primary after a failover. No claim can be granted, and no sweep delivers the run again.
#[tokio::test(flavor = "multi_thread")]
async fn hints_are_held_while_the_database_only_reads() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    let mut daemon = bench.serve(&[
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
        ("VERIFYD__WORKER__DEAD_AFTER", "1m"),
    ]);
    daemon.ready().await;
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    let read_only = |on: bool| {
        format!(
            "BEGIN READ WRITE; ALTER DATABASE {name} SET default_transaction_read_only = {on}; COMMIT"
        )
    };
    bench.execute(&read_only(true)).await;
    bench
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    bench
        .execute(&format!(
            "BEGIN READ WRITE;
             INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context)
             SELECT workspace_id, tenant_id, 'provider.connection.check', 'queued',
                    jsonb_build_object('provider', 'microsoft', 'module', module,
                                       'provider_connection_id', id, 'target_scope',
                                       jsonb_build_object('entra_tenant_id', entra_tenant_id))
             FROM provider_connections WHERE id = {connection};
             INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
             SELECT id, clock_timestamp() FROM operation_runs;
             COMMIT"
        ))
        .await;
    let runs = bench.numbers("SELECT id FROM operation_runs").await;
    bench.hint(&runs).await;
    daemon.wait_for(FAILED);
    // Longer than a hint is held whose claim is only contended.
    tokio::time::sleep(Duration::from_secs(20)).await;
    bench.execute(&read_only(false)).await;
    let completed = bench.all_completed();
    within("the runs whose hints were held are completed", completed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_completions_are_logged_once_a_minute() {
    let bench = Bench::new().await;
    let [_, connection] = [1, 2].map(|tenant| bench.healthy(tenant));
    let completed = "new.status = 'completed' AND new.tenant_id = 2";
    before_update(&bench, completed, REFUSE).await;
    let began = Instant::now();
    let mut daemon = bench.serve(&[]);
    bench.record(&[connection], REFUSED).await;
    let line = daemon.wait_for("cannot write the result of the run");
    assert!(line.contains("not today"), "{line}");
    let failed = "SELECT count(*) FROM verifyd.run_attempts WHERE end_reason = 'error'";
    bench.until(failed, |n| n >= REFUSED).await;
    let lines = daemon.lines.lock().unwrap().clone();
    let failed = lines
        .iter()
        .filter(|line| line.contains("cannot write the result of the run"));
    let most = 1 + began.elapsed().as_secs() / 60;
    assert!(failed.count() as u64 <= most, "{lines:?}");
}

/// Every claim is refused until the trigger is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn claims_that_were_refused_are_granted_once_the_rule_is_gone() {
    let bench = Bench::new().await;
    let [_, refused] = [1, 2].map(|tenant| bench.healthy(tenant));
    count_claims(&bench, REFUSE).await;
    bench.record(&[refused], REFUSED).await;
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", SLOTS),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
    ]);
    // Also those that are delivered again.
    bench.until(REFUSALS, |n| n > 2 * REFUSED).await;
    bench
        .execute("DROP TRIGGER of_application ON operation_runs")
        .await;
    bench.all_completed().await;
    daemon.ready().await;
    bench.record(&[refused], 1).await;
    bench.all_completed().await;
}
