//! `running` → `completed`, in one transaction with everything that was found: of one run or of
//! several.

use super::acknowledgements::lapse_acknowledgements;
use super::together::{CompletionRequest, list};
use super::{SqliteStore, Tx, commit, now, rollback, run_type};
use crate::domain::completion::Completion;
use crate::domain::completion_event::CompletionEvent;
use crate::ports::store::{Claim, StoreError};
use crate::store::completion::{InventoryRow, NOTHING_KEPT, event, message_id};
use crate::store::error::from_sqlx;
use crate::store::together::together;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, HashMap};

/// `$1`: run, attempt, token.
const END_ATTEMPTS: &str = concat!(
    "UPDATE verifyd_run_attempts SET ended_at = ",
    now!(),
    ", end_reason = 'completed' \
     FROM (SELECT value ->> 0 AS run, value ->> 1 AS number, value ->> 2 AS key \
           FROM json_each($1)) AS d \
     WHERE run_id = d.run AND attempt = d.number AND token = d.key AND ended_at IS NULL \
       AND EXISTS (SELECT 1 FROM operation_runs r WHERE r.id = d.run AND r.type = ",
    run_type!(),
    " AND r.status = 'running') RETURNING run_id"
);

/// The context of the run as it stays: members that verifyd does not write as they are, and what is no
/// object as the member `producer_context`.
macro_rules! kept {
    () => {
        "CASE WHEN octet_length(context) > d.kept THEN '{\"producer_context_dropped\":true}' \
              WHEN json_type(context) = 'object' THEN context \
              WHEN json_type(context) = 'null' THEN '{}' \
              ELSE json_object('producer_context', json(context)) END"
    };
}

/// The same with what was checked, where the producer left it out.
macro_rules! with_checked {
    () => {
        concat!(
            "CASE WHEN d.module IS NULL THEN ",
            kept!(),
            " ELSE json_insert(",
            kept!(),
            ", '$.provider', d.provider, '$.module', d.module, \
                 CASE WHEN d.tenant_name IS NOT NULL AND json_type(context, '$.target_scope') = 'object' \
                      THEN '$.target_scope.entra_tenant_name' ELSE '$.provider' END, \
                 coalesce(d.tenant_name, d.provider)) END"
        )
    };
}

/// `$1`: run, outcome, failures, members of `context`, whose others stay as they are written, the
/// members that are added where they are missing, and how many bytes stay.
const COMPLETE: &str = concat!(
    "UPDATE operation_runs SET status = 'completed', outcome = d.ending, completed_at = ",
    now!(),
    ", failure_summary = d.failures, context = CASE WHEN d.reason_code IS NULL \
        THEN json_set(",
    with_checked!(),
    ", '$.verification_report', json(d.report)) \
        ELSE json_set(",
    with_checked!(),
    ", '$.verification_report', json(d.report), '$.reason_code', d.reason_code, \
           '$.next_steps', json(d.next_steps)) END \
     FROM (SELECT value ->> 0 AS run, value ->> 1 AS ending, value -> 2 AS failures, \
                  value -> '$[3].verification_report' AS report, \
                  value ->> '$[3].reason_code' AS reason_code, \
                  value -> '$[3].next_steps' AS next_steps, \
                  value ->> '$[4].provider' AS provider, value ->> '$[4].module' AS module, \
                  value ->> '$[4].target_scope.entra_tenant_name' AS tenant_name, \
                  value ->> 5 AS kept FROM json_each($1)) AS d \
     WHERE id = d.run AND type = ",
    run_type!(),
    " AND status = 'running' RETURNING id, completed_at, completed_at, EXISTS ( \
        SELECT 1 FROM verifyd_webhook_endpoints e \
        WHERE e.workspace_id = operation_runs.workspace_id AND e.enabled)"
);

const FORGET_DELIVERIES: &str = "\
    DELETE FROM verifyd_run_deliveries WHERE run_id IN (SELECT value FROM json_each($1))";

/// `$1`: connection, run, fingerprint, overall, outcome; `$2`: when they were completed. Never moves
/// back to a run that was completed earlier. Says whether acknowledgements may have to be ended; no
/// row: a run that was completed later came first.
const LATEST_REPORTS: &str = "\
    INSERT INTO verifyd_latest_reports AS l \
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at, changed) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, $2, 1 \
    FROM json_each($1) WHERE true \
    ON CONFLICT (connection_id) DO UPDATE \
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint, \
        overall = excluded.overall, outcome = excluded.outcome, \
        completed_at = excluded.completed_at, changed = l.fingerprint <> excluded.fingerprint \
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id) \
    RETURNING connection_id, changed, acknowledged";

/// For a report that came too late to be the latest.
const DIFFERS: &str =
    "SELECT fingerprint <> $2 FROM verifyd_latest_reports WHERE connection_id = $1";

const OUTBOX: &str = concat!(
    "INSERT INTO verifyd_webhook_deliveries \
        (endpoint_id, message_id, operation_run_id, payload, pending_since) \
     SELECT e.id, $2, $3, $4, ",
    now!(),
    " FROM verifyd_webhook_endpoints e \
      WHERE e.workspace_id = $1 AND e.enabled AND (NOT e.changed_only OR $5)"
);

/// What a transaction has completed.
struct Completed<'a> {
    calls: BTreeMap<i64, &'a CompletionRequest>,
    /// Runs whose workspace has webhooks.
    with_webhooks: Vec<i64>,
    /// The same for all of them; as it is written, too.
    at: DateTime<Utc>,
    at_text: String,
}

impl SqliteStore {
    pub(super) async fn complete_run(
        &self,
        claim: &Claim,
        completion: &Completion,
    ) -> Result<bool, StoreError> {
        let request = CompletionRequest::new(claim, completion)?;
        if let Some(completed) = together(self, request).await {
            return Ok(completed);
        }
        let mut request = CompletionRequest::new(claim, completion)?;
        let tx = self.begin().await?;
        let completed = match self.complete_all(tx, std::slice::from_ref(&request)).await {
            // A context that cannot be copied does not keep the run from its end.
            Err(StoreError::Refused(why)) if request.kept != NOTHING_KEPT => {
                tracing::warn!(%why, "the context of the run cannot be kept");
                request.kept = NOTHING_KEPT;
                let tx = self.begin().await?;
                let dropped = self.complete_all(tx, &[request]).await;
                // What is refused for another reason is told with that.
                dropped.map_err(|_| StoreError::Refused(why))?
            }
            completed => completed?,
        };
        Ok(completed.is_some_and(|completed| completed[0]))
    }

    /// Which of them are completed now; those that are not were somebody else's. None: nothing was
    /// written, as a row was not what the one before said.
    pub(super) async fn complete_all(
        &self,
        mut tx: Tx,
        calls: &[CompletionRequest],
    ) -> Result<Option<Vec<bool>>, StoreError> {
        let attempts = calls.iter().map(|c| (c.run.0, c.attempt, &c.token));
        let ended: Vec<i64> = sqlx::query_scalar(END_ATTEMPTS)
            .bind(list(attempts)?)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let answers = calls.iter().map(|c| ended.contains(&c.run.0)).collect();
        if ended.is_empty() {
            rollback(tx).await?;
            return Ok(Some(answers));
        }
        let calls = calls.iter().filter(|call| ended.contains(&call.run.0));
        let completed = write_runs(&mut tx, calls).await?;
        let Some(completed) = completed.filter(|done| done.calls.len() == ended.len()) else {
            rollback(tx).await?;
            return Ok(None);
        };
        sqlx::query(FORGET_DELIVERIES)
            .bind(list(ended.iter())?)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let inventories: Vec<&InventoryRow> = completed
            .calls
            .values()
            .filter_map(|call| call.inventory.as_ref())
            .collect();
        self.refresh_inventories(&mut tx, &inventories, &completed.at_text)
            .await?;
        let reports = completed.calls.values();
        let reports = reports.filter_map(|call| Some((call.connection?, call.run)));
        self.forget_latest_reports(&mut tx, reports).await?;
        let notices = write_latest(&mut tx, &completed).await?;
        for notice in &notices {
            if completed.with_webhooks.contains(&notice.operation_run_id.0) {
                put_into_outbox(&mut tx, notice, completed.at).await?;
            }
        }
        commit(tx).await?;
        for notice in notices {
            // Fails when nobody wants to know.
            let _ = self.completions.send(notice);
        }
        if !completed.with_webhooks.is_empty() {
            self.recorded.notify_one();
        }
        Ok(Some(answers))
    }
}

/// None: there was nothing to write.
async fn write_runs<'a>(
    tx: &mut Tx,
    calls: impl Iterator<Item = &'a CompletionRequest> + Clone,
) -> Result<Option<Completed<'a>>, StoreError> {
    let rows = calls.clone().map(|c| {
        (
            c.run.0,
            c.outcome,
            &c.failures,
            &c.context,
            &c.defaults,
            c.kept,
        )
    });
    let rows: Vec<(i64, String, DateTime<Utc>, bool)> = sqlx::query_as(COMPLETE)
        .bind(list(rows)?)
        .fetch_all(&mut **tx)
        .await
        .map_err(from_sqlx)?;
    let Some((_, at_text, at, _)) = rows.first().cloned() else {
        return Ok(None);
    };
    let with_webhooks = rows.iter().filter(|row| row.3).map(|row| row.0).collect();
    let written: Vec<i64> = rows.into_iter().map(|row| row.0).collect();
    Ok(Some(Completed {
        calls: calls
            .map(|call| (call.run.0, call))
            .filter(|(run, _)| written.contains(run))
            .collect(),
        with_webhooks,
        at,
        at_text,
    }))
}

/// Ends acknowledgements that do not stand any more, and says what is to be told of each: whether the
/// fingerprint differs from that of the connection's report before.
async fn write_latest(
    tx: &mut Tx,
    completed: &Completed<'_>,
) -> Result<Vec<CompletionEvent>, StoreError> {
    let latest = completed.calls.values().filter_map(|call| {
        let notice = &call.notice;
        let connection = call.connection?.0;
        Some((
            connection,
            call.run.0,
            &notice.fingerprint,
            &notice.overall,
            call.outcome,
        ))
    });
    let rows: Vec<(i64, bool, bool)> = sqlx::query_as(LATEST_REPORTS)
        .bind(list(latest)?)
        .bind(&completed.at_text)
        .fetch_all(&mut **tx)
        .await
        .map_err(from_sqlx)?;
    let written: HashMap<i64, (bool, bool)> = rows
        .into_iter()
        .map(|(connection, changed, acknowledged)| (connection, (changed, acknowledged)))
        .collect();
    let mut told = Vec::with_capacity(completed.calls.len());
    for call in completed.calls.values() {
        let changed = match call.connection {
            Some(connection) => {
                let row = written.get(&connection.0);
                if row.is_none_or(|(_, acknowledged)| *acknowledged) {
                    lapse_acknowledgements(tx, connection, call.run, &completed.at_text).await?;
                }
                match row {
                    Some((changed, _)) => *changed,
                    None => sqlx::query_scalar(DIFFERS)
                        .bind(connection.0)
                        .bind(&call.notice.fingerprint)
                        .fetch_one(&mut **tx)
                        .await
                        .map_err(from_sqlx)?,
                }
            }
            None => true,
        };
        told.push(CompletionEvent {
            changed,
            ..call.notice.clone()
        });
    }
    Ok(told)
}

async fn put_into_outbox(
    tx: &mut Tx,
    notice: &CompletionEvent,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(OUTBOX)
        .bind(notice.workspace_id.map(|w| w.0))
        .bind(message_id())
        .bind(notice.operation_run_id.0)
        .bind(event(notice, at)?)
        .bind(notice.changed)
        .execute(&mut **tx)
        .await
        .map_err(from_sqlx)?;
    Ok(())
}
