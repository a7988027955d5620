//! What a hostile provider sends does not stay in memory.

use sqlx::Executor as _;
use test_support::bench::{Bench, Daemon};
use verifyd_simulator::Scenario;

/// Runs of each connection. Together more than are worked on at the same time.
const RUNS: usize = 25;
/// Most that the process may grow: 64 runs at a time, an answer of 1 MiB of each at most, and as
/// much again for what the allocator keeps. One answer of 64 MiB per run would be 4 GiB.
const GROWTH_KIB: u64 = 128 * 1024;

const HOSTILE: [Scenario; 5] = [
    Scenario::ResponseTooLarge,
    Scenario::ResponseTooLargeSignIn,
    Scenario::ResponseTooLargePages,
    Scenario::PagingLoop,
    Scenario::ResponseInvalidDeep,
];

/// The most memory that the process has ever had.
fn peak_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn record(bench: &Bench, connections: &str) {
    let insert = format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
         SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
                jsonb_build_object('provider', 'microsoft', 'module', c.module,
                    'provider_connection_id', c.id,
                    'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id)),
                now()
         FROM provider_connections c, generate_series(1, {RUNS})
         WHERE c.tenant_id {connections} ORDER BY random()"
    );
    let mut sql = bench.sql().await;
    sql.execute(sqlx::AssertSqlSafe(insert)).await.unwrap();
    bench.all_completed().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_leave_the_memory_flat() {
    let bench = Bench::new().await;
    for tenant in 1..=4 {
        let number = u32::try_from(tenant).unwrap();
        bench.connection(tenant, &Scenario::Healthy.tenant_id(number), "health_check");
    }
    for (number, scenario) in HOSTILE.iter().enumerate() {
        let tenant = 100 + i64::try_from(number).unwrap();
        bench.connection(tenant, &scenario.tenant_id(1), "health_check");
    }
    let daemon = bench.serve(&[]);
    record(&bench, "< 100").await;
    let before = peak_kib(&daemon);
    record(&bench, ">= 100").await;
    let after = peak_kib(&daemon);
    assert!(after - before < GROWTH_KIB, "{before} KiB to {after} KiB");
    let failed = bench
        .numbers("SELECT count(*) FROM operation_runs WHERE outcome = 'failed'")
        .await;
    assert_eq!(failed, [i64::try_from(RUNS * HOSTILE.len()).unwrap()]);
}
