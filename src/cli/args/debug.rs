//! Arguments of `debug`, `support-bundle`, `completions` and `man`.

use super::JsonArg;
use crate::config::Overrides;
use crate::telemetry::log_filter::MAX_PERIOD;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// Show what each slot does and for how long, with queue and pool
    State(DebugStateArgs),
    /// Log in more detail for a time; without FILTER, return to log.filter
    LogFilter(LogFilterArgs),
}

impl DebugCommand {
    /// The socket that the command asks.
    pub(super) fn socket(&self) -> &SocketArg {
        match self {
            Self::State(args) => &args.socket,
            Self::LogFilter(args) => &args.socket,
        }
    }
}

#[derive(Debug, Args)]
pub struct SocketArg {
    /// Socket of the daemon, in place of debug.socket
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
}

impl SocketArg {
    pub(super) fn overrides(&self) -> Overrides {
        let path = self.socket.as_ref().map(|path| path.display());
        Overrides::default().with_optional("--socket", "debug.socket", path)
    }
}

#[derive(Debug, Args)]
pub struct DebugStateArgs {
    #[command(flatten)]
    pub socket: SocketArg,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct LogFilterArgs {
    /// Directives to add to log.filter, e.g. verifyd::provider=debug
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,
    /// Time after which log.filter holds again, at most 24h
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = period_of_change)]
    pub period: Duration,
    #[command(flatten)]
    pub socket: SocketArg,
    #[command(flatten)]
    pub json: JsonArg,
}

/// The time of a change, which is asked for in whole seconds.
fn period_of_change(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|period| (Duration::from_secs(1)..=MAX_PERIOD).contains(period))
        .ok_or_else(|| "allowed: a duration from 1s to 24h, such as 10m".to_owned())
}

#[derive(Debug, Args)]
pub struct SupportBundleArgs {
    /// The file to write (.tar.gz), which must not exist; - for standard output
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Also what names tenants and quotes rows: the latest failed runs, and all that doctor says
    #[arg(long)]
    pub with_tenant_data: bool,
    #[command(flatten)]
    pub socket: SocketArg,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for the pages; it is created where it is missing
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}
