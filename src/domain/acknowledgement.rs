//! An operator's "seen and accepted" on one check of one run.
//!
//! It never changes a status, an outcome or a fingerprint. It carries on to later runs of the same
//! connection for as long as that check's status and reason code stay what they were.

use super::ids::{AcknowledgementId, RunId, TokenId};
use super::names::text_enum;
use super::reason::Reason;
use super::report::{Check, CheckStatus};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most characters of `reason`, and of the name of a person.
pub const REASON_CHARS: usize = 2_000;
pub const PERSON_CHARS: usize = 200;

/// Where somebody acknowledges or withdraws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surface {
    Api,
    Pages,
    Cli,
}
text_enum!(Surface, "surface", Api => "api", Pages => "pages", Cli => "cli");

/// Who did it by what verifyd itself knows, beside the name that the person gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    #[schema(inline)]
    pub surface: Surface,
    /// The token that was used; null on the command line.
    #[schema(value_type = Option<i64>)]
    pub token_id: Option<TokenId>,
    /// The token's name when it was used; on the command line the system's user.
    pub name: String,
}

impl Actor {
    /// In words, to stand behind the name of a person.
    pub fn words(&self) -> String {
        match self.surface {
            Surface::Api | Surface::Pages => format!("token {}", self.name),
            Surface::Cli => format!("command line, {}", self.name),
        }
    }
}

/// One row of `verification_check_acknowledgements`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acknowledgement {
    pub id: AcknowledgementId,
    /// The run on whose check it was made.
    pub operation_run_id: RunId,
    pub check_key: String,
    /// What the check said when it was acknowledged. As it was stored: a code that this build does
    /// not know matches no check.
    pub reason_code: Option<String>,
    /// Why it is accepted, in the words of the person.
    pub reason: String,
    /// As the person says.
    pub acknowledged_by: String,
    /// `None`: not through verifyd, or through one that did not note it yet.
    pub acknowledged_through: Option<Actor>,
    pub acknowledged_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub withdrawn_at: Option<DateTime<Utc>>,
    pub withdrawn_by: Option<String>,
    pub withdrawn_through: Option<Actor>,
}

impl Acknowledgement {
    /// Neither withdrawn nor past its expiry.
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.withdrawn_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }

    /// Whether it speaks about a check that was found so: same key, same reason code. (The status
    /// of the check that was acknowledged is not stored with it: a reason code stands for one
    /// status only, or else the caller compares the two checks, see [`carries`].)
    pub fn is_about(&self, key: &str, reason: Option<Reason>) -> bool {
        self.check_key == key && self.reason_code.as_deref() == reason.map(|r| r.code())
    }
}

/// Only what is wrong can be acknowledged.
pub fn may_be_acknowledged(check: &Check) -> bool {
    matches!(check.status, CheckStatus::Fail | CheckStatus::Warn)
}

/// Whether what was acknowledged on `before` still stands on `now`.
pub fn carries(before: &Check, now: &Check) -> bool {
    before.key == now.key && before.status == now.status && before.reason_code == now.reason_code
}
