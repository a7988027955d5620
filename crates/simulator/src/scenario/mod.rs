//! Scenarios: the tenant id decides what its directory is like and what goes wrong in it.

pub(crate) mod behaviour;
mod expected;
mod list;

pub use list::Scenario;

use behaviour::Behaviour;
use serde::Serialize;

/// Every simulated tenant's id begins with this; instance (8 digits) and scenario (4) follow.
const TENANT_PREFIX: &str = "5c000000-0000-4000-8000-";
/// So many distinct tenants of one scenario there are.
const INSTANCES: u32 = 100_000_000;

/// What a check by verifyd of a scenario's tenant must end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Expectation {
    /// The module to check.
    pub module: &'static str,
    /// The run's outcome: `succeeded` or `failed`.
    pub outcome: &'static str,
    /// The report's `summary.overall`: `ready`, `needs_attention` or `blocked`.
    pub overall: &'static str,
    /// Reason codes that checks of the report must hold. Others that follow from them, and those of skipped
    /// checks, may stand beside them. Empty: no check fails or warns.
    pub reasons: &'static [&'static str],
    /// The run ends only when verifyd's own retries, waits or time limits are used up, so it takes
    /// as long as they allow.
    pub exhausts_limits: bool,
}

/// One scenario's entry in the list.
pub(crate) struct Entry {
    pub number: u16,
    pub name: &'static str,
    pub description: &'static str,
    pub expectation: Expectation,
    pub behaviour: Behaviour,
}

impl Scenario {
    /// The number: the last four digits of its tenants' ids.
    pub fn number(self) -> u16 {
        self.entry().number
    }

    /// The name, in snake_case; begins with the reason that it leads to, where there is one.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// What is the matter with the tenant, in one sentence.
    pub fn description(self) -> &'static str {
        self.entry().description
    }

    /// What a check must end in.
    pub fn expectation(self) -> Expectation {
        self.entry().expectation
    }

    /// The id of a tenant of this scenario. There are 100 000 000 instances, larger numbers begin
    /// anew. Where several error codes belong to a scenario, the instance chooses among them:
    /// see [`Scenario::codes`].
    pub fn tenant_id(self, instance: u32) -> String {
        format!(
            "{TENANT_PREFIX}{:08}{:04}",
            instance % INSTANCES,
            self.number()
        )
    }

    /// The scenario of a tenant id, in whatever case; none for any other id.
    pub fn of(tenant_id: &str) -> Option<Self> {
        Self::and_instance(tenant_id).map(|(scenario, _)| scenario)
    }

    /// The scenario with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }

    /// The AADSTS codes with which Entra refuses to sign in: instance `n` gets the code at
    /// `n` modulo their count. Empty where Entra issues a token.
    pub fn codes(self) -> Vec<u32> {
        self.behaviour()
            .refusals
            .iter()
            .map(|error| error.code)
            .collect()
    }

    /// The tenant of the scenario with this number that has the instance of another tenant.
    pub(crate) fn sibling(tenant_id: &str, number: u16) -> String {
        let instance = Self::and_instance(tenant_id).map_or(0, |(_, instance)| instance);
        format!("{TENANT_PREFIX}{instance:08}{number:04}")
    }

    pub(crate) fn behaviour(self) -> &'static Behaviour {
        &self.entry().behaviour
    }

    /// Scenario and instance of a tenant id.
    pub(crate) fn and_instance(tenant_id: &str) -> Option<(Self, u32)> {
        let (prefix, digits) = tenant_id.split_at_checked(TENANT_PREFIX.len())?;
        if !prefix.eq_ignore_ascii_case(TENANT_PREFIX)
            || digits.len() != 12
            || !digits.bytes().all(|b| b.is_ascii_digit())
        {
            return None;
        }
        let (instance, number) = digits.split_at_checked(8)?;
        let number: u16 = number.parse().ok()?;
        let scenario = Self::ALL.iter().copied().find(|s| s.number() == number)?;
        Some((scenario, instance.parse().ok()?))
    }
}

impl std::fmt::Display for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_unique_and_lead_back() {
        let mut numbers = BTreeSet::new();
        let mut names = BTreeSet::new();
        for &scenario in Scenario::ALL {
            assert!(numbers.insert(scenario.number()), "{scenario}");
            assert!(names.insert(scenario.name()), "{scenario}");
            assert_eq!(Scenario::named(scenario.name()), Some(scenario));
            for instance in [0, 7, INSTANCES - 1] {
                let id = scenario.tenant_id(instance);
                assert!(uuid::Uuid::parse_str(&id).is_ok(), "{id}");
                assert_eq!(Scenario::and_instance(&id), Some((scenario, instance)));
                assert_eq!(Scenario::of(&id.to_uppercase()), Some(scenario));
            }
        }
    }

    #[test]
    fn other_tenant_ids_belong_to_no_scenario() {
        for id in [
            "",
            "5c000000-0000-4000-8000-",
            "5c000000-0000-4000-8000-00000000000g",
            "5c000000-0000-4000-8000-000000009999",
            "5c000000-0000-4000-8000-0000000000010",
            "5d000000-0000-4000-8000-000000000001",
            "5c000000-0000-4000-8000-ä00000000001",
        ] {
            assert_eq!(Scenario::of(id), None, "{id}");
        }
    }

    #[test]
    fn faults_are_where_they_can_be_shown() {
        use crate::calls::Endpoint;
        use behaviour::{At, What};
        for &scenario in Scenario::ALL {
            let Some(fault) = scenario.behaviour().fault else {
                continue;
            };
            let fits = match fault.what {
                What::Pages(_) => fault.at == At::Only(Endpoint::AppRoleAssignments),
                What::Forbidden | What::IntuneError(..) => {
                    matches!(fault.at, At::Only(e) if e.is_intune())
                }
                What::NotFound | What::Error(..) | What::ClaimsChallenge => fault.at != At::Token,
                _ => true,
            };
            assert!(fits, "{scenario}");
        }
    }

    #[test]
    fn expectations_are_consistent() {
        for &scenario in Scenario::ALL {
            let expected = scenario.expectation();
            let failed = expected.outcome == expected::FAILED;
            assert!(!expected.exhausts_limits || failed, "{scenario}");
            assert_eq!(
                expected.overall == expected::READY,
                expected.reasons.is_empty(),
                "{scenario}"
            );
        }
    }
}
