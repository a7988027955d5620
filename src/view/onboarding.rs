//! An onboarding session, and the run that it points to.

use super::detail::RunDetail;
use crate::domain::run_record::SessionRecord;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// An onboarding session, and the run that it points to.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = OnboardingSession)]
pub struct OnboardingView {
    pub onboarding_session_id: i64,
    pub workspace_id: Option<i64>,
    pub tenant_id: Option<i64>,
    /// Where it points to, as `state` has it.
    pub operation_run_id: Option<i64>,
    pub provider_connection_id: Option<i64>,
    /// That of the run; without one, why there is none.
    pub verdict: String,
    pub run: Option<RunDetail>,
}

impl OnboardingView {
    pub fn of(record: &SessionRecord, now: DateTime<Utc>) -> Self {
        let session = &record.session;
        let run = record.run.as_ref().map(|run| RunDetail::of(run, now));
        let verdict = match (&run, session.run()) {
            (Some(run), _) => run.run.verdict.clone(),
            (None, None) if session.problem.is_some() => format!(
                "The session's state cannot be read: {}.",
                session.problem.as_deref().unwrap_or_default()
            ),
            (None, None) => "No check has been started for this session.".to_owned(),
            (None, Some(id)) => format!(
                "The session points to run {id}, which is not there or not of its workspace and \
                 tenant."
            ),
        };
        Self {
            onboarding_session_id: session.id.0,
            workspace_id: session.workspace_id.map(|id| id.0),
            tenant_id: session.tenant_id.map(|id| id.0),
            operation_run_id: session.run().map(|id| id.0),
            provider_connection_id: session.connection().map(|id| id.0),
            verdict,
            run,
        }
    }
}
