//! `verifyd config`

use super::args::ConfigCommand;
use super::output;
use crate::config::{DEFAULT, Settings};
use std::process::ExitCode;

/// The defaults are printed without a configuration.
pub fn run(
    ready: impl FnOnce() -> anyhow::Result<Settings>,
    command: &ConfigCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Print(args) if args.json => output::json(&ready()?.masked())?,
        ConfigCommand::Print(_) => output::line(ready()?.print().trim_end()),
        ConfigCommand::Default => output::line(DEFAULT.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
