//! `verifyd version`

use super::args::JsonArg;
use super::output;
use crate::telemetry::build_info::BUILD;
use std::process::ExitCode;

pub fn run(args: &JsonArg) -> anyhow::Result<ExitCode> {
    if args.json {
        output::json(&BUILD)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut features = BUILD.features.join(", ");
    if features.is_empty() {
        features.push('–');
    }
    output::line(format!("verifyd {}", BUILD.version));
    for (name, value) in [
        ("commit", BUILD.commit),
        ("rustc", BUILD.rustc),
        ("profile", BUILD.profile),
        ("features", features.as_str()),
    ] {
        output::line(format!("{name:<8} {value}"));
    }
    Ok(ExitCode::SUCCESS)
}
