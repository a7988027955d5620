//! Log lines that others cause: whoever writes to the queue must not be able to fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two lines of one kind.
const BETWEEN: Duration = Duration::from_secs(60);

/// Of one kind of line.
#[derive(Debug)]
pub(super) struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    pub const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Whether a line is due; then how many were left out since the last one.
    pub fn line(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now < last + BETWEEN) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_says_how_many_were_left_out() {
        let quiet = Quiet::new();
        assert_eq!(quiet.line(), Some(0));
        for _ in 0..1_000 {
            assert_eq!(quiet.line(), None);
        }
        tokio::time::advance(BETWEEN).await;
        assert_eq!(quiet.line(), Some(1_000));
        assert_eq!(quiet.line(), None);
    }
}
