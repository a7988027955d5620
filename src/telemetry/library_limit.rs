//! Limits the log lines of libraries, as `log_limited` limits verifyd's own: a trigger of the application can have the
//! database driver warn at every statement.

use crate::ports::log_throttle::LogThrottle;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// What the targets of verifyd's own lines begin with.
const OWN: &str = "verifyd";

/// What logs each certificate that it does not accept as an error, without the host. The caller says it with the host.
const VERIFIER: &str = "rustls_platform_verifier";

/// A place in the code, and a level: one place may log at several.
type Place = (Cow<'static, str>, Level);

/// Lets one line a minute pass from each place in the code of a library. In more detail than `info` a library logs only
/// what somebody has asked for: that has no limit.
#[derive(Debug, Default)]
pub(super) struct LibraryLimit(Mutex<HashMap<Place, LogThrottle>>);

impl LibraryLimit {
    /// See [`LogThrottle::line`].
    fn line(&self, place: Place) -> Option<u64> {
        let mut places = self.0.lock();
        places.entry(place).or_insert_with(LogThrottle::new).line()
    }
}

impl<S: Subscriber> Layer<S> for LibraryLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let line = event.metadata();
        if *line.level() > Level::INFO {
            return true;
        }
        // What comes from the crate `log` has one name and target for all libraries.
        let logged = event.normalized_metadata();
        let target = logged
            .as_ref()
            .map_or(line.target(), |logged| logged.target());
        if target.starts_with(OWN) {
            return true;
        }
        // Its warnings are of authorities of the machine that cannot be read, which nobody else names.
        if target.starts_with(VERIFIER) && *line.level() == Level::ERROR {
            return false;
        }
        let place = match &logged {
            // Its file and line.
            None => Cow::Borrowed(line.name()),
            Some(logged) => Cow::Owned(format!(
                "{target} {}:{}",
                logged.file().unwrap_or_default(),
                logged.line().unwrap_or_default()
            )),
        };
        let left_out = self.line((place, *line.level()));
        // The library's line itself cannot be given another field.
        if let Some(left_out @ 1..) = left_out {
            tracing::info!(library = target, left_out, "left out lines of a library");
        }
        left_out.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::own_process;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tracing_log::log;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// Counts the lines that pass.
    struct Passed(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Passed {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A line of the crate `log`.
    fn log_from(target: &str, line: u32) {
        log_at(log::Level::Warn, target, line);
    }

    fn log_at(level: log::Level, target: &str, line: u32) {
        tracing_log::format_trace(
            &log::Record::builder()
                .level(level)
                .target(target)
                .file(Some("src/lib.rs"))
                .line(Some(line))
                .args(format_args!("it goes on"))
                .build(),
        )
        .unwrap();
    }

    /// Two events of one name.
    macro_rules! log_at_two_levels {
        () => {
            tracing::warn!(target: "sqlx::postgres::notice", "a warning");
            tracing::info!(target: "sqlx::postgres::notice", "a notice");
        };
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
        for _ in 0..100 {
            log_at_two_levels!();
        }
        assert_eq!(counted(), 2, "each level");
        for _ in 0..100 {
            log_from("one::library", 1);
            log_from("one::library", 2);
            log_from("another", 1);
        }
        assert_eq!(counted(), 3, "each place");
        log_from("verifyd::own", 1);
        log_from("verifyd::own", 1);
        assert_eq!(counted(), 2, "what is verifyd's own has no limit");
        let verifier = "rustls_platform_verifier::verification::others";
        log_at(log::Level::Error, verifier, 1);
        assert_eq!(counted(), 0, "what verifyd says itself, with the host");
        log_from(verifier, 2);
        assert_eq!(counted(), 1, "what verifyd does not say");
        tokio::time::advance(Duration::from_secs(60)).await;
        be_slow();
        assert_eq!(counted(), 1);
    }

    /// Keeps the fields of each line.
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().push(fields.0);
        }
    }

    struct Fields(String);

    impl tracing::field::Visit for Fields {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            self.0.push_str(&format!("{field}={value:?};"));
        }
    }

    /// In a process of its own, in which the subscriber is that of the whole process: within the event of another one a
    /// line gets through there only.
    #[tokio::test(start_paused = true)]
    async fn the_next_line_has_the_number_of_those_left_out() {
        let name = concat!(
            module_path!(),
            "::the_next_line_has_the_number_of_those_left_out"
        );
        if own_process::output_of(name).is_some() {
            return;
        }
        let kept = Arc::new(Mutex::new(Vec::new()));
        let registry = tracing_subscriber::registry()
            .with(LibraryLimit::default())
            .with(Kept(Arc::clone(&kept)));
        tracing::subscriber::set_global_default(registry).unwrap();
        for pause in [1, 60] {
            for _ in 0..4 {
                log_from("one::library", 1);
            }
            tokio::time::advance(Duration::from_secs(pause)).await;
        }
        log_from("one::library", 1);
        let kept = kept.lock();
        let [_, left_out, line] = &kept[..] else {
            panic!("{kept:?}")
        };
        assert!(left_out.contains("library=\"one::library\";"), "{left_out}");
        assert!(left_out.contains("left_out=7;"), "{left_out}");
        assert!(line.contains("it goes on"), "{line}");
    }
}
