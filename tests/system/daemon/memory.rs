//! What a hostile provider sends does not stay in memory.

use test_support::bench::Bench;
use test_support::memory::peak_kib;
use verifyd_simulator::Scenario;

/// Runs of each connection. Together more than are worked on at the same time.
const RUNS: i64 = 25;
/// Most that the process may grow: 64 runs at a time, an answer of 1 MiB of each at most, and four times as much for
/// what the allocator keeps on any machine. Whole answers of 64 MiB would take 4 GiB.
const GROWTH_KIB: u64 = 320 * 1024;

const HOSTILE: [Scenario; 5] = [
    Scenario::ResponseTooLarge,
    Scenario::ResponseTooLargeSignIn,
    Scenario::ResponseTooLargePages,
    Scenario::PagingLoop,
    Scenario::ResponseInvalidDeep,
];

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_leave_the_memory_flat() {
    let bench = Bench::new().await;
    let healthy = [1, 2, 3, 4].map(|tenant| bench.healthy(tenant));
    let hostile = HOSTILE.map(|scenario| {
        let tenant = 100 + i64::from(scenario.number());
        bench.connection(tenant, &scenario.tenant_id(1), "health_check")
    });
    let daemon = bench.serve(&[]);
    bench.record(&healthy, RUNS).await;
    bench.all_completed().await;
    let peak = || peak_kib(daemon.pid()).unwrap();
    let before = peak();
    bench.record(&hostile, RUNS).await;
    bench.all_completed().await;
    let after = peak();
    let growth = after.saturating_sub(before);
    assert!(growth < GROWTH_KIB, "{before} KiB to {after} KiB");
    let failed = bench.count("operation_runs WHERE outcome = 'failed'").await;
    assert_eq!(failed, RUNS * i64::try_from(HOSTILE.len()).unwrap());
}
