//! Acknowledgements, and how they carry on from one completion to the next.
//!
//! An acknowledgement and the completion of a run of the same connection are serialised by the lock on the
//! connection's row of `latest_reports`, which the completion writes anyway. The statements of the second one
//! begin after the wait, so they see what the first one did.

use super::{ADVISORY_PRUNE, ADVISORY_SPACE, PostgresStore, run_type};
use crate::domain::acknowledgement::{Acknowledgement, Actor};
use crate::domain::{AcknowledgementId, ConnectionId, RunId};
use crate::ports::acknowledgements::{
    AcknowledgementFilter, AcknowledgementStore, NewAcknowledgement,
};
use crate::ports::store_error::StoreError;
use crate::store::acknowledgements::{AcknowledgementRow, not_completed};
use crate::store::filters::push_acknowledgement_filter;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::{PgConnection, Postgres, QueryBuilder};

/// The columns of an `AcknowledgementRow`, of `verification_check_acknowledgements a`.
macro_rules! columns {
    () => {
        "a.id, a.operation_run_id, left(a.check_key, 300) AS check_key,
         left(a.reason_code, 300) AS reason_code, left(a.reason, 4000) AS reason,
         left(a.acknowledged_by, 300) AS acknowledged_by,
         a.acknowledged_at::timestamptz AS acknowledged_at, a.expires_at::timestamptz AS expires_at,
         a.withdrawn_at::timestamptz AS withdrawn_at, left(a.withdrawn_by, 300) AS withdrawn_by"
    };
}

/// Neither withdrawn nor past its expiry.
macro_rules! active {
    () => {
        "a.withdrawn_at IS NULL AND (a.expires_at IS NULL OR a.expires_at::timestamptz > now())"
    };
}

/// Whether this JSON array of checks, if it is one, has the check as it was acknowledged.
macro_rules! found_in {
    ($checks:literal, $key:literal, $status:literal, $reason:literal) => {
        $crate::store::sql::sql!(
            "EXISTS (SELECT FROM jsonb_array_elements(CASE WHEN jsonb_typeof(" $checks
            ") = 'array' THEN " $checks " ELSE '[]' END) c WHERE c ->> 'key' = " $key
            " AND c ->> 'status' = " $status " AND c ->> 'reason_code' IS NOT DISTINCT FROM " $reason
            ")"
        )
    };
}

/// Whether `a` was made on the completed run that `r` is now, and not on an earlier run of the same id.
macro_rules! is_of_this_run {
    () => {
        "extract(epoch FROM a.acknowledged_at::timestamptz) + 1
                 >= extract(epoch FROM r.completed_at::timestamptz)"
    };
}

/// Not while runs are being pruned, and one at a time for each run.
const TAKE_TURNS: &str = "
    SELECT pg_advisory_xact_lock_shared($1, $2),
           pg_advisory_xact_lock(hashtextextended('verifyd.acknowledge.' || $3::text, 0))";

const ALREADY: &str = sql!(
    "SELECT " columns!()
    " FROM verification_check_acknowledgements a JOIN operation_runs r ON r.id = a.operation_run_id
      WHERE a.operation_run_id = $1 AND a.check_key = $2 AND " is_of_this_run!() " AND " active!()
    " ORDER BY a.id LIMIT 1"
);

const INSERT: &str = sql!(
    "INSERT INTO verification_check_acknowledgements AS a
        (operation_run_id, check_key, reason_code, reason, acknowledged_by, acknowledged_at,
         expires_at)
     SELECT r.id, $2, $3, $4, $5, now(), $6 FROM operation_runs r
     WHERE r.id = $1 AND r.status = 'completed' AND r.type = " run_type!() " RETURNING " columns!()
);

/// From here to the end of the transaction no run of the connection is completed. Without such a
/// row verifyd has not completed any.
const HOLD_CONNECTION: &str = "
    UPDATE verifyd.latest_reports SET acknowledged = true WHERE connection_id = $1";

/// Ended at once if a later run found the check otherwise, or if the previous report of a later run was
/// deleted, so that its checks are unknown.
const CARRY: &str = sql!(
    "INSERT INTO verifyd.carried_acknowledgements
        (acknowledgement_id, connection_id, check_key, status, reason_code, from_run_id,
         from_completed_at, lapsed_run_id, lapsed_at)
     SELECT $1, $2, $3, $4, $5, f.id, f.completed_at::timestamptz, l.id, l.completed_at
     FROM operation_runs f LEFT JOIN LATERAL (
        SELECT r.id, r.completed_at::timestamptz AS completed_at FROM operation_runs r
        WHERE r.type = " run_type!()
    " AND r.status = 'completed' AND r.context ->> 'provider_connection_id' = $2::text
          AND r.tenant_id IS NOT DISTINCT FROM f.tenant_id
          AND r.workspace_id IS NOT DISTINCT FROM f.workspace_id
          AND (r.completed_at::timestamptz, r.id) > (f.completed_at::timestamptz, f.id)
          AND (NOT " found_in!("r.context -> 'verification_report' -> 'checks'", "$3", "$4", "$5")
    "       OR r.context -> 'verification_report' ->> 'previous_report_id' IS NOT NULL
                AND NOT EXISTS (SELECT FROM operation_runs p WHERE p.id::text =
                    r.context -> 'verification_report' ->> 'previous_report_id'))
        ORDER BY r.completed_at::timestamptz, r.id LIMIT 1
     ) l ON true
     WHERE f.id = $6 AND f.completed_at IS NOT NULL"
);

/// Ends acknowledgements of this connection that were made on an earlier run, are still open (or were ended
/// by a run that was completed later but committed before) and no longer apply.
const LAPSE: &str = sql!(
    "UPDATE verifyd.carried_acknowledgements k SET lapsed_at = now(), lapsed_run_id = $2
     WHERE k.connection_id = $1
       AND (k.from_completed_at, k.from_run_id) < (now(), $2)
       AND (k.lapsed_at IS NULL OR (k.lapsed_at, k.lapsed_run_id) > (now(), $2))
       AND NOT ("
    found_in!(
        "(SELECT r.context #> '{verification_report,checks}' FROM operation_runs r WHERE r.id = $2)",
        "k.check_key", "k.status", "k.reason_code"
    )
    " AND EXISTS (SELECT FROM verification_check_acknowledgements a
                  WHERE a.id = k.acknowledgement_id AND " active!() "))"
);

const NOTHING_OPEN: &str = "
    UPDATE verifyd.latest_reports SET acknowledged = false WHERE connection_id = $1
    AND NOT EXISTS (SELECT FROM verifyd.carried_acknowledgements
                    WHERE connection_id = $1 AND lapsed_at IS NULL)";

const WITHDRAW: &str = sql!(
    "UPDATE verification_check_acknowledgements a
     SET withdrawn_at = now(), withdrawn_by = $2 FROM operation_runs r
     WHERE a.id = $1 AND a.withdrawn_at IS NULL AND r.id = a.operation_run_id AND r.type = " run_type!()
    " AND " is_of_this_run!()
);

const FROM_RUNS: &str = sql!(
    "SELECT " columns!() " FROM verification_check_acknowledgements a
      JOIN operation_runs r ON r.id = a.operation_run_id AND r.type = " run_type!() " AND "
    is_of_this_run!()
    " WHERE a.check_key IS NOT NULL AND a.reason IS NOT NULL AND a.acknowledged_by IS NOT NULL
      AND a.acknowledged_at IS NOT NULL"
);

const ONE: &str = sql!(
    "SELECT " columns!() " FROM verification_check_acknowledgements a
      JOIN operation_runs r ON r.id = a.operation_run_id AND r.type = " run_type!() " AND "
    is_of_this_run!() " WHERE a.id = $1"
);

/// Its own; and those made on an earlier run of the same connection, tenant and workspace, that had
/// not lapsed, been withdrawn or expired when it was completed.
const OF_RUN: &str = sql!(
    "SELECT " columns!() " FROM verification_check_acknowledgements a
      JOIN operation_runs r ON r.id = a.operation_run_id AND r.type = " run_type!() " AND "
    is_of_this_run!() " WHERE r.id = $1
     UNION ALL SELECT " columns!() " FROM operation_runs r
      JOIN verifyd.carried_acknowledgements k
        ON k.connection_id = CASE WHEN r.context ->> 'provider_connection_id' ~ '^[0-9]{1,18}$'
                             THEN (r.context ->> 'provider_connection_id')::bigint END
       AND (k.from_completed_at, k.from_run_id) < (r.completed_at::timestamptz, r.id)
       AND (k.lapsed_at IS NULL OR (k.lapsed_at, k.lapsed_run_id) > (r.completed_at::timestamptz, r.id))
      JOIN verification_check_acknowledgements a ON a.id = k.acknowledgement_id
       AND a.operation_run_id = k.from_run_id
       AND (a.withdrawn_at IS NULL OR a.withdrawn_at::timestamptz > r.completed_at::timestamptz)
       AND (a.expires_at IS NULL OR a.expires_at::timestamptz > r.completed_at::timestamptz)
      JOIN operation_runs f ON f.id = k.from_run_id
       AND abs(extract(epoch FROM f.completed_at::timestamptz)
               - extract(epoch FROM k.from_completed_at)) <= 1
       AND f.tenant_id IS NOT DISTINCT FROM r.tenant_id
       AND f.workspace_id IS NOT DISTINCT FROM r.workspace_id
      WHERE r.id = $1 AND r.status = 'completed' AND r.type = " run_type!() " AND "
    found_in!(
        "r.context -> 'verification_report' -> 'checks'",
        "k.check_key", "k.status", "k.reason_code"
    )
    " ORDER BY id"
);

impl PostgresStore {
    /// Ends acknowledgements that no longer apply. The caller has locked the connection's latest report.
    pub(super) async fn lapse_acknowledgements(
        &self,
        tx: &mut PgConnection,
        connection: ConnectionId,
        run: RunId,
    ) -> Result<(), StoreError> {
        self.sql(LAPSE)
            .bind(connection.0)
            .bind(run.0)
            .execute(&mut *tx)
            .await?;
        self.sql(NOTHING_OPEN)
            .bind(connection.0)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }

    async fn one_acknowledgement(
        &self,
        tx: &mut PgConnection,
        id: AcknowledgementId,
    ) -> Result<Option<Acknowledgement>, StoreError> {
        let row: Option<AcknowledgementRow> =
            self.rows(ONE).bind(id.0).fetch_optional(&mut *tx).await?;
        match row {
            Some(row) => Ok(Some(self.with_actor(tx, row.into()).await?)),
            None => Ok(None),
        }
    }

    async fn carry(
        &self,
        tx: &mut PgConnection,
        id: AcknowledgementId,
        connection: ConnectionId,
        new: &NewAcknowledgement,
    ) -> Result<(), StoreError> {
        let held = self
            .sql(HOLD_CONNECTION)
            .bind(connection.0)
            .execute(&mut *tx)
            .await?;
        if held.rows_affected() == 0 {
            return Ok(());
        }
        self.sql(CARRY)
            .bind(id.0)
            .bind(connection.0)
            .bind(&new.check_key)
            .bind(new.status.as_str())
            .bind(new.reason_code.map(|r| r.code()))
            .bind(new.run.0)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }
}

#[async_trait]
impl AcknowledgementStore for PostgresStore {
    async fn acknowledge(
        &self,
        new: &NewAcknowledgement,
    ) -> Result<(Acknowledgement, bool), StoreError> {
        self.transaction(async |tx| {
            self.sql(TAKE_TURNS)
                .bind(ADVISORY_SPACE)
                .bind(ADVISORY_PRUNE)
                .bind(new.run.0)
                .execute(&mut *tx)
                .await?;
            let already: Option<AcknowledgementRow> = self
                .rows(ALREADY)
                .bind(new.run.0)
                .bind(&new.check_key)
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(row) = already {
                let found = self.with_actor(tx, row.into()).await?;
                return Ok((found, false));
            }
            let row: Option<AcknowledgementRow> = self
                .rows(INSERT)
                .bind(new.run.0)
                .bind(&new.check_key)
                .bind(new.reason_code.map(|r| r.code()))
                .bind(&new.reason)
                .bind(&new.acknowledged_by)
                .bind(new.expires_at)
                .fetch_optional(&mut *tx)
                .await?;
            let made: Acknowledgement = row.ok_or_else(|| not_completed(new.run))?.into();
            if let Some(connection) = new.connection {
                self.carry(tx, made.id, connection, new).await?;
            }
            self.note_acknowledged(tx, made.id, &new.through).await?;
            let made = self.with_actor(tx, made).await?;
            Ok((made, true))
        })
        .await
    }

    async fn withdraw(
        &self,
        id: AcknowledgementId,
        by: &str,
        through: &Actor,
    ) -> Result<Option<Acknowledgement>, StoreError> {
        self.transaction(async |tx| {
            let withdrawn = self
                .sql(WITHDRAW)
                .bind(id.0)
                .bind(by)
                .execute(&mut *tx)
                .await?;
            if withdrawn.rows_affected() > 0 {
                self.note_withdrawn(tx, id, through).await?;
            }
            let found = self.one_acknowledgement(tx, id).await?;
            Ok(found)
        })
        .await
    }

    async fn acknowledgement(
        &self,
        id: AcknowledgementId,
    ) -> Result<Option<Acknowledgement>, StoreError> {
        self.transaction(async |tx| {
            let found = self.one_acknowledgement(tx, id).await?;
            Ok(found)
        })
        .await
    }

    async fn acknowledgements_of(&self, run: RunId) -> Result<Vec<Acknowledgement>, StoreError> {
        self.transaction(async |tx| {
            let found: Vec<AcknowledgementRow> =
                self.rows(OF_RUN).bind(run.0).fetch_all(&mut *tx).await?;
            let found = self
                .with_actors(tx, found.into_iter().map(Into::into).collect())
                .await?;
            Ok(found)
        })
        .await
    }

    async fn acknowledgements(
        &self,
        filter: &AcknowledgementFilter,
    ) -> Result<Vec<Acknowledgement>, StoreError> {
        self.transaction(async |tx| {
            let mut query = QueryBuilder::<Postgres>::new(FROM_RUNS);
            let connection = " AND r.context ->> 'provider_connection_id' = ";
            let is_active = sql!(" AND " active!());
            push_acknowledgement_filter(&mut query, filter, connection, is_active);
            let query = self.built::<AcknowledgementRow>(&mut query);
            let found = query.fetch_all(&mut *tx).await?;
            self.with_actors(tx, found.into_iter().map(Into::into).collect())
                .await
        })
        .await
    }
}
