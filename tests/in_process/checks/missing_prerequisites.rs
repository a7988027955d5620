//! A run that lacks a prerequisite is blocked with its reason, and the provider is not called.

use crate::checks::{assert_sound, unusable_credentials};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use test_support::world::operator;
use test_support::world::{ParsedRun, World, check, reasons};
use verifyd::domain::connection::ConnectionStatus;
use verifyd::domain::credential::Credential;
use verifyd::domain::hint::Hint;
use verifyd::domain::reason::{Reason, Stage};
use verifyd::domain::{Outcome, RunId, TenantId, WorkspaceId};
use verifyd::engine::pipeline::Processed;
use verifyd_simulator::Scenario;

/// A run that preflight must block.
async fn blocked(world: &World, id: RunId, reason: Reason) -> ParsedRun {
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
            json!({"provider_connection_id": format!("0{good}")}),
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
        .sql("DROP TRIGGER verifyd_guard_context_size_kept")
        .await;
    world
        .sql(&format!(
            "UPDATE operation_runs SET context = json_set(context, '$.more', \
             printf('%.*c', 262144, 'x')) WHERE id = {id}"
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

    // A blank that nobody would see.
    let id = world
        .record(good, |new| new.context["module"] = json!(" intune"))
        .await;
    let run = expect(id, Reason::ModuleUnknown).await;
    let evidence = &check(&run, "preflight.provider")["evidence"];
    assert_eq!(evidence[2]["value"], "\" intune\"");

    let none = world
        .connection_with(1, &tenant, "health_check", None)
        .await;
    let id = world.record(none, |_| {}).await;
    expect(id, Reason::CredentialMissing).await;

    world
        .services
        .store
        .set_connection_status(good, ConnectionStatus::Disabled, operator())
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
        ("cloud", "", Reason::CloudUnknown),
        ("client_id", "nobody", Reason::ClientIdMalformed),
    ] {
        let id = world.connection(1, &tenant, "health_check").await;
        world.set(id, &format!("{column} = '{value}'")).await;
        let run = world
            .record(id, |new| {
                new.context.as_object_mut().unwrap().remove("provider");
            })
            .await;
        expect(run, reason).await;
    }

    // Whatever the run says, it is the connection that has to be corrected.
    for (value, found) in [("NULL", "none"), ("''", "none"), ("'contoso'", "contoso")] {
        let id = world.connection(1, &tenant, "health_check").await;
        world.set(id, &format!("entra_tenant_id = {value}")).await;
        let recorded = world.record(id, |_| {}).await;
        let named = json!({ "entra_tenant_id": tenant });
        let by_statement = world
            .record(id, |new| new.context["target_scope"] = named)
            .await;
        for run in [recorded, by_statement] {
            let run = expect(run, Reason::ConnectionMalformed).await;
            let evidence = check(&run, "preflight.target_scope")["evidence"].clone();
            assert_eq!(evidence[0]["value"], "provider_connections.entra_tenant_id");
            assert_eq!(evidence[2]["value"], found);
        }
    }

    for (value, found) in [("", "\"\""), (" ", "\" \""), ("teleport", "teleport")] {
        let id = world.connection(1, &tenant, "health_check").await;
        world.set(id, &format!("module = '{value}'")).await;
        let recorded = world.record(id, |_| {}).await;
        let unnamed = world
            .record(id, |new| {
                new.context.as_object_mut().unwrap().remove("module");
            })
            .await;
        for run in [recorded, unnamed] {
            let run = expect(run, Reason::ModuleUnknown).await;
            let evidence = check(&run, "preflight.provider")["evidence"].clone();
            assert_eq!(evidence[0]["value"], "provider_connections.module");
            assert_eq!(evidence[2]["value"], found);
        }
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
    store
        .set_credential(other, &sealed, operator())
        .await
        .unwrap();
    let id = world.record(other, |_| {}).await;
    let run = expect(id, Reason::CredentialExpired).await;
    assert_eq!(
        check(&run, "preflight.credential")["evidence"][0]["value"],
        "2023-11-14T22:13:20Z"
    );

    // Another connection's ciphertext does not open here.
    let foreign = store.connection(none).await.unwrap().unwrap().0.binding();
    let sealed = vault.seal(foreign, &secret("elsewhere"), None).unwrap();
    store
        .set_credential(other, &sealed, operator())
        .await
        .unwrap();
    let id = world.record(other, |_| {}).await;
    expect(id, Reason::CredentialUndecryptable).await;

    let mut sealed = vault
        .seal(binding, &secret("fits not its kind"), None)
        .unwrap();
    sealed.kind = verifyd::domain::connection::CredentialKind::Certificate;
    store
        .set_credential(other, &sealed, operator())
        .await
        .unwrap();
    let id = world.record(other, |_| {}).await;
    expect(id, Reason::CredentialMalformed).await;

    let sealed = vault
        .seal(binding, &unusable_credentials::certificate(3000), None)
        .unwrap();
    store
        .set_credential(other, &sealed, operator())
        .await
        .unwrap();
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
