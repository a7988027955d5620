//! Acknowledgements, and how they carry on from one completion to the next.
//!
//! In PostgreSQL an acknowledgement and the completion of a run of the same connection are serialised by the
//! lock on the connection's row of `latest_reports`, which the completion writes anyway. The statements of the
//! second one begin after the wait, so they see what the first one did. In SQLite writing transactions are
//! serialised anyway.

use super::audit::{owner_of_run, record};
use super::bounds::{
    connection_of_context, end, id_of_text, is_impossible_time, is_listable, member,
};
use super::dialect::{a_second_after, among, at, each, is_about, moment, now, own, run_type};
use super::filters::push_acknowledgement_filter;
use super::from_row::from_row;
use super::postgres::{ADVISORY_PRUNE, ADVISORY_SPACE};
use super::repeated_ids::is_newest_of_id;
use super::reused_ids::is_before_creation;
use super::rows::name;
use super::sql::{both, sql_for};
use super::sql_store::{SqlConnection, SqlStore, read, transaction};
use super::statement::{Sql, Statement};
use super::tolerant_decoding::{Text, Time};
use crate::domain::acknowledgement::{Acknowledgement, Actor};
use crate::domain::audit::{AuditAction, Change, Origin, second};
use crate::domain::{AcknowledgementId, ConnectionId, RunId, TokenId};
use crate::ports::acknowledgements::{
    AcknowledgementFilter, AcknowledgementStore, NewAcknowledgement,
};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

/// The columns of an `AcknowledgementRow`, of `verification_check_acknowledgements`.
macro_rules! columns {
    ($db:ident $a:literal) => {
        sql_for!(
            $db $a "id, " $a "operation_run_id, " short!($a, "check_key", 300) ", "
            short!($a, "reason_code", 300) ", " short!($a, "reason", 4000) ", "
            short!($a, "acknowledged_by", 300) ", " at!(concat!($a, "acknowledged_at"))
            " AS acknowledged_at, " at!(concat!($a, "expires_at")) " AS expires_at, "
            at!(concat!($a, "withdrawn_at")) " AS withdrawn_at, " short!($a, "withdrawn_by", 300)
        )
    };
}

/// The beginning of a text, by the name of its column.
macro_rules! short {
    (postgres $a:literal, $column:literal, $length:literal) => {
        concat!("left(", $a, $column, ", ", $length, ") AS ", $column)
    };
    (sqlite $a:literal, $column:literal, $length:literal) => {
        concat!("substr(", $a, $column, ", 1, ", $length, ") AS ", $column)
    };
}

/// Neither withdrawn nor past its expiry.
macro_rules! active {
    ($db:ident) => {
        sql_for!(
            $db "a.withdrawn_at IS NULL AND (a.expires_at IS NULL OR " end!("a.expires_at") " > "
            now!() ")"
        )
    };
}

/// Whether `a`, or one that is made `now`, is of the completed run that `r` is now, and not of an earlier run of the
/// same id. One that was made at no time of the years 1 to 9999 is of this run.
macro_rules! is_of_this_run {
    ($db:ident) => {
        sql_for!(
            $db "(" is_impossible_time!("a.acknowledged_at") " AND r.completed_at IS NOT NULL OR "
            is_of_this_run!(at "a.acknowledged_at") ")"
        )
    };
    (postgres now) => {
        is_of_this_run!(postgres at "now()")
    };
    (sqlite now) => {
        is_of_this_run!(sqlite at "'now'")
    };
    (postgres at $time:literal) => {
        concat!(
            "extract(epoch FROM ",
            $time,
            "::timestamptz) + 1 >= extract(epoch FROM r.completed_at::timestamptz)"
        )
    };
    (sqlite at $time:literal) => {
        sql_for!(sqlite a_second_after!($time) " >= " moment!("r.completed_at"))
    };
}
pub(super) use is_of_this_run;

/// Whether this list of checks, if it is one, has the check as it was acknowledged. In SQLite the list is the
/// arguments of `json_each`.
macro_rules! found_in {
    (postgres $checks:literal, $key:literal, $status:literal, $reason:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM jsonb_array_elements(CASE WHEN jsonb_typeof(",
            $checks,
            ") = 'array' THEN ",
            $checks,
            " ELSE '[]' END) c WHERE c -> 'key' = to_jsonb(",
            $key,
            "::text) AND c -> 'status' = to_jsonb(",
            $status,
            "::text) AND nullif(c -> 'reason_code', 'null') IS NOT DISTINCT FROM to_jsonb(",
            $reason,
            "::text))"
        )
    };
    (sqlite $checks:literal, $key:literal, $status:literal, $reason:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM (SELECT CASE WHEN type = 'object' THEN value ELSE '{}' END AS c
                                    FROM json_each(",
            $checks,
            ")) WHERE c ->> 'key' = ",
            $key,
            " AND c ->> 'status' = ",
            $status,
            " AND c ->> 'reason_code' IS NOT DISTINCT FROM ",
            $reason,
            ")"
        )
    };
}

/// Whether the report of the run `r` has the check of the arguments.
macro_rules! found_in_report {
    (postgres $($check:literal),+) => {
        found_in!(postgres "r.context -> 'verification_report' -> 'checks'", $($check),+)
    };
    (sqlite $($check:literal),+) => {
        found_in!(sqlite "r.context, '$.verification_report.checks'", $($check),+)
    };
}

/// Not while runs are being pruned, and one at a time for each run (`$1`). SQLite has nothing to wait for.
const LOCK: Sql = both!(
    "SELECT " each!(
        "pg_advisory_xact_lock_shared($2::integer, $3::integer),
         pg_advisory_xact_lock(hashtextextended('verifyd.acknowledge.' || $1::text, 0))",
        "$1, $2, $3"
    )
);

const ALREADY: Sql = both!(
    "SELECT " columns!("a.")
    " FROM verification_check_acknowledgements a JOIN operation_runs r ON r.id = a.operation_run_id
      WHERE a.operation_run_id = $1 AND a.check_key = $2 AND " is_of_this_run!() " AND " active!()
    " ORDER BY a.id LIMIT 1"
);

const INSERT: Sql = both!(
    "INSERT INTO verification_check_acknowledgements
        (operation_run_id, check_key, reason_code, reason, acknowledged_by, acknowledged_at, expires_at)
     SELECT r.id, $2, $3, $4, $5, " now!() ", $6 FROM operation_runs r
     WHERE r.id = $1 AND r.status = 'completed' AND r.type = " run_type!() " AND " is_of_this_run!(now)
    " AND " is_newest_of_id!("r") " RETURNING " columns!("")
);

/// From here to the end of the transaction no run of the connection is completed. Without such a row verifyd
/// has not completed any.
const HOLD_CONNECTION: Sql = both!(
    "UPDATE " own!(latest_reports) " SET acknowledged = true WHERE connection_id = $1"
);

/// Ended at once if a later run found the check otherwise, or if the previous report of a later run was deleted.
/// PostgreSQL leaves out a later run into whose context no list looks: it does not know the connection. SQLite has that
/// in its index, and ends the acknowledgement there, since the checks are unknown.
const CARRY: Sql = Sql {
    postgres: sql_for!(
        postgres "INSERT INTO verifyd.carried_acknowledgements
            (acknowledgement_id, connection_id, check_key, status, reason_code, from_run_id,
             from_completed_at, lapsed_run_id, lapsed_at)
         SELECT $1, $2, $3, $4, $5, f.id, f.completed_at::timestamptz, l.id, l.completed_at
         FROM operation_runs f LEFT JOIN LATERAL (
            SELECT r.id, r.completed_at::timestamptz AS completed_at FROM operation_runs r WHERE r.type = " run_type!()
        " AND r.status = 'completed' AND " connection_of_context!("r.context") " = $2::text
              AND r.tenant_id IS NOT DISTINCT FROM f.tenant_id AND r.workspace_id IS NOT DISTINCT FROM f.workspace_id
              AND (r.completed_at::timestamptz, r.id) > (f.completed_at::timestamptz, f.id)
              AND (NOT " found_in_report!("$3", "$4", "$5") " OR EXISTS (SELECT FROM (SELECT "
        member!("r.context", verification_report previous_report_id) " AS id OFFSET 0) b
                    WHERE b.id IS NOT NULL AND NOT EXISTS (
                        SELECT FROM operation_runs p WHERE p.id = " id_of_text!("b.id") ")))
            ORDER BY r.completed_at::timestamptz, r.id LIMIT 1) l ON true
         WHERE f.id = $6 AND f.completed_at IS NOT NULL AND " is_newest_of_id!("f")
    ),
    sqlite: sql_for!(
        sqlite "INSERT INTO verifyd_carried_acknowledgements
            (acknowledgement_id, connection_id, check_key, status, reason_code, from_run_id,
             from_completed_at, lapsed_run_id, lapsed_at)
         SELECT $1, $2, $3, $4, $5, f.id, " moment!("f.completed_at") ", l.id, " moment!("l.completed_at")
        " FROM operation_runs f LEFT JOIN operation_runs l ON l.id = (
            SELECT r.id FROM operation_runs r WHERE r.type = " run_type!() " AND r.status = 'completed'
              AND " connection_of_context!("r.context") " = CAST($2 AS TEXT)
              AND r.tenant_id IS f.tenant_id AND r.workspace_id IS f.workspace_id
              AND (" moment!("r.completed_at") ", r.id) > (" moment!("f.completed_at") ", f.id)
              AND CASE WHEN " is_listable!("r.context") " THEN NOT " found_in_report!("$3", "$4", "$5")
        "       OR r.context ->> '$.verification_report.previous_report_id' IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM operation_runs p WHERE p.id =
                        r.context ->> '$.verification_report.previous_report_id') ELSE true END
            ORDER BY " moment!("r.completed_at") ", r.id LIMIT 1)
         WHERE f.id = $6 AND (" moment!("f.completed_at") ") IS NOT NULL"
    ),
};

/// When the run `$2`, which this transaction completes, was completed.
macro_rules! completed_now {
    (postgres) => {
        "now()"
    };
    (sqlite) => {
        "(SELECT completed_at FROM operation_runs WHERE id = $2)"
    };
}

/// Whether the report of the run `$2` has the check of `k` as it was acknowledged.
macro_rules! found_now {
    (postgres) => {
        found_in!(
            postgres
            "(SELECT r.context #> '{verification_report,checks}' FROM operation_runs r WHERE r.id = $2
              ORDER BY r.completed_at DESC NULLS LAST LIMIT 1)",
            "k.check_key", "k.status", "k.reason_code"
        )
    };
    (sqlite) => {
        found_in!(
            sqlite
            "(SELECT context FROM operation_runs WHERE id = $2), '$.verification_report.checks'",
            "k.check_key", "k.status", "k.reason_code"
        )
    };
}

/// Ends acknowledgements of this connection that were made on an earlier run, are still open (or were ended
/// by a run that was completed later but committed before) and no longer apply, by the report of run `$2`.
const MARK_LAPSED: Sql = both!(
    "UPDATE " own!(carried_acknowledgements) " AS k SET lapsed_at = " completed_now!()
    ", lapsed_run_id = $2
     WHERE k.connection_id = $1
       AND (k.from_completed_at, k.from_run_id) < (" completed_now!() ", $2)
       AND (k.lapsed_at IS NULL OR (k.lapsed_at, k.lapsed_run_id) > (" completed_now!() ", $2))
       AND NOT (" found_now!() " AND EXISTS (SELECT 1 FROM verification_check_acknowledgements a
                  WHERE a.id = k.acknowledgement_id AND " active!() "))"
);

const NOTHING_OPEN: Sql = both!(
    "UPDATE " own!(latest_reports) " SET acknowledged = false WHERE connection_id = $1
     AND NOT EXISTS (SELECT 1 FROM " own!(carried_acknowledgements)
    " WHERE connection_id = $1 AND lapsed_at IS NULL)"
);

const WITHDRAW: Sql = both!(
    "UPDATE verification_check_acknowledgements AS a SET withdrawn_at = " now!() ", withdrawn_by = $2
     WHERE a.id = $1 AND a.withdrawn_at IS NULL AND EXISTS (
        SELECT 1 FROM operation_runs r WHERE r.id = a.operation_run_id AND r.type = " run_type!()
    " AND " is_of_this_run!() ")"
);

/// Acknowledgements of completed runs.
macro_rules! of_runs {
    ($db:ident) => {
        sql_for!(
            $db "SELECT " columns!("a.") " FROM verification_check_acknowledgements a
             JOIN operation_runs r ON r.id = a.operation_run_id AND r.type = " run_type!() " AND "
            is_newest_of_id!("r") " AND " is_of_this_run!() " WHERE "
        )
    };
}

pub(super) const FROM_RUNS: Sql = both!(
    of_runs!() "a.check_key IS NOT NULL AND a.reason IS NOT NULL AND a.acknowledged_by IS NOT NULL
     AND a.acknowledged_at IS NOT NULL"
);

const ONE: Sql = both!(of_runs!() "a.id = $1");

/// The id that the context of `r` names as its connection's. In SQLite a second comparison keeps `1x` from being 1.
macro_rules! id_of_context {
    (postgres) => {
        id_of_text!(concat!(
            "(",
            member!(postgres "r.context", provider_connection_id),
            ")"
        ))
    };
    (sqlite) => {
        "CAST(r.context ->> 'provider_connection_id' AS INTEGER)
         AND CAST(k.connection_id AS TEXT) = CAST(r.context ->> 'provider_connection_id' AS TEXT)"
    };
}

/// Its own; and those made on an earlier run of the same connection, tenant and workspace, that had
/// not lapsed, been withdrawn or expired when it was completed, if lists look into its context. (In SQLite the
/// recorded times may be in the form that the runs had.) The connection is another one where it was created
/// between the two runs.
const OF_RUN: Sql = both!(
    of_runs!() "r.id = $1
     UNION ALL SELECT " columns!("a.") " FROM operation_runs r
      JOIN " own!(carried_acknowledgements) " k ON k.connection_id = "
    id_of_context!()
    " AND (" moment!("k.from_completed_at") ", k.from_run_id) < (" moment!("r.completed_at") ", r.id)
       AND (k.lapsed_at IS NULL
            OR (" moment!("k.lapsed_at") ", k.lapsed_run_id) > (" moment!("r.completed_at") ", r.id))
      JOIN verification_check_acknowledgements a ON a.id = k.acknowledgement_id
       AND a.operation_run_id = k.from_run_id
       AND (a.withdrawn_at IS NULL OR " end!("a.withdrawn_at") " > " moment!("r.completed_at") ")
       AND (a.expires_at IS NULL OR " end!("a.expires_at") " > " moment!("r.completed_at") ")
      JOIN operation_runs f ON f.id = k.from_run_id AND "
    is_about!("f.completed_at", "k.from_completed_at") "
       AND f.tenant_id IS NOT DISTINCT FROM r.tenant_id
       AND f.workspace_id IS NOT DISTINCT FROM r.workspace_id
      WHERE r.id = $1 AND r.status = 'completed' AND r.type = " run_type!() " AND " is_newest_of_id!("r")
    " AND " is_listable!("r.context")
    " AND NOT EXISTS (SELECT 1 FROM provider_connections c WHERE c.id = k.connection_id AND "
    is_before_creation!("k.from_completed_at") " AND " moment!("c.created_at") " <= " moment!("r.completed_at") ") AND "
    found_in_report!("k.check_key", "k.status", "k.reason_code") " ORDER BY 1"
);

/// With the time that the acknowledgement's own row has, however exact its column is.
const NOTE_ACKNOWLEDGED: Sql = both!(
    "INSERT INTO " own!(acknowledgement_actors)
    "   (acknowledgement_id, operation_run_id, action, at, surface, token_id, name)
     SELECT a.id, a.operation_run_id, 'acknowledged', " at!("a.acknowledged_at") ", $2, $3, $4
     FROM verification_check_acknowledgements a WHERE a.id = $1 ON CONFLICT DO NOTHING"
);

const NOTE_WITHDRAWN: Sql = both!(
    "INSERT INTO " own!(acknowledgement_actors)
    "   (acknowledgement_id, operation_run_id, action, at, surface, token_id, name)
     SELECT a.id, a.operation_run_id, 'withdrawn', " at!("a.withdrawn_at") ", $2, $3, $4
     FROM verification_check_acknowledgements a WHERE a.id = $1 ON CONFLICT DO NOTHING"
);

const NOTED: Sql = both!(
    "SELECT acknowledgement_id, operation_run_id, action, at, surface, token_id, name
     FROM " own!(acknowledgement_actors) " WHERE acknowledgement_id " among!("$1")
);

#[async_trait]
impl<S: SqlStore> AcknowledgementStore for S {
    async fn acknowledge(
        &self,
        new: &NewAcknowledgement,
    ) -> Result<Option<(Acknowledgement, bool)>, StoreError> {
        let code = new.reason_code.map(|r| r.code());
        transaction(self, async |tx| {
            let lock = LOCK.bind(new.run.0);
            let lock = lock.bind(ADVISORY_SPACE).bind(ADVISORY_PRUNE);
            lock.execute(tx).await?;
            let already = ALREADY.bind(new.run.0).bind(&new.check_key);
            if let Some(found) = already.fetch_optional::<AcknowledgementRow>(tx).await? {
                return Ok(Some((with_actor(tx, found.into()).await?, false)));
            }
            let insert = INSERT
                .bind(new.run.0)
                .bind(&new.check_key)
                .bind(code)
                .bind(&new.reason)
                .bind(&new.acknowledged_by)
                .bind(new.expires_at);
            let row: Option<AcknowledgementRow> = insert.fetch_optional(tx).await?;
            let Some(made) = row.map(Acknowledgement::from) else {
                return Ok(None);
            };
            if let Some(connection) = new.connection
                && HOLD_CONNECTION.bind(connection.0).execute(tx).await? > 0
            {
                let carry = CARRY
                    .bind(made.id.0)
                    .bind(connection.0)
                    .bind(&new.check_key)
                    .bind(new.status.as_str())
                    .bind(code)
                    .bind(new.run.0);
                carry.execute(tx).await?;
            }
            note(tx, NOTE_ACKNOWLEDGED, made.id, &new.through.actor).await?;
            audit(tx, AuditAction::AcknowledgementAdded, &made, &new.through).await?;
            Ok(Some((with_actor(tx, made).await?, true)))
        })
        .await
    }

    async fn withdraw(
        &self,
        id: AcknowledgementId,
        by: &str,
        through: &Origin,
    ) -> Result<Option<Acknowledgement>, StoreError> {
        transaction(self, async |tx| {
            let is_withdrawn = WITHDRAW.bind(id.0).bind(by).execute(tx).await? > 0;
            if is_withdrawn {
                note(tx, NOTE_WITHDRAWN, id, &through.actor).await?;
            }
            let found = one(tx, id).await?;
            if let Some(withdrawn) = found.as_ref().filter(|_| is_withdrawn) {
                let action = AuditAction::AcknowledgementWithdrawn;
                audit(tx, action, withdrawn, through).await?;
            }
            Ok(found)
        })
        .await
    }

    async fn acknowledgement(
        &self,
        id: AcknowledgementId,
    ) -> Result<Option<Acknowledgement>, StoreError> {
        read(self, async |tx| one(tx, id).await).await
    }

    async fn acknowledgements_of(&self, run: RunId) -> Result<Vec<Acknowledgement>, StoreError> {
        read(self, async |tx| all(tx, OF_RUN.bind(run.0)).await).await
    }

    async fn acknowledgements(
        &self,
        filter: &AcknowledgementFilter,
    ) -> Result<Vec<Acknowledgement>, StoreError> {
        let mut query = Statement::from(FROM_RUNS);
        push_acknowledgement_filter(&mut query, filter, both!(" AND " active!()));
        read(self, async |tx| all(tx, query).await).await
    }
}

/// Ends acknowledgements that no longer apply. The report is written already, and in PostgreSQL the
/// connection's latest report is locked.
pub(super) async fn lapse_acknowledgements(
    tx: &mut dyn SqlConnection,
    connection: ConnectionId,
    run: RunId,
) -> Result<(), StoreError> {
    MARK_LAPSED
        .bind(connection.0)
        .bind(run.0)
        .execute(tx)
        .await?;
    NOTHING_OPEN.bind(connection.0).execute(tx).await?;
    Ok(())
}

/// Records the identity through which something was done with an acknowledgement.
async fn note(
    tx: &mut dyn SqlConnection,
    sql: Sql,
    id: AcknowledgementId,
    through: &Actor,
) -> Result<(), StoreError> {
    let note = sql
        .bind(id.0)
        .bind(through.surface.as_str())
        .bind(through.token_id.map(|id| id.0))
        .bind(&through.name);
    note.execute(tx).await?;
    Ok(())
}

/// Adds the entry of the audit trail. The reason stays with the acknowledgement.
async fn audit(
    tx: &mut dyn SqlConnection,
    action: AuditAction,
    acknowledgement: &Acknowledgement,
    by: &Origin,
) -> Result<(), StoreError> {
    let owner = owner_of_run(tx, acknowledgement.operation_run_id).await?;
    let change = Change::new(action, acknowledgement.id.0, owner).after(json!({
        "operation_run_id": acknowledgement.operation_run_id,
        "check_key": acknowledgement.check_key,
        "reason_code": acknowledgement.reason_code,
        "acknowledged_by": acknowledgement.acknowledged_by,
        "expires_at": acknowledgement.expires_at.map(second),
        "withdrawn_by": acknowledgement.withdrawn_by,
    }));
    record(tx, &change, by).await
}

async fn one(
    connection: &mut dyn SqlConnection,
    id: AcknowledgementId,
) -> Result<Option<Acknowledgement>, StoreError> {
    Ok(all(connection, ONE.bind(id.0)).await?.pop())
}

/// Reads acknowledgements with the identities through which they were made and withdrawn.
async fn all(
    connection: &mut dyn SqlConnection,
    statement: Statement,
) -> Result<Vec<Acknowledgement>, StoreError> {
    let found: Vec<AcknowledgementRow> = statement.fetch_all(connection).await?;
    let mut found: Vec<Acknowledgement> = found.into_iter().map(Into::into).collect();
    add_actors(connection, &mut found).await?;
    Ok(found)
}

async fn with_actor(
    connection: &mut dyn SqlConnection,
    mut one: Acknowledgement,
) -> Result<Acknowledgement, StoreError> {
    add_actors(connection, std::slice::from_mut(&mut one)).await?;
    Ok(one)
}

async fn add_actors(
    connection: &mut dyn SqlConnection,
    all: &mut [Acknowledgement],
) -> Result<(), StoreError> {
    if all.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = all.iter().map(|a| a.id.0).collect();
    attach(all, NOTED.bind(ids).fetch_all(connection).await?)
}

from_row! {
    /// `verification_check_acknowledgements`
    #[derive(Debug)]
    struct AcknowledgementRow {
        id: i64,
        operation_run_id: i64,
        check_key: Option<Text>,
        reason_code: Option<Text>,
        reason: Option<Text>,
        acknowledged_by: Option<Text>,
        acknowledged_at: Option<Time>,
        expires_at: Option<Time>,
        withdrawn_at: Option<Time>,
        withdrawn_by: Option<Text>,
    }
}

/// In a table of another application a text may be NULL: it is then empty, and the rest is shown.
impl From<AcknowledgementRow> for Acknowledgement {
    fn from(row: AcknowledgementRow) -> Self {
        let text = |text: Option<Text>| text.map(|text| text.0);
        let needed = |needed: Option<Text>| text(needed).unwrap_or_default();
        Self {
            id: AcknowledgementId(row.id),
            operation_run_id: RunId(row.operation_run_id),
            check_key: needed(row.check_key),
            reason_code: text(row.reason_code),
            reason: needed(row.reason),
            acknowledged_by: needed(row.acknowledged_by),
            acknowledged_through: None,
            acknowledged_at: row.acknowledged_at.and_then(Time::known),
            expires_at: row.expires_at.and_then(Time::known),
            is_past: row.expires_at.is_some_and(Time::is_past_end),
            is_withdrawn: row.withdrawn_at.is_some(),
            withdrawn_at: row.withdrawn_at.and_then(Time::known),
            withdrawn_by: text(row.withdrawn_by),
            withdrawn_through: None,
        }
    }
}

from_row! {
    /// `acknowledgement_actors`
    #[derive(Debug)]
    struct ActorRow {
        acknowledgement_id: i64,
        operation_run_id: i64,
        action: String,
        at: DateTime<Utc>,
        surface: String,
        token_id: Option<i64>,
        name: String,
    }
}

/// What was done with an acknowledgement.
const ACKNOWLEDGED: &str = "acknowledged";
const WITHDRAWN: &str = "withdrawn";

/// Adds to each acknowledgement the identity through which it was made and withdrawn. Ids may be used again
/// (the table may belong to another application, which empties it), so a recorded identity applies only to
/// the run and the time that it was recorded for.
fn attach(all: &mut [Acknowledgement], noted: Vec<ActorRow>) -> Result<(), StoreError> {
    for row in noted {
        let id = row.acknowledgement_id;
        let actor = Actor {
            surface: name("acknowledgement_actors", "surface", id, &row.surface)?,
            token_id: row.token_id.map(TokenId),
            name: row.name,
        };
        let of = |a: &&mut Acknowledgement| {
            a.id.0 == row.acknowledgement_id && a.operation_run_id.0 == row.operation_run_id
        };
        for found in all.iter_mut().filter(of) {
            if row.action == ACKNOWLEDGED && found.acknowledged_at == Some(row.at) {
                found.acknowledged_through = Some(actor.clone());
            } else if row.action == WITHDRAWN && found.withdrawn_at == Some(row.at) {
                found.withdrawn_through = Some(actor.clone());
            }
        }
    }
    Ok(())
}
