//! The form of a case: one TOML file, no code. `docs/contributing/testing.md` leads to examples.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A case as its file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The document or public thread that the answers come from.
    pub source: String,
    #[serde(default)]
    pub connection: Connection,
    /// Answers of the token endpoint in order; the last one repeats.
    #[serde(default)]
    pub token: Vec<Answer>,
    /// Answers of Graph by path, in order; the last one repeats.
    #[serde(default)]
    pub graph: BTreeMap<String, Vec<Answer>>,
    pub expect: Expect,
    /// `<group>/<name>`, from the file's place.
    #[serde(skip)]
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Secret,
    Certificate,
    Federated,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connection {
    pub credential: Kind,
    pub module: String,
    /// Permissions on Graph that the healthy tenant has granted; the module's where it is absent.
    pub granted: Option<Vec<String>>,
    /// `roles` of the token; the granted ones where it is absent.
    pub token_roles: Option<Vec<String>>,
    /// The healthy tenant's token is no JWT.
    pub opaque_token: bool,
    /// Days for which the certificate is valid from the case's day on.
    pub certificate_valid_days: i64,
    pub credential_changed_seconds_ago: Option<i64>,
    pub created_seconds_ago: Option<i64>,
    /// `expires_at` as it is recorded with the credential, in days from the case's time on.
    pub credential_expires_in_days: Option<i64>,
    pub federated_token: FederatedToken,
    pub deadline_seconds: u64,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            credential: Kind::Secret,
            module: "health_check".to_owned(),
            granted: None,
            token_roles: None,
            opaque_token: false,
            certificate_valid_days: 700,
            credential_changed_seconds_ago: None,
            created_seconds_ago: None,
            credential_expires_in_days: None,
            federated_token: FederatedToken::default(),
            deadline_seconds: 600,
        }
    }
}

/// The token in the file of a federated credential.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederatedToken {
    /// Claims in place of, or beside, the usual ones; `expires_in` says when it expires, in seconds from
    /// the case's time on.
    pub claims: BTreeMap<String, toml::Value>,
    pub expires_in: Option<i64>,
    /// What the file holds in place of a token; `${jwt}` stands for the token.
    pub text: Option<String>,
    /// There is no file.
    pub missing: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    #[default]
    Utf8,
    Utf8Bom,
    Utf16Le,
    Utf16LeBom,
    Utf16BeBom,
    Latin1,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// Answers as the healthy tenant does; nothing else is named then.
    pub healthy: bool,
    pub status: Option<u16>,
    /// `content-type` is `application/json` where it is not named; an empty text leaves it out.
    pub headers: BTreeMap<String, OneOrMany>,
    pub body: Option<String>,
    pub encoding: Encoding,
    pub chunked: bool,
    /// The connection is closed after so many bytes of the body.
    pub truncate: Option<usize>,
    /// The connection is closed without an answer.
    pub close: bool,
    /// What is sent in place of an answer in HTTP.
    pub raw: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// `succeeded`, `failed` or `blocked`.
    pub outcome: String,
    /// `ready`, `needs_attention` or `blocked`.
    pub overall: String,
    /// No other check than those that are named fails, warns or is skipped.
    #[serde(default)]
    pub only: bool,
    /// The run goes back to the queue for so many seconds.
    pub later_seconds: Option<u64>,
    /// How often the token endpoint is asked.
    pub token_requests: Option<usize>,
    #[serde(default)]
    pub checks: Vec<ExpectedCheck>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedCheck {
    pub key: String,
    pub status: String,
    pub reason: Option<String>,
    pub severity: Option<String>,
    /// Kinds of link of the next steps, in order.
    pub steps: Option<Vec<String>>,
    /// Addresses that are among those of the next steps.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Values by kind: all of that kind, in order. An empty list: none.
    #[serde(default)]
    pub evidence: BTreeMap<String, OneOrMany>,
}

fn toml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            toml_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "toml") {
            found.push(path);
        }
    }
}

/// Every case below `folder`, by name; the problems of files that are none.
pub fn all(folder: &Path) -> (Vec<Case>, Vec<String>) {
    let mut files = Vec::new();
    toml_files(folder, &mut files);
    files.sort();
    let (mut cases, mut problems) = (Vec::new(), Vec::new());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(folder).unwrap().with_extension("");
        let name = name.to_string_lossy().into_owned();
        match read(&text) {
            Ok(case) => cases.push(Case { name, ..case }),
            Err(problem) => problems.push(format!("{name}.toml: {problem}")),
        }
    }
    (cases, problems)
}

/// The case in this text, or what is wrong with it and where.
pub fn read(text: &str) -> Result<Case, String> {
    let case: Case = toml::from_str(text).map_err(|error| error.to_string())?;
    let known = |what: &str, value: &str, allowed: &[&str]| match allowed.contains(&value) {
        true => Ok(()),
        false => Err(format!(
            "{what}: {value:?} is none of {}",
            allowed.join(", ")
        )),
    };
    let expect = &case.expect;
    known(
        "expect.outcome",
        &expect.outcome,
        &["succeeded", "failed", "blocked"],
    )?;
    known(
        "expect.overall",
        &expect.overall,
        &["ready", "needs_attention", "blocked"],
    )?;
    for check in &expect.checks {
        known(
            "expect.checks.status",
            &check.status,
            &["pass", "fail", "warn", "skip"],
        )?;
        if let Some(reason) = &check.reason {
            reason
                .parse::<verifyd::domain::Reason>()
                .map_err(|_| format!("expect.checks.reason: no reason {reason:?}"))?;
        }
    }
    if case.source.trim().len() < 8 {
        return Err("source: name the document or thread".to_owned());
    }
    Ok(case)
}
