//! What a check learns of a connection serves the ones after it, and people.

use crate::checks::assert_sound;
use serde_json::{Value, json};
use test_support::world::{World, check, reasons};
use verifyd::domain::access::Binding;
use verifyd::domain::connection_facts::ExpirySource;
use verifyd::domain::hint::Hint;
use verifyd::domain::{Outcome, TenantId};
use verifyd::ports::store::NewRun;
use verifyd_simulator::{Endpoint, Scenario};

/// As an application records it that knows the directory by its id only.
fn without_name(new: &mut NewRun) {
    let scope = new.context["target_scope"].as_object_mut().unwrap();
    scope.remove("entra_tenant_name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_run_leads_into_the_directory_that_an_earlier_check_has_found() {
    let world = World::new().await;
    let worker = world.worker().await;
    let tenant = Scenario::PermissionNotRequestedElsewhere.tenant_id(1);
    let owner = Scenario::PermissionNotRequested.tenant_id(1);
    let id = world.connection(1, &tenant, "conditional_access").await;

    let first = world.record(id, without_name).await;
    worker.pipeline.process(&Hint::new(first)).await;
    let run = world.run(first).await;
    assert_sound(&run, "first");
    assert_eq!(reasons(&run, &["fail"]), ["permission_not_requested"]);
    // The registration was read in the other directory, with one sign-in.
    assert_eq!(world.simulator.calls_of(&owner, Endpoint::Token), 1);
    assert_eq!(
        world
            .simulator
            .calls_of(&owner, Endpoint::ApplicationByAppId),
        1
    );
    assert_eq!(
        world
            .simulator
            .calls_of(&tenant, Endpoint::ApplicationByAppId),
        0
    );
    let name = run.context["target_scope"]["entra_tenant_name"]
        .as_str()
        .unwrap();
    assert!(
        name.starts_with("Simulated permission_not_requested_elsewhere"),
        "{name}"
    );

    let state = world
        .services
        .store
        .connection_state(id, &Binding::EVERYTHING)
        .await;
    let facts = state.unwrap().unwrap().facts;
    assert_eq!(facts.entra_tenant_name.as_deref(), Some(name));
    assert_eq!(
        facts.credential_expiry_source,
        Some(ExpirySource::Registration)
    );
    let left = facts.credential_expires_at.unwrap() - world.services.clock.now();
    assert!((398..=401).contains(&left.num_days()), "{left}");

    // The next one ends before anybody is asked.
    world
        .sql("UPDATE provider_credentials SET expires_at = '2020-01-01T00:00:00Z'")
        .await;
    let second = world.record(id, without_name).await;
    worker.pipeline.process(&Hint::new(second)).await;
    let run = world.run(second).await;
    assert_sound(&run, "second");
    let credential = check(&run, "preflight.credential");
    assert_eq!(credential["reason_code"], "credential_expired");
    let url = credential["next_steps"][0]["url"].as_str().unwrap();
    let expected = format!("https://entra.microsoft.com/{owner}/#view/");
    assert!(url.starts_with(&expected), "{url}");
    assert_eq!(run.context["target_scope"]["entra_tenant_name"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_as_infinity_never_expires() {
    let world = World::new().await;
    let worker = world.worker().await;
    let tenant = Scenario::CredentialExpiryUnknown.tenant_id(1);
    let id = world.connection(1, &tenant, "health_check").await;
    let run_with = async |expires_at: &str| {
        let run = world.record(id, |_| {}).await;
        world
            .sql(&format!(
                "UPDATE provider_credentials SET expires_at = '{expires_at}'"
            ))
            .await;
        worker.pipeline.process(&Hint::new(run)).await;
        let run = world.run(run).await;
        assert_sound(&run, expires_at);
        run
    };
    let expiry = check(&run_with("infinity").await, "credential.expiry").clone();
    assert_eq!(expiry["message"], "The credential never expires.");
    // What is no time is not known, and keeps no check from being made.
    for invalid in [
        "never",
        "2030-1-5",
        "2030-01-05T03:04:05+0200",
        "-infinity",
        "0000-12-31",
    ] {
        let run = run_with(invalid).await;
        assert_eq!(run.outcome, Some(Outcome::Succeeded), "{invalid}");
        let expiry = check(&run, "credential.expiry").clone();
        assert_eq!(expiry["reason_code"], "credential_expiry_unknown");
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
