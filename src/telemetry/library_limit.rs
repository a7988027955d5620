//! Limits the log lines of libraries, as `log_limited` limits verifyd's own: a trigger of the application can have the
//! database driver warn at every statement.

use crate::ports::log_throttle::LogThrottle;
use parking_lot::Mutex;
use std::collections::HashMap;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// What the targets of verifyd's own lines begin with.
const OWN: &str = "verifyd";

/// Lets one line a minute pass from each place in the code of a library. In more detail than `info` a library logs only
/// what somebody has asked for: that has no limit.
#[derive(Debug, Default)]
pub(super) struct LibraryLimit(Mutex<HashMap<&'static str, LogThrottle>>);

impl LibraryLimit {
    /// See [`LogThrottle::line`]. The name of an event is its file and line.
    fn line(&self, place: &'static str) -> Option<u64> {
        let mut places = self.0.lock();
        places.entry(place).or_insert_with(LogThrottle::new).line()
    }
}

impl<S: Subscriber> Layer<S> for LibraryLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let line = event.metadata();
        if *line.level() > Level::INFO || line.target().starts_with(OWN) {
            return true;
        }
        let left_out = self.line(line.name());
        // The library's line itself cannot be given another field.
        if let Some(left_out @ 1..) = left_out {
            tracing::info!(
                library = line.target(),
                left_out,
                "left out lines of a library"
            );
        }
        left_out.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// Counts the lines that pass.
    struct Passed(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Passed {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_of_a_library_passes_once_a_minute() {
        let passed = Arc::new(AtomicUsize::new(0));
        let registry = tracing_subscriber::registry()
            .with(LibraryLimit::default())
            .with(Passed(Arc::clone(&passed)));
        let _default = tracing::subscriber::set_default(registry);
        let counted = || passed.swap(0, Ordering::Relaxed);
        let be_slow = || {
            for _ in 0..100 {
                tracing::warn!(target: "sqlx::query", "slow statement");
            }
        };
        be_slow();
        assert_eq!(counted(), 1);
        for _ in 0..100 {
            tracing::info!(target: "sqlx::postgres::notice", "what a trigger says");
        }
        assert_eq!(counted(), 1, "another place");
        for _ in 0..100 {
            tracing::debug!(target: "sqlx::query", "a statement");
            tracing::warn!("a line of verifyd");
        }
        assert_eq!(counted(), 200);
        tokio::time::advance(Duration::from_secs(60)).await;
        be_slow();
        assert_eq!(counted(), 1);
    }
}
