//! Logs by `tracing`: text on a terminal, JSON otherwise. They go to standard error, so that standard output
//! has results only.

use super::library_limit::LibraryLimit;
use super::log_filter::LogFilter;
use super::source_path::{ShortPaths, shortened, shortened_backtrace};
use serde::Deserialize;
use std::io::IsTerminal;
use std::sync::Arc;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `pretty` when standard error is a terminal, else `json`.
    Auto,
    Pretty,
    Json,
}

/// Section `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

impl LogSettings {
    /// Leaves out the warnings of a part of the driver of the database.
    #[must_use]
    pub fn without_warnings_of(&self, part: &str) -> Self {
        let mut settings = self.clone();
        // With nothing else said, a directive would begin to say something.
        if !matches!(self.filter.as_str(), "" | "off") {
            settings.filter += &format!(",{part}=error");
        }
        settings
    }
}

/// Why logs cannot be set up: an invalid `log.filter`, or a second call.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.filter: {0}; allowed: directives such as info or info,sqlx=warn")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("logs are set up already")]
    Twice,
}

/// Sets up the logs of this process. Returns their filter.
pub fn init(settings: &LogSettings) -> Result<Arc<LogFilter>, LogError> {
    let (filter, layer) = LogFilter::new(&settings.filter)?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let registry = tracing_subscriber::registry()
        .with(layer)
        .with(LibraryLimit::default());
    let set = if json {
        registry.with(json_lines(std::io::stderr)).try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(terminal);
        registry.with(layer.compact()).try_init()
    };
    set.map_err(|_| LogError::Twice)?;
    log_panics();
    Ok(filter)
}

/// Lines of JSON.
pub(super) fn json_lines<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .map_event_format(ShortPaths)
}

/// A panic is a line of the log like any other. Its text is left out: it may quote data.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location();
        let location = location.map(|location| shortened(&location.to_string()));
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = (backtrace.status() == std::backtrace::BacktraceStatus::Captured)
            .then(|| shortened_backtrace(&backtrace.to_string()));
        tracing::error!(location, backtrace, "panicked; this is a defect of verifyd");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::own_process;
    use bytes::{Buf as _, Bytes};

    /// In a process of its own: the hook is that of the whole process.
    #[test]
    fn a_panic_of_a_library_names_its_files_from_their_crates_on() {
        let name = concat!(
            module_path!(),
            "::a_panic_of_a_library_names_its_files_from_their_crates_on"
        );
        let Some(output) = own_process::output_of(name) else {
            let settings = LogSettings {
                format: LogFormat::Json,
                filter: "error".to_owned(),
            };
            init(&settings).unwrap();
            let past_the_end = std::panic::catch_unwind(|| Bytes::new().advance(1));
            assert!(past_the_end.is_err());
            return;
        };
        let log = String::from_utf8(output.stderr).unwrap();
        let mut lines = log.lines().filter(|line| line.contains("panicked"));
        let line: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        let location = line["location"].as_str().unwrap();
        assert!(location.starts_with("bytes"), "{location}");
        let backtrace = line["backtrace"].as_str().unwrap();
        let mut paths = backtrace
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("at "))
            .peekable();
        assert!(paths.peek().is_some(), "{backtrace}");
        assert!(paths.all(|path| !path.starts_with('/')), "{backtrace}");
    }
}
