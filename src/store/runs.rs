//! Reads runs.

use super::bounds::{
    fits, is_claimable, is_listable, is_shown, member, repeats_report, short, time,
};
use super::dialect::{a_second_after, at, each, is_about, moment, now, own, run_type};
use super::due::{due_since, is_due, next_attempt_at, not_before, seconds_since};
use super::groups::{Grouped, in_group, of_group};
use super::repeated_ids::{is_newest_of_id, is_not_repeated, is_of_type, shares_active_id};
use super::reused_ids::{OWN_ATTEMPTS, is_before_creation, is_of_its_run};
use super::rows::{self, AttemptRow, CountsRow, LatestReportRow, RunRow};
use super::sql::{both, sql_for};
use super::sql_store::{SqlStore, fetch_all, fetch_optional, read};
use super::statement::Sql;
use super::tolerant_decoding::AsWritten;
use crate::domain::attempt::AttemptRecord;
use crate::domain::json::{self, Json};
use crate::domain::overview::LatestReport;
use crate::domain::{ConnectionId, OperationRun, RunId};
use crate::ports::log_throttle::log_limited;
use crate::ports::runs::{RunCounts, RunStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// `$2`: largest context in bytes. A context that is larger, or NULL, is NULL.
const RUN: Sql = both!(
    "SELECT r.id, r.workspace_id, r.tenant_id, r.type, " short!("r.status") " AS status, "
    short!("r.outcome") " AS outcome, CASE WHEN " fits!("r.context", "$2")
    " THEN r.context END AS context, CASE WHEN " fits!("r.failure_summary", "262144")
    " THEN r.failure_summary END AS failure_summary, " at!("r.created_at") " AS created_at, "
    at!("r.started_at") " AS started_at, " at!("r.completed_at") " AS completed_at, "
    shares_active_id!("r") " AS shares_id, " repeats_report!("r.context") " AS repeats_report
     FROM operation_runs r WHERE r.id = $1 AND " is_of_type!("r") " AND " is_newest_of_id!("r") " AND " is_shown!()
);

/// For a context that is too large as a whole, up to the size that lists look into: the report (`$3`: its largest
/// size), what else a completion writes, and the producer's members (`$2`: their largest size), or at least those
/// that identify the target.
const PARTS: Sql = Sql {
    postgres: sql_for!(
        postgres "WITH whole AS MATERIALIZED (SELECT r.context #> '{}' AS j FROM operation_runs r
             WHERE r.id = $1 AND " is_newest_of_id!("r") " AND CASE WHEN " is_listable!("r.context")
        " THEN jsonb_typeof(r.context) END = 'object'),
         parts AS MATERIALIZED (SELECT j, j -> 'verification_report' AS report,
             j - '{verification_report,reason_code,next_steps}'::text[] AS own FROM whole)
         SELECT CASE WHEN " fits!("p.report", "$3") " THEN p.report END AS report, CASE WHEN "
        fits!("p.own", "$2") " THEN p.own ELSE jsonb_strip_nulls(jsonb_build_object('provider', "
        member!("p.own", provider) ", 'module', " member!("p.own", module)
        ", 'provider_connection_id', " member!("p.own", provider_connection_id)
        ", 'target_scope', jsonb_build_object('entra_tenant_id', "
        member!("p.own", target_scope entra_tenant_id) ", 'entra_tenant_name', "
        member!("p.own", target_scope entra_tenant_name) "))) END
         || jsonb_strip_nulls(jsonb_build_object('reason_code', " member!("p.j", reason_code)
        ", 'next_steps', CASE WHEN " fits!("(p.j -> 'next_steps')", "65536")
        " THEN p.j -> 'next_steps' END)) AS rest FROM parts p"
    ),
    sqlite: sql_for!(
        sqlite "WITH parts AS MATERIALIZED (SELECT context, context -> '$.verification_report' AS report,
             json_remove(context, '$.verification_report', '$.reason_code', '$.next_steps') AS own
             FROM operation_runs WHERE id = $1 AND CASE WHEN " is_listable!("context")
        " THEN json_type(context) END = 'object')
         SELECT CASE WHEN octet_length(report) <= $3 THEN report END AS report,
             json_patch(CASE WHEN octet_length(own) <= $2 THEN own ELSE json_object('provider', "
        member!("own", provider) ", 'module', " member!("own", module)
        ", 'provider_connection_id', " member!("own", provider_connection_id)
        ", 'target_scope', json_object('entra_tenant_id', "
        member!("own", target_scope entra_tenant_id) ", 'entra_tenant_name', "
        member!("own", target_scope entra_tenant_name) ")) END, json_object('reason_code', "
        member!("context", reason_code)
        ", 'next_steps', CASE WHEN octet_length(context -> '$.next_steps') <= 65536
                              THEN context -> '$.next_steps' END)) AS rest FROM parts"
    ),
};

const NEXT_ATTEMPT_AT: Sql = both!(
    "SELECT " next_attempt_at!("r") " FROM operation_runs r
     WHERE r.id = $1 AND " is_of_type!("r") " AND " is_newest_of_id!("r")
);

/// `OFFSET 0` keeps PostgreSQL from looking `not_before` up for each column that needs it.
///
/// `$of`: see `of_group!` (`$1`, `$2`).
macro_rules! counts {
    ($of:ident) => {
        both!(
            "SELECT count(*) FILTER (WHERE status = 'queued') AS queued,
                    count(*) FILTER (WHERE status = 'running') AS running,
                    count(*) FILTER (WHERE not_before > " now!() ") AS not_due, "
            seconds_since!("min(" due_since!() ") FILTER (WHERE status = 'queued' AND " is_due!("not_before") ")")
            " AS oldest_queued_seconds
             FROM (SELECT r.status, " time!("r.created_at") " AS recorded_at, " not_before!("r") " AS not_before
                   FROM operation_runs r WHERE r.type = " run_type!()
            " AND r.status IN ('queued', 'running') AND " is_claimable!() " AND " is_not_repeated!("r")
            of_group!($of " AND " in_group!("r.workspace_id", "$1", "$2")) each!(" OFFSET 0", "") ") active"
        )
    };
}

pub(super) const COUNTS: Grouped<Sql> = Grouped {
    all: counts!(all),
    in_group: counts!(group),
};

const READ_LATEST_REPORT: Sql = both!(
    "SELECT l.connection_id, l.operation_run_id, l.fingerprint, l.overall, l.outcome, l.completed_at
     FROM " own!(latest_reports) " l LEFT JOIN provider_connections c ON c.id = l.connection_id
     WHERE l.connection_id = $1 AND NOT " is_before_creation!("l.completed_at") " AND "
    is_of_its_run!("coalesce(c.workspace_id, p.workspace_id)", "coalesce(c.tenant_id, p.tenant_id)")
);

#[async_trait]
impl<S: SqlStore> RunStore for S {
    async fn run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        let run = RUN.bind(id.0).bind(self.in_process().context_bytes);
        let found: Option<RunRow> = fetch_optional(self, run).await?;
        match found.map(OperationRun::try_from).transpose()? {
            Some(run) if run.context == Json::default() => read_parts(self, run).await.map(Some),
            run => Ok(run),
        }
    }

    async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        rows::all(fetch_all::<AttemptRow>(self, OWN_ATTEMPTS.bind(run.0)).await?)
    }

    async fn next_attempt_at(&self, run: RunId) -> Result<Option<DateTime<Utc>>, StoreError> {
        let found: Option<(Option<DateTime<Utc>>,)> =
            fetch_optional(self, NEXT_ATTEMPT_AT.bind(run.0)).await?;
        Ok(found.and_then(|(at,)| at))
    }

    async fn counts(&self) -> Result<RunCounts, StoreError> {
        let counts: CountsRow = read(self, async |tx| COUNTS.all.fetch_one(tx).await).await?;
        Ok(counts.into())
    }

    async fn latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError> {
        let report = READ_LATEST_REPORT.bind(connection.0);
        let found: Option<LatestReportRow> = fetch_optional(self, report).await?;
        found.map(TryInto::try_into).transpose()
    }
}

/// The context of a run that is too large as a whole, in parts. Where that is larger than `is_listable!`, or the server
/// cannot take it apart, the run is read without.
async fn read_parts(
    store: &impl SqlStore,
    mut run: OperationRun,
) -> Result<OperationRun, StoreError> {
    let _one_at_a_time = store.in_process().large_reads.lock().await;
    let parts = PARTS
        .bind(run.id.0)
        .bind(store.in_process().context_bytes)
        .bind(rows::REPORT_BYTES);
    match fetch_optional::<(Option<AsWritten>, Option<AsWritten>)>(store, parts).await {
        Ok(parts) => {
            let (report, rest) = parts.unwrap_or_default();
            let rest = rest.map(|rest| rest.0).unwrap_or_default();
            run.context = match report {
                Some(report) => json::with_member(&rest, "verification_report", &report.0),
                None => rest,
            };
        }
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => {
            log_limited!(warn, run = run.id.0, %error, "cannot read the context of the run; showing the run without it");
        }
    }
    Ok(run)
}
