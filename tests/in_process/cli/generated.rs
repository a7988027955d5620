//! Completions and manual pages are made for every command.

use clap::CommandFactory as _;
use std::process::{Command, Output};

fn verifyd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifyd"));
    let output = command.args(arguments).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", super::stderr(&output));
    output
}

/// The names of the pages of a command and of those below it.
fn pages(command: &clap::Command, name: &str, found: &mut Vec<String>) {
    found.push(format!("{name}.1"));
    let below = command.get_subcommands();
    for below in below.filter(|command| !command.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), found);
    }
}

#[test]
fn every_command_has_completions_and_a_manual_page() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = super::stdout(&verifyd(&["completions", shell]));
        for word in ["support-bundle", "log-filter", "acknowledgements"] {
            super::assert_holds(&script, word);
        }
    }
    super::assert_holds(&super::stdout(&verifyd(&["man"])), ".TH verifyd 1");

    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("man1");
    verifyd(&["man", "--output", output.to_str().unwrap()]);
    let mut wanted = Vec::new();
    pages(&verifyd::cli::Cli::command(), "verifyd", &mut wanted);
    wanted.sort();
    let written = std::fs::read_dir(&output).unwrap();
    let mut written: Vec<String> = written
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    assert_eq!(written, wanted);
    let page = std::fs::read_to_string(output.join("verifyd-debug-log-filter.1")).unwrap();
    super::assert_holds(&page, "log.filter");

    let file = output.join("verifyd.1");
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifyd"));
    command.args(["man", "--output"]).arg(&file).env_clear();
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    super::assert_holds(&super::stderr(&refused), "verifyd.1: is no folder");
}
