//! Whole checks, from a recorded run to its report: every reason can be produced, and each report
//! says what is wrong, why it matters and what to click.

mod connection_facts;
mod hostile_provider;
mod misbehaving_provider;
mod poison_runs;
mod snapshots;
mod tenant_isolation;
mod unusable_credentials;
mod worker_failure;

use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::world::{World, check, impatient, reasons};
use verifyd::app::Services;
use verifyd::domain::connection::ConnectionStatus;
use verifyd::domain::credential::Credential;
use verifyd::domain::hint::Hint;
use verifyd::domain::reason::{Reason, Stage};
use verifyd::domain::report::schema;
use verifyd::domain::run::OperationRun;
use verifyd::domain::{Outcome, RunId, RunStatus, TenantId, WorkspaceId};
use verifyd::engine::pipeline::Processed;
use verifyd::ports::store::AttemptEnd;
use verifyd_simulator::Scenario;

/// What holds for every completed run.
fn assert_sound(run: &OperationRun, what: &str) {
    assert_eq!(run.status, RunStatus::Completed, "{what}");
    assert!(run.outcome.is_some() && run.completed_at.is_some() && run.started_at.is_some());
    let report = run.report().unwrap_or_else(|| panic!("{what}: no report"));
    assert_eq!(schema::validate(report), Ok(()), "{what}");
    assert!(schema::fingerprint_matches(report).unwrap(), "{what}");
    for check in report["checks"].as_array().unwrap() {
        if check["status"] != "fail" {
            continue;
        }
        let reason: Reason = check["reason_code"].as_str().unwrap().parse().unwrap();
        let message = check["message"].as_str().unwrap();
        assert!(message.contains(reason.what()), "{what}: {message}");
        // Of a permission it is told what it is needed for.
        let why = message.contains(reason.why()) || message.contains("without it");
        assert!(why, "{what}: {message}");
        assert!(
            !check["next_steps"].as_array().unwrap().is_empty(),
            "{what}"
        );
    }
    let failures = run.failure_summary.as_array().unwrap();
    match run.outcome.unwrap() {
        Outcome::Succeeded => assert!(failures.is_empty(), "{what}"),
        Outcome::Failed => assert!(!failures.is_empty(), "{what}"),
        Outcome::Blocked => {
            assert!(!failures.is_empty(), "{what}");
            assert!(run.context["reason_code"].is_string(), "{what}");
            assert!(
                !run.context["next_steps"].as_array().unwrap().is_empty(),
                "{what}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_ends_as_it_says() {
    let patient = Arc::new(World::new().await);
    let impatient = Arc::new(World::with(impatient).await);
    let problems: Arc<Mutex<Vec<String>>> = Arc::default();
    let produced: Arc<Mutex<BTreeSet<Reason>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for (i, scenario) in Scenario::ALL.iter().copied().enumerate() {
        let stalls = [
            Scenario::ProviderTimeout,
            Scenario::ProviderTimeoutSignIn,
            Scenario::ProviderTimeoutInBody,
        ];
        let world = match stalls.contains(&scenario) {
            true => Arc::clone(&impatient),
            false => Arc::clone(&patient),
        };
        let worker = world.worker().await;
        let (problems, produced) = (Arc::clone(&problems), Arc::clone(&produced));
        tasks.spawn(async move {
            let expected = scenario.expectation();
            let codes = scenario.codes().len().max(1);
            for instance in 0..u32::try_from(codes).unwrap() {
                let tenant = i64::try_from(i).unwrap() * 100 + i64::from(instance) + 1;
                let connection = world
                    .connection(tenant, &scenario.tenant_id(instance), expected.module)
                    .await;
                let id = world.record(connection, |_| {}).await;
                let hint = Hint::new(id);
                let mut processed = worker.pipeline.process(&hint).await;
                if processed == Processed::Released(AttemptEnd::Throttled) {
                    // It waits in the database; only the total deadline ends it.
                    let no_wait = |services: &mut Services| {
                        services.settings.worker.total_deadline = Duration::ZERO;
                    };
                    let impatient = world.worker_with(no_wait).await;
                    let other = world.record(connection, |_| {}).await;
                    processed = impatient.pipeline.process(&Hint::new(other)).await;
                    let run = world.run(other).await;
                    note(&problems, &produced, scenario, &run, processed);
                    continue;
                }
                let run = world.run(id).await;
                note(&problems, &produced, scenario, &run, processed);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let problems = problems.lock().unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    // Between them the scenarios produce everything that a server can.
    let elsewhere = [
        Reason::TlsFailed,
        Reason::ProviderUnreachable,
        Reason::FederatedTokenUnreadable,
        Reason::FederatedTokenExpired,
        // Only a module of a file leads to these.
        Reason::ProbeUnexpected,
        Reason::PermissionNotOffered,
        Reason::PermissionUnknown,
        Reason::PermissionExcess,
    ];
    let produced = produced.lock().unwrap();
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|r| matches!(r.stage(), Stage::Provider | Stage::Permission))
        .filter(|r| !elsewhere.contains(r) && !produced.contains(r))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn note(
    problems: &Mutex<Vec<String>>,
    produced: &Mutex<BTreeSet<Reason>>,
    scenario: Scenario,
    run: &OperationRun,
    processed: Processed,
) {
    let expected = scenario.expectation();
    let found: BTreeSet<Reason> = reasons(run, &["fail", "warn"])
        .iter()
        .map(|code| code.parse().unwrap())
        .collect();
    let wanted: BTreeSet<Reason> = expected
        .reasons
        .iter()
        .map(|r| r.parse().unwrap())
        .collect();
    let overall = run
        .report()
        .and_then(|r| r["summary"]["overall"].as_str())
        .unwrap_or_default();
    if processed != Processed::Completed(expected.outcome.parse().unwrap())
        || overall != expected.overall
        || !wanted.is_subset(&found)
        || (wanted.is_empty() && !found.is_empty())
    {
        problems.lock().unwrap().push(format!(
            "{scenario} ({}): {processed:?}, {overall}, {found:?}; expected {expected:?}",
            run.report()
                .and_then(|r| r["identity"]["entra_tenant_id"].as_str())
                .unwrap_or_default()
        ));
        return;
    }
    assert_sound(run, scenario.name());
    produced.lock().unwrap().extend(found);
}

/// A run that preflight must block.
async fn blocked(world: &World, id: RunId, reason: Reason) -> OperationRun {
    let worker = world.worker().await;
    let processed = worker.pipeline.process(&Hint::new(id)).await;
    let run = world.run(id).await;
    assert_eq!(
        processed,
        Processed::Completed(Outcome::Blocked),
        "{reason}: {run:?}"
    );
    assert_sound(&run, reason.code());
    assert_eq!(run.context["reason_code"], reason.code());
    assert_eq!(reasons(&run, &["fail"]), [reason.code()]);
    let report = run.report().unwrap();
    assert_eq!(report["summary"]["overall"], "blocked");
    let skipped = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .skip_while(|c| c["status"] == "pass")
        .skip(1);
    for check in skipped {
        assert!(
            ["skip", "pass"].contains(&check["status"].as_str().unwrap()),
            "{reason}: {check}"
        );
    }
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_prerequisite_blocks_without_a_call() {
    let world = World::new().await;
    let tenant = Scenario::Healthy.tenant_id(1);
    let good = world.connection(1, &tenant, "health_check").await;
    let mut seen = BTreeSet::new();
    let mut expect = async |id: RunId, reason: Reason| {
        seen.insert(reason);
        blocked(&world, id, reason).await
    };

    let id = world.record(good, |new| new.tenant_id = None).await;
    expect(id, Reason::TenantMissing).await;

    for (context, reason) in [
        (json!({}), Reason::ConnectionMissing),
        (
            json!({"provider_connection_id": 424_242}),
            Reason::ConnectionMissing,
        ),
        (
            json!({"provider_connection_id": -4}),
            Reason::ConnectionMissing,
        ),
        (
            json!({"provider_connection_id": "x"}),
            Reason::ContextMalformed,
        ),
        (
            json!({"provider_connection_id": [1]}),
            Reason::ContextMalformed,
        ),
        (
            json!({"provider_connection_id": 1e30}),
            Reason::ContextMalformed,
        ),
    ] {
        let id = world.record(good, |new| new.context = context).await;
        let run = expect(id, reason).await;
        let check = check(&run, "preflight.connection");
        assert_eq!(
            check["evidence"][0]["value"],
            "context.provider_connection_id"
        );
    }

    let twice = json!(json!({"provider": "microsoft"}).to_string());
    for (context, found) in [
        (json!([1]), "an array, an object is needed"),
        (json!("text"), "a text, an object is needed"),
        (twice, "a JSON text, an object is needed: encoded twice?"),
    ] {
        let kept = context.clone();
        let id = world.record(good, |new| new.context = context).await;
        let run = expect(id, Reason::ContextMalformed).await;
        let check = check(&run, "preflight.connection");
        let evidence = check["evidence"].as_array().unwrap();
        let values: Vec<&str> = evidence
            .iter()
            .map(|e| e["value"].as_str().unwrap())
            .collect();
        assert_eq!(values, ["context", "a JSON object", found]);
        assert_eq!(run.context["producer_context"], kept);
    }
    let large = "x".repeat(200_000);
    let id = world
        .record(good, |new| new.context["more"] = json!(large))
        .await;
    world
        .sql(&format!(
            "UPDATE operation_runs SET context = json_set(context, '$.more', \
        printf('%.*c', 262144, 'x')), started_at = '2026-01-02T03:04:05Z' WHERE id = {id}"
        ))
        .await;
    let run = expect(id, Reason::ContextTooLarge).await;
    assert_eq!(run.context["provider"], "microsoft");

    let id = world
        .record(good, |new| new.tenant_id = Some(TenantId(2)))
        .await;
    let run = expect(id, Reason::ConnectionTenantMismatch).await;
    // Nothing of the stranger's connection is told.
    assert!(!run.report().unwrap().to_string().contains(&tenant));

    let id = world
        .record(good, |new| new.workspace_id = WorkspaceId(2))
        .await;
    let run = expect(id, Reason::ConnectionWorkspaceMismatch).await;
    assert!(!run.report().unwrap().to_string().contains(&tenant));

    for (path, value, reason) in [
        ("provider", json!("acme"), Reason::ProviderUnknown),
        ("provider", json!(7), Reason::ContextMalformed),
        ("module", json!("teleport"), Reason::ModuleUnknown),
        ("module", json!({}), Reason::ContextMalformed),
        ("target_scope", Value::Null, Reason::TargetScopeMissing),
        ("target_scope", json!({}), Reason::TargetScopeMissing),
        ("target_scope", json!("x"), Reason::ContextMalformed),
        (
            "target_scope",
            json!({"entra_tenant_id": "contoso.example"}),
            Reason::TargetScopeMalformed,
        ),
        (
            "target_scope",
            json!({"entra_tenant_id": 5}),
            Reason::TargetScopeMalformed,
        ),
        (
            "target_scope",
            json!({"entra_tenant_id": Scenario::Healthy.tenant_id(2)}),
            Reason::TargetScopeMismatch,
        ),
    ] {
        let id = world
            .record(good, |new| new.context[path] = value.clone())
            .await;
        expect(id, reason).await;
    }

    let none = world
        .connection_with(1, &tenant, "health_check", None)
        .await;
    let id = world.record(none, |_| {}).await;
    expect(id, Reason::CredentialMissing).await;

    world
        .services
        .store
        .set_connection_status(good, ConnectionStatus::Disabled)
        .await
        .unwrap();
    let id = world.record(good, |_| {}).await;
    expect(id, Reason::ConnectionDisabled).await;

    let id = world.connection(1, &tenant, "health_check").await;
    world
        .sql(&format!(
            "PRAGMA ignore_check_constraints = ON; \
             UPDATE provider_connections SET status = 'paused' WHERE id = {id}; \
             PRAGMA ignore_check_constraints = OFF"
        ))
        .await;
    let broken = world
        .record(good, |new| {
            new.context["provider_connection_id"] = json!(id)
        })
        .await;
    let run = expect(broken, Reason::ConnectionMalformed).await;
    let evidence = &check(&run, "preflight.connection")["evidence"];
    assert_eq!(evidence[0]["value"], "provider_connections.status");
    assert_eq!(evidence[1]["value"], "enabled, disabled");

    // What only the connection's own row can hold: written as another application might.
    for (column, value, reason) in [
        ("provider", "acme", Reason::ProviderUnknown),
        ("cloud", "moon", Reason::CloudUnknown),
        ("client_id", "nobody", Reason::ClientIdMalformed),
    ] {
        let id = world.connection(1, &tenant, "health_check").await;
        world
            .sql(&format!(
                "UPDATE provider_connections SET {column} = '{value}' WHERE id = {id}"
            ))
            .await;
        let run = world
            .record(id, |new| {
                new.context.as_object_mut().unwrap().remove("provider");
            })
            .await;
        expect(run, reason).await;
    }

    let other = world.connection(1, &tenant, "health_check").await;
    let vault = &world.services.vault;
    let binding = world.row(other).await.binding();
    let secret = |text: &str| Credential::ClientSecret {
        secret: SecretString::from(text.to_owned()),
        client_id: None,
    };
    let past = chrono::DateTime::from_timestamp(1_700_000_000, 0);
    let sealed = vault.seal(binding, &secret("long-expired"), past).unwrap();
    let store = &world.services.store;
    store.set_credential(other, &sealed).await.unwrap();
    let id = world.record(other, |_| {}).await;
    let run = expect(id, Reason::CredentialExpired).await;
    assert_eq!(
        check(&run, "preflight.credential")["evidence"][0]["value"],
        "2023-11-14T22:13:20Z"
    );

    // Another connection's ciphertext does not open here.
    let foreign = store.connection(none).await.unwrap().unwrap().0.binding();
    let sealed = vault.seal(foreign, &secret("elsewhere"), None).unwrap();
    store.set_credential(other, &sealed).await.unwrap();
    let id = world.record(other, |_| {}).await;
    expect(id, Reason::CredentialUndecryptable).await;

    let mut sealed = vault
        .seal(binding, &secret("fits not its kind"), None)
        .unwrap();
    sealed.kind = verifyd::domain::connection::CredentialKind::Certificate;
    store.set_credential(other, &sealed).await.unwrap();
    let id = world.record(other, |_| {}).await;
    expect(id, Reason::CredentialMalformed).await;

    let sealed = vault
        .seal(binding, &unusable_credentials::certificate(3000), None)
        .unwrap();
    store.set_credential(other, &sealed).await.unwrap();
    let id = world.record(other, |_| {}).await;
    let run = expect(id, Reason::CertificateNotYetValid).await;
    let evidence = &check(&run, "preflight.credential")["evidence"][0];
    assert_eq!(
        *evidence,
        json!({"kind": "valid_from", "value": "3000-01-01T00:00:00Z"})
    );

    let missing: Vec<_> = Reason::ALL
        .iter()
        // Needs a second provider: see `acme`.
        .filter(|r| r.stage() == Stage::Preflight && **r != Reason::ProviderMismatch)
        .filter(|r| !seen.contains(r))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(
        world.simulator.calls(&tenant).total,
        0,
        "the provider was called"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_callers_side_can_produce() {
    let world = World::with(|settings| {
        let clouds = &mut settings.microsoft.clouds;
        let mut dead = clouds["simulated"].clone();
        // A port that was free a moment ago, and nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        dead.login = format!("http://127.0.0.1:{port}");
        clouds.insert("dead".to_owned(), dead);
        let mut plain = clouds["simulated"].clone();
        plain.login = plain.login.replace("http:", "https:");
        clouds.insert("not_tls".to_owned(), plain);
    })
    .await;
    let worker = world.worker().await;
    for (cloud, reason) in [
        ("dead", Reason::ProviderUnreachable),
        ("not_tls", Reason::TlsFailed),
    ] {
        let connection = world
            .connection(1, &Scenario::Healthy.tenant_id(1), "health_check")
            .await;
        world
            .sql(&format!(
                "UPDATE provider_connections SET cloud = '{cloud}' WHERE id = {connection}"
            ))
            .await;
        let id = world.record(connection, |_| {}).await;
        assert_eq!(
            worker.pipeline.process(&Hint::new(id)).await,
            Processed::Completed(Outcome::Failed)
        );
        let run = world.run(id).await;
        assert_sound(&run, cloud);
        assert_eq!(reasons(&run, &["fail"])[0], reason.code(), "{cloud}");
    }
    let stale = world.folder.path().join("stale");
    // Issued and expired in 1970.
    std::fs::write(&stale, "e30.eyJleHAiOjM2MDB9.c2ln").unwrap();
    let missing = world.folder.path().join("not-mounted");
    for (tenant, path, reason) in [
        (2, missing, Reason::FederatedTokenUnreadable),
        (3, stale, Reason::FederatedTokenExpired),
    ] {
        let credential = Credential::FederatedTokenFile { path };
        let directory = Scenario::Healthy.tenant_id(tenant);
        let connection = world
            .connection_with(
                i64::from(tenant),
                &directory,
                "health_check",
                Some(credential),
            )
            .await;
        let id = world.record(connection, |_| {}).await;
        worker.pipeline.process(&Hint::new(id)).await;
        let run = world.run(id).await;
        assert_sound(&run, "federated");
        assert_eq!(reasons(&run, &["fail"])[0], reason.code());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_report_links_to_the_first_and_says_nothing_changed() {
    let world = World::new().await;
    let worker = world.worker().await;
    let connection = world
        .connection(1, &Scenario::PermissionMissing.tenant_id(1), "health_check")
        .await;
    let mut reports = Vec::new();
    for _ in 0..2 {
        let id = world.record(connection, |_| {}).await;
        worker.pipeline.process(&Hint::new(id)).await;
        reports.push((id, world.run(id).await.report().unwrap().clone()));
    }
    assert_eq!(reports[0].1["previous_report_id"], Value::Null);
    assert_eq!(reports[1].1["previous_report_id"], json!(reports[0].0));
    assert_eq!(reports[0].1["fingerprint"], reports[1].1["fingerprint"]);

    let permissions = world.services.store.permissions(TenantId(1)).await.unwrap();
    assert!(!permissions.is_empty());
    let freshness = world
        .services
        .store
        .inventory_freshness(TenantId(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(freshness.operation_run_id, reports[1].0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_goes_back_to_the_queue_and_does_not_count() {
    let world = World::new().await;
    let worker = world.worker().await;
    let connection = world
        .connection(1, &Scenario::Throttled.tenant_id(1), "health_check")
        .await;
    let id = world.record(connection, |_| {}).await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Released(AttemptEnd::Throttled)
    );
    let run = world.run(id).await;
    assert_eq!((run.status, run.outcome), (RunStatus::Queued, None));
    let attempts = world.services.store.attempts(id).await.unwrap();
    assert_eq!(attempts.len(), 1);
    assert!(!attempts[0].counted);
    // Not due yet, so nobody gets it.
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::NotClaimable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_attempts_end_as_worker_lost_without_another_call() {
    let world = World::new().await;
    let two = |services: &mut Services| services.settings.worker.max_attempts = 2;
    let worker = world.worker_with(two).await;
    let tenant = Scenario::Healthy.tenant_id(1);
    let connection = world.connection(1, &tenant, "health_check").await;
    let id = world.record(connection, |_| {}).await;
    let policy = verifyd::ports::store::ClaimPolicy {
        max_attempts: 2,
        run_deadline: Duration::from_secs(60),
        isolated: false,
    };
    for _ in 0..2 {
        let store = &world.services.store;
        let claim = store
            .claim(id, &worker.state.id, &policy)
            .await
            .unwrap()
            .claimed()
            .unwrap();
        assert!(
            store
                .release(&claim, AttemptEnd::Error, None)
                .await
                .unwrap()
        );
    }
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Completed(Outcome::Failed)
    );
    let run = world.run(id).await;
    assert_sound(&run, "worker_lost");
    assert_eq!(reasons(&run, &["fail"]), ["worker_lost"]);
    assert_eq!(
        world
            .simulator
            .calls_of(&tenant, verifyd_simulator::Endpoint::Token),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_heartbeat_claims_nothing() {
    let world = World::new().await;
    let worker = world.services.worker();
    let connection = world
        .connection(1, &Scenario::Healthy.tenant_id(1), "health_check")
        .await;
    let id = world.record(connection, |_| {}).await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Deferred
    );
    assert_eq!(world.run(id).await.status, RunStatus::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_finds_runs_that_nobody_announced_and_drains_on_stop() {
    let world = World::with(|settings| {
        settings.reconciler.interval = Duration::from_millis(50);
    })
    .await;
    let connection = world
        .connection(1, &Scenario::Slow.tenant_id(1), "health_check")
        .await;
    let first = world.record(connection, |_| {}).await;
    world
        .services
        .store
        .mark_undispatched(&[first])
        .await
        .unwrap();

    let stop = tokio_util::sync::CancellationToken::new();
    let worker = world.services.worker();
    let worker = tokio::spawn(worker.run(stop.clone()));
    world.completed(first).await;

    let second = world.record(connection, |_| {}).await;
    world.services.queue.send_runs(&[second]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(180), async {
        while world.run(second).await.status == RunStatus::Queued {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    stop.cancel();
    worker.await.unwrap().unwrap();
    // What was in flight has been finished, and nobody is left on the list.
    assert_eq!(world.run(second).await.status, RunStatus::Completed);
    assert!(world.services.store.workers().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_comes_before_the_first_heartbeat_is_not_lost() {
    let world = World::with(|settings| {
        // No sweep helps out.
        settings.reconciler.redeliver_after = Duration::from_secs(3600);
    })
    .await;
    let connection = world
        .connection(1, &Scenario::Healthy.tenant_id(1), "health_check")
        .await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(world.record(connection, |_| {}).await);
    }
    world.services.queue.send_runs(&ids).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = world.services.worker();
    let worker = tokio::spawn(worker.run(stop.clone()));
    for id in ids {
        world.completed(id).await;
    }
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_is_tried_again_later_and_counts() {
    let world = World::new().await;
    let worker = world.worker().await;
    let connection = world
        .connection(1, &Scenario::Healthy.tenant_id(1), "health_check")
        .await;
    let id = world.record(connection, |_| {}).await;
    world
        .sql(
            "CREATE TRIGGER refuse BEFORE UPDATE ON operation_runs WHEN new.status = 'completed'
             BEGIN SELECT raise(ABORT, 'refused by a rule of somebody else'); END",
        )
        .await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Released(AttemptEnd::Error)
    );
    let run = world.run(id).await;
    assert_eq!((run.status, run.report()), (RunStatus::Queued, None));
    assert!(world.services.store.attempts(id).await.unwrap()[0].counted);
    assert!(
        world
            .services
            .store
            .permissions(TenantId(1))
            .await
            .unwrap()
            .is_empty(),
        "all or nothing"
    );
    // Not at once: whoever refused would be asked again and again.
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::NotClaimable
    );
}
