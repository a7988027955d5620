//! Finds invalid runs, and describes what is invalid about each.

use super::bounds::{is_impossible_time, is_listable, is_listed, member, short};
use super::dialect::run_type;
use super::from_row::from_row;
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

/// `$1`: how many of the latest rows of the table, of any type, are looked at: another application's
/// table has no index that would help. Every condition is false on what verifyd itself writes about a
/// run that it could understand. Of contexts, only those of blocked runs are read, as lists read them: nothing
/// is said against one that there was no time for. A blocked run whose context is larger than any that verifyd
/// leaves was completed by another writer.
const INVALID: Sql = Sql {
    postgres: sql_for!(
        postgres "WITH latest AS MATERIALIZED (
            SELECT id, type, status, outcome, created_at, started_at, completed_at, context
            FROM operation_runs ORDER BY id DESC LIMIT $1
        ), seen AS (
            SELECT l.*, l.status = 'completed' AND l.outcome = 'blocked' AS blocked, "
        bad_time!() " AS bad_time
            FROM latest l WHERE type = " run_type!() "), looked_into AS MATERIALIZED (
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
        sqlite "WITH latest AS (
            SELECT id, type, status, outcome, created_at, started_at, completed_at,
                   CASE WHEN " is_listed!("context")
        " THEN context END AS context FROM operation_runs ORDER BY id DESC LIMIT $1
        ), judged AS (
            SELECT l.*, l.status = 'completed' AND l.outcome = 'blocked' AS blocked, " bad_time!()
        " AS bad_time,
                CASE WHEN l.outcome = 'blocked' THEN " member!("l.context", reason_code)
        " END AS reason_code,
                coalesce(l.outcome = 'blocked' AND l.context IS NOT NULL
                    AND json_type(l.context, '$.verification_report') IS NOT 'object', 0)
                    AS blocked_without_report
            FROM latest l WHERE type = " run_type!() ") SELECT id, " short!("status") " AS status, "
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
};

#[async_trait]
impl<S: SqlStore> InvalidRunStore for S {
    async fn invalid_runs(&self, latest: u32, limit: u32) -> Result<Vec<InvalidRun>, StoreError> {
        let found: Vec<InvalidRunRow> = fetch_all(self, INVALID.bind(latest).bind(limit)).await?;
        Ok(found.into_iter().map(Into::into).collect())
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
        }
    }
}
