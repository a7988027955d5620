//! Acknowledges a check of a run, and withdraws an acknowledgement; both record who did it.

use crate::domain::acknowledgement::{
    Acknowledgement, Actor, PERSON_CHARS, REASON_CHARS, may_be_acknowledged,
};
use crate::domain::report::{Report, redact, schema};
use crate::domain::run::{OperationRun, RUN_TYPE};
use crate::domain::{AcknowledgementId, ConnectionId, RunId, RunStatus};
use crate::ports::acknowledgements::NewAcknowledgement;
use crate::ports::store::{Store, StoreError};
use chrono::{DateTime, Datelike, Utc};

/// The last year in which an acknowledgement may expire: both databases can compare times up to it.
const LAST_YEAR: i32 = 9999;

/// Keys that an error names, at most.
const NAMED_KEYS: usize = 20;

/// A request to acknowledge a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub run: RunId,
    pub check_key: String,
    /// Why it is accepted. White space around it does not count.
    pub reason: String,
    /// Who accepts it, in the words of the person.
    pub by: String,
    /// The actor as the surface knows it.
    pub through: Actor,
    /// None: for as long as status and reason code of the check stay what they are.
    pub expires_at: Option<DateTime<Utc>>,
}

/// An acknowledgement, and whether it is new.
#[derive(Clone, Debug, PartialEq)]
pub struct Acknowledged {
    pub acknowledgement: Acknowledgement,
    /// False: there was an active one on this check of this run, and this is it.
    pub created: bool,
}

/// Why a check cannot be acknowledged, or an acknowledgement not withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum AcknowledgeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("run {0}: no such run of type {RUN_TYPE}")]
    NoSuchRun(RunId),
    #[error("acknowledgement {0}: there is none")]
    NoSuchAcknowledgement(AcknowledgementId),
    #[error("run {run} is {status}: only a check of a completed run can be acknowledged")]
    NotCompleted { run: RunId, status: RunStatus },
    #[error("run {run} has no report that can be read: {why}")]
    NoReport { run: RunId, why: String },
    /// The value of a field; says what is allowed.
    #[error("{field}: {why}")]
    Field { field: &'static str, why: String },
}

/// Acknowledges a check that failed or warns. `now` is what the expiry is compared with.
pub async fn acknowledge(
    store: &dyn Store,
    request: &Request,
    now: DateTime<Utc>,
) -> Result<Acknowledged, AcknowledgeError> {
    let reason = text("reason", &request.reason, REASON_CHARS, true)?;
    let by = text("by", &request.by, PERSON_CHARS, false)?;
    if let Some(at) = request.expires_at {
        future(at, now)?;
    }
    let run = store
        .run(request.run)
        .await?
        .ok_or(AcknowledgeError::NoSuchRun(request.run))?;
    if run.status != RunStatus::Completed {
        return Err(AcknowledgeError::NotCompleted {
            run: run.id,
            status: run.status,
        });
    }
    let report = report_of(&run)?;
    let check = report
        .checks
        .iter()
        .find(|check| check.key == request.check_key)
        .ok_or_else(|| field("check_key", no_such_check(&request.check_key, &report)))?;
    if !may_be_acknowledged(check) {
        return Err(field(
            "check_key",
            format!(
                "{} is {}; allowed are checks that are fail or warn: {}",
                check.key,
                check.status,
                wrong_checks(&report)
            ),
        ));
    }
    let (acknowledgement, created) = store
        .acknowledge(&NewAcknowledgement {
            run: run.id,
            connection: own_connection(store, &run).await?,
            check_key: check.key.clone(),
            status: check.status,
            reason_code: check.reason_code,
            reason,
            acknowledged_by: by,
            through: request.through.clone(),
            expires_at: request.expires_at,
        })
        .await?;
    Ok(Acknowledged {
        acknowledgement,
        created,
    })
}

/// Withdraws an acknowledgement; it stays as history. One that was withdrawn before is returned as
/// it is.
pub async fn withdraw(
    store: &dyn Store,
    id: AcknowledgementId,
    by: &str,
    through: &Actor,
) -> Result<Acknowledgement, AcknowledgeError> {
    let by = text("by", by, PERSON_CHARS, false)?;
    store
        .withdraw(id, &by, through)
        .await?
        .ok_or(AcknowledgeError::NoSuchAcknowledgement(id))
}

/// Returns the connection whose later runs inherit the acknowledgement: only one of the run's own tenant
/// and workspace.
async fn own_connection(
    store: &dyn Store,
    run: &OperationRun,
) -> Result<Option<ConnectionId>, StoreError> {
    let Some(id) = run.request().provider_connection_id else {
        return Ok(None);
    };
    Ok(store
        .connection(id)
        .await?
        .map(|(connection, _)| connection)
        .filter(|c| Some(c.tenant_id) == run.tenant_id && Some(c.workspace_id) == run.workspace_id)
        .map(|c| c.id))
}

fn report_of(run: &OperationRun) -> Result<Report, AcknowledgeError> {
    let no_report = |why: String| AcknowledgeError::NoReport { run: run.id, why };
    let document = run
        .report()
        .ok_or_else(|| no_report("there is none".into()))?;
    schema::validate(document).map_err(|problems| no_report(problems.join("; ")))?;
    serde_json::from_value(document.clone()).map_err(|error| no_report(error.to_string()))
}

fn field(field: &'static str, why: String) -> AcknowledgeError {
    AcknowledgeError::Field { field, why }
}

fn text(
    name: &'static str,
    value: &str,
    chars: usize,
    lines: bool,
) -> Result<String, AcknowledgeError> {
    let value = value.trim();
    let length = value.chars().count();
    if length == 0 || length > chars {
        return Err(field(
            name,
            format!("has {length} characters, allowed: 1 to {chars}"),
        ));
    }
    let allowed = |c: char| !c.is_control() || lines && (c == '\n' || c == '\t' || c == '\r');
    if !value.chars().all(allowed) {
        return Err(field(
            name,
            if lines {
                "has a control character, allowed: text, tabs and line breaks".into()
            } else {
                "has a control character, allowed: one line of text".into()
            },
        ));
    }
    Ok(value.to_owned())
}

fn future(at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), AcknowledgeError> {
    if at <= now || at.year() > LAST_YEAR {
        return Err(field(
            "expires_at",
            format!("allowed is a time in the future, up to the year {LAST_YEAR}"),
        ));
    }
    Ok(())
}

fn no_such_check(key: &str, report: &Report) -> String {
    format!(
        "the report has no check {:?}; allowed are checks that are fail or warn: {}",
        redact::clean(key, 120),
        wrong_checks(report)
    )
}

/// Names the checks that can be acknowledged.
fn wrong_checks(report: &Report) -> String {
    let keys: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| may_be_acknowledged(check))
        .map(|check| check.key.as_str())
        .collect();
    match keys.len() {
        0 => "there is none".to_owned(),
        n if n > NAMED_KEYS => format!(
            "{} and {} more",
            keys[..NAMED_KEYS].join(", "),
            n - NAMED_KEYS
        ),
        _ => keys.join(", "),
    }
}
