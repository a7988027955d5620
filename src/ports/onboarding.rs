//! Reads onboarding sessions, which point to a run. The pointer moves in the transaction that records a run
//! for the session: see `NewRun::onboarding_session`.

use crate::domain::SessionId;
use crate::domain::onboarding::OnboardingSession;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// Reads sessions.
#[async_trait]
pub trait OnboardingStore: Send + Sync {
    /// One session. None: there is none.
    async fn onboarding_session(
        &self,
        id: SessionId,
    ) -> Result<Option<OnboardingSession>, StoreError>;
}
