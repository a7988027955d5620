//! A second provider, as a folder of its own would bring it, that misbehaves in every way that a
//! provider can: its runs end all the same.

use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use test_support::world::{ParsedRun, World, check, reasons};
use tokio_util::sync::CancellationToken;
use verifyd::app::Services;
use verifyd::domain::connection::ProviderConnection;
use verifyd::domain::connection_facts::ConnectionFacts;
use verifyd::domain::credential::Credential;
use verifyd::domain::hint::Hint;
use verifyd::domain::link::LinkBases;
use verifyd::domain::permission::RequiredPermission;
use verifyd::domain::reason::Reason;
use verifyd::domain::report::{Evidence, EvidenceKind, Severity};
use verifyd::domain::{ConnectionId, Outcome, RunId, RunStatus};
use verifyd::engine::pipeline::Processed;
use verifyd::ports::provider::{
    CheckSpec, Disposition, Findings, Provider, Providers, Target, Unmet,
};
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

#[derive(Debug)]
struct Acme;

fn spec(key: &str) -> CheckSpec {
    CheckSpec::new(key, "Acme answers", true, Severity::High)
}

#[async_trait]
impl Provider for Acme {
    fn key(&self) -> &'static str {
        "acme"
    }

    fn modules(&self) -> Vec<&str> {
        vec![
            "panics",
            "panics_before",
            "hangs",
            "malformed",
            "leaks",
            "says_nothing",
        ]
    }

    fn required_permissions(&self, _module: &str) -> &[RequiredPermission] {
        &[]
    }

    fn planned_checks(&self, _module: &str) -> Vec<CheckSpec> {
        vec![spec("acme.answers")]
    }

    fn link_bases(&self, _cloud: Option<&str>) -> Option<LinkBases> {
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
        connection: &ProviderConnection,
        _credential: &Credential,
    ) -> Result<(), Unmet> {
        let module = connection.module.as_deref();
        assert_ne!(module, Some("panics_before"), "a defect");
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
            facts: ConnectionFacts::default(),
        }
    }
}

fn with_acme(services: &mut Services) {
    let microsoft = Arc::clone(services.providers.get("microsoft").unwrap());
    services.providers = Providers::new([microsoft, Arc::new(Acme) as Arc<dyn Provider>]);
}

/// A connection of this tenant to the second provider.
async fn of_acme(world: &World, tenant: i64, module: &str) -> ConnectionId {
    let directory = Scenario::Healthy.tenant_id(2);
    let id = world.connection(tenant, &directory, module).await;
    world.set(id, "provider = 'acme', cloud = 'acme'").await;
    id
}

/// Runs one check of the module and returns the run.
async fn run(world: &World, module: &str) -> ParsedRun {
    let worker = world
        .worker_with(|services| {
            with_acme(services);
            services.settings.worker.run_deadline = Duration::from_secs(50);
        })
        .await;
    let connection = of_acme(world, 1, module).await;
    let id = world.record(connection, |_| {}).await;
    assert_eq!(
        worker.pipeline.process(&Hint::new(id)).await,
        Processed::Completed(Outcome::Failed),
        "{module}"
    );
    let run = world.run(id).await;
    crate::checks::assert_sound(&run, module);
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
    let worker = world.worker_with(with_acme).await;
    let connection = world.healthy(1).await;
    let id = world
        .record(connection, |new| new.context["provider"] = "acme".into())
        .await;
    worker.pipeline.process(&Hint::new(id)).await;
    let run = world.run(id).await;
    crate::checks::assert_sound(&run, "mismatch");
    assert_eq!(run.status, RunStatus::Completed);
    assert_eq!(run.context["reason_code"], "provider_mismatch");
}

/// Through the whole worker, among the runs of others.
#[tokio::test(flavor = "multi_thread")]
async fn panics_in_the_middle_of_much_work_stop_nothing() {
    let world = World::new().await;
    let healthy = world.healthy(1).await;
    let mut defective = Vec::new();
    for (tenant, module) in [(2, "panics"), (3, "panics_before")] {
        defective.push(of_acme(&world, tenant, module).await);
    }
    let mut runs = Vec::new();
    // More than the worker has places: a panic must not keep one.
    for _ in 0..30 {
        runs.push((world.record(healthy, |_| {}).await, true));
        for id in &defective {
            runs.push((world.record(*id, |_| {}).await, false));
        }
    }
    let worker = world
        .worker_with(|services| {
            with_acme(services);
            services.settings.worker.concurrency = 4;
        })
        .await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    let ids: Vec<RunId> = runs.iter().map(|(id, _)| *id).collect();
    world.services.queue.send_runs(&ids).await.unwrap();
    for (id, healthy) in runs {
        let run = world.completed(id).await;
        crate::checks::assert_sound(&run, "a run among panics");
        if healthy {
            assert_eq!(run.outcome, Some(Outcome::Succeeded));
        } else {
            assert_eq!(run.outcome, Some(Outcome::Failed));
            assert_eq!(reasons(&run, &["fail"]), [Reason::InternalError.code()]);
        }
        let attempts = world.services.store.attempts(id).await.unwrap();
        assert_eq!(attempts.len(), 1, "{attempts:?}");
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}
