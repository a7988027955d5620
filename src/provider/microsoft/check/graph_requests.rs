//! Requests to Graph about the connection itself, repeated while a consent may still be replicating.

use super::inventory;
use super::probes;
use super::propagation::PropagationBackoff;
use crate::domain::Reason;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::{Organizations, Session};
use crate::provider::microsoft::modules::Module;

/// The answers of Graph.
pub(super) struct GraphAnswers {
    /// The directories that the token opens.
    pub organization: Result<Organizations, Fault>,
    pub read: inventory::Read,
    /// Answers of the probes that the token allows.
    pub early: probes::Answers,
    /// Number of times that all requests were made.
    pub attempts: u32,
}

impl GraphAnswers {
    /// Whether a part of Graph does not know the application.
    fn is_application_unknown(&self) -> bool {
        let is_missing = |fault: &Fault| fault.reason == Reason::ServicePrincipalMissing;
        let is_absent = |fault: &Fault| {
            is_missing(fault)
                || (fault.reason == Reason::ResourceNotFound && fault.status == Some(404))
        };
        let read = &self.read;
        self.organization.as_ref().is_err_and(is_missing)
            || read.service_principal.as_ref().is_err_and(is_missing)
            || matches!(&read.grants, Some(Err(fault)) if is_absent(fault))
            || self
                .early
                .values()
                .any(|answer| answer.as_ref().is_err_and(is_missing))
    }
}

/// Asks everything at the same time.
async fn once(session: &Session<'_>, module: &Module, attempts: u32) -> GraphAnswers {
    let token = session.token().await;
    let (organization, read, early) = tokio::join!(
        session.organization(),
        inventory::read(session),
        probes::early(session, module, &token.claims),
    );
    GraphAnswers {
        organization,
        read,
        early,
        attempts,
    }
}

/// Makes the requests, and repeats them while Graph does not know the application although the token has its
/// permissions, or the connection is new. A new sign-in decides first: Microsoft Entra issues no token with
/// permissions to an application that was deleted.
pub(super) async fn with_retries(
    session: &Session<'_>,
    module: &Module,
    is_new: bool,
    mut backoff: PropagationBackoff,
) -> GraphAnswers {
    loop {
        let asked = once(session, module, backoff.attempts()).await;
        if !asked.is_application_unknown() || session.sign_in_fault().await.is_some() {
            return asked;
        }
        if session.renew_if_cached().await {
            continue;
        }
        let token = session.token().await;
        let roles = token.claims.roles.as_ref();
        let has_roles = roles.is_some_and(|roles| !roles.is_empty());
        let may_arrive = session.sign_in_fault().await.is_none() && (has_roles || is_new);
        if !may_arrive || !backoff.wait_for_consent(has_roles).await {
            return asked;
        }
        // A token that was issued before the consent never carries its permissions.
        if !has_roles {
            session.renew_again().await;
        }
    }
}
