//! The failure of one call: a reason with its evidence, and whether a retry may help.

use crate::domain::Reason;
use crate::domain::link::Link;
use crate::domain::report::{Evidence, EvidenceKind};
use crate::outbound::failure::FailureKind;
use crate::ports::provider::Disposition;
use serde::Deserialize;
use std::num::NonZeroU64;
use std::time::Duration;

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Retry {
    #[default]
    Never,
    /// One more time, at once.
    Once,
    /// After a wait: the one that the provider asks for, or exponential backoff.
    Backoff,
}

/// Advice for a case that is more exact than the reason's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// The claim that it is about.
    pub field: Option<&'static str>,
    /// Replaces the reason's sentence on why it matters.
    pub why: &'static str,
    /// Replaces the reason's steps.
    pub steps: &'static [(&'static str, Link)],
}

/// When to try again. Of two, the longer wait counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Later {
    pub wait: Duration,
    pub cause: LaterCause,
}

/// Who has chosen when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LaterCause {
    /// Nobody: the provider named no time, or one after which it refused again.
    Refused,
    /// The provider.
    Asked,
    /// The limiter, which spreads these times: see `limiter::reservations`.
    Budget,
}

impl From<Later> for Disposition {
    fn from(later: Later) -> Self {
        match later.cause {
            LaterCause::Refused => Self::Backoff(later.wait),
            LaterCause::Asked => Self::Later(later.wait),
            LaterCause::Budget => Self::Budget(later.wait),
        }
    }
}

/// The end of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub reason: Reason,
    pub evidence: Vec<Evidence>,
    pub retry: Retry,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// Permissions of which the answer requires one.
    pub asks_for: Box<[String]>,
    /// Status of the answer, when there was one.
    pub status: Option<u16>,
    /// Set when the wait is too long for this attempt.
    pub later: Option<Box<Later>>,
    /// One sentence that adds to the reason.
    pub remark: Option<Box<str>>,
    /// An AADSTS code that is not known here, for people to look up.
    pub look_up: Option<NonZeroU64>,
    /// Advice that replaces the reason's.
    pub advice: Option<&'static Advice>,
    /// How the exchange failed; its step, if it has one, comes before the reason's.
    pub failure: Option<FailureKind>,
}

impl Fault {
    /// A fault that trying again does not change.
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            evidence: Vec::new(),
            retry: Retry::Never,
            retry_after: None,
            asks_for: Box::default(),
            status: None,
            later: None,
            remark: None,
            look_up: None,
            advice: None,
            failure: None,
        }
    }

    /// With one more piece of evidence.
    pub fn with(mut self, kind: EvidenceKind, value: impl std::fmt::Display) -> Self {
        self.evidence.push(Evidence::new(kind, value));
        self
    }

    /// With evidence that may be absent.
    pub fn with_some(self, kind: EvidenceKind, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(kind, value),
            None => self,
        }
    }

    /// With the status of the answer.
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self.with(EvidenceKind::HttpStatus, status)
    }

    /// With a rule for trying again, and the wait that the provider asks for.
    pub fn retry(mut self, retry: Retry, after: Option<Duration>) -> Self {
        self.retry = retry;
        self.retry_after = after;
        self
    }

    /// An answer that is not what the interface promises.
    pub fn invalid(status: u16) -> Self {
        Self::new(Reason::ResponseInvalid).status(status)
    }

    /// Whether there is evidence of this kind.
    pub fn has(&self, kind: EvidenceKind) -> bool {
        self.evidence.iter().any(|e| e.kind == kind)
    }

    /// Whether Graph has named this error.
    pub fn has_code(&self, code: &str) -> bool {
        self.evidence
            .iter()
            .any(|e| e.kind == EvidenceKind::GraphCode && e.value.eq_ignore_ascii_case(code))
    }

    /// Returns whether it says nothing about the connection: the provider or the network is at fault.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.reason,
            Reason::Throttled
                | Reason::ProviderUnavailable
                | Reason::ProviderUnreachable
                | Reason::ProviderTimeout
                | Reason::DeadlineExceeded
        )
    }
}
