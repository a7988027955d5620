//! `running` → `completed`, in one transaction with all results, for one run or many.
//!
//! A single statement with `EXISTS (SELECT … WHERE token = …)` is not enough: under READ COMMITTED a
//! statement that waited tests the locked row again, but its subquery keeps the snapshot from before the
//! wait. So no statement that completes waits: a batch skips locked runs, and for a single run a separate
//! statement takes the lock first. The statement that ends the attempt tests the token on the attempt's row.

use super::batching::status;
use super::{PostgresStore, commit_or_roll_back, run_type};
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::batching::{BatchResult, BatchedCall, Batcher};
use crate::store::bounds::{connection_of_context, is_listable, is_too_deep, member};
use crate::store::claims::lock_running;
use crate::store::completion::{
    CompleteByItself, Completed, CompletionRequest, Done, conclude, own_members, rounds,
};
use crate::store::dialect::{a_second_after, each, is_about, moment, now};
use crate::store::repeated_ids::{has_own_id, is_of_type};
use crate::store::reused_ids::{is_before_creation, is_of_its_run_and_connection};
use crate::store::shares::{CallKind, CallTry, Length, Permit, RunCall};
use crate::store::sql::sql;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};
use std::collections::HashMap;

/// Whether the producer left this member out, where the check knows it: `null` and texts of ASCII white space count as left
/// out.
macro_rules! is_left_out {
    ($member:literal) => {
        concat!(
            "d.defaults -> '",
            $member,
            "' IS NOT NULL AND r.context @? 'strict $.",
            $member,
            " ? (@ == null || @ like_regex \"^[ \\t\\n\\r\\f\\v]*$\")'"
        )
    };
}

/// What verifyd reads of a context that is not copied, unless nothing is to stay: see `NOTHING_KEPT`. Not of one that
/// no claim reads. Members of null are left out, but not of `target_scope`. Not by `jsonb_object_agg`: in
/// PostgreSQL 18 its time grows with the square of the number of an object's members, and it cannot be cancelled.
macro_rules! members_read {
    () => {
        sql!(
            "CASE WHEN d.kept = -1 OR pg_column_size(r.context) > 16777216 THEN '{}'
                  WHEN pg_column_size(r.context #> '{}') > 16777216 THEN '{}'
                  WHEN " is_too_deep!("r.context") " THEN '{}'
                  ELSE (SELECT m.members - ARRAY(
                          SELECT name FROM unnest('{provider,module,provider_connection_id,target_scope}'::text[]) AS name
                          WHERE jsonb_typeof(m.members -> name) = 'null')
                      FROM (SELECT jsonb_build_object(
                          'provider', CASE WHEN " is_left_out!("provider") " THEN NULL ELSE r.context -> 'provider' END,
                          'module', CASE WHEN " is_left_out!("module") " THEN NULL ELSE r.context -> 'module' END,
                          'provider_connection_id', r.context -> 'provider_connection_id',
                          'target_scope', r.context -> 'target_scope') OFFSET 0) AS m (members)) END"
        )
    };
}

/// The new context of the run. The producer's members stay: those that verifyd does not write as they are,
/// and a context that is no object as the member `producer_context`. A context that is too large is replaced. Of
/// verifyd's own members none stays but what this completion writes.
///
/// The keys stand beside each join: of a table whose statistics are of a time when it was empty, the planner takes a
/// join for cheap that reads all of it.
///
/// A trigger of the application may keep the row, or put back what it was: whether the row has its result is known from
/// what is returned of each attempt that was ended.
///
/// One statement is enough, though others may have committed between its snapshot and its locks: a run that
/// it locks is running in its newest version, and the statement that ends the attempt tests the token on the
/// newest version of the attempt's row.
const COMPLETE: &str = sql!(
    "WITH locked AS MATERIALIZED (
        SELECT r.id FROM operation_runs r
        WHERE r.id = ANY($1) AND " is_of_type!(postgres "r") " AND " status!()
    " = 'running' AND " has_own_id!(postgres "r") " ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED
    ), ended AS (
        UPDATE verifyd.run_attempts a
        SET ended_at = clock_timestamp(), end_reason = 'completed'
        FROM unnest($1::bigint[], $2::int[], $3::uuid[]) AS d (id, attempt, token)
            JOIN locked l USING (id)
        WHERE a.run_id = ANY($1) AND a.run_id = d.id AND a.attempt = d.attempt AND a.token = d.token
              AND a.ended_at IS NULL
        RETURNING a.run_id
    ), forgotten AS (
        DELETE FROM verifyd.run_deliveries d USING ended e
        WHERE d.run_id = ANY($1) AND d.run_id = e.run_id
    ), written AS (
    UPDATE operation_runs r
    SET status = 'completed', outcome = d.outcome, completed_at = now(), failure_summary = d.failures,
        context = (d.defaults - 'target_scope') || CASE WHEN pg_column_size(r.context) > d.kept
            THEN '{\"producer_context_dropped\": true}'::jsonb || " members_read!()
    " ELSE CASE coalesce(jsonb_typeof(r.context), 'none')
                WHEN 'object' THEN r.context - ARRAY[" own_members!(postgres) ",
                        CASE WHEN " is_left_out!("provider") " THEN 'provider' END,
                        CASE WHEN " is_left_out!("module") " THEN 'module' END] ||
                    CASE WHEN jsonb_typeof(r.context -> 'target_scope') = 'object'
                              AND jsonb_typeof(d.defaults -> 'target_scope') = 'object'
                         THEN jsonb_build_object('target_scope',
                             (d.defaults -> 'target_scope') || (r.context -> 'target_scope'))
                         ELSE '{}' END
                WHEN 'none' THEN '{}'
                ELSE jsonb_build_object('producer_context', r.context) END
            END || d.patch
    FROM unnest($1::bigint[], $4::text[], $5::jsonb[], $6::jsonb[], $7::jsonb[], $8::bigint[])
            AS d (id, outcome, patch, failures, defaults, kept)
        JOIN ended e ON e.run_id = d.id
    WHERE r.id = d.id AND " is_of_type!(postgres "r") " AND " status!() " = 'running'
     RETURNING r.id, EXISTS (SELECT FROM verifyd.webhook_endpoints e
                             WHERE e.workspace_id = r.workspace_id AND e.enabled) AS has_webhooks,
        r.status = 'completed' AND r.outcome = d.outcome
            AND r.context -> 'verification_report' = d.patch -> 'verification_report' AS is_whole
    )
    SELECT e.run_id, now(), coalesce(w.has_webhooks, false), coalesce(w.is_whole, false)
    FROM ended e LEFT JOIN written w ON w.id = e.run_id"
);

/// Writes in the order of the connections, in which every writer locks them. Never moves back to a run that
/// was completed earlier. The row, as it is when it is locked, says which report to compare with and whether
/// acknowledgements may have to be ended, whatever other runs of this connection are completed meanwhile. No
/// row: a run that was completed later came first.
const LATEST_REPORTS: &str = "
    INSERT INTO verifyd.latest_reports AS l
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at, changed)
    SELECT d.*, now(), true
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])
        AS d (connection_id, operation_run_id, fingerprint, overall, outcome)
    ORDER BY d.connection_id
    ON CONFLICT (connection_id) DO UPDATE
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint,
        overall = excluded.overall, outcome = excluded.outcome,
        completed_at = excluded.completed_at, changed = l.fingerprint <> excluded.fingerprint
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id)
    RETURNING l.operation_run_id, l.changed, l.acknowledged";

impl BatchedCall<PostgresStore> for CompletionRequest {
    type Answer = bool;
    const NAME: &'static str = "complete";

    fn key(&self) -> i64 {
        self.run.0
    }

    fn batcher(store: &PostgresStore) -> &Batcher<Self, Self::Answer> {
        &store.in_process.completing
    }

    fn goes_by_itself(&self, store: &PostgresStore) -> bool {
        let share = &store.completions;
        share.sends_by_itself(self.run)
            || share.tenant_waits(CallKind::Completion, self.event.tenant_id)
    }

    async fn permit(store: &PostgresStore) -> Result<Option<Permit>, StoreError> {
        store.completions.permit(Length::Short).await.map(Some)
    }

    /// A run that was not completed has another token, or is locked: its own call finds out.
    async fn run(
        store: &PostgresStore,
        mut connection: PoolConnection<Postgres>,
        calls: Vec<Self>,
    ) -> BatchResult<PostgresStore, Self> {
        let mut tx = store.begin_batch(&mut connection).await?;
        let completed = store.complete_runs(&mut tx, &calls).await;
        let completed = completed.and_then(Completed::unaltered);
        let completed = commit_or_roll_back(tx, completed.map(End::Commit)).await?;
        let answers = calls
            .iter()
            .map(|c| completed.contains(c.run).then_some(true));
        let answers = answers.collect();
        completed.publish(&store.in_process);
        Ok((answers, Some(connection)))
    }
}

#[async_trait]
impl CompleteByItself for PostgresStore {
    async fn complete_by_itself(&self, request: &CompletionRequest) -> Result<bool, StoreError> {
        let complete = |sent| self.complete_in_transaction(request, sent);
        let is_completed = |completed: &Completed| completed.contains(request.run);
        let call = RunCall {
            kind: CallKind::Completion,
            run: request.run,
            tenant: request.event.tenant_id,
            is_large: request.is_large,
        };
        let completed = self.completions.send(call, is_completed, complete).await?;
        let is_completed = is_completed(&completed);
        completed.publish(&self.in_process);
        Ok(is_completed)
    }
}

/// Deletes rows that earlier runs or connections left, of connections whose report was not compared. `$1`:
/// connections, `$2`: the runs that are completed now, `$3`: the start of their processing; rows written later
/// are not left over. Locks them in the order of [`LATEST_REPORTS`].
const FORGET_LATEST_REPORTS: &str = sql!(
    "WITH locked AS MATERIALIZED (
        SELECT connection_id FROM verifyd.latest_reports
        WHERE connection_id = ANY($1) ORDER BY connection_id FOR UPDATE
     )
     DELETE FROM verifyd.latest_reports l
     USING locked, unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS d (connection, run, since),
           operation_runs r
     WHERE l.connection_id = ANY($1) AND l.connection_id = locked.connection_id
       AND l.connection_id = d.connection AND r.id = d.run AND l.completed_at < d.since AND NOT ("
    "l.operation_run_id <> r.id AND "
    is_of_its_run_and_connection!(postgres "r.workspace_id", "r.tenant_id")
    " AND NOT EXISTS (SELECT FROM provider_connections c WHERE c.id = l.connection_id AND "
    is_before_creation!(postgres "l.completed_at") "))"
);

impl PostgresStore {
    /// Waits for the lock of the run, and completes it.
    async fn complete_in_transaction(
        &self,
        request: &CompletionRequest,
        sent: CallTry,
    ) -> Result<Completed, StoreError> {
        self.transaction(async |tx| {
            sent.limit_statements(&mut self.shared(&mut *tx)).await?;
            let is_running = lock_running(&mut self.shared(&mut *tx), request.run).await?;
            if !is_running {
                return Ok(Completed::default());
            }
            sent.record_lock();
            let completed = self.complete_runs(tx, std::slice::from_ref(request));
            completed.await?.unaltered()
        })
        .await
    }

    /// See [`FORGET_LATEST_REPORTS`]. Nothing to do for a check that has found a previous report.
    pub(super) async fn forget_latest_reports(
        &self,
        tx: &mut PgConnection,
        reports: &[(i64, &CompletionRequest)],
    ) -> Result<(), StoreError> {
        let first = || reports.iter().filter(|(_, call)| !call.has_previous);
        if first().next().is_some() {
            self.sql(FORGET_LATEST_REPORTS)
                .bind(
                    first()
                        .map(|(connection, _)| *connection)
                        .collect::<Vec<i64>>(),
                )
                .bind(first().map(|(_, call)| call.run.0).collect::<Vec<i64>>())
                .bind(first().map(|(_, call)| call.claimed_at).collect::<Vec<_>>())
                .execute(tx)
                .await?;
        }
        Ok(())
    }

    /// Completes the runs whose token is the current one and that are not locked. What a trigger has altered is for the
    /// caller to refuse.
    pub(super) async fn complete_runs(
        &self,
        tx: &mut PgConnection,
        calls: &[CompletionRequest],
    ) -> Result<Completed, StoreError> {
        macro_rules! column {
            ($call:ident => $value:expr) => {
                calls.iter().map(|$call| $value).collect::<Vec<_>>()
            };
        }
        let rows: Vec<(i64, DateTime<Utc>, bool, bool)> = self
            .rows(COMPLETE)
            .bind(column!(c => c.run.0))
            .bind(column!(c => c.attempt))
            .bind(column!(c => c.token))
            .bind(column!(c => c.outcome))
            .bind(column!(c => &c.patch))
            .bind(column!(c => &c.failures))
            .bind(column!(c => &c.defaults))
            .bind(column!(c => c.kept))
            .fetch_all(&mut *tx)
            .await?;
        let is_altered = rows.iter().any(|(.., is_whole)| !is_whole);
        let mut calls: HashMap<i64, &CompletionRequest> =
            calls.iter().map(|call| (call.run.0, call)).collect();
        let mut done: Vec<Done<'_>> = rows
            .into_iter()
            .filter(|(.., is_whole)| *is_whole)
            .filter_map(|(run, at, has_webhooks, _)| Some((calls.remove(&run)?, at, has_webhooks)))
            .collect();
        done.sort_unstable_by_key(|(call, ..)| call.run);
        // The first round locks the rows of all tenants or connections, in their order.
        let inventories = done.iter().filter_map(|(call, ..)| call.inventory.as_ref());
        for round in rounds(inventories, |row| row.tenant) {
            self.refresh_inventories(tx, &round).await?;
        }
        let reports = done
            .iter()
            .filter_map(|(call, ..)| Some((call.connection?.0, *call)));
        let mut written = Vec::new();
        for round in rounds(reports, |(connection, _)| *connection) {
            written.extend(self.write_latest_reports(tx, &round).await?);
        }
        let completed = conclude(&mut self.shared(&mut *tx), done, written).await?;
        Ok(Completed {
            is_altered,
            ..completed
        })
    }

    /// Writes at most one report for each connection. Returns what [`conclude`] needs of the rows.
    async fn write_latest_reports(
        &self,
        tx: &mut PgConnection,
        reports: &[(i64, &CompletionRequest)],
    ) -> Result<Vec<(i64, bool, bool)>, StoreError> {
        macro_rules! column {
            ($report:pat => $value:expr) => {
                reports.iter().map(|$report| $value).collect::<Vec<_>>()
            };
        }
        self.forget_latest_reports(tx, reports).await?;
        Ok(self
            .rows(LATEST_REPORTS)
            .bind(column!((connection, _) => *connection))
            .bind(column!((_, call) => call.run.0))
            .bind(column!((_, call) => call.event.fingerprint.as_str()))
            .bind(column!((_, call) => call.event.overall.as_str()))
            .bind(column!((_, call) => call.outcome))
            .fetch_all(tx)
            .await?)
    }
}
