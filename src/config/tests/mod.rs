//! What a loaded, or refused, configuration looks like from outside.

mod documentation;
mod former;
mod reading;
mod refusing;
mod robustness;
mod secrets;

use super::reference::Documented;
use super::*;
use proptest::prelude::*;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const CANARY: &str = "canaryS3cr3t";

fn sources(environment: &[(&str, &str)]) -> Sources {
    Sources {
        file: None,
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        overrides: Overrides::default(),
    }
}

fn load(environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    Settings::load(sources(environment))
}

fn errors(environment: &[(&str, &str)]) -> String {
    load(environment).unwrap_err().to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn with_file(text: &str, environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let file = file(text);
    let mut sources = sources(environment);
    sources.file = Some(file.path().to_owned());
    Settings::load(sources)
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Asserts that the text holds these words; a failure shows all of it.
#[track_caller]
fn assert_holds(text: &str, words: &str) {
    assert!(text.contains(words), "{words}: {text}");
}

/// Without the comments about origins.
fn bare(printed: &str) -> String {
    let lines = printed
        .lines()
        .map(|line| line.split_once(" # ").map_or(line, |(left, _)| left));
    lines.collect::<Vec<_>>().join("\n")
}
