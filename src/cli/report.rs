//! `verifyd report`

use super::args::{ReportCommand, ValidateArgs};
use super::{exit, output};
use crate::domain::report::schema;
use crate::files;
use anyhow::Context as _;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Largest file that is read; a report is far smaller.
const MAX_BYTES: usize = 16 * 1024 * 1024;

pub fn run(command: &ReportCommand) -> anyhow::Result<ExitCode> {
    match command {
        ReportCommand::Schema => {
            output::line(schema::SCHEMA.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        ReportCommand::Validate(args) => validate(args),
    }
}

fn validate(args: &ValidateArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let text = if args.file.as_os_str() == "-" {
        files::limited(std::io::stdin(), MAX_BYTES)
    } else {
        files::read(&args.file, MAX_BYTES)
    }
    .with_context(|| format!("{name}"))?;
    let document: Value =
        serde_json::from_slice(&text).with_context(|| format!("{name}: not JSON"))?;
    // The row that `runs show --json` prints is as good as the report in it.
    let report = document
        .pointer("/context/verification_report")
        .unwrap_or(&document);
    let mut problems = schema::validate(report).err().unwrap_or_default();
    if problems.is_empty() && !schema::fingerprint_matches(report)? {
        problems.push("/fingerprint: is not the one of this content".to_owned());
    }
    if args.json.json {
        output::json(&json!({ "valid": problems.is_empty(), "problems": problems }))?;
    } else if problems.is_empty() {
        output::line(format!(
            "{} valid: schema, counts and fingerprint",
            "✓".green()
        ));
    } else {
        for problem in &problems {
            output::line(format!("{} {problem}", "✗".red()));
        }
    }
    Ok(exit::passed(problems.is_empty()))
}
