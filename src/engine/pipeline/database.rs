//! Tells a fault of the database from its answer to one statement, which a trigger of the application may choose.

use super::Pipeline;
use crate::engine::with_timeout;
use std::time::Duration;

/// Time within which a database that is available answers.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Returns whether the database answers and may be written.
    pub(super) async fn database_answers(&self) -> bool {
        let answer = with_timeout(PING_TIMEOUT, self.store.check_writable());
        answer.await.is_ok()
    }
}
