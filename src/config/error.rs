//! What is wrong with a configuration. Never quotes the value of a secret.

use std::fmt;

/// Everything that was found wrong, in the order of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `environment variable VERIFYD__…`, `file /etc/verifyd.toml`, `flag --listen`; `None` for a
    /// contradiction between keys of several sources.
    pub source: Option<String>,
    /// One sentence that names the key and what is allowed.
    pub message: String,
}

impl Problem {
    pub(super) fn at(source: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            source: Some(source.into()),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{source}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// One problem per line.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}
