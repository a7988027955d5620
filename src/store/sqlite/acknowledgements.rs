//! Acknowledgements, and how they carry on from one completion to the next. Writing transactions are
//! serialised, so nothing changes between two statements of one.

use super::actors::{note_acknowledged, note_withdrawn, with_actors};
use super::reused_ids::{a_second_after, is_about, time};
use super::{SqliteStore, now, run_type};
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
use chrono::SecondsFormat;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

/// The columns of an `AcknowledgementRow`, of `verification_check_acknowledgements a`.
macro_rules! columns {
    () => {
        "a.id, a.operation_run_id, substr(a.check_key, 1, 300) AS check_key,
         substr(a.reason_code, 1, 300) AS reason_code, substr(a.reason, 1, 4000) AS reason,
         substr(a.acknowledged_by, 1, 300) AS acknowledged_by,
         a.acknowledged_at AS acknowledged_at, a.expires_at AS expires_at,
         a.withdrawn_at AS withdrawn_at, substr(a.withdrawn_by, 1, 300) AS withdrawn_by"
    };
}

/// Neither withdrawn nor past its expiry.
macro_rules! active {
    () => {
        $crate::store::sql::sql!(
            "a.withdrawn_at IS NULL AND (a.expires_at IS NULL OR " time!("a.expires_at") " > " now!()
            ")"
        )
    };
}

/// Whether `a` was made on the completed run that `r` is now, and not on an earlier run of the same id.
macro_rules! is_of_this_run {
    () => {
        $crate::store::sql::sql!(
            a_second_after!("a.acknowledged_at") " >= " time!("r.completed_at")
        )
    };
}

/// Whether this list of checks (the arguments of `json_each`) has the check as it was acknowledged.
macro_rules! found_in {
    ($checks:literal, $key:literal, $status:literal, $reason:literal) => {
        $crate::store::sql::sql!(
            "EXISTS (SELECT 1 FROM (SELECT CASE WHEN type = 'object' THEN value ELSE '{}' END AS c
                                    FROM json_each(" $checks ")) WHERE c ->> 'key' = " $key
            " AND c ->> 'status' = " $status " AND c ->> 'reason_code' IS " $reason ")"
        )
    };
}

const ALREADY: &str = sql!(
    "SELECT " columns!()
    " FROM verification_check_acknowledgements a JOIN operation_runs r ON r.id = a.operation_run_id
      WHERE a.operation_run_id = $1 AND a.check_key = $2 AND " is_of_this_run!() " AND " active!()
    " ORDER BY a.id LIMIT 1"
);

const INSERT: &str = sql!(
    "INSERT INTO verification_check_acknowledgements
        (operation_run_id, check_key, reason_code, reason, acknowledged_by, acknowledged_at,
         expires_at)
     SELECT id, $2, $3, $4, $5, " now!() ", $6 FROM operation_runs
     WHERE id = $1 AND status = 'completed' AND type = " run_type!()
    " RETURNING id, operation_run_id, check_key, reason_code, reason, acknowledged_by,
      acknowledged_at, expires_at, withdrawn_at, withdrawn_by"
);

/// Without such a row verifyd has not completed a run of the connection.
const MARK_CONNECTION: &str = "
    UPDATE verifyd_latest_reports SET acknowledged = 1 WHERE connection_id = $1";

/// Ended at once if a later run found the check otherwise, or if the previous report of a later run was
/// deleted, so that its checks are unknown.
const CARRY: &str = sql!(
    "INSERT INTO verifyd_carried_acknowledgements
        (acknowledgement_id, connection_id, check_key, status, reason_code, from_run_id,
         from_completed_at, lapsed_run_id, lapsed_at)
     SELECT $1, $2, $3, $4, $5, f.id, f.completed_at, l.id, l.completed_at
     FROM operation_runs f LEFT JOIN operation_runs l ON l.id = (
        SELECT r.id FROM operation_runs r WHERE r.type = " run_type!() " AND r.status = 'completed'
          AND CAST(r.context ->> 'provider_connection_id' AS TEXT) = CAST($2 AS TEXT)
          AND r.tenant_id IS f.tenant_id AND r.workspace_id IS f.workspace_id
          AND (r.completed_at, r.id) > (f.completed_at, f.id)
          AND (NOT " found_in!("r.context, '$.verification_report.checks'", "$3", "$4", "$5")
    "       OR r.context ->> '$.verification_report.previous_report_id' IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM operation_runs p WHERE p.id =
                    r.context ->> '$.verification_report.previous_report_id'))
        ORDER BY r.completed_at, r.id LIMIT 1)
     WHERE f.id = $6 AND f.completed_at IS NOT NULL"
);

/// Ends acknowledgements of this connection that were made on an earlier run, are still open (or were ended
/// by a run that was completed later) and no longer apply, by the report of run `$2`.
const LAPSE: &str = sql!(
    "UPDATE verifyd_carried_acknowledgements AS k SET lapsed_at = $3, lapsed_run_id = $2
     WHERE k.connection_id = $1
       AND (k.from_completed_at, k.from_run_id) < ($3, $2)
       AND (k.lapsed_at IS NULL OR (k.lapsed_at, k.lapsed_run_id) > ($3, $2))
       AND NOT ("
    found_in!(
        "(SELECT context FROM operation_runs WHERE id = $2), '$.verification_report.checks'",
        "k.check_key", "k.status", "k.reason_code"
    )
    " AND EXISTS (SELECT 1 FROM verification_check_acknowledgements a
                  WHERE a.id = k.acknowledgement_id AND " active!() "))"
);

const NOTHING_OPEN: &str = "
    UPDATE verifyd_latest_reports SET acknowledged = 0 WHERE connection_id = $1
    AND NOT EXISTS (SELECT 1 FROM verifyd_carried_acknowledgements
                    WHERE connection_id = $1 AND lapsed_at IS NULL)";

const WITHDRAW: &str = sql!(
    "UPDATE verification_check_acknowledgements SET withdrawn_at = " now!()
    ", withdrawn_by = $2 WHERE id = $1 AND withdrawn_at IS NULL AND operation_run_id IN
        (SELECT r.id FROM operation_runs r WHERE r.id = operation_run_id AND r.type = " run_type!()
    " AND " a_second_after!("acknowledged_at") " >= " time!("r.completed_at") ")"
);

const FROM_RUNS: &str = sql!(
    "SELECT " columns!() " FROM verification_check_acknowledgements a
      JOIN operation_runs r ON r.id = a.operation_run_id AND r.type = " run_type!() " AND "
    is_of_this_run!() " WHERE true"
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
      JOIN verifyd_carried_acknowledgements k
        ON k.connection_id = CAST(r.context ->> 'provider_connection_id' AS INTEGER)
       AND CAST(k.connection_id AS TEXT) = CAST(r.context ->> 'provider_connection_id' AS TEXT)
       AND (k.from_completed_at, k.from_run_id) < (r.completed_at, r.id)
       AND (k.lapsed_at IS NULL OR (k.lapsed_at, k.lapsed_run_id) > (r.completed_at, r.id))
      JOIN verification_check_acknowledgements a ON a.id = k.acknowledgement_id
       AND a.operation_run_id = k.from_run_id
       AND (a.withdrawn_at IS NULL OR " time!("a.withdrawn_at")
    " > r.completed_at) AND (a.expires_at IS NULL OR " time!("a.expires_at") " > r.completed_at)
      JOIN operation_runs f ON f.id = k.from_run_id AND "
    is_about!("f.completed_at", "k.from_completed_at") "
       AND f.tenant_id IS r.tenant_id AND f.workspace_id IS r.workspace_id
      WHERE r.id = $1 AND r.status = 'completed' AND r.type = " run_type!() " AND "
    found_in!(
        "r.context, '$.verification_report.checks'",
        "k.check_key", "k.status", "k.reason_code"
    )
    " ORDER BY 1"
);

/// Ends acknowledgements that no longer apply. The report is written already.
pub(super) async fn lapse_acknowledgements(
    tx: &mut SqliteConnection,
    connection: ConnectionId,
    run: RunId,
    completed_at: &str,
) -> Result<(), StoreError> {
    sqlx::query(LAPSE)
        .bind(connection.0)
        .bind(run.0)
        .bind(completed_at)
        .execute(&mut *tx)
        .await?;
    sqlx::query(NOTHING_OPEN)
        .bind(connection.0)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn one(
    connection: &mut SqliteConnection,
    id: AcknowledgementId,
) -> Result<Option<Acknowledgement>, StoreError> {
    let row: Option<AcknowledgementRow> = sqlx::query_as(ONE)
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await?;
    match row {
        Some(row) => Ok(Some(with_actor(connection, row.into()).await?)),
        None => Ok(None),
    }
}

async fn with_actor(
    connection: &mut SqliteConnection,
    one: Acknowledgement,
) -> Result<Acknowledgement, StoreError> {
    let found = with_actors(connection, vec![one]).await?;
    let found = found.into_iter().next();
    found.ok_or_else(|| StoreError::Refused("an acknowledgement no longer exists".into()))
}

async fn carry(
    tx: &mut SqliteConnection,
    id: AcknowledgementId,
    connection: ConnectionId,
    new: &NewAcknowledgement,
) -> Result<(), StoreError> {
    let marked = sqlx::query(MARK_CONNECTION)
        .bind(connection.0)
        .execute(&mut *tx)
        .await?;
    if marked.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query(CARRY)
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

#[async_trait]
impl AcknowledgementStore for SqliteStore {
    async fn acknowledge(
        &self,
        new: &NewAcknowledgement,
    ) -> Result<(Acknowledgement, bool), StoreError> {
        self.transaction(async |tx| {
            let already: Option<AcknowledgementRow> = sqlx::query_as(ALREADY)
                .bind(new.run.0)
                .bind(&new.check_key)
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(row) = already {
                let found = with_actor(tx, row.into()).await?;
                return Ok((found, false));
            }
            let expires_at = new
                .expires_at
                .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
            let row: Option<AcknowledgementRow> = sqlx::query_as(INSERT)
                .bind(new.run.0)
                .bind(&new.check_key)
                .bind(new.reason_code.map(|r| r.code()))
                .bind(&new.reason)
                .bind(&new.acknowledged_by)
                .bind(expires_at)
                .fetch_optional(&mut *tx)
                .await?;
            let made: Acknowledgement = row.ok_or_else(|| not_completed(new.run))?.into();
            if let Some(connection) = new.connection {
                carry(tx, made.id, connection, new).await?;
            }
            note_acknowledged(tx, made.id, &new.through).await?;
            let made = with_actor(tx, made).await?;
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
            let withdrawn = sqlx::query(WITHDRAW)
                .bind(id.0)
                .bind(by)
                .execute(&mut *tx)
                .await?;
            if withdrawn.rows_affected() > 0 {
                note_withdrawn(tx, id, through).await?;
            }
            let found = one(tx, id).await?;
            Ok(found)
        })
        .await
    }

    async fn acknowledgement(
        &self,
        id: AcknowledgementId,
    ) -> Result<Option<Acknowledgement>, StoreError> {
        one(&mut *self.reader().await?, id).await
    }

    async fn acknowledgements_of(&self, run: RunId) -> Result<Vec<Acknowledgement>, StoreError> {
        let mut reader = self.reader().await?;
        let found: Vec<AcknowledgementRow> = sqlx::query_as(OF_RUN)
            .bind(run.0)
            .fetch_all(&mut *reader)
            .await?;
        with_actors(&mut reader, found.into_iter().map(Into::into).collect()).await
    }

    async fn acknowledgements(
        &self,
        filter: &AcknowledgementFilter,
    ) -> Result<Vec<Acknowledgement>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(FROM_RUNS);
        let connection = " AND CAST(r.context ->> 'provider_connection_id' AS TEXT) = ";
        let is_active = sql!(" AND " active!());
        push_acknowledgement_filter(&mut query, filter, connection, is_active);
        let mut reader = self.reader().await?;
        let found: Vec<AcknowledgementRow> = query.build_query_as().fetch_all(&mut *reader).await?;
        with_actors(&mut reader, found.into_iter().map(Into::into).collect()).await
    }
}
