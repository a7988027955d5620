//! Microsoft throttles an application across its tenants, and replicas share what is left, on the real binary.

use std::io::Write as _;
use test_support::bench::Bench;
use verifyd_simulator::{Endpoint, Scenario, SimulatorOptions, ThrottleLimits};

const TENANTS: u32 = 25;

/// Of each tenant.
const RUNS: i64 = 6;

/// A pause takes most of ten seconds. Where each request waits for its own `Retry-After`, each run that is left is
/// claimed and refused in each of them.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_budget_of_a_throttled_application() {
    let options = SimulatorOptions {
        throttle: ThrottleLimits::of_application(200),
        ..SimulatorOptions::default()
    };
    let bench = Bench::with(options).await;
    let connections: Vec<i64> = (1..=TENANTS)
        .map(|tenant| bench.healthy(tenant.into()))
        .collect();
    let concurrency = [("VERIFYD__WORKER__CONCURRENCY", "4")];
    let replicas = [bench.serve(&concurrency), bench.serve(&concurrency)];
    bench.record(&connections, RUNS).await;
    bench.all_completed().await;

    let all = i64::from(TENANTS) * RUNS;
    let succeeded = "operation_runs WHERE outcome = 'succeeded'";
    assert_eq!(bench.count(succeeded).await, all);
    let throttled = bench.simulator.throttled();
    let requests: u64 = (1..=TENANTS)
        .map(|tenant| {
            let calls = bench.simulator.calls(&Scenario::Healthy.tenant_id(tenant));
            calls.total - calls.of(Endpoint::Token)
        })
        .sum();
    let answered = requests - throttled;
    let _ = writeln!(
        std::io::stderr(),
        "measured: {answered} requests were answered, {throttled} refused"
    );
    assert!(
        throttled > 0 && 8 * throttled < answered,
        "{answered} requests were answered, {throttled} refused"
    );

    // One budget for both.
    assert_eq!(bench.count("verifyd.provider_budgets").await, 1);
    let mut limits = 0;
    for replica in &replicas {
        let rate = replica
            .metric("verifyd_provider_budget_requests_per_second")
            .await;
        limits += u32::from(rate > 0.0);
    }
    assert!(limits > 0);
    let found = bench.examined("throttling");
    assert_eq!(found["state"], "warning", "{found}");
    let said = found["found"].as_str().unwrap();
    assert!(
        said.contains("5c000000-0000-4000-8000-c00000000001 in simulated"),
        "{said}"
    );
}
