//! Reads back what a step has written into the row of a run: a trigger of the application may change it without an
//! error.

use crate::domain::{RunId, RunStatus};
use crate::ports::store_error::StoreError;
use crate::store::completion::CompletionRequest;
use crate::store::dialect::run_type;
use crate::store::sql::both;
use crate::store::sql_store::SqlConnection;
use crate::store::statement::Sql;
use serde_json::Value;

/// The columns without which a run has not ended with its result, as that of its tenant.
pub(super) const OF_RESULT: [&str; 5] = [
    "tenant_id",
    "workspace_id",
    "status",
    "outcome",
    "context.verification_report",
];

/// What a step writes into the row of a run.
pub(super) enum Written<'a> {
    Claim,
    Release,
    Completion(&'a CompletionRequest),
}

const STATE: Sql = both!(
    "SELECT CAST(r.status AS text), CAST(r.outcome AS text), r.started_at IS NOT NULL, r.completed_at IS NOT NULL
     FROM operation_runs r WHERE r.id = $1 AND r.type = " run_type!()
);

/// As texts: see `completion::CompletionRequest`.
const RESULT: Sql = both!(
    "SELECT CAST(r.failure_summary AS text), CAST(r.context -> 'verification_report' AS text),
            CAST(r.context -> 'reason_code' AS text), CAST(r.context -> 'next_steps' AS text)
     FROM operation_runs r WHERE r.id = $1 AND r.type = " run_type!()
);

/// What no step writes. As texts: see `completion::CompletionRequest`.
const IDENTITY: Sql = both!(
    "SELECT CAST(r.tenant_id AS text), CAST(r.workspace_id AS text), CAST(r.created_at AS text)
     FROM operation_runs r WHERE r.id = $1 AND r.type = " run_type!()
);

/// The values of [`IDENTITY`].
pub(super) type Identity = (Option<String>, Option<String>, Option<String>);

/// The values of [`STATE`] and [`RESULT`].
type State = (String, Option<String>, bool, bool);
type Results = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// Returns what no step may change of the run.
pub(super) async fn identity(
    connection: &mut dyn SqlConnection,
    run: RunId,
) -> Result<Identity, StoreError> {
    let found: Option<Identity> = IDENTITY.bind(run.0).fetch_optional(connection).await?;
    Ok(found.unwrap_or_default())
}

/// Returns the columns, and members of `context`, that are not as they were written, or not as they were `before`.
pub(super) async fn changed_columns(
    connection: &mut dyn SqlConnection,
    run: RunId,
    before: &Identity,
    written: &Written<'_>,
) -> Result<Vec<&'static str>, StoreError> {
    let state = STATE.bind(run.0);
    let state: Option<State> = state.fetch_optional(&mut *connection).await?;
    let Some((status, outcome, is_started, is_completed)) = state else {
        return Ok(vec!["type"]);
    };
    let (tenant, workspace, created_at) = identity(&mut *connection, run).await?;
    // A trigger may fill what the producer has left empty.
    let is_filled = |before: &Option<String>| matches!(written, Written::Claim) && before.is_none();
    let mut as_written = vec![
        ("tenant_id", tenant == before.0 || is_filled(&before.0)),
        (
            "workspace_id",
            workspace == before.1 || is_filled(&before.1),
        ),
        ("created_at", created_at == before.2),
    ];
    let is = |wanted: RunStatus| ("status", status == wanted.as_str());
    as_written.extend(match written {
        Written::Claim => vec![is(RunStatus::Running), ("started_at", is_started)],
        // With either of the others nobody could claim it again.
        Written::Release => vec![
            is(RunStatus::Queued),
            ("outcome", outcome.is_none()),
            ("completed_at", !is_completed),
        ],
        Written::Completion(request) => {
            let mut as_written = vec![
                is(RunStatus::Completed),
                ("outcome", outcome.as_deref() == Some(request.outcome)),
                ("completed_at", is_completed),
            ];
            as_written.extend(compare_result(connection, run, request).await?);
            as_written
        }
    });
    let changed = as_written.into_iter().filter(|(_, is_same)| !is_same);
    Ok(changed.map(|(column, _)| column).collect())
}

/// Returns which parts of the result are as they were written.
async fn compare_result(
    connection: &mut dyn SqlConnection,
    run: RunId,
    request: &CompletionRequest,
) -> Result<Vec<(&'static str, bool)>, StoreError> {
    let results: Results = RESULT.bind(run.0).fetch_one(connection).await?;
    let (failures, report, reason, steps) = results;
    let written = read(Some(request.patch.0.get()));
    let failed = read(Some(request.failures.0.get()));
    let mut parts = vec![("failure_summary", read(failures.as_deref()) == failed)];
    for (column, member, found) in [
        (
            "context.verification_report",
            "verification_report",
            &report,
        ),
        ("context.reason_code", "reason_code", &reason),
        ("context.next_steps", "next_steps", &steps),
    ] {
        // Only a run that is blocked has the others.
        if let Some(written) = written.get(member) {
            parts.push((column, read(found.as_deref()) == *written));
        }
    }
    Ok(parts)
}

/// Returns the value of a text in JSON; `null` where there is none.
fn read(text: Option<&str>) -> Value {
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}
