//! Reports the runs that verifyd cannot work on, so that getting them wrong is seen.

use crate::ports::store::Store;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks for the log.
const BETWEEN_LOOKS: Duration = Duration::from_secs(600);

/// Longest time for one look.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Rows of `operation_runs` that are looked through, and invalid runs that are counted at most.
pub const LATEST_ROWS: u32 = 10_000;
pub const COUNTED: u32 = 1_000;

/// What was reported of them.
#[derive(Debug, Default)]
pub struct InvalidRuns {
    next_look: Option<Instant>,
    /// The newest that was reported.
    newest: Option<i64>,
}

impl InvalidRuns {
    /// Looks if it is time to. Each invalid run is reported once by this process, and never tried.
    pub async fn look(&mut self, store: &dyn Store) {
        let now = Instant::now();
        if self.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.next_look = Some(now + BETWEEN_LOOKS);
        let look = store.invalid_runs(LATEST_ROWS, COUNTED);
        let found = match tokio::time::timeout(TIMEOUT, look).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "invalid runs cannot be counted");
                return;
            }
            Err(_) => return,
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
