//! Contexts up to the limit and beyond it, of any compressibility, with numbers of any length: what a claim can
//! take is listed, completed and kept.

use crate::store::acknowledgements::{BROKEN, accept, checked};
use crate::store::bed::{Bed, settings};
use crate::store::fixtures::{blocked, change_report, context, new_run, succeeded};
use crate::store::hostile_rows::every_surface;
use crate::store::pages_of_a_connection::counted;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::padding::{TEXTS, half_noise};
use test_support::waiting::within;
use verifyd::domain::access::Binding;
use verifyd::domain::run::{ContextProblem, RUN_TYPE, ReportPresence};
use verifyd::domain::{ConnectionId, Outcome, Reason, RunId};
use verifyd::ports::acknowledgements::AcknowledgementFilter;
use verifyd::ports::overview::ConnectionFilter;

use verifyd::ports::store::{ContextSize, NewRun, RunFilter, Store};
use verifyd::store::{DatabaseSettings, LimitSettings};

/// The default of `limits.context_bytes`.
const LIMIT: usize = 262_144;

const TOO_LARGE: ContextProblem = ContextProblem::TooLarge {
    limit: 262_144,
    dropped: false,
};

/// The context of a run of this connection with a member of the producer's own.
fn with(connection: ConnectionId, padding: impl Into<Value>) -> Value {
    let mut context = context(connection.0);
    context["padding"] = padding.into();
    context
}

/// Bytes of such a context beside the padding, as the database counts them.
async fn overhead(bed: &Bed, connection: ConnectionId) -> usize {
    let run = bed
        .insert("another.type", "queued", &with(connection, ""))
        .await;
    let bytes = format!(
        "SELECT CAST(octet_length(CAST(context AS text)) AS bigint) FROM operation_runs WHERE id = {run}"
    );
    usize::try_from(bed.number(&bytes).await).unwrap()
}

/// The newest run is listed with what it is about, also among those of its connection.
async fn is_listed(
    bed: &Bed,
    run: RunId,
    connection: ConnectionId,
    report: ReportPresence,
    what: &str,
) {
    for of in [None, Some(connection)] {
        let filter = RunFilter {
            connection: of,
            limit: 1,
            ..RunFilter::default()
        };
        let found = bed.store.runs(&filter).await.unwrap();
        assert_eq!(found.len(), 1, "{what}");
        let found = &found[0];
        assert_eq!((found.id, found.report), (run, report), "{what}");
        assert_eq!(found.provider_connection_id, Some(connection), "{what}");
        assert_eq!(found.provider.as_deref(), Some("microsoft"), "{what}");
        assert_eq!(found.module.as_deref(), Some("core"), "{what}");
    }
}

/// The same for the connection: its active run, or its latest report, with which the next check begins.
async fn is_of_connection(
    bed: &Bed,
    run: RunId,
    connection: ConnectionId,
    is_active: bool,
    what: &str,
) {
    let everything = Binding::EVERYTHING;
    let state = bed.store.connection_state(connection, &everything).await;
    let state = state.unwrap().unwrap();
    assert_eq!(state.active_run_id, is_active.then_some(run), "{what}");
    if !is_active {
        let latest = state.latest_report.unwrap();
        assert_eq!(latest.operation_run_id, run, "{what}");
        let start = bed.store.starting_point(connection).await.unwrap();
        assert_eq!(start.unwrap().latest_run, Some(run), "{what}");
    }
}

pub async fn what_a_claim_takes_is_listed_whatever_its_size(bed: &Bed) {
    let connection = bed.connection(7).await;
    let left = LIMIT - overhead(bed, connection).await;
    let mut contexts = Vec::new();
    for bytes in [60, 66, 128, 200]
        .map(|kib| kib * 1024)
        .into_iter()
        .chain([left])
    {
        for (kind, text) in TEXTS {
            contexts.push((
                format!("{bytes} bytes of {kind}"),
                with(connection, text(bytes)),
            ));
        }
        // Unpacked, these take four times as much as their text.
        let numbers = vec![7; bytes / 3];
        contexts.push((
            format!("{bytes} bytes of numbers"),
            with(connection, numbers),
        ));
    }
    let mut runs: Vec<RunId> = Vec::new();
    for (what, context) in contexts {
        let run = bed.insert(RUN_TYPE, "queued", &context).await;
        is_listed(bed, run, connection, ReportPresence::Pending, &what).await;
        is_of_connection(bed, run, connection, true, &what).await;
        let held = bed.claim(run, "w").await;
        assert_eq!(held.run.request.problem, None, "{what}");
        // A blocked run has the most members that the completion adds.
        let mut completion = blocked();
        completion.connection = Some(connection);
        change_report(&mut completion, |report| {
            report["previous_report_id"] = json!(runs.last());
        });
        assert!(bed.store.complete(&held, &completion).await.unwrap());
        is_listed(bed, run, connection, ReportPresence::Readable, &what).await;
        is_of_connection(bed, run, connection, false, &what).await;
        let stored = bed.run(run).await;
        assert!(stored.report().is_some(), "{what}");
        assert!(stored.context["reason_code"].is_string(), "{what}");
        assert!(stored.context["next_steps"].is_array(), "{what}");
        // Without a difference of a hundred thousand signs.
        assert!(stored.context["padding"] == context["padding"], "{what}");
        runs.push(run);
    }
    let trend = bed.store.trend(&[connection], 100).await.unwrap();
    let followed: Vec<RunId> = trend.iter().map(|point| point.operation_run_id).collect();
    assert_eq!(followed, runs);
    assert!(trend.iter().all(|point| point.overall.is_some()));
    assert_eq!(bed.store.invalid_runs(1_000, 1_000).await.unwrap(), []);
    if bed.is_postgres() {
        for stored in [
            "pg_column_compression(context) IS NOT NULL AND pg_column_size(context) > 65536",
            "pg_column_size(context) > 262144",
        ] {
            assert!(
                bed.count(&format!("operation_runs WHERE {stored}")).await > 0,
                "{stored}"
            );
        }
    }
}

pub async fn what_is_just_above_the_limit_is_not_read_and_named(bed: &Bed) {
    bed.lift_constraints().await;
    let connection = bed.connection(7).await;
    let left = LIMIT - overhead(bed, connection).await;
    for (kind, text) in TEXTS {
        let context = with(connection, text(left + 1));
        let run = bed.insert(RUN_TYPE, "queued", &context).await;
        let held = bed.claim(run, "w").await;
        assert_eq!(held.run.request.problem, Some(TOO_LARGE), "{kind}");
        let mut completion = blocked();
        if let Some(by) = &mut completion.blocked {
            by.reason_code = Reason::ContextTooLarge;
        }
        assert!(bed.store.complete(&held, &completion).await.unwrap());
        is_listed(bed, run, connection, ReportPresence::Readable, kind).await;
        let stored = bed.run(run).await;
        assert!(stored.report().is_some(), "{kind}");
        assert!(stored.context["padding"].is_null(), "{kind}");
        assert_eq!(stored.context["reason_code"], "context_too_large", "{kind}");
        let invalid = bed.store.invalid_runs(1_000, 1_000).await.unwrap();
        assert_eq!(
            (invalid[0].operation_run_id, invalid[0].column),
            (run, "context")
        );
        let problem = &invalid[0].problem;
        assert!(problem.starts_with("context_too_large: "), "{problem}");
    }
}

/// As another writer may leave it, in a table without guards: no read takes it apart.
pub async fn what_no_list_looks_into_is_shown_without_its_content(bed: &Bed) {
    bed.lift_constraints().await;
    bed.unguard().await;
    let connection = bed.connection(7).await;
    let earlier = checked(bed, connection.0, &[BROKEN]).await;
    let run = checked(bed, connection.0, &[BROKEN]).await;
    let accepted = accept(earlier, connection.0, BROKEN);
    let accepted = bed.store.acknowledge(&accepted).await.unwrap().unwrap().0;
    let bound = match bed.is_postgres() {
        true => {
            let stored = "ALTER TABLE operation_runs ALTER COLUMN context SET STORAGE EXTERNAL";
            bed.exec(stored).await;
            20 * 1024 * 1024
        }
        false => 4 * 1024 * 1024,
    };
    for (size, is_read) in [(bound - 65_536, true), (bound + 2, false)] {
        let padded = match bed.is_postgres() {
            true => format!("context || jsonb_build_object('padding', repeat('0', {size}))"),
            false => format!("json_set(context, '$.padding', hex(zeroblob({size} / 2)))"),
        };
        bed.save(run, &format!("context = {padded}")).await;
        let stored = bed.run(run).await;
        assert_eq!(stored.outcome, Some(Outcome::Succeeded));
        assert_eq!(stored.report().is_some(), is_read, "{size}");
        assert_eq!(stored.context["provider"] == "microsoft", is_read, "{size}");
        let carried = bed.store.acknowledgements_of(run).await.unwrap();
        let carried = carried.iter().any(|one| one.id == accepted.id);
        assert_eq!(carried, is_read, "{size}");
    }
}

pub async fn numbers_of_any_length_stay_as_they_are(bed: &Bed) {
    let connection = bed.connection(7).await;
    let digits = |count: usize| "7".repeat(count);
    let long = digits(4_000);
    let numbers = [
        digits(10),
        digits(300),
        long.clone(),
        format!("-{long}"),
        format!("0.{long}"),
        format!("{long}.{long}"),
        digits(100_000),
        format!("-{}", digits(100_000)),
        "1e400".into(),
        "-1e4000".into(),
        "1e-4000".into(),
        "-1.5e-16000".into(),
        "1E+100000".into(),
        format!(r#"{{"a":[{{"b":[1,{long},-1e2001]}}]}}"#),
        format!("[{}1]", "1e2001,".repeat(50)),
        format!("[{}1]", "1,".repeat(20_000)),
    ];
    for number in numbers {
        let what = format!("{number:.60}");
        bed.exec(&format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) VALUES (1, 7, \
             '{RUN_TYPE}', 'queued', '{{\"provider\":\"microsoft\",\"module\":\"core\",\
             \"provider_connection_id\":{connection},\"extra\":{number}}}')"
        ))
        .await;
        let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
        is_listed(bed, run, connection, ReportPresence::Pending, &what).await;
        let held = bed.claim(run, "w").await;
        assert_eq!(held.run.request.problem, None, "{what}");
        assert_eq!(held.run.request.provider_connection_id, Some(connection));
        assert!(
            bed.store.complete(&held, &succeeded()).await.unwrap(),
            "{what}"
        );
        is_listed(bed, run, connection, ReportPresence::Readable, &what).await;
        let kept = match bed.is_postgres() {
            true => format!("(context -> 'extra')::text = ('{number}'::jsonb)::text"),
            false => format!("CAST(context -> '$.extra' AS text) = '{number}'"),
        };
        let kept = format!("operation_runs WHERE id = {run} AND {kept}");
        assert_eq!(bed.count(&kept).await, 1, "{what}");
        // What no double is near is shown with its digits.
        let stored = bed.run(run).await;
        let shown = &stored.context["extra"];
        assert!(!shown.is_null(), "{what}");
        if number == long {
            assert_eq!(*shown, json!(long));
        }
    }
    assert_eq!(bed.store.invalid_runs(1_000, 1_000).await.unwrap(), []);
}

/// A context that the database has refused: what verifyd reads of it is kept, however many members that has.
pub async fn many_members_of_a_target_scope_cost_a_few_passes_over_them(bed: &Bed) {
    const MEMBERS: i64 = 200_000;
    bed.lift_constraints().await;
    let mut large = context(1);
    let members = (0..MEMBERS).map(|number| (format!("k{number}"), json!(number)));
    large["target_scope"] = Value::Object(members.collect());
    let each = match bed.is_postgres() {
        true => "jsonb_each",
        false => "json_each",
    };
    let mut tried = Vec::new();
    for _ in 0..TIMINGS {
        let run = bed.insert(RUN_TYPE, "queued", &large).await;
        let mut held = bed.claim(run, "w").await;
        held.context = ContextSize::Refused;
        let pass = format!(
            "SELECT count(*) FROM operation_runs r, {each}(r.context -> 'target_scope') WHERE r.id = {run}"
        );
        let began = Instant::now();
        assert_eq!(bed.number(&pass).await, MEMBERS);
        let passing = began.elapsed();
        let began = Instant::now();
        let outcome = succeeded();
        let completed = bed.store.complete(&held, &outcome);
        let completed = within("the run is completed", completed).await;
        let completing = began.elapsed();
        assert!(completed.unwrap());
        assert_eq!(bed.number(&pass).await, MEMBERS);
        if completing < passing * 40 {
            return;
        }
        tried.push((passing, completing));
    }
    panic!("{tried:?}");
}

/// How often two calls are timed one after the other: other processes may delay one of them.
const TIMINGS: usize = 5;

/// Another store on the same database with this limit on statements.
async fn with_timeout(bed: &Bed, statement_timeout: Duration) -> Arc<dyn Store> {
    let settings = DatabaseSettings {
        statement_timeout,
        ..settings(&bed.url())
    };
    verifyd::store::connect(&settings).await.unwrap()
}

/// Numbers with gigabytes of digits, before the point and behind it: they are too large, and not unreadable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_counted_and_not_written() {
    let bed = Bed::postgres().await;
    bed.lift_constraints().await;
    for (count, number) in [
        (3, "'1e100000'"),
        (10_000, "'-1e131071'"),
        (70_000, "('1.' || repeat('0', 16383))"),
    ] {
        bed.exec(&format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
             SELECT 1, 7, '{RUN_TYPE}', 'queued', jsonb_build_object('provider', 'microsoft', \
                 'extra', (SELECT jsonb_agg(n.number) FROM (SELECT {number}::jsonb AS number) n, \
                     generate_series(1, {count})))"
        ))
        .await;
        let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
        let held = bed.claim(run, "w").await;
        assert_eq!(held.run.request.problem, Some(TOO_LARGE), "{number}");
        assert!(bed.store.complete(&held, &blocked()).await.unwrap());
        every_surface(&bed, number).await;
        assert_eq!(bed.run(run).await.context["provider"], "microsoft");
        let kept = format!(
            "operation_runs WHERE id = {run} AND jsonb_array_length(context -> 'extra') = {count}"
        );
        assert_eq!(bed.count(&kept).await, 1, "{number}");
    }
}

/// `jsonb_path_query` moves all numbers that are left for each one that it returns: minutes for as many as these. The
/// measure is one pass over them on the same server, so that no load matters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_numbers_cost_a_few_passes_over_them() {
    let bed = Bed::postgres().await;
    bed.lift_constraints().await;
    // Unpacked they take a little less than eight times the limit: all of them are counted.
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
         VALUES (1, 7, '{RUN_TYPE}', 'queued', jsonb_build_object('provider', 'microsoft', \
             'extra', (SELECT jsonb_agg(1) FROM generate_series(1, 680000))))"
    ))
    .await;
    let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
    let limits = LimitSettings {
        context_bytes: 1024 * 1024,
    };
    let store = verifyd::store::connect_with(&settings(&bed.url()), limits).await;
    let store = store.unwrap();
    let pass = format!(
        "SELECT count(*) FROM operation_runs r, \
             jsonb_array_elements(jsonb_path_query_array(r.context, 'strict $.**')) WHERE r.id = {run}"
    );
    let mut tried = Vec::new();
    while !matches!(tried.last(), Some((passing, reading)) if *reading < *passing * 40) {
        assert!(tried.len() < TIMINGS, "{tried:?}");
        let began = Instant::now();
        assert!(bed.number(&pass).await > 680_000);
        let passing = began.elapsed();
        let began = Instant::now();
        let stored = within("the context is read", store.run(run)).await;
        let stored = stored.unwrap().unwrap();
        tried.push((passing, began.elapsed()));
        assert_eq!(stored.request().provider.as_deref(), Some("microsoft"));
    }
    let held = bed.claim(run, "w").await;
    assert_eq!(held.run.request.problem, Some(TOO_LARGE));
}

/// An array of such numbers has a text that is longer than any text can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_connection_in_a_context_stops_nothing() {
    let bed = Bed::postgres().await;
    bed.lift_constraints().await;
    bed.exec("DROP INDEX operation_runs_check_connection").await;
    let connection = bed.connection(7).await;
    let earlier = checked(&bed, connection.0, &[BROKEN]).await;
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
         SELECT 1, 7, '{RUN_TYPE}', 'queued', jsonb_build_object('provider', 'microsoft', \
             'provider_connection_id', (SELECT jsonb_agg('1e131071'::jsonb) \
                 FROM generate_series(1, 8300)))"
    ))
    .await;
    let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
    let new = NewRun {
        unless_active: Some(connection),
        ..new_run(connection.0)
    };
    assert!(bed.store.record(&new).await.unwrap().created);
    for state in ["queued", "completed"] {
        every_surface(&bed, state).await;
        let of_connection = RunFilter {
            connection: Some(connection),
            limit: 10,
            ..RunFilter::default()
        };
        let listed = bed.store.runs(&of_connection).await.unwrap();
        assert_eq!(listed.len(), 2, "{state}");
        let of_connection = AcknowledgementFilter {
            connection: Some(connection),
            limit: 10,
            ..AcknowledgementFilter::default()
        };
        let said = bed.store.acknowledgements(&of_connection).await.unwrap();
        assert_eq!(said.len(), usize::from(state == "completed"));
        if state == "queued" {
            let held = bed.claim(run, "w").await;
            assert_eq!(held.run.request.problem, Some(TOO_LARGE));
            assert!(bed.store.complete(&held, &blocked()).await.unwrap());
            let accepted = accept(earlier, connection.0, BROKEN);
            let made = bed.store.acknowledge(&accepted).await.unwrap();
            assert!(made.unwrap().1);
        }
    }
}

/// Chunks read of contexts that are stored beside their rows.
const CHUNKS_READ: &str = "SELECT idx_tup_fetch FROM pg_stat_all_tables
    WHERE relid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'operation_runs'::regclass)";

/// Each large context has 10,000 chunks and more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_looks_for_a_connection_in_what_no_list_looks_into() {
    let bed = Bed::postgres().await;
    bed.lift_constraints().await;
    bed.exec(
        "DROP INDEX operation_runs_check_connection; \
         ALTER TABLE operation_runs ALTER COLUMN context SET STORAGE EXTERNAL",
    )
    .await;
    let connection = bed.connection(7).await;
    let earlier = checked(&bed, connection.0, &[BROKEN]).await;
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, context, completed_at) \
         SELECT 1, 7, '{RUN_TYPE}', s.status, s.outcome, jsonb_build_object( \
             'provider_connection_id', {connection}, 'padding', repeat('0', 21 * 1024 * 1024)), s.at \
         FROM (VALUES ('queued', NULL, NULL), ('completed', 'failed', now())) s (status, outcome, at); \
         INSERT INTO verification_check_acknowledgements (operation_run_id, check_key, reason, acknowledged_by) \
         SELECT max(id), 'provider.authentication', 'known', 'ann' FROM operation_runs"
    ))
    .await;
    let read = counted(&bed, CHUNKS_READ, async |store| {
        let of_connection = RunFilter {
            connection: Some(connection),
            limit: 10,
            ..RunFilter::default()
        };
        assert_eq!(store.runs(&of_connection).await.unwrap().len(), 1);
        let new = NewRun {
            unless_active: Some(connection),
            ..new_run(connection.0)
        };
        assert!(store.record(&new).await.unwrap().created);
        let accepted = accept(earlier, connection.0, BROKEN);
        let made = store.acknowledge(&accepted).await.unwrap();
        assert!(made.unwrap().1);
        let of_connection = AcknowledgementFilter {
            connection: Some(connection),
            limit: 10,
            ..AcknowledgementFilter::default()
        };
        let said = store.acknowledgements(&of_connection).await.unwrap();
        assert_eq!(said.len(), 1);
    });
    let read = read.await;
    assert!(read < 1_000, "read {read} chunks");
}

/// With the default limit on statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_large_contexts_are_listed() {
    let bed = Bed::postgres().await;
    let connection = bed.connection(7).await;
    let context = with(connection, half_noise(LIMIT - 1024));
    let first = bed.insert(RUN_TYPE, "queued", &context).await;
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
         SELECT 1, 7, type, 'queued', context FROM operation_runs, generate_series(2, 1000) \
         WHERE id = {first}"
    ))
    .await;
    let store = with_timeout(&bed, Duration::from_secs(30)).await;
    for of in [None, Some(connection)] {
        let filter = RunFilter {
            connection: of,
            limit: 1000,
            ..RunFilter::default()
        };
        let listed = store.runs(&filter).await.unwrap();
        assert_eq!(listed.len(), 1000);
        let mut connections = listed.iter().map(|run| run.provider_connection_id);
        assert!(connections.all(|id| id == Some(connection)));
    }
    let newest = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
    let everything = Binding::EVERYTHING;
    let state = store.connection_state(connection, &everything).await;
    assert_eq!(state.unwrap().unwrap().active_run_id, Some(newest));
}

/// In a table without guards: each takes a good part of a second to unpack, all of them longer than a statement
/// may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_unpacks_to_far_more_keeps_no_list_from_its_end() {
    let bed = Bed::postgres().await;
    bed.lift_constraints().await;
    bed.exec("DROP INDEX operation_runs_check_connection").await;
    let connection = bed.connection(7).await;
    bed.exec(&format!(
        "SET default_toast_compression = 'pglz'; \
         INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
         VALUES (1, 8, '{RUN_TYPE}', 'queued', jsonb_build_object('provider', 'microsoft', \
             'reason_code', 'context_too_large', 'padding', repeat('x', 200 * 1024 * 1024)))"
    ))
    .await;
    // The packed value is copied.
    bed.exec(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
         SELECT 1, 8, r.type, 'queued', r.context FROM operation_runs r, generate_series(2, 80)",
    )
    .await;
    let small = bed.queued_for(7, connection.0).await;
    let store = with_timeout(&bed, Duration::from_secs(9)).await;
    let lists = async || {
        let filter = RunFilter {
            limit: 1000,
            ..RunFilter::default()
        };
        let listed = store.runs(&filter).await.unwrap();
        assert_eq!((listed.len(), listed[0].id), (81, small));
        assert_eq!(listed[0].provider_connection_id, Some(connection));
        let filter = ConnectionFilter {
            limit: 10,
            ..ConnectionFilter::default()
        };
        let states = store.connection_states(&filter).await.unwrap();
        assert_eq!(states[0].active_run_id, Some(small));
        store.invalid_runs(1_000, 1_000).await.unwrap()
    };
    assert_eq!(lists().await, []);
    bed.exec("ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_blocked")
        .await;
    bed.exec(
        "UPDATE operation_runs SET status = 'completed', outcome = 'blocked', completed_at = now() \
         WHERE tenant_id = 8",
    )
    .await;
    // All that there was time for has no report.
    assert!(!lists().await.is_empty());
}
