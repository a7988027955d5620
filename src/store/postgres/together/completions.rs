//! `running` → `completed`, many in one transaction: a group commit.

use super::status;
use crate::domain::completion::Completion;
use crate::domain::completion_event::CompletionEvent;
use crate::domain::{ConnectionId, RunId};
use crate::ports::store::{Claim, StoreError};
use crate::store::completion::{
    InventoryRow, Json, context_defaults, context_patch, failure_summary, notice,
};
use crate::store::error::from_sqlx;
use crate::store::postgres::complete::completed_context;
use crate::store::postgres::earlier::FirstReport;
use crate::store::postgres::{InTx, PostgresStore, commit, run_type};
use crate::store::together::{Group, Ran, Together};
use chrono::{DateTime, Utc};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// One statement is enough here, though the others may have committed between its snapshot and its
/// locks: a run that is locked is running in its newest version, and the token is tested on the
/// newest version of the attempt's row by the statement that ends it.
const COMPLETE: &str = concat!(
    "WITH locked AS MATERIALIZED ( \
        SELECT r.id FROM operation_runs r \
        WHERE r.id = ANY($1) AND r.type = ",
    run_type!(),
    " AND ",
    status!(),
    " = 'running' ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED \
    ), ended AS ( \
        UPDATE verifyd.run_attempts a \
        SET ended_at = clock_timestamp(), end_reason = 'completed' \
        FROM unnest($1::bigint[], $2::int[], $3::uuid[]) AS d (id, attempt, token) \
            JOIN locked l USING (id) \
        WHERE a.run_id = d.id AND a.attempt = d.attempt AND a.token = d.token \
              AND a.ended_at IS NULL \
        RETURNING a.run_id \
    ), forgotten AS ( \
        DELETE FROM verifyd.run_deliveries d USING ended e WHERE d.run_id = e.run_id \
    ) \
    UPDATE operation_runs r \
    SET status = 'completed', outcome = d.outcome, completed_at = now(), \
        failure_summary = d.failures, \
        context = ",
    completed_context!("d.defaults", "d.patch"),
    " FROM unnest($1::bigint[], $4::text[], $5::jsonb[], $6::jsonb[], $7::jsonb[]) \
            AS d (id, outcome, patch, failures, defaults) \
        JOIN ended e ON e.run_id = d.id \
    WHERE r.id = d.id AND r.type = ",
    run_type!(),
    " AND ",
    status!(),
    " = 'running' \
     RETURNING r.id, now(), EXISTS (SELECT FROM verifyd.webhook_endpoints e \
                                    WHERE e.workspace_id = r.workspace_id AND e.enabled)"
);

/// As for a single one, in the order of the connections: see `complete`.
const LATEST_REPORTS: &str = "\
    INSERT INTO verifyd.latest_reports AS l \
        (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at, changed) \
    SELECT d.*, now(), true \
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[]) \
        AS d (connection_id, operation_run_id, fingerprint, overall, outcome) \
    ORDER BY d.connection_id \
    ON CONFLICT (connection_id) DO UPDATE \
    SET operation_run_id = excluded.operation_run_id, fingerprint = excluded.fingerprint, \
        overall = excluded.overall, outcome = excluded.outcome, \
        completed_at = excluded.completed_at, changed = l.fingerprint <> excluded.fingerprint \
    WHERE (l.completed_at, l.operation_run_id) < (excluded.completed_at, excluded.operation_run_id) \
    RETURNING l.connection_id, l.changed, l.acknowledged";

/// What is written, made ready by the caller: nothing but an inventory that has changed is serialised
/// while the transaction is open.
pub(in crate::store::postgres) struct CompletionRequest {
    run: RunId,
    attempt: i32,
    token: Uuid,
    outcome: &'static str,
    patch: Json,
    failures: Json,
    defaults: Json,
    inventory: Option<InventoryRow>,
    connection: Option<ConnectionId>,
    first: Option<FirstReport>,
    /// `changed` is not known yet.
    notice: CompletionEvent,
}

impl CompletionRequest {
    pub fn new(claim: &Claim, completion: &Completion) -> Result<Self, StoreError> {
        Ok(Self {
            run: claim.run.id,
            attempt: claim.attempt,
            token: claim.token,
            outcome: completion.outcome.as_str(),
            patch: context_patch(completion)?,
            failures: failure_summary(completion)?,
            defaults: context_defaults(completion)?,
            inventory: completion
                .inventory
                .as_ref()
                .map(|refresh| InventoryRow::new(claim.run.id, refresh)),
            connection: completion.connection,
            first: FirstReport::of(claim, completion.connection),
            notice: notice(claim, completion, true),
        })
    }
}

/// A run that this transaction has completed.
struct Completed<'a> {
    call: &'a CompletionRequest,
    at: DateTime<Utc>,
    has_webhooks: bool,
}

impl Together<PostgresStore> for CompletionRequest {
    /// It is completed.
    type Answer = ();
    type On = PoolConnection<Postgres>;
    const NAME: &'static str = "complete";
    const LANES: usize = 1;

    /// Each row is written by one of them: a statement may not touch a row twice.
    fn keys(&self) -> Vec<(&'static str, i64)> {
        let tenant = self.inventory.as_ref().map(|i| ("tenant", i.tenant));
        let connection = self.connection.map(|c| ("connection", c.0));
        [Some(("run", self.run.0)), tenant, connection]
            .into_iter()
            .flatten()
            .collect()
    }

    fn group(store: &PostgresStore) -> &Group<Self, Self::Answer> {
        &store.completing
    }

    async fn run(
        store: &PostgresStore,
        mut connection: PoolConnection<Postgres>,
        calls: Vec<Self>,
    ) -> Ran<PostgresStore, Self> {
        let mut tx = store.begin_together(&mut connection).await?;
        let completed = store.complete_runs(&mut tx, &calls).await?;
        let inventories: Vec<&InventoryRow> = completed
            .values()
            .filter_map(|done| done.call.inventory.as_ref())
            .collect();
        store.refresh_inventories(&mut tx, &inventories).await?;
        let notices = store.write_latest_reports(&mut tx, &completed).await?;
        for notice in &notices {
            let done = &completed[&notice.operation_run_id.0];
            if done.has_webhooks {
                store.put_into_outbox(&mut tx, notice, done.at).await?;
            }
        }
        commit(tx).await?;
        if completed.values().any(|done| done.has_webhooks) {
            store.recorded.notify_one();
        }
        for notice in notices {
            // Fails when nobody wants to know.
            let _ = store.completions.send(notice);
        }
        let answers = calls
            .iter()
            .map(|call| completed.contains_key(&call.run.0).then_some(()))
            .collect();
        Ok((answers, Some(connection)))
    }
}

impl PostgresStore {
    /// By run. What is missing was somebody else's, or is locked.
    async fn complete_runs<'a>(
        &self,
        tx: &mut InTx<'_>,
        calls: &'a [CompletionRequest],
    ) -> Result<BTreeMap<i64, Completed<'a>>, StoreError> {
        let runs: Vec<i64> = calls.iter().map(|c| c.run.0).collect();
        let attempts: Vec<i32> = calls.iter().map(|c| c.attempt).collect();
        let tokens: Vec<Uuid> = calls.iter().map(|c| c.token).collect();
        let outcomes: Vec<&str> = calls.iter().map(|c| c.outcome).collect();
        let patches: Vec<&Json> = calls.iter().map(|c| &c.patch).collect();
        let failures: Vec<&Json> = calls.iter().map(|c| &c.failures).collect();
        let defaults: Vec<&Json> = calls.iter().map(|c| &c.defaults).collect();
        let rows: Vec<(i64, DateTime<Utc>, bool)> = sqlx::query_as(COMPLETE)
            .persistent(self.named)
            .bind(runs)
            .bind(attempts)
            .bind(tokens)
            .bind(outcomes)
            .bind(patches)
            .bind(failures)
            .bind(defaults)
            .fetch_all(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        let calls: HashMap<i64, &CompletionRequest> =
            calls.iter().map(|call| (call.run.0, call)).collect();
        Ok(rows
            .into_iter()
            .filter_map(|(run, at, has_webhooks)| {
                let call = calls.get(&run)?;
                Some((
                    run,
                    Completed {
                        call,
                        at,
                        has_webhooks,
                    },
                ))
            })
            .collect())
    }

    /// What is to be told of each of them. As for a single one; the rare cases one by one.
    async fn write_latest_reports(
        &self,
        tx: &mut InTx<'_>,
        completed: &BTreeMap<i64, Completed<'_>>,
    ) -> Result<Vec<CompletionEvent>, StoreError> {
        let with_connection: Vec<(i64, &CompletionEvent)> = completed
            .values()
            .filter_map(|done| Some((done.call.connection?.0, &done.call.notice)))
            .collect();
        let first = completed.values().filter_map(|done| done.call.first);
        let first: Vec<FirstReport> = first.collect();
        self.forget_latest_reports(tx, &first).await?;
        let mut written: HashMap<i64, (bool, bool)> = HashMap::new();
        if !with_connection.is_empty() {
            let connections: Vec<i64> = with_connection.iter().map(|(c, _)| *c).collect();
            let notices = || with_connection.iter().map(|(_, notice)| *notice);
            let runs: Vec<i64> = notices().map(|n| n.operation_run_id.0).collect();
            let fingerprints: Vec<&str> = notices().map(|n| n.fingerprint.as_str()).collect();
            let overalls: Vec<&str> = notices().map(|n| n.overall.as_str()).collect();
            let outcomes: Vec<&str> = notices().map(|n| n.outcome.as_str()).collect();
            let rows: Vec<(i64, bool, bool)> = sqlx::query_as(LATEST_REPORTS)
                .persistent(self.named)
                .bind(connections)
                .bind(runs)
                .bind(fingerprints)
                .bind(overalls)
                .bind(outcomes)
                .fetch_all(&mut **tx)
                .await
                .map_err(from_sqlx)?;
            written.extend(
                rows.into_iter()
                    .map(|(c, changed, acked)| (c, (changed, acked))),
            );
        }
        let mut told = Vec::with_capacity(completed.len());
        for done in completed.values() {
            let changed = match done.call.connection {
                Some(connection) => {
                    let row = written.get(&connection.0).copied();
                    if row.is_none_or(|(_, acknowledged)| acknowledged) {
                        self.lapse_acknowledgements(tx, connection, done.call.run)
                            .await?;
                    }
                    match row {
                        Some((changed, _)) => changed,
                        None => {
                            let fingerprint = &done.call.notice.fingerprint;
                            self.differs_from_latest(tx, connection, fingerprint)
                                .await?
                        }
                    }
                }
                None => true,
            };
            told.push(CompletionEvent {
                changed,
                ..done.call.notice.clone()
            });
        }
        Ok(told)
    }
}
