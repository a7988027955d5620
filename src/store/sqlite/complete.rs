//! `running` → `completed`, in one transaction with all results, for one run or many.

use super::{SqliteStore, Tx, json_list, now, run_type};
use crate::domain::{ConnectionId, RunId};
use crate::ports::store_error::StoreError;
use crate::store::batching::{BatchResult, BatchedCall, Batcher};
use crate::store::bounds::{connection_of_context, is_listable, member};
use crate::store::completion::{
    CompleteByItself, Completed, CompletionRequest, conclude, own_members, rounds,
};
use crate::store::dialect::{a_second_after, each, is_about, moment};
use crate::store::reused_ids::{is_before_creation, is_of_its_run_and_connection};
use crate::store::sql::sql;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::SqliteConnection;

/// `$1`: run, attempt, token.
const END_ATTEMPTS: &str = sql!(
    "UPDATE verifyd_run_attempts SET ended_at = " now!() ", end_reason = 'completed'
     FROM (SELECT value ->> 0 AS run, value ->> 1 AS number, value ->> 2 AS key
           FROM json_each($1)) AS d
     WHERE run_id = d.run AND attempt = d.number AND token = d.key AND ended_at IS NULL
       AND EXISTS (SELECT 1 FROM operation_runs r WHERE r.id = d.run AND r.type = " run_type!()
    " AND r.status = 'running') RETURNING run_id"
);

/// What verifyd reads of the context, with a member that says so.
macro_rules! members_read {
    () => {
        "(SELECT json_insert(json_group_object(m.name, context -> m.name),
                 '$.producer_context_dropped', json('true'))
          FROM (SELECT DISTINCT key AS name FROM json_each(context)
                WHERE key IN ('provider', 'module', 'provider_connection_id', 'target_scope')
                  AND type <> 'null') m)"
    };
}

/// Whether this object has none of the members that only completions write. All functions with paths take the same
/// names for one of them, also one that goes on behind a `\u0000`.
macro_rules! has_no_own_member {
    ($json:literal) => {
        concat!(
            "coalesce(json_type(",
            $json,
            ", '$.verification_report'), json_type(",
            $json,
            ", '$.reason_code'), json_type(",
            $json,
            ", '$.next_steps')) IS NULL"
        )
    };
}

macro_rules! four_times {
    ($($list:tt)+) => {
        concat!($($list)+, ", ", $($list)+, ", ", $($list)+, ", ", $($list)+)
    };
}

/// The context of the run that stays: members that verifyd does not write as they are, and a context that is
/// no object as the member `producer_context`. `-1`: see `NOTHING_KEPT`. Not with `json_patch`, which compares each
/// member of an object with all that it has written of it.
///
/// For each path `json_remove` takes the first of several members away. Only a context that repeats them costs more,
/// and of one that gives a member more than 17 times stays what verifyd reads.
macro_rules! kept {
    () => {
        $crate::store::sql::sql!(
            "CASE WHEN octet_length(context) > d.kept THEN
                  CASE WHEN d.kept = -1 OR octet_length(context) > 16777216
                      OR NOT json_valid(context) THEN '{\"producer_context_dropped\":true}'
                  ELSE " members_read!() " END
              WHEN json_type(context) = 'object' THEN (
                  SELECT CASE WHEN " has_no_own_member!("once.own") " THEN once.own ELSE (
                      SELECT CASE WHEN " has_no_own_member!("often.own") " THEN often.own
                             ELSE " members_read!() " END
                      FROM (SELECT json_remove(once.own, " four_times!(four_times!(own_members!(sqlite)))
            ") AS own) often) END
                  FROM (SELECT json_remove(context, " own_members!(sqlite) ") AS own) once)
              ELSE json_object('producer_context', json(context)) END"
        )
    };
}

/// This path where the producer left the member out: `null` and texts of ASCII white space count as left out. Else the
/// path of what the completion writes in any case.
macro_rules! if_left_out {
    ($path:literal) => {
        concat!(
            "CASE WHEN json_type(k.own, '",
            $path,
            "') = 'null' OR json_type(k.own, '",
            $path,
            "') = 'text' AND trim(k.own ->> '",
            $path,
            "', ' ' || char(9, 10, 11, 12, 13)) = '' THEN '",
            $path,
            "' ELSE '$.verification_report' END"
        )
    };
}

/// The context with what was checked, where the producer left it out.
macro_rules! with_checked {
    () => {
        $crate::store::sql::sql!(
            "(SELECT CASE WHEN d.module IS NULL THEN k.own ELSE json_insert(json_remove(k.own, "
            if_left_out!("$.provider") ", " if_left_out!("$.module")
            "), '$.provider', d.provider, '$.module', d.module,
                 CASE WHEN d.tenant_name IS NOT NULL AND json_type(k.own, '$.target_scope') = 'object'
                      THEN '$.target_scope.entra_tenant_name' ELSE '$.provider' END,
                 coalesce(d.tenant_name, d.provider)) END FROM (SELECT " kept!() " AS own) k)"
        )
    };
}

/// `$1`: run, outcome, failures, members of `context` to set, members to add where they are missing, and the
/// largest size that stays.
const COMPLETE: &str = sql!(
    "UPDATE operation_runs SET status = 'completed', outcome = d.ending, completed_at = " now!()
    ", failure_summary = d.failures, context = CASE WHEN d.reason_code IS NULL
        THEN json_set(" with_checked!() ", '$.verification_report', json(d.report))
        ELSE json_set(" with_checked!()
    ", '$.verification_report', json(d.report), '$.reason_code', d.reason_code,
           '$.next_steps', json(d.next_steps)) END
     FROM (SELECT value ->> 0 AS run, value ->> 1 AS ending, value -> 2 AS failures,
                  value -> '$[3].verification_report' AS report,
                  value ->> '$[3].reason_code' AS reason_code,
                  value -> '$[3].next_steps' AS next_steps,
                  value ->> '$[4].provider' AS provider, value ->> '$[4].module' AS module,
                  value ->> '$[4].target_scope.entra_tenant_name' AS tenant_name,
                  value ->> 5 AS kept FROM json_each($1)) AS d
     WHERE id = d.run AND type = " run_type!()
    " AND status = 'running' RETURNING id, completed_at, completed_at, EXISTS (
        SELECT 1 FROM verifyd_webhook_endpoints e
        WHERE e.workspace_id = operation_runs.workspace_id AND e.enabled)"
);

const FORGET_DELIVERIES: &str = "
    DELETE FROM verifyd_run_deliveries WHERE run_id IN (SELECT value FROM json_each($1))";

/// `$1`: connection, run, fingerprint, overall, outcome; `$2`: when they were completed. Never moves
/// back to a run that was completed earlier. Says whether acknowledgements may have to be ended; no
/// row: a run that was completed later came first.
const LATEST_REPORTS: &str = "
    INSERT INTO verifyd_latest_reports AS l
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at, changed)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, $2, 1
    FROM json_each($1) WHERE true
    ON CONFLICT (connection_id) DO UPDATE
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint,
        overall = excluded.overall, outcome = excluded.outcome,
        completed_at = excluded.completed_at, changed = l.fingerprint <> excluded.fingerprint
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id)
    RETURNING operation_run_id, changed, acknowledged";

impl BatchedCall<SqliteStore> for CompletionRequest {
    /// Whether it is completed now; if not, another token is the current one.
    type Answer = bool;
    const NAME: &'static str = "complete";

    fn key(&self) -> i64 {
        self.run.0
    }

    fn batcher(store: &SqliteStore) -> &Batcher<Self, Self::Answer> {
        &store.in_process.completing
    }

    async fn run(
        store: &SqliteStore,
        mut tx: Tx,
        calls: Vec<Self>,
    ) -> BatchResult<SqliteStore, Self> {
        let completed = store.complete_runs(&mut tx, &calls).await?;
        let completed = completed.unaltered()?;
        tx.commit().await?;
        let answers = calls.iter().map(|c| Some(completed.contains(c.run)));
        let answers = answers.collect();
        completed.publish(&store.in_process);
        Ok((answers, None))
    }
}

#[async_trait]
impl CompleteByItself for SqliteStore {
    async fn complete_by_itself(&self, request: &CompletionRequest) -> Result<bool, StoreError> {
        let completed = self
            .transaction(async |tx| {
                let completed = self.complete_runs(tx, std::slice::from_ref(request));
                completed.await?.unaltered()
            })
            .await?;
        let is_completed = completed.contains(request.run);
        completed.publish(&self.in_process);
        Ok(is_completed)
    }
}

/// Deletes rows that earlier runs or connections left. `$1`: connections and the runs that are completed now.
/// Rows written later are not left over.
const FORGET_LATEST_REPORTS: &str = sql!(
    "DELETE FROM verifyd_latest_reports AS l
     WHERE connection_id IN (SELECT value ->> 0 FROM json_each($1)) AND completed_at <= " now!()
    " AND NOT EXISTS (
        SELECT 1 FROM json_each($1) d JOIN operation_runs r ON r.id = d.value ->> 1
        WHERE d.value ->> 0 = l.connection_id AND l.operation_run_id <> r.id AND "
    is_of_its_run_and_connection!(sqlite "r.workspace_id", "r.tenant_id")
    " AND NOT EXISTS (SELECT 1 FROM provider_connections c WHERE c.id = l.connection_id AND "
    is_before_creation!(sqlite "l.completed_at") "))"
);

impl SqliteStore {
    /// See [`FORGET_LATEST_REPORTS`].
    pub(super) async fn forget_latest_reports(
        &self,
        tx: &mut SqliteConnection,
        completed: impl Iterator<Item = (ConnectionId, RunId)>,
    ) -> Result<(), StoreError> {
        sqlx::query(FORGET_LATEST_REPORTS)
            .bind(json_list(completed.map(|(c, r)| (c.0, r.0)))?)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }

    /// Writes at most one report for each connection. Returns what [`conclude`] needs of the rows.
    async fn write_latest_reports(
        &self,
        tx: &mut SqliteConnection,
        reports: &[(ConnectionId, &CompletionRequest)],
        at: &str,
    ) -> Result<Vec<(i64, bool, bool)>, StoreError> {
        let completed = reports
            .iter()
            .map(|(connection, call)| (*connection, call.run));
        self.forget_latest_reports(tx, completed).await?;
        let latest = reports.iter().map(|(connection, call)| {
            (
                connection.0,
                call.run.0,
                &call.event.fingerprint,
                &call.event.overall,
                call.outcome,
            )
        });
        Ok(sqlx::query_as(LATEST_REPORTS)
            .bind(json_list(latest)?)
            .bind(at)
            .fetch_all(&mut *tx)
            .await?)
    }

    /// Completes the runs whose token is the current one. What a trigger has kept is for the caller to refuse.
    pub(super) async fn complete_runs(
        &self,
        tx: &mut SqliteConnection,
        calls: &[CompletionRequest],
    ) -> Result<Completed, StoreError> {
        let attempts = calls
            .iter()
            .map(|c| (c.run.0, c.attempt, c.token.to_string()));
        let ended: Vec<i64> = sqlx::query_scalar(END_ATTEMPTS)
            .bind(json_list(attempts)?)
            .fetch_all(&mut *tx)
            .await?;
        if ended.is_empty() {
            return Ok(Completed::default());
        }
        let mut completed: Vec<&CompletionRequest> = calls
            .iter()
            .filter(|call| ended.contains(&call.run.0))
            .collect();
        completed.sort_unstable_by_key(|call| call.run);
        let rows = completed.iter().map(|c| {
            (
                c.run.0,
                c.outcome,
                &c.failures,
                &c.patch,
                &c.defaults,
                c.kept,
            )
        });
        let rows: Vec<(i64, String, DateTime<Utc>, bool)> = sqlx::query_as(COMPLETE)
            .bind(json_list(rows)?)
            .fetch_all(&mut *tx)
            .await?;
        // All have the same time; as it is written, too.
        let Some((_, at_text, at, _)) = rows.first().filter(|_| rows.len() == completed.len())
        else {
            return Ok(Completed {
                is_altered: true,
                ..Completed::default()
            });
        };
        sqlx::query(FORGET_DELIVERIES)
            .bind(json_list(rows.iter().map(|row| row.0))?)
            .execute(&mut *tx)
            .await?;
        let inventories = completed.iter().filter_map(|call| call.inventory.as_ref());
        for round in rounds(inventories, |row| row.tenant) {
            self.refresh_inventories(tx, &round, at_text).await?;
        }
        let reports = completed
            .iter()
            .filter_map(|call| Some((call.connection?, *call)));
        let mut written = Vec::new();
        for round in rounds(reports, |(connection, _)| connection.0) {
            written.extend(self.write_latest_reports(tx, &round, at_text).await?);
        }
        let done = completed.into_iter().map(|call| {
            let has_webhooks = rows.iter().any(|row| row.0 == call.run.0 && row.3);
            (call, *at, has_webhooks)
        });
        conclude(&mut &mut *tx, done.collect(), written).await
    }
}
