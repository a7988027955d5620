//! Runs of another application's table that belong to nobody.

use test_support::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_workspace_names_the_column() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute(&format!(
            "ALTER TABLE operation_runs ALTER workspace_id DROP NOT NULL;
             INSERT INTO operation_runs (tenant_id, type, status, context, created_at)
             SELECT c.tenant_id, 'provider.connection.check', 'queued', jsonb_build_object('provider', c.provider,
                 'module', c.module, 'provider_connection_id', c.id,
                 'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id)), now()
             FROM provider_connections c WHERE c.id = {connection}"
        ))
        .await;
    let _daemon = bench.serve(&[]);
    bench.all_completed().await;
    let named = bench
        .count(
            "operation_runs WHERE context ->> 'reason_code' = 'connection_workspace_mismatch'
                 AND context @? '$.verification_report.checks[*].evidence[*] ? (@.kind == \"field\" && @.value == \"workspace_id\")'",
        )
        .await;
    assert_eq!(named, 1);
}
