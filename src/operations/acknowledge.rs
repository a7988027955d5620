//! Acknowledges a check of a run, and withdraws an acknowledgement; both record who did it.

use super::OperationError;
use super::read_run::find_run;
use super::text::text;
use crate::domain::access::Binding;
use crate::domain::acknowledgement::{
    Acknowledgement, PERSON_CHARS, REASON_CHARS, may_be_acknowledged,
};
use crate::domain::audit::Origin;
use crate::domain::report::{Report, redact, schema};
use crate::domain::run::OperationRun;
use crate::domain::time_input::LAST_YEAR;
use crate::domain::{AcknowledgementId, ConnectionId, RunId, RunStatus};
use crate::ports::acknowledgements::NewAcknowledgement;
use crate::ports::store::{Store, StoreError};
use chrono::{DateTime, Datelike, Utc};

/// Keys that an error names, at most.
const NAMED_KEYS: usize = 20;

/// A request to acknowledge a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub run: RunId,
    /// What whoever asks may reach.
    pub reach: Binding,
    pub check_key: String,
    /// Why it is accepted. White space around it does not count.
    pub reason: String,
    /// Who accepts it, in the words of the person. `None`: whoever it is by what verifyd knows.
    pub by: Option<String>,
    /// Who it is and from where, as the surface knows it.
    pub through: Origin,
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

/// Acknowledges a check that failed or warns. `now` is what the expiry is compared with.
pub async fn acknowledge(
    store: &dyn Store,
    request: &Request,
    now: DateTime<Utc>,
) -> Result<Acknowledged, OperationError> {
    let run = find_run(store, &request.reach, request.run).await?;
    let reason = text("reason", &request.reason, REASON_CHARS, true)?;
    let by = person("acknowledged_by", request.by.as_deref(), &request.through)?;
    if let Some(at) = request.expires_at {
        future(at, now)?;
    }
    let not_acknowledgeable = |problem: String| OperationError::NotAcknowledgeable {
        run: run.id,
        problem,
    };
    if run.status != RunStatus::Completed {
        return Err(not_acknowledgeable(format!(
            "is {}: only a check of a completed run can be acknowledged",
            run.status
        )));
    }
    let report = report_of(&run)
        .map_err(|why| not_acknowledgeable(format!("has no report that can be read: {why}")))?;
    let check = report
        .checks
        .iter()
        .find(|check| check.key == request.check_key)
        .ok_or_else(|| {
            let key = redact::clean(&request.check_key, 120);
            let problem = format!("the report has no check {key:?}");
            OperationError::not_allowed("check_key", problem, wrong_checks(&report))
        })?;
    if !may_be_acknowledged(check) {
        let problem = format!("{} is {}", check.key, check.status);
        let allowed = wrong_checks(&report);
        return Err(OperationError::not_allowed("check_key", problem, allowed));
    }
    let made = store
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
    let (acknowledgement, created) = made.ok_or_else(|| {
        not_acknowledgeable("is not completed any more, or at a time that has not passed".into())
    })?;
    Ok(Acknowledged {
        acknowledgement,
        created,
    })
}

/// Reads an acknowledgement whose run is within reach.
pub async fn read_acknowledgement(
    store: &dyn Store,
    reach: &Binding,
    id: AcknowledgementId,
) -> Result<Acknowledgement, OperationError> {
    let no_such_acknowledgement = || OperationError::not_found("acknowledgement", id);
    let found = store.acknowledgement(id).await?;
    let found = found.ok_or_else(no_such_acknowledgement)?;
    let run = store.run(found.operation_run_id).await?;
    let owner = run.map_or((None, None), |run| (run.workspace_id, run.tenant_id));
    if !reach.admits(owner.0, owner.1) {
        return Err(no_such_acknowledgement());
    }
    Ok(found)
}

/// Withdraws an acknowledgement; it stays as history. One that was withdrawn before is returned as
/// it is.
pub async fn withdraw(
    store: &dyn Store,
    reach: &Binding,
    id: AcknowledgementId,
    by: Option<&str>,
    through: &Origin,
) -> Result<Acknowledgement, OperationError> {
    read_acknowledgement(store, reach, id).await?;
    let by = person("withdrawn_by", by, through)?;
    store
        .withdraw(id, &by, through)
        .await?
        .ok_or_else(|| OperationError::not_found("acknowledgement", id))
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

fn report_of(run: &OperationRun) -> Result<Report, String> {
    let document = run.report().ok_or("there is none, or more than one")?;
    schema::read(document).map_err(|problems| problems.join("; "))
}

/// The name of a person; without one, what verifyd itself knows.
fn person(
    field: &'static str,
    name: Option<&str>,
    through: &Origin,
) -> Result<String, OperationError> {
    match name {
        Some(name) => text(field, name, PERSON_CHARS, false),
        None => Ok(through.actor.words()),
    }
}

/// Tests that something expires in the future, at a time that can be stored.
pub(super) fn future(at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), OperationError> {
    if at > now && at.year() <= LAST_YEAR {
        return Ok(());
    }
    let problem = if at > now {
        "is too late"
    } else {
        "has passed"
    };
    let allowed = format!("a time in the future, up to the year {LAST_YEAR}");
    Err(OperationError::not_allowed("expires_at", problem, allowed))
}

/// Names the checks that can be acknowledged.
fn wrong_checks(report: &Report) -> String {
    let keys: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| may_be_acknowledged(check))
        .map(|check| check.key.as_str())
        .collect();
    let named = match keys.len() {
        0 => "there is none".to_owned(),
        n if n > NAMED_KEYS => format!(
            "{} and {} more",
            keys[..NAMED_KEYS].join(", "),
            n - NAMED_KEYS
        ),
        _ => keys.join(", "),
    };
    format!("checks that are fail or warn: {named}")
}
