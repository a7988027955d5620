//! `verifyd config`

use super::args::ConfigCommand;
use super::output;
use crate::config::{DEFAULTS, Settings};
use std::process::ExitCode;

pub fn run(settings: &Settings, command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Print(args) if args.json => output::json(&settings.masked())?,
        ConfigCommand::Print(_) => output::line(settings.print().trim_end()),
        ConfigCommand::Default => output::line(DEFAULTS.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
