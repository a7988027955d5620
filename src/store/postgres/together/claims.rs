//! `queued` → `running`, many at a time.

use super::status;
use crate::domain::{RunId, WorkerId};
use crate::ports::store::{Claim, ClaimAnswer, ClaimPolicy, MAX_FUTILE_ATTEMPTS, StoreError};
use crate::store::claims::{ContextRow, TakenRow};
use crate::store::postgres::bounds::{context_columns, is_claimable, is_small};
use crate::store::postgres::earlier::is_before_start;
use crate::store::postgres::{InTx, PostgresStore, commit, futile, run_type, seconds};
use crate::store::together::{Group, Ran, Together};
use chrono::{DateTime, Utc};
use sqlx::pool::PoolConnection;
use sqlx::{FromRow as _, Postgres, Row as _};
use std::collections::HashMap;
use uuid::Uuid;

/// One statement is enough here, though the others may have committed between its snapshot and its
/// locks: a run that is locked is queued in its newest version, and whoever brought it there left an
/// attempt that is open in the snapshot, or one whose number collides with the new one.
///
/// `$6`: futile attempts, at most; `$7`: bytes of a context. Runs that are exhausted or need to be
/// alone are left, and so are those whose context is not small (reading it may take long, or fail), and
/// those with attempts of an earlier run, which have to be set aside first.
///
/// Runs are found by their ids alone, also in the statements beside: see `together::status`.
const CLAIM: &str = concat!(
    "WITH wanted AS ( \
        SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bigint[], $5::float8[]) \
            AS w (id, token, worker_id, most, deadline) \
    ), locked AS MATERIALIZED ( \
        SELECT r.id, r.started_at FROM operation_runs r \
        WHERE r.id = ANY($1) AND r.type = ",
    run_type!(),
    " AND ",
    status!(),
    " = 'queued' AND ",
    is_claimable!(),
    " AND ",
    is_small!("r.context"),
    " ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED \
    ), history AS ( \
        SELECT l.id, h.* FROM locked l CROSS JOIN LATERAL ( \
            SELECT coalesce(max(attempt), 0) AS last, \
                   count(*) FILTER (WHERE NOT earlier) AS own, \
                   count(*) FILTER (WHERE NOT earlier AND counted) AS spent, \
                   count(*) FILTER (WHERE NOT earlier AND counted \
                                          AND end_reason = 'worker_lost') AS lost, \
                   count(*) FILTER (WHERE ended_at IS NULL \
                       OR NOT earlier AND (end_reason = 'completed' OR ",
    is_before_start!("a", "l"),
    ")) AS other, \
                   count(*) FILTER (WHERE ",
    futile!(),
    ") AS futile, min(claimed_at) FILTER (WHERE NOT earlier) AS first_claimed_at \
            FROM verifyd.run_attempts a WHERE run_id = l.id \
        ) h \
    ), opened AS ( \
        INSERT INTO verifyd.run_attempts \
            (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at) \
        SELECT h.id, h.last + 1, w.token, w.worker_id, true, c.at, \
               c.at + make_interval(secs => w.deadline) \
        FROM history h JOIN wanted w USING (id) CROSS JOIN (SELECT clock_timestamp() AS at) c \
        WHERE h.other = 0 AND h.spent < w.most AND h.futile < $6 \
              AND NOT (h.spent + 1 >= w.most AND h.lost > 0) \
              AND (h.own = 0 OR NOT EXISTS (SELECT FROM verifyd.run_deliveries d \
                                            WHERE d.run_id = h.id AND d.not_before > c.at)) \
        RETURNING run_id, attempt, claimed_at \
    ) \
    UPDATE operation_runs r SET status = 'running', \
        started_at = CASE WHEN h.own > 0 THEN coalesce(r.started_at, now()) ELSE now() END \
    FROM opened o JOIN history h ON h.id = o.run_id \
    WHERE r.id = o.run_id AND r.type = ",
    run_type!(),
    " RETURNING r.id, r.workspace_id, r.tenant_id, r.created_at::timestamptz AS created_at, ",
    context_columns!("$7"),
    ", o.attempt, o.claimed_at, h.spent, coalesce(h.first_claimed_at, o.claimed_at) AS first"
);

/// Of those that were not claimed: the ones that may yet be, or are in the way of somebody else.
const STILL_QUEUED: &str = concat!(
    "SELECT r.id FROM operation_runs r WHERE r.id = ANY($1) AND r.type = ",
    run_type!(),
    " AND ",
    status!(),
    " = 'queued' AND ",
    is_claimable!()
);

pub(in crate::store::postgres) struct ClaimRequest {
    pub run: RunId,
    pub worker: WorkerId,
    pub policy: ClaimPolicy,
}

impl Together<PostgresStore> for ClaimRequest {
    type Answer = ClaimAnswer;
    type On = PoolConnection<Postgres>;
    const NAME: &'static str = "claim";
    const LANES: usize = 1;

    fn keys(&self) -> Vec<(&'static str, i64)> {
        vec![("run", self.run.0)]
    }

    fn group(store: &PostgresStore) -> &Group<Self, Self::Answer> {
        &store.claims
    }

    async fn run(
        store: &PostgresStore,
        mut connection: PoolConnection<Postgres>,
        calls: Vec<Self>,
    ) -> Ran<PostgresStore, Self> {
        let tokens: Vec<Uuid> = calls.iter().map(|_| Uuid::new_v4()).collect();
        let column = |of: fn(&Self) -> i64| calls.iter().map(of).collect::<Vec<i64>>();
        let workers: Vec<&str> = calls.iter().map(|c| c.worker.0.as_str()).collect();
        let deadlines: Vec<f64> = calls
            .iter()
            .map(|c| seconds(c.policy.run_deadline))
            .collect();
        let mut tx = store.begin_together(&mut connection).await?;
        let rows = store
            .sql(CLAIM)
            .bind(column(|c| c.run.0))
            .bind(&tokens)
            .bind(workers)
            .bind(column(|c| i64::from(c.policy.max_attempts)))
            .bind(deadlines)
            .bind(i64::from(MAX_FUTILE_ATTEMPTS))
            .bind(store.context_bytes)
            .fetch_all(&mut *tx)
            .await?;
        let places: HashMap<i64, usize> = calls
            .iter()
            .enumerate()
            .map(|(place, call)| (call.run.0, place))
            .collect();
        let mut answers: Vec<Option<ClaimAnswer>> = calls.iter().map(|_| None).collect();
        for row in rows {
            let run = TakenRow::from_row(&row)?;
            let Some(place) = places.get(&run.id).copied() else {
                continue;
            };
            let get = |column| row.try_get::<DateTime<Utc>, _>(column);
            let context = ContextRow::from_row(&row)?;
            let (request, context) = context.read(store.context_bytes);
            let spent: i64 = row.try_get("spent")?;
            answers[place] = Some(ClaimAnswer::Claimed(Box::new(Claim {
                attempt: row.try_get("attempt")?,
                token: tokens[place],
                worker: calls[place].worker.clone(),
                counted_attempts: u32::try_from(spent).unwrap_or(u32::MAX).saturating_add(1),
                exhausted: false,
                last_resort: false,
                first_claimed_at: get("first")?,
                claimed_at: get("claimed_at")?,
                run: run.with(request),
                context,
                start: None,
            })));
        }
        store.add_starting_points(&mut tx, &mut answers).await?;
        let left: Vec<i64> = calls
            .iter()
            .zip(&answers)
            .filter_map(|(call, answer)| answer.is_none().then_some(call.run.0))
            .collect();
        if !left.is_empty() {
            // Copies of hints, mostly. A run that is being given back just now is delivered again.
            let queued: Vec<i64> = store
                .scalar(STILL_QUEUED)
                .bind(left)
                .fetch_all(&mut *tx)
                .await?;
            for (call, answer) in calls.iter().zip(&mut answers) {
                if answer.is_none() && !queued.contains(&call.run.0) {
                    *answer = Some(ClaimAnswer::NotClaimable);
                }
            }
        }
        commit(tx).await?;
        Ok((answers, Some(connection)))
    }
}

impl PostgresStore {
    /// What the checks of these runs start from, while a connection is at hand. Where that cannot be read
    /// the check itself asks for it, and says so.
    async fn add_starting_points(
        &self,
        tx: &mut InTx<'_>,
        answers: &mut [Option<ClaimAnswer>],
    ) -> Result<(), StoreError> {
        let mut wanted: HashMap<i64, Vec<&mut Claim>> = HashMap::new();
        for answer in answers {
            if let Some(ClaimAnswer::Claimed(claim)) = answer
                && let Some(id) = claim.run.request.provider_connection_id
            {
                wanted.entry(id.0).or_default().push(claim);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = wanted.keys().copied().collect();
        for start in self.starting_points(tx, &ids).await?.into_iter().flatten() {
            for claim in wanted.remove(&start.connection.id.0).unwrap_or_default() {
                claim.start = Some(start.clone());
            }
        }
        Ok(())
    }
}
