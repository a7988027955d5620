//! Reads the registration of the application, in the directory that owns it.

use crate::ports::provider::Target;
use crate::provider::microsoft::cloud::Cloud;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::{Application, Session, Shared};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Longest time that explanations take of a run.
const EXPLAINING: Duration = Duration::from_secs(5);

/// The registration to read, and for which check.
pub(super) struct Question<'a> {
    pub shared: &'a Shared,
    pub cloud: &'a Cloud,
    pub target: &'a Target,
    pub session: &'a Session<'a>,
    /// The directory that owns the application.
    pub owner: Uuid,
}

impl Question<'_> {
    /// When explanations must have ended.
    pub fn deadline(target: &Target) -> Instant {
        target.deadline.min(Instant::now() + EXPLAINING)
    }

    /// Returns the registration; `None` where it cannot be read, which means nothing.
    ///
    /// `now`: read it again where the checked directory owns it. In another directory the credential is tried
    /// at most once a day, by one check at a time.
    pub async fn ask(&self, now: bool) -> Option<Arc<Application>> {
        let (shared, client_id) = (self.shared, self.session.client_id());
        let key = (self.cloud.key.clone(), client_id, self.owner);
        let is_own = self.owner == self.session.tenant();
        let deadline = Self::deadline(self.target);
        if is_own && now {
            let read = tokio::time::timeout_at(deadline, self.session.application());
            let application = Arc::new(read.await.ok()?.ok()?);
            shared.applications.insert(key, application.clone()).await;
            return Some(application);
        }
        if shared.unreadable.contains_key(&key) {
            return None;
        }
        let read = async {
            let read = match is_own {
                true => self.session.application().await,
                false => self.elsewhere(client_id, deadline).await,
            };
            match read {
                Ok(application) => Ok(Arc::new(application)),
                Err(fault) => {
                    tracing::debug!(reason = %fault.reason, "cannot read the registration; the check goes on without it");
                    if !is_own || !fault.is_transient() {
                        shared.unreadable.insert(key.clone(), ()).await;
                    }
                    Err(())
                }
            }
        };
        let read = shared.applications.try_get_with(key.clone(), read);
        match tokio::time::timeout_at(deadline, read).await {
            Ok(read) => read.ok(),
            Err(_) => {
                if !is_own {
                    shared.unreadable.insert(key.clone(), ()).await;
                }
                None
            }
        }
    }

    /// Signs in to the directory that owns the application, with the same credential.
    async fn elsewhere(&self, client_id: Uuid, deadline: Instant) -> Result<Application, Fault> {
        let target = Target {
            deadline,
            ..self.target.clone()
        };
        let session =
            Session::open(self.shared, &target, self.cloud, self.owner, client_id).await?;
        session.continue_check();
        let token = session.token().await;
        if token.claims.tid.is_some_and(|tid| tid != self.owner) {
            return Err(Fault::invalid(200));
        }
        session.application().await
    }
}
