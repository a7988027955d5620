//! Rows as a producer may write them: no value of any column stops a surface, or another run.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, SWEEP, blocked, succeeded, worker};
use serde_json::json;
use std::time::Duration;
use verifyd::domain::access::Binding;
use verifyd::domain::completion::CheckedTarget;
use verifyd::domain::connection_facts::{ExpirySource, RecordedExpiry};
use verifyd::domain::run::{ContextProblem, RUN_TYPE};
use verifyd::domain::{ConnectionId, Outcome, Reason, RunId, RunStatus, SessionId, TenantId};
use verifyd::ports::acknowledgements::AcknowledgementFilter;
use verifyd::ports::overview::{ConnectionFilter, ConnectionSort, ExpiryKey};
use verifyd::ports::store::{ContextSize, RunFilter, StoreError};

/// Reads everything that lists, pages, metrics and `doctor` are made of.
pub async fn every_surface(bed: &Bed, what: &str) {
    let store = &bed.store;
    let binding = Binding::EVERYTHING;
    let day = Duration::from_secs(86_400);
    let filter = |limit| RunFilter {
        limit,
        ..RunFilter::default()
    };
    let listed = store.runs(&filter(200)).await;
    let listed = listed.unwrap_or_else(|e| panic!("{what}: {e}"));
    for run in &listed {
        let read = store.run(run.id).await;
        let read = read.unwrap_or_else(|e| panic!("{what}: {e}")).unwrap();
        assert_eq!((read.id, read.status), (run.id, run.status), "{what}");
        let summary = store.run_summary(run.id).await.unwrap();
        assert_eq!(summary.as_ref(), Some(run), "{what}");
        let state = store.run_state(run.id).await.unwrap().unwrap();
        assert_eq!(state.status, run.status, "{what}");
        store.attempts(run.id).await.unwrap();
        store.acknowledgements_of(run.id).await.unwrap();
    }
    let states = store.run_states(&binding, 200).await.unwrap();
    assert_eq!(states.len(), listed.len(), "{what}");
    store
        .counts()
        .await
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let connections = ConnectionFilter {
        limit: 200,
        ..ConnectionFilter::default()
    };
    let shown = store.connection_states(&connections).await;
    let shown = shown.unwrap_or_else(|e| panic!("{what}: {e}"));
    let ids: Vec<ConnectionId> = shown.iter().map(|state| state.connection.id).collect();
    store.trend(&ids, 5).await.unwrap();
    store.connection_counts(&binding).await.unwrap();
    store.connections(None, None, 200).await.unwrap();
    for state in shown.iter().filter(|state| state.problem.is_none()) {
        let id = state.connection.id;
        assert!(store.connection(id).await.unwrap().is_some(), "{what}");
        store.starting_point(id).await.unwrap();
    }
    store.credentials(None, 200).await.unwrap();
    let history = store.history(&binding, day, 24, 100).await;
    history.unwrap_or_else(|e| panic!("{what}: {e}"));
    let waiting = store.longest_waiting(&binding, 200).await;
    waiting.unwrap_or_else(|e| panic!("{what}: {e}"));
    let invalid = store.invalid_runs(1_000, 200).await;
    invalid.unwrap_or_else(|e| panic!("{what}: {e}"));
    let acknowledgements = AcknowledgementFilter {
        limit: 200,
        ..AcknowledgementFilter::default()
    };
    let said = store.acknowledgements(&acknowledgements).await;
    said.unwrap_or_else(|e| panic!("{what}: {e}"));
    store.permissions(TenantId(7)).await.unwrap();
    store.onboarding_session(SessionId(1)).await.unwrap();
    store.prunable(day).await.unwrap();
    store
        .oldest_run_of_each_tenant(None, &[], 10)
        .await
        .unwrap();
}

const CONTEXT: &str = r#"{"provider": "microsoft", "module": "core", "provider_connection_id": 1}"#;

fn times(bed: &Bed) -> &'static [&'static str] {
    if bed.is_postgres() {
        &[
            "infinity",
            "-infinity",
            "290000-01-01",
            "294276-12-31 23:59:59.999999+00",
            "4713-01-01 BC",
            "0001-01-01 BC",
            "10000-01-01",
        ]
    } else {
        &[
            "infinity",
            "-infinity",
            "soon",
            "now",
            "",
            "+12026-01-01T00:00:00Z",
            "-4713-01-01",
            "1e99",
        ]
    }
}

/// Every time of every table that another application writes, in every state of its row.
pub async fn a_time_that_is_none_stops_nothing(bed: &Bed) {
    bed.exec(&format!(
        "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status, entra_tenant_id) \
         VALUES (1, 1, 7, 'microsoft', 'enabled', '5c000000-0000-4000-8000-000000000001'); \
         INSERT INTO provider_credentials (provider_connection_id, kind, payload) \
         VALUES (1, 'client_secret', 'x'); \
         INSERT INTO tenant_permissions (tenant_id, permission_key, status) \
         VALUES (7, 'A.Read', 'granted'); \
         INSERT INTO tenant_onboarding_sessions (id, workspace_id) VALUES (1, 1); \
         INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, outcome, \
             completed_at, context) \
         VALUES (1, 1, 7, '{RUN_TYPE}', 'completed', 'succeeded', '2026-01-02T03:04:05Z', \
             '{CONTEXT}'); \
         INSERT INTO verification_check_acknowledgements \
             (operation_run_id, check_key, reason, acknowledged_by) VALUES (1, 'a', 'b', 'c')"
    ))
    .await;
    let mut run = 1;
    for time in times(bed) {
        for (table, column) in [
            ("provider_connections", "created_at"),
            ("provider_connections", "updated_at"),
            ("provider_credentials", "created_at"),
            ("provider_credentials", "updated_at"),
            ("provider_credentials", "expires_at"),
            ("tenant_permissions", "last_checked_at"),
            ("tenant_onboarding_sessions", "created_at"),
            ("verification_check_acknowledgements", "acknowledged_at"),
            ("verification_check_acknowledgements", "expires_at"),
            ("verification_check_acknowledgements", "withdrawn_at"),
        ] {
            bed.exec(&format!("UPDATE {table} SET {column} = '{time}'"))
                .await;
            every_surface(bed, &format!("{table}.{column} = {time}")).await;
        }
        for (status, columns, values) in [
            ("queued", "created_at", format!("'{time}'")),
            ("queued", "started_at", format!("'{time}'")),
            ("running", "started_at", format!("'{time}'")),
            (
                "running",
                "created_at, started_at",
                format!("'{time}', '{time}'"),
            ),
            (
                "completed",
                "outcome, completed_at",
                format!("'succeeded', '{time}'"),
            ),
            (
                "completed",
                "created_at, started_at, outcome, completed_at",
                format!("'{time}', '{time}', 'failed', '{time}'"),
            ),
        ] {
            run += 1;
            bed.exec(&format!(
                "INSERT INTO operation_runs \
                     (id, workspace_id, tenant_id, type, status, context, {columns}) \
                 VALUES ({run}, 1, 7, '{RUN_TYPE}', '{status}', '{CONTEXT}', {values})"
            ))
            .await;
            let what = format!("{status} with {columns} = {time}");
            every_surface(bed, &what).await;
            let newest = bed.store.invalid_runs(1_000, 1).await.unwrap();
            let named = newest.iter().map(|i| (i.operation_run_id, i.column));
            let wrong = ["created_at", "started_at", "completed_at"];
            let wrong = wrong.into_iter().find(|column| columns.contains(column));
            let expected = wrong.map(|column| (RunId(run), column));
            assert!(named.eq(expected), "{what}: {newest:?}");
            let swept = bed.store.sweep(&SWEEP).await;
            let swept = swept.unwrap_or_else(|e| panic!("{what}: {e}")).unwrap();
            if status != "completed" {
                // Also what is running without a lease, since whenever it says.
                assert!(swept.due.contains(&RunId(run)), "{what}: {swept:?}");
                let held = bed.claim(RunId(run), "w").await;
                assert_eq!(
                    held.run.request.provider.as_deref(),
                    Some("microsoft"),
                    "{what}"
                );
                assert!(
                    bed.store.complete(&held, &succeeded()).await.unwrap(),
                    "{what}"
                );
            }
        }
    }
    every_surface(bed, "all of them").await;
    let invalid = bed.store.invalid_runs(1_000, 1_000).await.unwrap();
    let named = |run: &_| invalid.iter().any(|i| i.operation_run_id == RunId(*run));
    assert!(named(&2), "{invalid:?}");
    // A claim writes when the run was started.
    assert!(
        invalid.iter().all(|run| run.column != "started_at"),
        "{invalid:?}"
    );
}

/// `infinity` is the usual word for never, and what comes before all times is no end that anybody means.
pub async fn the_expiry_of_a_credential_is_read_alike_everywhere(bed: &Bed) {
    bed.exec(
        "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status, entra_tenant_id) \
         VALUES (1, 1, 7, 'microsoft', 'enabled', '5c000000-0000-4000-8000-000000000001'); \
         INSERT INTO provider_credentials (provider_connection_id, kind, payload) \
         VALUES (1, 'client_secret', 'x')",
    )
    .await;
    let (never, invalid) = match bed.is_postgres() {
        true => (["infinity", "290000-01-01"], ["-infinity", "4713-01-01 BC"]),
        false => (["infinity", "99999-01-01"], ["-infinity", "0000-12-31"]),
    };
    let times = never.map(|time| (time, true)).into_iter();
    for (time, is_never) in times.chain(invalid.map(|time| (time, false))) {
        bed.exec(&format!(
            "UPDATE provider_credentials SET expires_at = '{time}'"
        ))
        .await;
        let start = bed.store.starting_point(ConnectionId(1)).await.unwrap();
        let credential = start.unwrap().credential.unwrap();
        let expiry = match is_never {
            true => RecordedExpiry::Never,
            false => RecordedExpiry::Invalid,
        };
        assert_eq!(credential.expiry, expiry, "{time}");
        let filter = ConnectionFilter {
            limit: 10,
            sort: ConnectionSort::Expiry,
            ..ConnectionFilter::default()
        };
        let states = bed.store.connection_states(&filter).await.unwrap();
        let state = &states[0];
        assert_eq!(state.expiry_key, ExpiryKey::NEVER, "{time}");
        assert_eq!(state.facts.credential_expires_at, None, "{time}");
        let source = is_never.then_some(ExpirySource::Recorded);
        assert_eq!(state.facts.credential_expiry_source, source, "{time}");
    }
    if bed.is_postgres() {
        return;
    }
    for time in [
        "never",
        "",
        "now",
        "2461000",
        "2030-1-5",
        "2030-01-05T03:04:05+0200",
        "-4713-01-01",
    ] {
        bed.exec(&format!(
            "UPDATE provider_credentials SET expires_at = '{time}'"
        ))
        .await;
        let start = bed.store.starting_point(ConnectionId(1)).await.unwrap();
        let credential = start.unwrap().credential.unwrap();
        assert_eq!(credential.expiry, RecordedExpiry::Invalid, "{time}");
    }
}

/// As another application's default may be; then 200 of them before ten healthy ones.
pub async fn what_can_never_be_claimed_costs_nobody_anything(bed: &Bed) {
    bed.lift_constraints().await;
    bed.exec(
        "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status, entra_tenant_id) \
         VALUES (1, 1, 7, 'microsoft', 'enabled', '5c000000-0000-4000-8000-000000000001')",
    )
    .await;
    let mut invalid = Vec::new();
    for (n, (status, columns, values)) in [
        ("queued", "outcome", "'pending'"),
        ("queued", "outcome", "'succeeded'"),
        ("queued", "completed_at", "'2026-01-02T03:04:05Z'"),
        (
            "queued",
            "outcome, completed_at",
            "'', '2026-01-02T03:04:05Z'",
        ),
        ("running", "outcome", "'succeeded'"),
        ("running", "completed_at", "'2026-01-02T03:04:05Z'"),
    ]
    .iter()
    .cycle()
    .take(200)
    .enumerate()
    {
        let id = n + 1;
        invalid.push(format!(
            "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, \
                 {columns}) VALUES ({id}, 1, 7, '{RUN_TYPE}', '{status}', '{CONTEXT}', {values})"
        ));
    }
    invalid.push(format!(
        "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context) VALUES \
         (-5, 1, 7, '{RUN_TYPE}', 'queued', '{CONTEXT}'), \
         (-9223372036854775807, 1, 7, '{RUN_TYPE}', 'queued', '{CONTEXT}'), \
         (4611686018427387904, -9223372036854775807, 9223372036854775807, '{RUN_TYPE}', 'queued', \
          '{CONTEXT}')"
    ));
    bed.unchecked(&invalid.join("; ")).await;
    // None is shown as a run, and none keeps its connection from being checked.
    let newest = RunFilter {
        limit: 10,
        ..RunFilter::default()
    };
    let listed = bed.store.runs(&newest).await.unwrap();
    let listed: Vec<i64> = listed.iter().map(|run| run.id.0).collect();
    assert_eq!(listed, [4_611_686_018_427_387_904]);
    for run in 1..=6 {
        assert_eq!(bed.store.run(RunId(run)).await.unwrap(), None, "{run}");
    }
    let active = async || {
        let state = bed
            .store
            .connection_state(ConnectionId(1), &Binding::EVERYTHING);
        state.await.unwrap().unwrap().active_run_id
    };
    assert_eq!(active().await, None);
    let healthy: Vec<RunId> = (0..10).map(|n| RunId(1_000 + n)).collect();
    for run in &healthy {
        bed.exec(&format!(
            "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context) \
             VALUES ({run}, 1, 7, '{RUN_TYPE}', 'queued', '{CONTEXT}')"
        ))
        .await;
    }
    assert_eq!(active().await, healthy.last().copied());
    let mut expected = healthy.clone();
    expected.push(RunId(4_611_686_018_427_387_904));
    // A sweep that may deliver no more than the healthy ones delivers them all, and no other.
    let swept = bed.sweep().await;
    assert_eq!(swept.due, expected);
    assert!(bed.sweep().await.due.is_empty());
    // In one batch with invalid ones each healthy run is claimed.
    let me = worker("w");
    let runs = (1..=100)
        .map(RunId)
        .chain([RunId(-5)])
        .chain(expected.clone());
    let claims = runs.map(|run| {
        let me = &me;
        async move {
            (
                run,
                bed.store.claim(run, me, &POLICY).await.unwrap().claimed(),
            )
        }
    });
    for (run, claimed) in futures::future::join_all(claims).await {
        assert_eq!(claimed.is_some(), expected.contains(&run), "{run}");
        if let Some(held) = claimed {
            assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
        }
    }
    // They count as what they are, not as waiting.
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.running), (0, 0));
    assert_eq!(counts.oldest_queued_seconds, None);
    let waiting = bed.store.longest_waiting(&Binding::EVERYTHING, 10).await;
    assert_eq!(waiting.unwrap(), []);
    assert_eq!(
        bed.store
            .oldest_run_of_each_tenant(None, &[], 10)
            .await
            .unwrap()
            .runs
            .len(),
        0
    );
    let found = bed.store.invalid_runs(1_000, 1_000).await.unwrap();
    assert_eq!(found.len(), 202);
    assert_eq!(found.iter().filter(|run| run.column == "id").count(), 2);
    every_surface(bed, "invalid runs").await;
}

/// Contexts of every shape: each is claimed, told what is wrong, completed, and kept.
pub async fn a_context_of_any_shape_ends_and_is_kept(bed: &Bed) {
    bed.lift_constraints().await;
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let twice = json!(json!({ "provider": "microsoft" }).to_string()).to_string();
    let long = format!(
        r#"{{"provider": "microsoft", "x": "{}"}}"#,
        "a".repeat(300_000)
    );
    let huge = format!(
        r#"{{"provider": "microsoft", "x": "{}"}}"#,
        "a".repeat(20_000_000)
    );
    let too_large = |dropped| {
        Some(ContextProblem::TooLarge {
            limit: 262_144,
            dropped,
        })
    };
    let not = |kind| Some(ContextProblem::NotAnObject(kind));
    let many_numbers = format!(r#"{{"x": [{}1]}}"#, "1,".repeat(50_000));
    let mut cases = vec![
        (r#"{"provider": "microsoft"}"#.to_owned(), None),
        (twice, Some(ContextProblem::EncodedTwice)),
        ("[]".to_owned(), not("an array")),
        ("\"text\"".to_owned(), not("a text")),
        ("-12e400".to_owned(), not("a number")),
        ("false".to_owned(), not("a boolean")),
        (deep(900), not("an array")),
        (
            format!(r#"{{"provider": "microsoft", "x": {}}}"#, deep(900)),
            None,
        ),
        // SQLite takes twice as many levels, as a producer's older library does.
        (
            format!(r#"{{"provider": "microsoft", "x": {}}}"#, deep(1500)),
            bed.is_postgres().then_some(ContextProblem::Unreadable),
        ),
        (
            r#"{"provider": "microsoft", "x": [1e400, -1e400]}"#.to_owned(),
            None,
        ),
        (many_numbers, None),
        (long, too_large(false)),
        (huge, too_large(true)),
    ];
    if bed.is_postgres() {
        // As deep as it is taken.
        let context = format!(r#"{{"provider": "microsoft", "x": {}}}"#, deep(10_000));
        cases.push((context, Some(ContextProblem::Unreadable)));
    }
    for (context, problem) in cases {
        let what = context.chars().take(60).collect::<String>();
        let size = context.len();
        bed.unchecked(&format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
             VALUES (1, 7, '{RUN_TYPE}', 'queued', '{context}')"
        ))
        .await;
        let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
        let before = bed.context_of(run).await;
        let healthy = bed.queued().await;
        let (held, beside) = futures::join!(bed.claim(run, "w"), bed.claim(healthy, "w"));
        assert!(bed.store.complete(&beside, &succeeded()).await.unwrap());
        assert_eq!(held.run.request.problem, problem, "{what}");
        let mut completion = if problem.is_some() {
            blocked()
        } else {
            succeeded()
        };
        if let Some(by) = &mut completion.blocked {
            by.reason_code = Reason::ContextMalformed;
        }
        completion.checked = Some(CheckedTarget {
            target_scope: None,
            provider: "another".into(),
            module: "core".into(),
        });
        assert!(
            bed.store.complete(&held, &completion).await.unwrap(),
            "{what}"
        );
        let stored = bed.run(run).await;
        assert_eq!(stored.status, RunStatus::Completed, "{what}");
        assert!(stored.report().is_some(), "{what}: the report is read");
        // What the database holds by now, however large.
        let dropped = problem == too_large(true);
        let kept = bed.context_of(run).await;
        match before {
            _ if dropped => {
                assert!(kept.len() < 100_000, "{what}");
                assert_eq!(stored.context["producer_context_dropped"], true);
            }
            before if before.starts_with('{') => assert!(kept.len() > size / 2, "{what}"),
            before => {
                assert!(kept.contains("\"producer_context\""), "{what}");
                assert!(kept.contains(&before), "{what}");
            }
        }
        assert_eq!(stored.context["module"], "core", "{what}");
        let provider = if kept.contains("\"microsoft\"") {
            "microsoft"
        } else {
            "another"
        };
        assert_eq!(stored.context["provider"], provider, "{what}");
        every_surface(bed, &what).await;
    }
    let invalid = bed.store.invalid_runs(1_000, 1_000).await.unwrap();
    assert!(
        invalid.iter().any(|run| run.column == "context"),
        "{invalid:?}"
    );
}

/// The guard on a table of verifyd's own, and that it is none on a run's way.
pub async fn a_large_context_is_refused_when_it_is_recorded(bed: &Bed) {
    let insert = |kind: &str, status: &str, started: &str, size: usize| {
        format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, started_at, context) \
             VALUES (1, 7, '{kind}', '{status}', {started}, '{{\"x\": \"{}\"}}')",
            "a".repeat(size)
        )
    };
    bed.exec(&insert("another.type", "queued", "NULL", 262_144))
        .await;
    for status in ["queued", "running"] {
        let large = insert(RUN_TYPE, status, "NULL", 262_144);
        assert!(bed.try_exec(&large).await.is_err(), "{status}");
        // PostgreSQL loads no such context; SQLite would, with the row.
        if !bed.is_postgres() {
            let large = insert(RUN_TYPE, status, "'2026-01-02T03:04:05Z'", 262_144);
            assert!(bed.try_exec(&large).await.is_err(), "{status}");
            let turned = format!("UPDATE operation_runs SET type = '{RUN_TYPE}'");
            assert!(bed.try_exec(&turned).await.is_err());
        }
    }
    bed.exec(&insert(RUN_TYPE, "queued", "NULL", 262_000)).await;
    // In SQLite times are texts.
    if !bed.is_postgres() {
        let time = "9".repeat(65);
        for column in ["created_at", "started_at", "completed_at"] {
            for large in [
                format!(
                    "INSERT INTO operation_runs (workspace_id, tenant_id, type, {column}) \
                     VALUES (1, 7, '{RUN_TYPE}', '{time}')"
                ),
                format!(
                    "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, {column}) \
                     VALUES (1, 7, '{RUN_TYPE}', 'completed', 'failed', '{time}')"
                ),
                format!("UPDATE operation_runs SET {column} = '{time}' WHERE type = '{RUN_TYPE}'"),
            ] {
                assert!(bed.try_exec(&large).await.is_err(), "{large}");
            }
        }
    }
    let run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
    let held = bed.claim(run, "w").await;
    assert_eq!(held.context, ContextSize::Large);
    assert!(bed.store.complete(&held, &blocked()).await.unwrap());
    let stored = bed.run(run).await;
    assert_eq!(stored.outcome, Some(Outcome::Blocked));
    assert_eq!(stored.context["x"].as_str().map(str::len), Some(262_000));
}

/// A connection's row, and its credential's, in another application's table.
pub async fn a_connection_that_cannot_be_read_is_named_and_hides_no_other(bed: &Bed) {
    bed.exec(
        "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status, entra_tenant_id) \
         VALUES (1, 1, 7, 'microsoft', 'enabled', '5c000000-0000-4000-8000-000000000001'), \
             (2, 1, 7, 'microsoft', 'enabled', '5c000000-0000-4000-8000-000000000001')",
    )
    .await;
    bed.exec(&format!(
        "INSERT INTO provider_credentials (provider_connection_id, kind, payload) \
         VALUES (2, 'client_secret', '{}')",
        "a".repeat(300_000)
    ))
    .await;
    bed.exec(&format!(
        "UPDATE provider_connections SET display_name = '{}'",
        "n".repeat(1_000_000)
    ))
    .await;
    let named = bed.store.starting_point(ConnectionId(2)).await;
    assert!(
        matches!(
            named,
            Err(StoreError::Corrupt {
                table: "provider_credentials",
                column: "payload",
                ..
            })
        ),
        "{named:?}"
    );
    bed.corrupt_connection(ConnectionId(2)).await;
    let named = bed.store.starting_point(ConnectionId(2)).await;
    assert!(
        matches!(
            named,
            Err(StoreError::Corrupt {
                table: "provider_connections",
                column: "status",
                ..
            })
        ),
        "{named:?}"
    );
    let listed = bed.store.connections(None, None, 10).await.unwrap();
    let ids: Vec<i64> = listed.iter().map(|c| c.id.0).collect();
    assert_eq!(ids, [1]);
    let name = listed[0].display_name.as_deref().unwrap();
    assert_eq!(name.len(), 300);
    every_surface(bed, "a connection of an unknown status").await;
}
