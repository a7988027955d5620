//! What pages and the API show of many connections and runs at once.

use crate::store::bed::Bed;
use crate::store::fixtures::{
    blocked, bound, change_report, context, failed, new_connection, quoted, succeeded,
};
use serde_json::{Value, json};
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::access::Binding;
use verifyd::domain::completion::Completion;
use verifyd::domain::connection::ConnectionStatus;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, Outcome, RunId, TenantId, WorkspaceId};
use verifyd::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionState, TrendPoint};
use verifyd::ports::store::AttemptEnd;

const HOUR: Duration = Duration::from_secs(3600);

async fn add(bed: &Bed, tenant: i64, name: &str) -> ConnectionId {
    let mut new = new_connection(tenant);
    new.display_name = Some(name.into());
    bed.store
        .add_connection(&new, None, operator())
        .await
        .unwrap()
}

/// A run of this connection, completed so, whose report names the one before as told.
async fn complete(
    bed: &Bed,
    connection: ConnectionId,
    tenant: i64,
    completion: Completion,
    previous: Value,
) -> RunId {
    let run = bed.queued_for(tenant, connection.0).await;
    complete_run(bed, run, connection, completion, previous).await;
    run
}

async fn complete_run(
    bed: &Bed,
    run: RunId,
    connection: ConnectionId,
    mut completion: Completion,
    previous: Value,
) {
    let held = bed.claim(run, "w1").await;
    completion.connection = Some(connection);
    change_report(&mut completion, |report| {
        report["previous_report_id"] = previous
    });
    assert!(bed.store.complete(&held, &completion).await.unwrap());
}

fn everything() -> ConnectionFilter {
    ConnectionFilter {
        limit: 100,
        ..ConnectionFilter::default()
    }
}

async fn states(bed: &Bed, change: impl FnOnce(&mut ConnectionFilter)) -> Vec<ConnectionState> {
    let mut filter = everything();
    change(&mut filter);
    bed.store.connection_states(&filter).await.unwrap()
}

fn ids(states: &[ConnectionState]) -> Vec<ConnectionId> {
    states.iter().map(|s| s.connection.id).collect()
}

pub async fn a_connection_is_shown_with_its_latest_report_and_active_run(bed: &Bed) {
    let one = add(bed, 7, "One").await;
    let two = add(bed, 8, "Two").await;
    let run = complete(bed, one, 7, failed(), Value::Null).await;
    let found = states(bed, |_| {}).await;
    assert_eq!(ids(&found), [one, two]);
    let latest = found[0].latest_report.as_ref().unwrap();
    assert_eq!(latest.operation_run_id, run);
    assert_eq!(latest.outcome, Outcome::Failed);
    assert_eq!(latest.overall, "blocked");
    assert_eq!(found[0].active_run_id, None);
    assert_eq!(found[1].latest_report, None);

    bed.insert("another.type", "queued", &context(one.0)).await;
    // A run of another tenant that names this connection is not the connection's own.
    bed.queued_for(8, one.0).await;
    assert_eq!(states(bed, |_| {}).await[0].active_run_id, None);
    bed.queued_for(7, one.0).await;
    // The number as a text, as PHP may write it.
    let mut as_text = context(one.0);
    as_text["provider_connection_id"] = json!(one.to_string());
    let newest = bed
        .insert_for(TenantId(7), RUN_TYPE, "queued", &as_text)
        .await;
    let found = states(bed, |_| {}).await;
    assert_eq!(found[0].active_run_id, Some(newest));
    assert_eq!(found[1].active_run_id, None);
    let alone = bed.store.connection_state(one, &Binding::EVERYTHING).await;
    assert_eq!(alone.unwrap().as_ref(), found.first());
}

/// More runs than are looked through for a page, on both sides of the one that it shows.
pub async fn an_active_run_is_shown_among_thousands(bed: &Bed) {
    bed.lift_constraints().await;
    let connection = add(bed, 7, "One").await;
    let thousands = async |column: &str, value: &str| {
        bed.unchecked(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000) \
             INSERT INTO operation_runs (workspace_id, tenant_id, type, status, {column}) \
             SELECT 1, 7, '{RUN_TYPE}', 'queued', {value} FROM n"
        ))
        .await;
    };
    thousands("started_at", "NULL").await;
    let run = bed.queued_for(7, connection.0).await;
    // They are never claimed, and do not count.
    thousands("outcome", "'pending'").await;
    assert_eq!(states(bed, |_| ()).await[0].active_run_id, Some(run));
}

pub async fn connections_are_filtered_and_paged(bed: &Bed) {
    let ready = add(bed, 7, "Ready Ltd").await;
    let broken = add(bed, 7, "Broken 50% off").await;
    let never = add(bed, 8, "never_checked").await;
    let disabled = add(bed, 8, "Disabled \\ Co").await;
    complete(bed, ready, 7, succeeded(), Value::Null).await;
    complete(bed, broken, 7, blocked(), Value::Null).await;
    bed.disable(disabled).await;
    let overall = |text: &str| Some(text.to_owned());
    type Narrow<'a> = &'a dyn Fn(&mut ConnectionFilter);
    let cases: [(Narrow, &[ConnectionId]); 7] = [
        (&|f| f.overall = overall("ready"), &[ready]),
        (&|f| f.overall = overall("blocked"), &[broken]),
        (&|f| f.overall = overall("never"), &[never, disabled]),
        (
            &|f| f.status = Some(ConnectionStatus::Disabled),
            &[disabled],
        ),
        (&|f| f.tenant = Some(TenantId(8)), &[never, disabled]),
        (&|f| f.limit = 3, &[ready, broken, never]),
        (
            &|f| f.after = Some(ConnectionCursor::Id(never)),
            &[disabled],
        ),
    ];
    for (narrow, expected) in cases {
        let mut filter = everything();
        narrow(&mut filter);
        let found = bed.store.connection_states(&filter).await.unwrap();
        assert_eq!(ids(&found), expected, "{filter:?}");
    }
    for (name, expected) in [
        ("READY", vec![ready]),
        ("0%", vec![broken]),
        ("%", vec![broken]),
        ("_", vec![never]),
        ("\\", vec![disabled]),
        ("nobody", vec![]),
        ("' OR true --", vec![]),
    ] {
        let found = states(bed, |f| f.name = Some(name.to_owned())).await;
        assert_eq!(ids(&found), expected, "{name}");
    }
}

pub async fn what_is_out_of_reach_is_not_shown(bed: &Bed) {
    let mine = add(bed, 7, "Mine").await;
    let theirs = add(bed, 8, "Theirs").await;
    complete(bed, mine, 7, failed(), Value::Null).await;
    complete(bed, theirs, 8, failed(), Value::Null).await;
    bed.queued_for(8, theirs.0).await;
    for (binding, count) in [
        (Binding::EVERYTHING, 2),
        (bound(1, Some(7)), 1),
        (bound(1, Some(9)), 0),
        (bound(2, None), 0),
    ] {
        let store = &bed.store;
        let found = states(bed, |f| f.binding = binding).await;
        assert_eq!(found.len(), count, "{binding:?}");
        let counts = store.connection_counts(&binding).await.unwrap();
        assert_eq!(counts.total, count as u64);
        assert_eq!(counts.failed, count as u64);
        let history = store.history(&binding, HOUR, 4, 100).await.unwrap();
        assert_eq!(history.runs, count as u64);
        let waiting = store.longest_waiting(&binding, 10).await.unwrap();
        assert_eq!(waiting.len(), usize::from(count == 2));
        let one = store.connection_state(theirs, &binding).await.unwrap();
        assert_eq!(one.is_some(), count == 2);
    }
}

pub async fn connections_are_counted_by_their_latest_report(bed: &Bed) {
    let counts = async || {
        let counts = bed.store.connection_counts(&Binding::EVERYTHING).await;
        counts.unwrap()
    };
    assert_eq!(counts().await, Default::default());
    let mut all = Vec::new();
    for name in ["ready", "failed", "blocked", "never", "off", "off, failed"] {
        all.push(add(bed, 7, name).await);
    }
    complete(bed, all[0], 7, succeeded(), Value::Null).await;
    complete(bed, all[1], 7, failed(), Value::Null).await;
    complete(bed, all[2], 7, blocked(), Value::Null).await;
    complete(bed, all[5], 7, failed(), Value::Null).await;
    for off in &all[4..] {
        bed.disable(*off).await;
    }
    let found = counts().await;
    assert_eq!((found.total, found.disabled), (6, 2));
    assert_eq!((found.ready, found.needs_attention), (1, 0));
    assert_eq!((found.blocked, found.failed), (2, 1));
    assert_eq!(found.never_checked, 1);
}

pub async fn a_trend_follows_the_chain_of_reports(bed: &Bed) {
    let one = add(bed, 7, "One").await;
    let two = add(bed, 7, "Two").await;
    let never = add(bed, 7, "Never").await;
    let mut of_one = Vec::new();
    let mut previous = Value::Null;
    for completion in [succeeded(), failed(), blocked(), succeeded()] {
        let run = complete(bed, one, 7, completion, previous).await;
        previous = json!(run);
        of_one.push(run);
    }
    // A report that names a run of another connection as the one before.
    let lone = complete(bed, two, 7, failed(), json!(of_one[0])).await;
    let runs = |points: &[TrendPoint], of: ConnectionId| -> Vec<RunId> {
        points
            .iter()
            .filter(|p| p.connection_id == of)
            .map(|p| p.operation_run_id)
            .collect()
    };
    let all = [one, two, never];
    let found = bed.store.trend(&all, 10).await.unwrap();
    assert_eq!(runs(&found, one), of_one);
    assert_eq!(runs(&found, two), [lone]);
    assert_eq!(runs(&found, never), []);
    assert_eq!(found[1].outcome, Some(Outcome::Failed));
    assert_eq!(found[0].overall.as_deref(), Some("ready"));
    assert!(found[0].completed_at.is_some());
    let found = bed.store.trend(&all, 2).await.unwrap();
    assert_eq!(runs(&found, one), of_one[2..]);
    assert_eq!(bed.store.trend(&all, 0).await.unwrap(), []);
    assert_eq!(bed.store.trend(&[], 5).await.unwrap(), []);
}

pub async fn a_trend_bears_what_others_wrote(bed: &Bed) {
    for odd in [
        json!("99999999999999999999"),
        json!("9999999999999999999"),
        json!(9.5e30),
        json!("none"),
        json!({ "id": 1 }),
        json!(-1),
        json!(true),
    ] {
        let connection = add(bed, 7, "Odd").await;
        let run = complete(bed, connection, 7, succeeded(), odd).await;
        let found = bed.store.trend(&[connection], 5).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].operation_run_id, run);
    }
    // A chain that leads back to itself ends all the same.
    let connection = add(bed, 7, "Round").await;
    let run = complete(bed, connection, 7, succeeded(), Value::Null).await;
    bed.unguard().await;
    bed.exec(&format!(
        "UPDATE operation_runs SET context = '{}' WHERE id = {run}",
        json!({
            "provider_connection_id": connection,
            "verification_report": { "previous_report_id": run },
        })
    ))
    .await;
    let found = bed.store.trend(&[connection], 5).await.unwrap();
    assert!(found.len() <= 5, "{found:?}");
}

pub async fn a_trend_follows_ids_of_19_digits(bed: &Bed) {
    let connection = ConnectionId(i64::MAX);
    bed.exec(&format!(
        "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status) \
         VALUES ({connection}, 1, 7, 'microsoft', 'enabled')"
    ))
    .await;
    // A guard refuses larger ones in SQLite, which gives no id after the largest.
    let largest = match bed.is_postgres() {
        true => i64::MAX,
        false => 1 << 62,
    };
    let ids = [
        RunId(1_000_000_000_000_000_000),
        RunId(largest - 1),
        RunId(largest),
    ];
    let mut previous = Value::Null;
    for run in ids {
        let context = quoted(&context(connection.0));
        bed.exec(&format!(
            "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context) \
             VALUES ({run}, 1, 7, '{RUN_TYPE}', 'queued', '{context}')"
        ))
        .await;
        complete_run(bed, run, connection, succeeded(), previous).await;
        previous = json!(run);
    }
    let found = bed.store.trend(&[connection], 10).await.unwrap();
    let found: Vec<RunId> = found.iter().map(|p| p.operation_run_id).collect();
    assert_eq!(found, ids);
    let shown = states(bed, |_| {}).await;
    let latest = shown[0].latest_report.as_ref().unwrap();
    assert_eq!(latest.operation_run_id, ids[2]);
}

pub async fn history_counts_what_was_completed_lately(bed: &Bed) {
    let store = &bed.store;
    let everything = Binding::EVERYTHING;
    let none = store.history(&everything, HOUR, 4, 100).await.unwrap();
    assert_eq!((none.runs, none.slices.len()), (0, 4));
    assert_eq!(none.latency_ms, None);
    let connection = add(bed, 7, "One").await;
    let long_ago = complete(bed, connection, 7, succeeded(), Value::Null).await;
    let earlier = complete(bed, connection, 7, failed(), Value::Null).await;
    let now = complete(bed, connection, 7, succeeded(), Value::Null).await;
    bed.insert("another.type", "completed", &json!({})).await;
    bed.queued().await;
    for (run, seconds) in [(long_ago, 7_200), (earlier, 2_000), (now, 2)] {
        bed.age_run(run, "created_at", seconds).await;
    }
    for (run, seconds) in [(long_ago, 7_200), (earlier, 1_990)] {
        bed.age_run(run, "completed_at", seconds).await;
    }
    let history = store.history(&everything, HOUR, 4, 100).await.unwrap();
    assert_eq!(history.runs, 2);
    assert!(!history.truncated);
    let succeeded: Vec<u64> = history.slices.iter().map(|s| s.succeeded).collect();
    let failed: Vec<u64> = history.slices.iter().map(|s| s.failed).collect();
    assert_eq!(succeeded, [0, 0, 0, 1]);
    assert_eq!(failed, [0, 1, 0, 0]);
    let step = history.slices[1].from - history.slices[0].from;
    assert_eq!(step.num_seconds(), 900);
    let [p50, p95, p99] = history.latency_ms.unwrap();
    assert!((1_900.0..60_000.0).contains(&p50), "{p50}");
    assert!((9_900.0..60_000.0).contains(&p95), "{p95}");
    assert_eq!(p95, p99);

    let last = store.history(&everything, HOUR, 4, 1).await.unwrap();
    assert_eq!(last.runs, 1);
    assert!(last.truncated);
}

pub async fn the_longest_waiting_runs_come_first(bed: &Bed) {
    let store = &bed.store;
    let runs = bed.many_queued(3).await;
    bed.insert("another.type", "queued", &json!({})).await;
    bed.age(
        "operation_runs",
        "created_at",
        &format!("id = {}", runs[1]),
        500,
    )
    .await;
    let everything = Binding::EVERYTHING;
    let found = store.longest_waiting(&everything, 10).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].operation_run_id, runs[1]);
    assert!((499.0..900.0).contains(&found[0].waiting_seconds));
    assert_eq!(found[0].tenant_id, Some(TenantId(7)));
    assert_eq!(found[0].workspace_id, Some(WorkspaceId(1)));
    let found = store.longest_waiting(&everything, 2).await.unwrap();
    assert_eq!(found.len(), 2);

    // One that is not due waits for no worker.
    let released = runs[0];
    bed.age_run(released, "created_at", 90_000).await;
    let held = bed.claim(released, "w1").await;
    let wait = Some(HOUR);
    assert!(bed.release(&held, AttemptEnd::Throttled, wait).await);
    let found = store.longest_waiting(&everything, 10).await.unwrap();
    let ids: Vec<RunId> = found.iter().map(|run| run.operation_run_id).collect();
    assert_eq!(ids, [runs[1], runs[2]]);
    let listed = async || store.run_summary(released).await.unwrap().unwrap();
    assert_eq!(
        listed().await.next_attempt_at,
        store.next_attempt_at(released).await.unwrap()
    );
    assert!(listed().await.next_attempt_at.is_some());

    // Then it waits from when it is due.
    let row = format!("run_id = {released}");
    bed.age(&bed.own("run_deliveries"), "not_before", &row, 3_600 + 100)
        .await;
    let found = store.longest_waiting(&everything, 1).await.unwrap();
    assert_eq!(found[0].operation_run_id, runs[1]);
    let found = store.longest_waiting(&everything, 10).await.unwrap();
    assert_eq!(found[1].operation_run_id, released);
    let waits = found[1].waiting_seconds;
    assert!((99.0..90_000.0).contains(&waits), "{waits}");
    assert_eq!(listed().await.next_attempt_at, None);

    // One that was claimed before may have waited longest, or be the last.
    bed.age(&bed.own("run_deliveries"), "not_before", &row, 1_000)
        .await;
    let held = bed.claim(runs[2], "w1").await;
    assert!(bed.release(&held, AttemptEnd::Shutdown, None).await);
    let wanted = [released, runs[1], runs[2]];
    for limit in [1, 10] {
        let found = store.longest_waiting(&everything, limit).await.unwrap();
        let ids: Vec<RunId> = found.iter().map(|run| run.operation_run_id).collect();
        assert_eq!(ids, wanted[..wanted.len().min(limit as usize)]);
    }
}

pub async fn a_due_run_behind_many_that_wait_is_found(bed: &Bed) {
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, started_at) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100) \
         SELECT 1, 7, '{RUN_TYPE}', 'queued', '{{}}', '2026-01-02T03:04:05Z' FROM n; \
         INSERT INTO {} (run_id, not_before) \
         SELECT id, '2999-01-02T03:04:05.000Z' FROM operation_runs",
        bed.own("run_deliveries")
    ))
    .await;
    let due = bed.queued().await;
    let found = bed.store.longest_waiting(&Binding::EVERYTHING, 1).await;
    let ids: Vec<RunId> = found
        .unwrap()
        .iter()
        .map(|run| run.operation_run_id)
        .collect();
    assert_eq!(ids, [due]);
}
