//! The name of a directory, and its licences.

use crate::microsoft::directory::{Directory, HEALTH, INTUNE, Reply, SERVICE_PRINCIPAL, TENANT};
use crate::microsoft::fixture::{provider, run, target};
use serde_json::{Value, json};
use verifyd::domain::report::{CheckStatus, EvidenceKind};

async fn name_of(display_name: Value) -> Option<String> {
    let directory = Directory::start(HEALTH).await;
    directory.change(|facts| {
        facts.organization = json!({"id": TENANT, "displayName": display_name});
    });
    let found = run(&provider(&directory), &target("health_check")).await;
    assert!(found.0.healthy, "{display_name}");
    assert_eq!(found.check("provider.identity").status, CheckStatus::Pass);
    found.0.facts.entra_tenant_name
}

#[tokio::test]
async fn the_name_is_clean_and_never_fails_a_check() {
    assert_eq!(
        name_of(json!("Contoso GmbH")).await.as_deref(),
        Some("Contoso GmbH")
    );
    assert_eq!(
        name_of(json!("a\u{202E}b\n\0c")).await.as_deref(),
        Some("a b c")
    );
    assert_eq!(
        name_of(json!("x".repeat(9_000))).await.map(|n| n.len()),
        Some(256)
    );
    for none in [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!(" "),
        json!("\u{200B}"),
    ] {
        assert_eq!(name_of(none.clone()).await, None, "{none}");
    }
}

#[tokio::test]
async fn of_another_directory_not_even_the_name_is_kept() {
    let directory = Directory::start(HEALTH).await;
    directory.change(|facts| {
        facts.organization = json!({"id": SERVICE_PRINCIPAL, "displayName": "Another customer"});
    });
    let found = run(&provider(&directory), &target("health_check")).await;
    assert_eq!(found.check("provider.identity").status, CheckStatus::Fail);
    assert_eq!(found.0.facts.entra_tenant_name, None);
}

#[tokio::test]
async fn without_the_organization_nothing_is_said_of_licences() {
    let directory = Directory::start(INTUNE).await;
    directory.change(|facts| facts.subscription = "disabled");
    directory.answer("organization", Reply::denied());
    let found = run(&provider(&directory), &target("intune")).await;
    let evidence = found.evidence("intune.service", EvidenceKind::ServicePlan);
    assert!(evidence.is_empty(), "{evidence:?}");
}
