//! Why an operation was not carried out.

use crate::domain::onboarding::SessionError;
use crate::domain::token::NoRandomness;
use crate::domain::{ConnectionId, RunId};
use crate::ports::connections::AddConnectionError;
use crate::ports::store_error::StoreError;
use crate::ports::vault::VaultError;
use crate::ports::webhook_endpoints::EndpointError;
use std::fmt::Display;

/// Why an operation was not carried out. Each surface translates these variants once, to its own form.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// It does not exist, or is out of reach of whoever asks: nobody can tell which.
    #[error("{what} {id}: no such {what}")]
    NotFound { what: &'static str, id: String },
    /// The connection cannot be checked as it is.
    #[error("connection {id}: {problem}")]
    Unusable { id: ConnectionId, problem: String },
    /// The run has nothing that could be acknowledged, or not yet.
    #[error("run {run} {problem}")]
    NotAcknowledgeable { run: RunId, problem: String },
    /// A value that is not allowed.
    #[error("{field}: {problem}{}", allowed.as_ref().map(|allowed| format!(", allowed: {allowed}")).unwrap_or_default())]
    Invalid {
        field: &'static str,
        problem: String,
        /// What is allowed, where the problem does not say it.
        allowed: Option<String>,
    },
}

impl OperationError {
    /// For what is not there.
    pub(super) fn not_found(what: &'static str, id: impl Display) -> Self {
        let id = id.to_string();
        Self::NotFound { what, id }
    }

    /// For a value in whose place no other one is possible.
    pub(super) fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            problem: problem.into(),
            allowed: None,
        }
    }

    /// For a value in whose place something else is allowed.
    pub(super) fn not_allowed(
        field: &'static str,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            field,
            problem: problem.into(),
            allowed: Some(allowed.into()),
        }
    }

    /// For a value that none of these names match.
    pub(super) fn unknown_name(field: &'static str, found: &str, known: &[&str]) -> Self {
        Self::not_allowed(field, format!("{found:?} is not known"), known.join(", "))
    }
}

/// A session that is out of reach is reported as one that does not exist.
impl From<SessionError> for OperationError {
    fn from(error: SessionError) -> Self {
        let (problem, allowed) = match error {
            SessionError::Missing(id) => return Self::not_found("onboarding session", id),
            SessionError::Foreign(_) => (
                "is not for this connection".to_owned(),
                "a session of the connection's workspace, and of its tenant or of none",
            ),
            SessionError::Unreadable(_, problem) => (
                format!("names a session whose state cannot be read: {problem}"),
                "a session whose state verifyd can read and write",
            ),
        };
        Self::Invalid {
            field: "onboarding_session_id",
            problem,
            allowed: Some(allowed.to_owned()),
        }
    }
}

impl From<AddConnectionError> for OperationError {
    fn from(error: AddConnectionError) -> Self {
        match error {
            AddConnectionError::Store(error) => error.into(),
            AddConnectionError::Vault(error) => error.into(),
        }
    }
}

impl From<EndpointError> for OperationError {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Store(error) => error.into(),
            EndpointError::Vault(error) => error.into(),
        }
    }
}
