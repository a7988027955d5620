//! Every scenario of the simulator ends as it says, and together they produce every reason of the provider.

use crate::checks::assert_sound;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::world::{ParsedRun, World, impatient, reasons};
use verifyd::app::Services;
use verifyd::domain::hint::Hint;
use verifyd::domain::reason::{Reason, Stage};
use verifyd::engine::pipeline::Processed;
use verifyd::ports::store::AttemptEnd;
use verifyd_simulator::Scenario;

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
    run: &ParsedRun,
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
