//! Which service plans a tenant has, beside a service that does not answer. Evidence, no proof: a plan may be
//! assigned by a name of its own, and one that is may be used up.

use super::sheet::Sheet;
use crate::domain::module::{Module, Probe};
use crate::domain::report::{Evidence, EvidenceKind};
use crate::provider::microsoft::graph::Plan;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Paths of Graph that Intune answers, behind the version.
const INTUNE_PATHS: [&str; 2] = ["/deviceManagement", "/deviceAppManagement"];

/// The service that most of Intune's plans name.
const INTUNE_SERVICE: &str = "SCO";

/// Ids of Intune's plans, from Microsoft's list of product names and service plan identifiers:
/// `INTUNE_A`, `INTUNE_A_GOV`, `INTUNE_EDU`, `INTUNE_SMBIZ`, `INTUNE_O365`.
const INTUNE_PLANS: [Uuid; 5] = [
    Uuid::from_u128(0xc1ec4a95_1f05_45b3_a911_aa3fa01094f5),
    Uuid::from_u128(0xd216f254_796f_4dab_bbfa_710686e646b9),
    Uuid::from_u128(0xda24caf9_af8e_485c_b7c8_e73336da2693),
    Uuid::from_u128(0x8e9ff0ff_aa7a_4b20_83c1_2f636b600ac2),
    Uuid::from_u128(0x882e1d05_acd1_4ccb_8708_6ee03664b117),
];

/// Intune's plans as evidence: service and status of each, or that there is none.
pub(super) fn intune(plans: &[Plan]) -> Vec<Evidence> {
    let of_intune = plans.iter().filter(|plan| {
        plan.service.eq_ignore_ascii_case(INTUNE_SERVICE)
            || plan.id.is_some_and(|id| INTUNE_PLANS.contains(&id))
    });
    let found: BTreeSet<String> = of_intune
        .map(|plan| format!("{} {}", plan.service, plan.status))
        .collect();
    if found.is_empty() {
        return vec![Evidence::new(EvidenceKind::ServicePlan, "none of Intune")];
    }
    let shown = found.into_iter().take(8);
    shown
        .map(|plan| Evidence::new(EvidenceKind::ServicePlan, plan))
        .collect()
}

/// Adds them to each probe of Intune that did not pass. `plans` is `None` where they could not be read.
pub(super) fn attach(sheet: &mut Sheet<'_>, module: &Module, plans: Option<&[Plan]>) {
    let Some(plans) = plans else {
        return;
    };
    for probe in probes_of_intune(module) {
        sheet.add_evidence(&probe.key, &intune(plans));
    }
}

/// The probes that Intune answers.
pub(super) fn probes_of_intune(module: &Module) -> impl Iterator<Item = &Probe> {
    module.probes.iter().filter(|probe| {
        let behind = probe
            .path
            .strip_prefix("/v1.0")
            .or(probe.path.strip_prefix("/beta"));
        behind.is_some_and(|path| INTUNE_PATHS.iter().any(|begin| path.starts_with(begin)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(service: &str, status: &str, id: u128) -> Plan {
        Plan {
            service: service.into(),
            status: status.into(),
            id: Some(Uuid::from_u128(id)),
        }
    }

    fn values(plans: &[Plan]) -> Vec<String> {
        intune(plans).into_iter().map(|e| e.value).collect()
    }

    #[test]
    fn intune_is_known_by_its_service_and_by_its_plans() {
        assert_eq!(values(&[]), ["none of Intune"]);
        let exchange = plan("exchange", "Enabled", 1);
        assert_eq!(values(std::slice::from_ref(&exchange)), ["none of Intune"]);
        let by_id = plan("Other", "Suspended", 0xc1ec4a95_1f05_45b3_a911_aa3fa01094f5);
        let all = [
            exchange,
            plan("SCO", "Deleted", 2),
            plan("SCO", "Deleted", 3),
            by_id,
        ];
        assert_eq!(values(&all), ["Other Suspended", "SCO Deleted"]);
    }
}
