//! What PostgreSQL reads for a page of one connection, among many runs of few connections.

use crate::store::bed::Bed;
use test_support::waiting::until;
use verifyd::domain::ConnectionId;
use verifyd::ports::acknowledgements::AcknowledgementFilter;
use verifyd::ports::store::{RunFilter, Store};

/// Runs of five connections in turn, with contexts that are too wide for statistics. The newest are acknowledged.
const ROWS: &str = "
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, context, completed_at)
    SELECT 1, 7, 'provider.connection.check', 'completed', 'failed', jsonb_build_object(
        'provider_connection_id', 1 + n % 5,
        'noise', (SELECT string_agg(md5(n || ' ' || i), '') FROM generate_series(1, 48) i)), now()
    FROM generate_series(1, 10000) n;
    INSERT INTO verification_check_acknowledgements (operation_run_id, check_key, reason, acknowledged_by)
    SELECT id, 'provider.authentication', 'known', 'ann' FROM operation_runs ORDER BY id DESC LIMIT 1000;
    ANALYZE operation_runs, verification_check_acknowledgements";

/// Entries read from the index that leads to the runs of a connection.
const READ: &str = "SELECT idx_tup_read FROM pg_stat_user_indexes
    WHERE indexrelname = 'operation_runs_check_connection'";

/// Rows of a page. Each connection has 2,000 runs and 200 acknowledgements.
const PAGE: u32 = 50;

const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'counted'";

/// Returns by how much a counter of PostgreSQL grows with calls to a store of their own.
pub async fn counted(bed: &Bed, counter: &str, calls: impl AsyncFnOnce(&dyn Store)) -> i64 {
    let before = bed.number(counter).await;
    let name = Some("application_name=counted");
    let store = bed.connect_as(|url| url.set_query(name)).await;
    calls(store.as_ref()).await;
    store.close().await;
    // A session that has ended has counted everything.
    until("the sessions have ended", async || {
        bed.number(SESSIONS).await == 0
    })
    .await;
    bed.number(counter).await - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_connection_reads_no_other_of_its_runs() {
    let bed = Bed::postgres().await;
    bed.exec(ROWS).await;
    let connection = Some(ConnectionId(1));
    let read = counted(&bed, READ, async |store| {
        let filter = RunFilter {
            connection,
            limit: PAGE,
            ..RunFilter::default()
        };
        assert_eq!(store.runs(&filter).await.unwrap().len(), PAGE as usize);
    });
    let read = read.await;
    assert!(read <= 2 * i64::from(PAGE), "read {read} runs");
    let read = counted(&bed, READ, async |store| {
        let filter = AcknowledgementFilter {
            connection,
            limit: PAGE,
            ..AcknowledgementFilter::default()
        };
        let found = store.acknowledgements(&filter).await.unwrap();
        assert_eq!(found.len(), PAGE as usize);
    });
    let read = read.await;
    assert!(read <= 2 * i64::from(PAGE), "read {read} runs");
}
