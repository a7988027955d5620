//! The committed baseline: written with `bench/micro --record`, compared with by
//! `bench/micro --compare-recorded`. The script says which of the two by these variables.

use super::calibration;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const RECORD: &str = "VERIFYD_MICRO_RECORD";
const COMPARE: &str = "VERIFYD_MICRO_COMPARE";

/// Ratios that differ by less say nothing.
const NOISE: f64 = 0.15;

/// `bench/micro-baseline.json`
#[derive(Serialize, Deserialize)]
struct Baseline {
    benchmarks: BTreeMap<String, Measured>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Measured {
    median_ns: f64,
    /// The median by that of the calibration in the same run.
    ratio: f64,
}

/// What is to be done after the run, if anything.
pub fn end(names: &[String]) -> ExitCode {
    let path = |variable| std::env::var_os(variable).map(PathBuf::from);
    if let Some(file) = path(RECORD) {
        let mut text = serde_json::to_string_pretty(&measured(names)).unwrap();
        text.push('\n');
        std::fs::write(file, text).unwrap();
    } else if let Some(file) = path(COMPARE) {
        let text = std::fs::read_to_string(file).unwrap();
        compare(&serde_json::from_str(&text).unwrap(), &measured(names));
    }
    ExitCode::SUCCESS
}

/// The medians that criterion has just written.
fn measured(names: &[String]) -> Baseline {
    let home = std::env::var_os("CRITERION_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| panic!("CRITERION_HOME is not set: use bench/micro"));
    let medians: Vec<(&String, f64)> = names
        .iter()
        .map(|name| (name, median(&home, name)))
        .collect();
    let (_, calibration) = medians
        .iter()
        .find(|(name, _)| *name == calibration::NAME)
        .unwrap();
    Baseline {
        benchmarks: medians
            .iter()
            .map(|(name, median)| {
                let measured = Measured {
                    median_ns: rounded(*median, 1.0),
                    ratio: rounded(median / calibration, 10_000.0),
                };
                ((*name).clone(), measured)
            })
            .collect(),
    }
}

fn median(home: &Path, name: &str) -> f64 {
    // Criterion's name of the folder.
    let folder = home.join(name.replace('/', "_"));
    let text = std::fs::read_to_string(folder.join("new/estimates.json")).unwrap();
    let estimates: Value = serde_json::from_str(&text).unwrap();
    estimates["median"]["point_estimate"].as_f64().unwrap()
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[allow(clippy::print_stdout, reason = "it is what was asked for")]
fn compare(recorded: &Baseline, now: &Baseline) {
    println!(
        "{:<30} {:>12} {:>12} {:>10} {:>10} {:>8}",
        "", "recorded ns", "now ns", "ratio then", "ratio now", "change"
    );
    for (name, now) in &now.benchmarks {
        let Some(then) = recorded.benchmarks.get(name) else {
            println!("{name:<30} {:>12} {:>12} not recorded", "", now.median_ns);
            continue;
        };
        let change = now.ratio / then.ratio - 1.0;
        let verdict = match change {
            c if c > NOISE => "  slower",
            c if c < -NOISE => "  faster",
            _ => "",
        };
        println!(
            "{name:<30} {:>12} {:>12} {:>10} {:>10} {:>+7.0}%{verdict}",
            then.median_ns,
            now.median_ns,
            then.ratio,
            now.ratio,
            change * 100.0
        );
    }
    for name in recorded.benchmarks.keys() {
        if !now.benchmarks.contains_key(name) {
            println!("{name:<30} recorded, and no longer there");
        }
    }
}
