//! Finds invalid runs, and describes what is invalid about each.

use super::bounds::{is_impossible_time, is_listable, is_listed, member, short};
use super::dialect::{each, has_active_status, run_type};
use super::from_row::from_row;
use super::repeated_ids::{is_of_type, is_partitioned, repeated_active_ids};
use super::sql::sql_for;
use super::sql_store::{SqlStore, fetch_all};
use super::statement::Sql;
use super::tolerant_decoding::Text;
use crate::domain::report::redact;
use crate::domain::{Outcome, Reason, RunId};
use crate::ports::invalid_runs::{InvalidRun, InvalidRunStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// The first column with an impossible time, or NULL.
macro_rules! bad_time {
    ($db:ident) => {
        sql_for!(
            $db "CASE WHEN " is_impossible_time!("l.created_at") " THEN 'created_at' WHEN "
            is_impossible_time!("l.started_at") " THEN 'started_at' WHEN "
            is_impossible_time!("l.completed_at") " THEN 'completed_at' END"
        )
    };
}

/// Further rows beside `latest`: the oldest runs in this state, without contexts: only those of completed runs are read.
/// With a limit that it knows when it plans, PostgreSQL may sort all of these runs.
macro_rules! oldest {
    ($db:ident $status:literal) => {
        sql_for!(
            $db " UNION ALL SELECT * FROM (SELECT id, type, status, outcome, created_at, started_at, completed_at, "
            each!("NULL::jsonb", "NULL") " AS context FROM operation_runs r
            WHERE type = " run_type!() " AND " has_active_status!(range $status)
            " AND id < (SELECT id FROM first) ORDER BY status, id LIMIT " each!("(SELECT $1::bigint)", "$1") ") " $status
        )
    };
}

/// Which rows are looked at: the latest, or the one of an id.
macro_rules! looked_at {
    ($db:ident latest) => {
        " ORDER BY id DESC LIMIT $1"
    };
    ($db:ident one) => {
        " WHERE id = $1"
    };
}

/// Those that are looked at beside them.
macro_rules! others {
    ($db:ident latest) => {
        sql_for!($db oldest!("queued") oldest!("running"))
    };
    ($db:ident one) => {
        ""
    };
}

/// `$1`: how many of the latest rows of the table, of any type, are looked at: another application's
/// table has no index that would help. And how many of the oldest queued and of the oldest running ones, among which an
/// invalid one stays for ever. Every condition is false on what verifyd itself writes about a run that it could
/// understand. Of contexts, only those of blocked runs are read, as lists read them: nothing is said against one that
/// there was no time for. A blocked run whose context is larger than any that verifyd leaves was completed by another
/// writer.
///
/// `one`: `$1` is the id of the only row that is looked at.
macro_rules! invalid {
    ($rows:ident) => {
        Sql {
            postgres: sql_for!(
                postgres "WITH latest AS MATERIALIZED (
                    SELECT id, type, status, outcome, created_at, started_at, completed_at, context
                    FROM operation_runs" looked_at!($rows) "
                ), first AS (SELECT min(id) AS id FROM latest), seen AS (
                    SELECT l.*, l.status = 'completed' AND l.outcome = 'blocked' AS blocked, "
                bad_time!() " AS bad_time
                    FROM (SELECT * FROM latest" others!($rows) ") l
                    WHERE type = " run_type!() "), looked_into AS MATERIALIZED (
                    SELECT s.*, CASE WHEN s.blocked THEN (
                        SELECT ARRAY[" member!("x.context", reason_code)
                ", jsonb_typeof(x.context -> 'verification_report')]
                        FROM (SELECT s.context #> '{}' AS context WHERE " is_listed!("s.context")
                " OFFSET 0) x) END AS m, s.blocked AND NOT " is_listable!("s.context") " AS blocked_and_large
                    FROM seen s
                ), judged AS (
                    SELECT i.*, i.m[1] AS reason_code,
                        i.m IS NOT NULL AND i.m[2] IS DISTINCT FROM 'object' AS blocked_without_report
                    FROM looked_into i
                )
                SELECT id, " short!("j.status") " AS status, " short!("j.outcome")
                " AS outcome, completed_at IS NOT NULL AS completed, blocked_without_report, reason_code,
                    bad_time
                FROM judged j WHERE id <= 0 OR bad_time IS NOT NULL OR CASE
                    WHEN status IN ('queued', 'running') THEN outcome IS NOT NULL OR completed_at IS NOT NULL
                    WHEN status = 'completed' THEN outcome IS NULL OR completed_at IS NULL
                        OR outcome NOT IN ('succeeded', 'failed', 'blocked') OR blocked_without_report
                        OR blocked_and_large
                        OR reason_code IN ('context_malformed', 'context_too_large', 'target_scope_malformed')
                    ELSE true END
                ORDER BY id DESC LIMIT $2"
            ),
            sqlite: sql_for!(
                sqlite "WITH first AS (
                    SELECT min(id) AS id FROM (SELECT id FROM operation_runs" looked_at!($rows) ")
                ), latest AS (
                    SELECT id, type, status, outcome, created_at, started_at, completed_at,
                           CASE WHEN " is_listed!("context")
                " THEN context END AS context FROM operation_runs" looked_at!($rows) "
                ), judged AS (
                    SELECT l.*, l.status = 'completed' AND l.outcome = 'blocked' AS blocked, " bad_time!()
                " AS bad_time,
                        CASE WHEN l.outcome = 'blocked' THEN " member!("l.context", reason_code)
                " END AS reason_code,
                        coalesce(l.outcome = 'blocked' AND l.context IS NOT NULL
                            AND json_type(l.context, '$.verification_report') IS NOT 'object', 0)
                            AS blocked_without_report
                    FROM (SELECT * FROM latest" others!($rows) ") l
                    WHERE type = " run_type!() ") SELECT id, " short!("status") " AS status, "
                short!("outcome")
                " AS outcome, completed_at IS NOT NULL AS completed, blocked_without_report, reason_code,
                    bad_time
                FROM judged WHERE id <= 0 OR bad_time IS NOT NULL OR CASE
                    WHEN status IN ('queued', 'running') THEN outcome IS NOT NULL OR completed_at IS NOT NULL
                    WHEN status = 'completed' THEN outcome IS NULL OR completed_at IS NULL
                        OR outcome NOT IN ('succeeded', 'failed', 'blocked') OR blocked_without_report
                        OR blocked AND context IS NULL
                        OR reason_code IN ('context_malformed', 'context_too_large', 'target_scope_malformed')
                    ELSE 1 END
                ORDER BY id DESC LIMIT $2"
            ),
        }
    };
}

const INVALID: Sql = invalid!(latest);
const INVALID_ONE: Sql = invalid!(one);

/// Ids that several runs have, among the latest rows (`$1`) and among the runs that are not completed: of each how many
/// have it, when these were recorded, and a condition on one of them: the one that was recorded last, or any one where
/// none has a time. It names the row by its place: others may have the same time. At most `$2`.
const REPEATED: Sql = Sql {
    postgres: sql_for!(
        postgres "WITH repeated AS (
            SELECT l.id FROM (SELECT o.id, o.type FROM operation_runs o WHERE " is_partitioned!()
        " ORDER BY o.id DESC LIMIT $1) l WHERE l.type = " run_type!() " GROUP BY l.id HAVING count(*) > 1
            UNION SELECT unnest(" repeated_active_ids!() ")
        )
        SELECT s.id, r.runs, array_to_string(r.recorded[1:5], ', ', 'no time') AS recorded,
            r.places[1] AS one
        FROM repeated s CROSS JOIN LATERAL (
            SELECT count(*) AS runs, array_agg(CAST(r.created_at AS text) ORDER BY r.created_at DESC NULLS LAST) AS recorded,
                array_agg('tableoid = ' || CAST(r.tableoid AS text) || ' AND ctid = '
                    || quote_literal(CAST(r.ctid AS text))
                    ORDER BY r.created_at DESC NULLS LAST) AS places
            FROM operation_runs r WHERE r.id = s.id AND " is_of_type!("r") ") r
        ORDER BY s.id DESC LIMIT $2"
    ),
    sqlite: "SELECT 0, 0, '', '' WHERE $1 + $2 < 0",
};

#[async_trait]
impl<S: SqlStore> InvalidRunStore for S {
    async fn invalid_runs(&self, latest: u32, limit: u32) -> Result<Vec<InvalidRun>, StoreError> {
        let repeated: Vec<RepeatedRow> = fetch_all(self, REPEATED.bind(latest).bind(limit)).await?;
        let found: Vec<InvalidRunRow> = fetch_all(self, INVALID.bind(latest).bind(limit)).await?;
        let others = found
            .into_iter()
            .filter(|row| repeated.iter().all(|(id, ..)| *id != row.id));
        let mut invalid: Vec<InvalidRun> = others.map(Into::into).collect();
        invalid.extend(repeated.into_iter().map(of_repeated));
        invalid.sort_by_key(|run| std::cmp::Reverse(run.operation_run_id));
        invalid.truncate(limit as usize);
        Ok(invalid)
    }

    async fn invalid_run(&self, id: RunId) -> Result<Option<InvalidRun>, StoreError> {
        let found: Vec<InvalidRunRow> = fetch_all(self, INVALID_ONE.bind(id.0).bind(1_u32)).await?;
        Ok(found.into_iter().next().map(Into::into))
    }
}

/// A row of [`REPEATED`].
type RepeatedRow = (i64, i64, String, String);

fn of_repeated((id, runs, recorded, one): RepeatedRow) -> InvalidRun {
    InvalidRun {
        operation_run_id: RunId(id),
        column: "id",
        problem: format!("{runs} runs have it, recorded at {recorded}; no worker claims them"),
        remedy: Some(format!(
            "leave one of them, which is then worked on, and record the others again without an id: \
             DELETE FROM operation_runs WHERE id = {id} AND {one};"
        )),
    }
}

/// Longest part of another application's value that is shown, in characters.
const SHOWN: usize = 60;

from_row! {
    /// A row of `operation_runs` whose columns contradict each other, or cannot be understood.
    #[derive(Debug)]
    struct InvalidRunRow {
        id: i64,
        status: Option<Text>,
        outcome: Option<Text>,
        completed: bool,
        blocked_without_report: bool,
        reason_code: Option<Text>,
        bad_time: Option<Text>,
    }
}

impl From<InvalidRunRow> for InvalidRun {
    fn from(row: InvalidRunRow) -> Self {
        let shown = |value: &Option<Text>| match value {
            None => "null".to_owned(),
            Some(text) => format!("{:?}", redact::clean(&text.0, SHOWN)),
        };
        let is_outcome = |value: &Option<Text>| {
            value
                .as_ref()
                .is_some_and(|text| text.0.parse::<Outcome>().is_ok())
        };
        let bad_time = match row.bad_time.as_ref().map(|column| column.0.as_str()) {
            Some("started_at") => "started_at",
            Some("completed_at") => "completed_at",
            _ => "created_at",
        };
        let status = row.status.as_ref().map(|text| text.0.as_str());
        let (column, problem) = match status {
            _ if row.id <= 0 => ("id", "not positive; no worker claims it".to_owned()),
            Some("queued" | "running") if row.outcome.is_some() => (
                "outcome",
                format!(
                    "{} on a run that is not completed, allowed: null; no worker claims it",
                    shown(&row.outcome)
                ),
            ),
            Some("queued" | "running") if row.completed => (
                "completed_at",
                "set on a run that is not completed, allowed: null; no worker claims it".to_owned(),
            ),
            Some("completed") if is_outcome(&row.outcome) && !row.completed => {
                ("completed_at", "null on a completed run".to_owned())
            }
            Some("completed") if row.blocked_without_report => (
                "context",
                "a blocked run without verification_report".to_owned(),
            ),
            Some("completed") if !is_outcome(&row.outcome) => (
                "outcome",
                format!(
                    "{} on a completed run, allowed: succeeded, failed, blocked",
                    shown(&row.outcome)
                ),
            ),
            Some("queued" | "running" | "completed") if row.bad_time.is_some() => {
                (bad_time, "no time of the years 1 to 9999".to_owned())
            }
            Some("completed") => {
                let reason = row
                    .reason_code
                    .and_then(|code| code.0.parse::<Reason>().ok());
                (
                    "context",
                    reason.map_or_else(
                        || "it could not be understood".to_owned(),
                        |reason| format!("{reason}: {} See the run's report.", reason.what()),
                    ),
                )
            }
            _ => (
                "status",
                format!(
                    "{}, allowed: queued, running, completed; no worker claims it",
                    shown(&row.status)
                ),
            ),
        };
        Self {
            operation_run_id: RunId(row.id),
            column,
            problem,
            remedy: None,
        }
    }
}
