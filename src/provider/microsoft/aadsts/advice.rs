//! Advice for some sign-in errors that is more exact than their reason: why, and what to do.

use crate::domain::link::Link;
use crate::provider::microsoft::fault::Advice;
use crate::provider::microsoft::sign_in::FederatedClaims;
use chrono::TimeDelta;
use serde::Deserialize;

const STORE: (&str, Link) = ("Store it for the connection", Link::Connection);
const CHECK_AGAIN: (&str, Link) = ("Check again", Link::Run);

/// Microsoft Entra accepts external tokens with a lifetime of a day, plus an hour.
const LONGEST_LIFETIME: TimeDelta = TimeDelta::hours(25);

/// The column `advice` of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AdviceKind {
    AgentBlueprint,
    ManagedIdentity,
    Revoked,
    Lifetime,
    Method,
}

impl AdviceKind {
    pub fn advice(self, federated: Option<&FederatedClaims>) -> Option<&'static Advice> {
        match (self, federated) {
            (Self::AgentBlueprint, _) => Some(&AGENT_BLUEPRINT),
            (Self::ManagedIdentity, _) => Some(&MANAGED_IDENTITY),
            (Self::Method, _) => Some(&METHOD),
            // Which certificate it is about is the issuer's matter.
            (Self::Revoked, None) => Some(&REVOKED),
            (Self::Lifetime, Some(claims)) => Some(lifetime(claims)),
            (Self::Revoked, Some(_)) | (Self::Lifetime, None) => None,
        }
    }
}

/// Returns what is wrong with the token's lifetime, by its claims.
fn lifetime(claims: &FederatedClaims) -> &'static Advice {
    match (claims.issued_at, claims.lifetime()) {
        (None, _) if claims.expires_at.is_some() => &NO_ISSUED_AT,
        (_, Some(lifetime)) if lifetime > LONGEST_LIFETIME => &LIVES_TOO_LONG,
        _ => &LIFETIME,
    }
}

static AGENT_BLUEPRINT: Advice = Advice {
    field: None,
    why: "The client id of the connection is that of an agent blueprint, which cannot sign in here.",
    steps: &[
        (
            "Correct the client id: it has to be an app registration's",
            Link::Connection,
        ),
        ("What the error means", Link::ErrorCodes),
    ],
};

static MANAGED_IDENTITY: Advice = Advice {
    field: None,
    why: "The client id of the connection is that of a managed identity, which no stored credential can sign in.",
    steps: AGENT_BLUEPRINT.steps,
};

static REVOKED: Advice = Advice {
    field: None,
    why: "The certificate has been revoked.",
    steps: &[("Upload a new certificate", Link::AppCredentials), STORE],
};

static METHOD: Advice = Advice {
    field: None,
    why: "What arrived was a GET: a proxy or gateway on the way has changed the POST that was sent.",
    steps: &[
        (
            "Let the worker's requests to the provider's hosts pass unchanged",
            Link::NationalClouds,
        ),
        ("What the error means", Link::ErrorCodes),
    ],
};

const LIFETIME_STEPS: &[(&str, Link)] = &[
    (
        "Have the issuer give tokens with `iat` that live for a day at most",
        Link::WorkloadFederation,
    ),
    CHECK_AGAIN,
];

static LIFETIME: Advice = Advice {
    field: None,
    why: "An external token has to say when it was issued (`iat`), and may live for a day at most.",
    steps: LIFETIME_STEPS,
};

static NO_ISSUED_AT: Advice = Advice {
    field: Some("iat"),
    why: "The token does not say when it was issued (`iat`), so it seems to live for too long.",
    steps: LIFETIME_STEPS,
};

static LIVES_TOO_LONG: Advice = Advice {
    field: Some("exp"),
    why: "The token lives for longer than a day.",
    steps: LIFETIME_STEPS,
};

/// By its own dates the token is not valid yet.
pub(super) static ISSUERS_CLOCK: Advice = Advice {
    field: Some("nbf"),
    why: "By its own dates the token in the file is not valid yet: the clock of its issuer is ahead.",
    steps: &[
        (
            "Set the clock of the token's issuer (NTP)",
            Link::WorkloadFederation,
        ),
        CHECK_AGAIN,
    ],
};

/// By the worker's clock the token is valid.
pub(super) static CLOCKS_DIFFER: Advice = Advice {
    field: None,
    why: "By the clock of the worker the token in the file is valid: that clock or its issuer's is slow.",
    steps: &[
        (
            "Set the clock of the worker and that of the token's issuer (NTP)",
            Link::WorkloadFederation,
        ),
        CHECK_AGAIN,
    ],
};
