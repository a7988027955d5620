//! The connections of the demo: each outcome, and the most useful reasons.

use std::fmt;
use verifyd_simulator::{Expectation, Scenario};

/// One connection of the demo.
#[derive(Debug)]
pub struct DemoConnection {
    pub name: &'static str,
    pub scenario: Scenario,
    pub signs_in_by: SignsInBy,
    /// A problem that preflight finds.
    pub flaw: Option<Flaw>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignsInBy {
    Secret,
    Certificate,
    FederatedToken,
}

impl fmt::Display for SignsInBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "secret",
            Self::Certificate => "certificate",
            Self::FederatedToken => "federated token",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Disabled,
    CredentialExpired,
    NoCredential,
    TargetMalformed,
}

impl Flaw {
    fn reasons(self) -> &'static [&'static str] {
        match self {
            Self::Disabled => &["connection_disabled"],
            Self::CredentialExpired => &["credential_expired"],
            Self::NoCredential => &["credential_missing"],
            Self::TargetMalformed => &["target_scope_malformed"],
        }
    }
}

impl DemoConnection {
    /// Returns the expected end of its run.
    pub fn expected(&self) -> Expectation {
        let expected = self.scenario.expectation();
        match self.flaw {
            Some(flaw) => Expectation {
                outcome: "blocked",
                overall: "blocked",
                reasons: flaw.reasons(),
                ..expected
            },
            None => expected,
        }
    }
}

const fn part(name: &'static str, scenario: Scenario, signs_in_by: SignsInBy) -> DemoConnection {
    DemoConnection {
        name,
        scenario,
        signs_in_by,
        flaw: None,
    }
}

const fn flawed(name: &'static str, flaw: Flaw) -> DemoConnection {
    DemoConnection {
        flaw: Some(flaw),
        ..part(name, Scenario::Healthy, SignsInBy::Secret)
    }
}

use SignsInBy::{Certificate, FederatedToken, Secret};

/// The demo's connections, in the order of its table.
pub const CONNECTIONS: &[DemoConnection] = &[
    part("Harbour Logistics", Scenario::Healthy, Secret),
    part("Alpine Clinics", Scenario::HealthyIntune, Certificate),
    part(
        "Northern Schools",
        Scenario::HealthyReadWrite,
        FederatedToken,
    ),
    part("Riverside Bank", Scenario::PermissionMissing, Secret),
    part("Meadow Foods", Scenario::PermissionPropagating, Secret),
    part("Granite Insurance", Scenario::SecretExpired, Secret),
    part("Lighthouse Media", Scenario::ConsentMissing, Certificate),
    part("Orchard Retail", Scenario::IdentityMismatch, Secret),
    part("Summit Railways", Scenario::IntuneNotLicensed, Secret),
    part("Coastal Energy", Scenario::ConditionalAccessBlocked, Secret),
    part("Valley Builders", Scenario::ThrottledBriefly, Secret),
    flawed("Old Town Hotels", Flaw::Disabled),
    flawed("Island Ferries", Flaw::CredentialExpired),
    flawed("Forest Paper", Flaw::NoCredential),
    flawed("Prairie Farms", Flaw::TargetMalformed),
];
