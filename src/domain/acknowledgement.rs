//! Acknowledgements: a person has seen and accepted a check of a run.
//!
//! An acknowledgement never changes a status, an outcome or a fingerprint. It applies to later runs of the
//! same connection as long as the status and the reason code of the check stay the same.

use super::access::PERSON_PREFIX;
use super::ids::{AcknowledgementId, RunId, TokenId};
use super::names::text_enum;
use super::reason::Reason;
use super::report::{Check, CheckStatus};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest `reason`, and longest name of a person, in characters.
pub const REASON_CHARS: usize = 2_000;
pub const PERSON_CHARS: usize = 200;

text_enum! {
    /// The surface through which a person acknowledges or withdraws.
    pub enum Surface: "surface" {
        Api => "api",
        Pages => "pages",
        Cli => "cli",
    }
}

/// The identity that verifyd itself knows, beside the name that the person gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    #[schema(inline)]
    pub surface: Surface,
    /// The token that was used; null on the command line.
    #[schema(value_type = Option<i64>)]
    pub token_id: Option<TokenId>,
    /// The token's name at that time; on the command line the user of the operating system.
    pub name: String,
}

impl Actor {
    /// Returns the identity in words, to follow the name of a person.
    pub fn words(&self) -> String {
        match self.surface {
            Surface::Pages if self.name.starts_with(PERSON_PREFIX) => self.name.clone(),
            Surface::Api | Surface::Pages => format!("token {}", self.name),
            Surface::Cli => format!("command line, {}", self.name),
        }
    }
}

/// One row of `verification_check_acknowledgements`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acknowledgement {
    pub id: AcknowledgementId,
    /// The run whose check was acknowledged.
    pub operation_run_id: RunId,
    pub check_key: String,
    /// The reason code of the check when it was acknowledged, as it was stored. A code that this build does
    /// not know matches no check.
    pub reason_code: Option<String>,
    /// Why the check is accepted, in the person's words.
    pub reason: String,
    /// The name that the person gave.
    pub acknowledged_by: String,
    /// `None` when it was not made through verifyd, or by a version that did not record it.
    pub acknowledged_through: Option<Actor>,
    /// A time is `None` where another application recorded one that cannot be shown, such as `infinity`.
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    /// The recorded end is no time that can be shown, and counts as past.
    pub is_past: bool,
    pub is_withdrawn: bool,
    pub withdrawn_at: Option<DateTime<Utc>>,
    pub withdrawn_by: Option<String>,
    pub withdrawn_through: Option<Actor>,
}

impl Acknowledgement {
    /// Returns whether it is neither withdrawn nor expired.
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        !self.is_withdrawn && !self.is_past && self.expires_at.is_none_or(|at| now < at)
    }

    /// Returns whether it applies to a check with this key and reason code. (The status of the acknowledged
    /// check is not stored: a reason code belongs to one status only, or else the caller compares the two
    /// checks, see [`carries`].)
    pub fn is_about(&self, key: &str, reason: Option<Reason>) -> bool {
        self.check_key == key && self.reason_code.as_deref() == reason.map(|r| r.code())
    }
}

/// Returns whether a check can be acknowledged: only one that failed or warns can.
pub fn may_be_acknowledged(check: &Check) -> bool {
    matches!(check.status, CheckStatus::Fail | CheckStatus::Warn)
}

/// Returns whether an acknowledgement of `before` still applies to `now`.
pub fn carries(before: &Check, now: &Check) -> bool {
    before.key == now.key && before.status == now.status && before.reason_code == now.reason_code
}
