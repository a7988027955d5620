//! Whole reports as they are stored, with times, ids and addresses masked.

use serde_json::Value;
use test_support::world::World;
use verifyd::domain::RunId;
use verifyd::domain::hint::Hint;
use verifyd_simulator::Scenario;

/// Masks what differs from run to run.
fn masked(mut report: Value) -> Value {
    report["generated_at"] = "[time]".into();
    for check in report["checks"].as_array_mut().unwrap() {
        let mut ends = None;
        for evidence in check["evidence"].as_array_mut().unwrap() {
            let kind = evidence["kind"].as_str().unwrap();
            // The simulator's secrets end so many days from today.
            if kind == "ends_at" {
                ends = Some(evidence["value"].as_str().unwrap()[..10].to_owned());
                evidence["value"] = "[date]".into();
                continue;
            }
            if ["request_id", "correlation_id", "trace_id"].contains(&kind) {
                evidence["value"] = "[id]".into();
            }
        }
        if let Some(ends) = ends {
            let message = check["message"].as_str().unwrap();
            check["message"] = message.replace(&ends, "[date]").into();
        }
    }
    report
}

async fn report(world: &World, id: RunId) -> Value {
    let worker = world.worker().await;
    worker.pipeline.process(&Hint::new(id)).await;
    masked(world.run(id).await.report().unwrap().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_each_kind() {
    let world = World::new().await;
    for scenario in [
        Scenario::HealthyIntune,
        Scenario::PermissionMissing,
        Scenario::SecretExpired,
        Scenario::IntuneNotLicensed,
    ] {
        let connection = world
            .connection(
                i64::from(scenario.number()),
                &scenario.tenant_id(1),
                scenario.expectation().module,
            )
            .await;
        let id = world.record(connection, |_| {}).await;
        insta::assert_json_snapshot!(scenario.name(), report(&world, id).await);
    }
    let connection = world
        .connection_with(1, &Scenario::Healthy.tenant_id(1), "health_check", None)
        .await;
    let id = world.record(connection, |_| {}).await;
    insta::assert_json_snapshot!("blocked", report(&world, id).await);
}
