//! The filter of log lines, which can be changed for a time while the process runs.

use crate::store::STATEMENTS;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Targets that may log more than `info` while the process runs. verifyd's own lines hold no secret at any level, and
/// statements are logged without their parameters. Other libraries may log headers, and with them tokens.
const DETAILED: [(&str, LevelFilter); 2] = [
    ("verifyd", LevelFilter::TRACE),
    (STATEMENTS, LevelFilter::DEBUG),
];

/// Longest time for which the filter is changed: nobody remembers it for longer.
pub const MAX_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// The filter of this process: `log.filter`, and what is added to it for a time.
#[derive(Debug)]
pub struct LogFilter {
    configured: String,
    in_force: reload::Handle<EnvFilter, Registry>,
    change: Mutex<Option<Change>>,
}

#[derive(Debug)]
struct Change {
    filter: String,
    until: Instant,
}

/// The filter in force, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilterState {
    pub filter: String,
    /// Until it is `log.filter` again; `None` where it is.
    pub seconds_left: Option<u64>,
}

/// Why the filter stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    #[error(
        "{0:?}: allowed: LEVEL or TARGET=LEVEL; LEVEL is off, error, warn, info, debug or trace"
    )]
    Directive(String),
    #[error(
        "{0:?}: more than info is allowed for verifyd, such as verifyd::provider=debug, and {STATEMENTS}=debug only: \
         others may log tokens"
    )]
    TooDetailed(String),
    #[error("allowed: 24h at most")]
    TooLong,
    #[error("the logs cannot be changed any more: {0}")]
    Reload(#[from] reload::Error),
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl LogFilter {
    /// Creates the filter, and the layer that applies it.
    pub fn new(
        configured: &str,
    ) -> Result<(Arc<Self>, reload::Layer<EnvFilter, Registry>), ParseError> {
        let (layer, in_force) = reload::Layer::new(parse(configured)?);
        let filter = Self {
            configured: configured.to_owned(),
            in_force,
            change: Mutex::new(None),
        };
        Ok((Arc::new(filter), layer))
    }

    /// Returns the filter in force.
    pub fn state(&self) -> LogFilterState {
        match &*self.change.lock() {
            Some(change) => LogFilterState {
                filter: change.filter.clone(),
                seconds_left: Some(seconds_until(change.until)),
            },
            None => LogFilterState {
                filter: self.configured.clone(),
                seconds_left: None,
            },
        }
    }

    /// Adds these directives to `log.filter` for a time, in place of earlier ones.
    pub fn change(
        self: &Arc<Self>,
        directives: &str,
        period: Duration,
    ) -> Result<(), LogFilterError> {
        let directives = checked(directives)?;
        if period > MAX_PERIOD {
            return Err(LogFilterError::TooLong);
        }
        let filter = format!("{},{directives}", self.configured);
        let until = Instant::now() + period;
        {
            let mut change = self.change.lock();
            self.in_force.reload(parse(&filter)?)?;
            *change = Some(Change { filter, until });
        }
        tracing::info!(directives, ?period, "the log filter is changed for a time");
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            // Another change may have followed.
            if let Err(error) = this.end(|change| change.until == until) {
                tracing::error!(%error, "the log filter stays changed");
            }
        });
        Ok(())
    }

    /// Returns to `log.filter`.
    pub fn reset(&self) -> Result<(), LogFilterError> {
        self.end(|_| true)
    }

    fn end(&self, ends: impl FnOnce(&mut Change) -> bool) -> Result<(), LogFilterError> {
        let mut change = self.change.lock();
        if change.take_if(ends).is_some() {
            self.in_force.reload(parse(&self.configured)?)?;
            drop(change);
            tracing::info!("the log filter is log.filter again");
        }
        Ok(())
    }
}

fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(filter)
}

/// The directives, none of which logs what a line must not hold.
fn checked(directives: &str) -> Result<String, LogFilterError> {
    let directives: Vec<&str> = directives.split(',').map(str::trim).collect();
    for directive in directives.iter().copied() {
        let (target, level) = directive.split_once('=').unwrap_or(("", directive));
        let is_target = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        let level: LevelFilter = match level.parse() {
            Ok(read) if !level.is_empty() && target.chars().all(is_target) => read,
            _ => return Err(LogFilterError::Directive(directive.to_owned())),
        };
        let mut detailed = DETAILED.iter().filter(|(name, _)| {
            let rest = target.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        let most = detailed.next().map_or(LevelFilter::INFO, |(_, most)| *most);
        if level > most {
            return Err(LogFilterError::TooDetailed(directive.to_owned()));
        }
    }
    Ok(directives.join(","))
}

/// The rest of a time, rounded up to whole seconds.
fn seconds_until(end: Instant) -> u64 {
    let left = end.saturating_duration_since(Instant::now());
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn only_targets_that_log_no_secret_log_in_detail() {
        for allowed in [
            "info",
            "warn, verifyd=trace",
            "info,verifyd::provider=debug,hyper=info",
            "sqlx::query=debug",
            "off",
        ] {
            assert!(checked(allowed).is_ok(), "{allowed}");
        }
        for (refused, named) in [
            ("debug", "debug"),
            ("info,hyper=debug", "hyper=debug"),
            ("info,verifyd_client=debug", "verifyd_client=debug"),
            ("sqlx::query=trace", "sqlx::query=trace"),
            ("=debug", "=debug"),
        ] {
            let error = checked(refused).unwrap_err();
            assert!(
                matches!(&error, LogFilterError::TooDetailed(d) if d == named),
                "{error}"
            );
        }
        for (refused, named) in [
            ("", ""),
            ("info,", ""),
            ("info,verifyd=loud", "verifyd=loud"),
            ("verifyd", "verifyd"),
            ("verifyd=", "verifyd="),
            ("verifyd[run]=debug", "verifyd[run]=debug"),
        ] {
            let error = checked(refused).unwrap_err();
            assert!(
                matches!(&error, LogFilterError::Directive(d) if d == named),
                "{error}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_filter_is_the_configured_one_again_after_its_time() {
        let (filter, layer) = LogFilter::new("info,hyper=warn").unwrap();
        let registry = tracing_subscriber::registry().with(layer);
        let _default = tracing::subscriber::set_default(registry);
        let is_detailed = || tracing::enabled!(target: "verifyd::x", Level::DEBUG);
        let hour = Duration::from_secs(3600);
        assert!(!is_detailed());
        filter.change("verifyd=debug", hour).unwrap();
        assert!(is_detailed());
        let state = filter.state();
        assert_eq!(state.filter, "info,hyper=warn,verifyd=debug");
        assert_eq!(state.seconds_left, Some(3600));
        // What is shown a moment later is what was asked for.
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(filter.state().seconds_left, Some(3600));
        // The end of the first one does not end the second one.
        filter.change("verifyd=trace", 2 * hour).unwrap();
        tokio::time::sleep(hour + Duration::from_secs(1)).await;
        assert!(is_detailed());
        tokio::time::sleep(hour).await;
        assert!(!is_detailed());
        assert_eq!(filter.state().seconds_left, None);
        filter.change("verifyd=debug", hour).unwrap();
        filter.reset().unwrap();
        assert!(!is_detailed());
        let error = filter.change("verifyd=debug", 25 * hour).unwrap_err();
        assert!(matches!(error, LogFilterError::TooLong), "{error}");
    }
}
