//! Shortens the paths of source files in log lines: those of libraries are of the machine that built this program.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// What lines of the crate `log` call the file that they come from.
const LOG_FILE: &str = "log.file";

/// Returns an absolute path from the folder of its crate on: `tokio-1.48.0/src/lib.rs`.
pub(super) fn shortened(path: &str) -> String {
    let absolute = Path::new(path);
    if absolute.is_relative() {
        return path.to_owned();
    }
    let parts: Vec<_> = absolute.iter().collect();
    let first = match parts.iter().rposition(|part| *part == "src") {
        // Cargo's folder of the registry, for a crate that has none.
        Some(at) if is_in_registry(&parts[at + 1..]) => at + 2,
        Some(at) => at.saturating_sub(1),
        // Without such a folder, the file alone.
        None => parts.len() - 1,
    };
    parts[first..]
        .iter()
        .collect::<PathBuf>()
        .display()
        .to_string()
}

/// Returns whether the parts after `src` are those of a registry: its name, a crate, and a file of that.
fn is_in_registry(parts: &[&OsStr]) -> bool {
    let [registry, _crate, _file, ..] = parts else {
        return false;
    };
    let registry = registry.to_string_lossy();
    registry.starts_with("index.") || registry.contains("crates.io-")
}

/// The same for each line of a backtrace that names a file.
pub(super) fn shortened_backtrace(backtrace: &str) -> String {
    let lines = backtrace.lines().map(|line| match line.split_once(" at ") {
        Some((indent, path)) if indent.trim().is_empty() => {
            format!("{indent} at {}", shortened(path))
        }
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A format of JSON that shortens [`LOG_FILE`].
pub(super) struct ShortPaths<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for ShortPaths<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !event.is_log() {
            return self.0.format_event(context, writer, event);
        }
        let mut file = FileOfLine(None);
        event.record(&mut file);
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        if let Some(file) = file.0 {
            let member = |path: &str| format!("\"{LOG_FILE}\":{}", serde_json::Value::from(path));
            line = line.replace(&member(&file), &member(&shortened(&file)));
        }
        writer.write_str(&line)
    }
}

struct FileOfLine(Option<String>);

impl Visit for FileOfLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == LOG_FILE {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::io;
    use std::sync::Arc;
    use tracing_log::log;
    use tracing_subscriber::layer::SubscriberExt as _;

    const REGISTRY: &str = "/home/builder/.cargo/registry/src/index.crates.io-0123456789abcdef";

    #[test]
    fn a_path_begins_with_its_crate() {
        for (path, short) in [
            (
                &*format!("{REGISTRY}/tokio-1.48.0/src/runtime/task.rs"),
                "tokio-1.48.0/src/runtime/task.rs",
            ),
            (&*format!("{REGISTRY}/fnv-1.0.7/lib.rs"), "fnv-1.0.7/lib.rs"),
            (
                &*format!("{REGISTRY}/hashed-1.0.0/src/index.rs"),
                "hashed-1.0.0/src/index.rs",
            ),
            (
                "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/option.rs",
                "core/src/option.rs",
            ),
            (
                "/home/builder/target/release/build/verifyd-1/out/made.rs",
                "made.rs",
            ),
            ("src/cli/serve.rs", "src/cli/serve.rs"),
            ("/", "/"),
        ] {
            assert_eq!(shortened(path), short, "{path}");
        }
    }

    #[test]
    fn a_backtrace_names_no_folder_of_the_build_machine() {
        let backtrace = format!(
            "   0: verifyd::main\n             at ./src/main.rs:7:5\n   1: tokio::run at once\n             \
             at {REGISTRY}/tokio-1.48.0/src/lib.rs:1:2"
        );
        assert_eq!(
            shortened_backtrace(&backtrace),
            "   0: verifyd::main\n             at ./src/main.rs:7:5\n   1: tokio::run at once\n             \
             at tokio-1.48.0/src/lib.rs:1:2"
        );
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_a_library_names_its_file_from_its_crate_on() {
        let written = Written::default();
        let writer = written.clone();
        let layer = super::super::logs::json_lines(move || writer.clone());
        let registry = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(registry, || {
            let file = format!("{REGISTRY}/mio-1.0.4/src/poll.rs");
            let record = log::Record::builder()
                .level(log::Level::Warn)
                .target("mio::poll")
                .file(Some(&file))
                .line(Some(563))
                .args(format_args!("registering"))
                .build();
            tracing_log::format_trace(&record).unwrap();
            tracing::warn!("a line of verifyd");
        });
        let written = String::from_utf8(written.0.lock().clone()).unwrap();
        let lines: Vec<serde_json::Value> = written
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["log.file"], "mio-1.0.4/src/poll.rs");
        assert_eq!(lines[0]["message"], "registering");
        assert_eq!(lines[1]["message"], "a line of verifyd");
        assert!(!written.contains("/root"), "{written}");
    }
}
