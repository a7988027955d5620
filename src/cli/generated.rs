//! `verifyd completions` and `verifyd man`: made from the definitions of the commands.

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::output;
use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;
use std::io::Write as _;
use std::process::ExitCode;

pub fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "verifyd", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    match &args.output {
        None => Man::new(Cli::command()).render(&mut std::io::stdout())?,
        Some(folder) => {
            anyhow::ensure!(
                folder.is_dir() || !folder.exists(),
                "--output {}: is no folder",
                folder.display()
            );
            let written = std::fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
            written.with_context(|| format!("cannot write to {}", folder.display()))?;
            output::note(format!("manual pages are in {}", folder.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
