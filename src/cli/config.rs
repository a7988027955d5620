//! `verifyd config`

use super::args::ConfigCommand;
use super::output;
use crate::config::{DEFAULT, Settings};
use std::process::ExitCode;

pub fn run(settings: &Settings, command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Print(args) if args.json => output::json(&settings.masked())?,
        ConfigCommand::Print(_) => output::line(settings.print().trim_end()),
        ConfigCommand::Default => output::line(DEFAULT.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
