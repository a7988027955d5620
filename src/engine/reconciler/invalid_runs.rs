//! Logs invalid runs.

use crate::engine::with_timeout;
use crate::ports::store::Store;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two searches for the log.
const SEARCH_INTERVAL: Duration = Duration::from_secs(600);

/// Longest time for one search.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Rows of `operation_runs` that are searched.
pub const LATEST_ROWS: u32 = 10_000;

/// Invalid runs that are counted at most.
pub const COUNTED: u32 = 1_000;

/// The invalid runs that were logged.
#[derive(Debug, Default)]
pub struct InvalidRunLog {
    next_search: Option<Instant>,
    /// The newest that was logged. An older one that a later search finds, as runs before it are completed, is not
    /// logged.
    newest: Option<i64>,
}

impl InvalidRunLog {
    /// Searches for invalid runs if it is time to, and logs each once.
    pub async fn search(&mut self, store: &dyn Store) {
        let now = Instant::now();
        if self.next_search.is_some_and(|next| now < next) {
            return;
        }
        self.next_search = Some(now + SEARCH_INTERVAL);
        let search = with_timeout(TIMEOUT, store.invalid_runs(LATEST_ROWS, COUNTED));
        let found = match search.await {
            Ok(found) => found,
            Err(error) => return tracing::debug!(%error, "cannot count invalid runs"),
        };
        let reported = self.newest;
        let new = found
            .iter()
            .filter(|run| reported.is_none_or(|newest| run.operation_run_id.0 > newest));
        if let Some(first) = new.clone().next() {
            tracing::warn!(
                runs = new.count(),
                newest = first.operation_run_id.0,
                column = first.column,
                problem = %first.problem,
                "invalid runs; `verifyd doctor` names them"
            );
            self.newest = Some(first.operation_run_id.0);
        }
    }
}
