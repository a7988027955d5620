//! A second provider, as a folder of its own would bring it, that misbehaves in every way that a
//! provider can: the engine ends its runs all the same.

use crate::world::{World, check, reasons};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use verifyd::domain::connection::ProviderConnection;
use verifyd::domain::credential::Credential;
use verifyd::domain::job::Hint;
use verifyd::domain::permission::RequiredPermission;
use verifyd::domain::reason::Reason;
use verifyd::domain::report::{Evidence, EvidenceKind, Severity};
use verifyd::domain::{Outcome, RunStatus};
use verifyd::engine::process::Processed;
use verifyd::ports::provider::{
    CheckSpec, Disposition, Findings, Provider, Providers, Target, Unmet,
};
use verifyd::simulator::{SIMULATED_SECRET, Scenario};

#[derive(Debug)]
struct Acme;

fn spec(key: &str) -> CheckSpec {
    CheckSpec {
        key: key.to_owned(),
        title: "Acme answers".to_owned(),
        blocking: true,
        severity: Severity::High,
    }
}

#[async_trait]
impl Provider for Acme {
    fn key(&self) -> &'static str {
        "acme"
    }

    fn modules(&self) -> Vec<&'static str> {
        vec!["panics", "hangs", "malformed", "leaks", "says_nothing"]
    }

    fn required_permissions(&self, _module: &str) -> &'static [RequiredPermission] {
        &[]
    }

    fn planned_checks(&self, _module: &str) -> Vec<CheckSpec> {
        vec![spec("acme.answers")]
    }

    fn link_bases(&self, _cloud: Option<&str>) -> Option<(String, String)> {
        None
    }

    fn default_cloud(&self) -> String {
        "acme".to_owned()
    }

    fn clouds(&self) -> Vec<String> {
        vec!["acme".to_owned()]
    }

    fn preflight(
        &self,
        _connection: &ProviderConnection,
        _credential: &Credential,
    ) -> Result<(), Unmet> {
        Ok(())
    }

    async fn check(&self, target: &Target) -> Findings {
        let checks = match target.module.as_str() {
            "panics" => panic!("a defect"),
            "hangs" => std::future::pending().await,
            "malformed" => {
                vec![spec("No Key At All").fail(Reason::ProviderUnavailable, &target.links, vec![])]
            }
            "leaks" => vec![spec("acme.answers").pass(
                "Fine.",
                vec![Evidence::new(EvidenceKind::Found, SIMULATED_SECRET)],
            )],
            _ => Vec::new(),
        };
        Findings {
            checks,
            healthy: false,
            inventory: None,
            disposition: Disposition::Finished,
        }
    }
}

/// Runs one check of the module and returns the run.
async fn run(world: &World, module: &str) -> verifyd::domain::OperationRun {
    let mut engine = world.engine().await;
    let microsoft = Arc::clone(world.services.providers.get("microsoft").unwrap());
    engine.providers = Providers::new([microsoft, Arc::new(Acme) as Arc<dyn Provider>]);
    engine.settings.run_deadline = Duration::from_secs(2);
    let connection = world
        .connection(1, &Scenario::Healthy.tenant_id(1), module)
        .await;
    world
        .sql(&format!(
            "UPDATE provider_connections SET provider = 'acme', cloud = 'acme' WHERE id = {connection}"
        ))
        .await;
    let id = world.record(connection, |_| {}).await;
    assert_eq!(
        engine.process(&Hint::new(id)).await,
        Processed::Completed(Outcome::Failed),
        "{module}"
    );
    let run = world.run(id).await;
    crate::assert_sound(&run, module);
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_provider_does_the_run_ends_with_its_reason() {
    let world = World::new().await;
    for (module, reason) in [
        ("panics", Reason::InternalError),
        ("hangs", Reason::DeadlineExceeded),
        ("malformed", Reason::ReportInvalid),
        ("leaks", Reason::ReportInvalid),
        ("says_nothing", Reason::InternalError),
    ] {
        let run = run(&world, module).await;
        assert_eq!(reasons(&run, &["fail"])[0], reason.code(), "{module}");
        assert!(!run.context.to_string().contains(SIMULATED_SECRET));
    }
    // What the provider said is kept as far as it is known to be valid.
    let run = run(&world, "malformed").await;
    assert_eq!(
        check(&run, "report.original_reason")["reason_code"],
        "provider_unavailable"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_for_another_provider_than_the_connection_s_is_blocked() {
    let world = World::new().await;
    let mut engine = world.engine().await;
    let microsoft = Arc::clone(world.services.providers.get("microsoft").unwrap());
    engine.providers = Providers::new([microsoft, Arc::new(Acme) as Arc<dyn Provider>]);
    let connection = world
        .connection(1, &Scenario::Healthy.tenant_id(1), "health_check")
        .await;
    let id = world
        .record(connection, |new| new.context["provider"] = "acme".into())
        .await;
    engine.process(&Hint::new(id)).await;
    let run = world.run(id).await;
    crate::assert_sound(&run, "mismatch");
    assert_eq!(run.status, RunStatus::Completed);
    assert_eq!(run.context["reason_code"], "provider_mismatch");
}
