//! The verification report v1.5: the product of every run.
//!
//! Members are declared in the order in which PostgreSQL stores them, by the length of their names and then
//! alphabetically. It would otherwise sort the members of each check again.

pub mod builder;
pub mod diff;
pub mod fingerprint;
pub(crate) mod redact;
pub mod schema;

use super::ids::{ConnectionId, RunId};
use super::names::text_enum;
use super::reason::Reason;
pub use super::severity::Severity;
use serde::{Deserialize, Serialize};

pub use builder::{FinishedReport, ReportDraft};

/// `schema_version` of the reports that this build writes.
pub const SCHEMA_VERSION: &str = "1.5.0";

text_enum! {
    /// How one check ended.
    pub enum CheckStatus: "status" {
        Pass => "pass",
        Fail => "fail",
        Warn => "warn",
        Skip => "skip",
        Running => "running",
    }
}

text_enum! {
    /// The verdict over all checks.
    pub enum Overall: "summary.overall" {
        Ready => "ready",
        NeedsAttention => "needs_attention",
        Blocked => "blocked",
        Running => "running",
    }
}

text_enum! {
    /// The kinds of evidence. A report contains no others.
    pub enum EvidenceKind: "kind" {
        /// `AADSTS7000215`
        AadstsCode => "aadsts_code",
        /// `error` of a token response
        OauthError => "oauth_error",
        HttpStatus => "http_status",
        /// `error.code` of a Graph response
        GraphCode => "graph_code",
        RequestId => "request_id",
        CorrelationId => "correlation_id",
        TraceId => "trace_id",
        /// Name of a permission
        Permission => "permission",
        /// Name of the granted permission that stands in for a required one
        SatisfiedBy => "satisfied_by",
        /// App role id of a permission
        AppRoleId => "app_role_id",
        /// When a credential expires, RFC 3339
        ExpiresAt => "expires_at",
        /// From when on a certificate or a token is valid, RFC 3339
        ValidFrom => "valid_from",
        /// Why a stored credential cannot be used, or a call got no answer: a text of a closed list of causes
        Cause => "cause",
        /// The expected value, where it is no secret (an id, a name from a list)
        Expected => "expected",
        /// The value that was found
        Found => "found",
        /// Path of the member that is missing or malformed
        Field => "field",
        /// Where the inventory was read
        Source => "source",
        /// Number of the items that the check counts
        Count => "count",
        /// How often it was tried
        Attempts => "attempts",
        /// Host name of the provider that was called
        Host => "host",
        /// Where in a report its schema was violated
        SchemaError => "schema_error",
        /// When to check again, RFC 3339
        RetryAt => "retry_at",
        /// `iss` of a federated token
        TokenIssuer => "token_issuer",
        /// `sub` of a federated token
        TokenSubject => "token_subject",
        /// `aud` of a federated token
        TokenAudience => "token_audience",
        /// When a federated token that is renewed again and again expires, RFC 3339
        TokenExpiresAt => "token_expires_at",
        /// Name of a granted permission that no module of the connection needs
        Unneeded => "unneeded",
        /// A granted permission, and after a colon those that would do in its place
        LeastPrivilege => "least_privilege",
        /// Name of a granted permission that amounts to control of the directory
        DirectoryControl => "directory_control",
        /// Host and port of the proxy that the call went through
        Proxy => "proxy",
        /// When a credential that works will end, RFC 3339
        EndsAt => "ends_at",
        /// How many secrets of the registration could be the connection's
        Candidates => "candidates",
        /// A service plan that is assigned to the tenant, with its status
        ServicePlan => "service_plan",
        /// How many more permissions are granted, whose names cannot be shown
        Unnamed => "unnamed",
        /// With what the database refused a result: the code of its error, and the rule where its name is known
        DatabaseRefusal => "database_refusal",
    }
}

impl EvidenceKind {
    /// Returns whether equal findings have equal values, so that the fingerprint includes it.
    pub const fn is_stable(self) -> bool {
        !matches!(
            self,
            Self::RequestId
                | Self::CorrelationId
                | Self::TraceId
                | Self::Attempts
                | Self::RetryAt
                | Self::TokenExpiresAt
                // The steps of its severity name it.
                | Self::EndsAt
                | Self::Candidates
        )
    }
}

/// One fact that supports a check's status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    pub kind: EvidenceKind,
    pub value: String,
}

impl Evidence {
    /// Creates evidence, with its value shortened and cleaned for a report.
    pub fn new(kind: EvidenceKind, value: impl std::fmt::Display) -> Self {
        Self {
            kind,
            value: redact::clean(&value.to_string(), limits::EVIDENCE_CHARS),
        }
    }
}

/// What to do about a check: a label and a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextStep {
    /// `https://…` or `/…`
    pub url: String,
    pub label: String,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Dotted, unique within the report.
    pub key: String,
    pub title: String,
    pub status: CheckStatus,
    pub message: String,
    /// A failure of this check makes the whole report `blocked`.
    pub blocking: bool,
    pub evidence: Vec<Evidence>,
    pub severity: Severity,
    pub next_steps: Vec<NextStep>,
    /// `None` only on pass and running.
    pub reason_code: Option<Reason>,
}

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    pub fail: u32,
    pub pass: u32,
    pub skip: u32,
    pub warn: u32,
    pub total: u32,
    pub running: u32,
}

/// `summary` of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub counts: Counts,
    pub overall: Overall,
}

/// Whom the report is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entra_tenant_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_connection_id: Option<ConnectionId>,
}

/// A verification report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The run's type.
    pub flow: String,
    pub checks: Vec<Check>,
    pub summary: Summary,
    pub identity: Identity,
    pub fingerprint: String,
    /// RFC 3339, UTC.
    pub generated_at: String,
    pub schema_version: String,
    /// The run that holds the previous report of the same connection.
    pub previous_report_id: Option<RunId>,
}

/// Limits of a report. The schema has the same numbers.
pub mod limits {
    /// Checks in a report.
    pub const CHECKS: usize = 200;
    /// Characters of a check's key.
    pub const KEY_CHARS: usize = 120;
    /// Characters of a title or of a next step's label.
    pub const TITLE_CHARS: usize = 200;
    /// Characters of a message.
    pub const MESSAGE_CHARS: usize = 1000;
    /// Characters of a piece of evidence.
    pub const EVIDENCE_CHARS: usize = 300;
    /// Pieces of evidence of one check.
    pub const EVIDENCE_ITEMS: usize = 50;
    /// Next steps of one check.
    pub const NEXT_STEPS: usize = 10;
    /// Characters of an address.
    pub const URL_CHARS: usize = 2000;
}

/// Overall: any running check, else any blocking failure, else any failure or warning, else ready.
pub fn summarise(checks: &[Check]) -> Summary {
    let mut counts = Counts::default();
    let mut blocking_fail = false;
    for check in checks {
        counts.total += 1;
        match check.status {
            CheckStatus::Pass => counts.pass += 1,
            CheckStatus::Fail => {
                counts.fail += 1;
                blocking_fail |= check.blocking;
            }
            CheckStatus::Warn => counts.warn += 1,
            CheckStatus::Skip => counts.skip += 1,
            CheckStatus::Running => counts.running += 1,
        }
    }
    let overall = if counts.running > 0 {
        Overall::Running
    } else if blocking_fail {
        Overall::Blocked
    } else if counts.fail + counts.warn > 0 {
        Overall::NeedsAttention
    } else {
        Overall::Ready
    };
    Summary { overall, counts }
}
