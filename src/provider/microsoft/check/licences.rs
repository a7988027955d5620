//! Adds the tenant's service plans to a check of a service that does not answer. They are evidence, not
//! proof: a plan may be assigned under another name, and an assigned one may be used up.

use super::results::CheckResults;
use crate::domain::Reason;
use crate::domain::module::{Module, Probe};
use crate::domain::report::{Evidence, EvidenceKind};
use crate::provider::microsoft::graph::Plan;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Paths of Graph that Intune answers, after the version.
const INTUNE_PATHS: [&str; 2] = ["/deviceManagement", "/deviceAppManagement"];

/// The service name of most Intune plans.
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

/// `INTUNE_O365`: device management of Microsoft 365 only. Graph answers no call of Intune for it.
const BASIC_MOBILITY: Uuid = Uuid::from_u128(0x882e1d05_acd1_4ccb_8708_6ee03664b117);

/// The service that plans of Microsoft Entra ID P1 and P2 name.
const ENTRA_SERVICE: &str = "AADPremiumService";

fn is_intunes(plan: &Plan) -> bool {
    plan.service.eq_ignore_ascii_case(INTUNE_SERVICE)
        || plan.id.is_some_and(|id| INTUNE_PLANS.contains(&id))
}

fn is_entras(plan: &Plan) -> bool {
    plan.service.eq_ignore_ascii_case(ENTRA_SERVICE)
}

/// Whether a plan is there that works, also in its period of grace.
fn has_intune(plans: &[Plan]) -> bool {
    let works = ["Enabled", "Warning"];
    plans.iter().any(|plan| {
        is_intunes(plan)
            && plan.id != Some(BASIC_MOBILITY)
            && works
                .iter()
                .any(|status| plan.status.eq_ignore_ascii_case(status))
    })
}

/// Plans as evidence: service and status of each, or that there is none.
fn shown(plans: &[Plan], of: fn(&Plan) -> bool, none: &str) -> Vec<Evidence> {
    let found: BTreeSet<String> = plans
        .iter()
        .filter(|plan| of(plan))
        .map(|plan| format!("{} {}", plan.service, plan.status))
        .collect();
    if found.is_empty() {
        return vec![Evidence::new(EvidenceKind::ServicePlan, none)];
    }
    let shown = found.into_iter().take(8);
    shown
        .map(|plan| Evidence::new(EvidenceKind::ServicePlan, plan))
        .collect()
}

/// Adds to each probe that did not pass the plans that matter for it. `plans` is `None` where they could not
/// be read.
pub(super) fn attach(results: &mut CheckResults<'_>, module: &Module, plans: Option<&[Plan]>) {
    let Some(plans) = plans else {
        return;
    };
    for probe in &module.probes {
        let evidence = match results.reason(&probe.key) {
            Some(Reason::EntraNotLicensed) => {
                shown(plans, is_entras, "none of Microsoft Entra ID P1 or P2")
            }
            Some(Reason::ServiceNotLicensed) => continue,
            Some(_) if is_of_intune(probe) => shown(plans, is_intunes, "none of Intune"),
            _ => continue,
        };
        results.add_evidence(&probe.key, &evidence);
        // Intune gives the same answer to a tenant that has never set it up.
        if results.reason(&probe.key) == Some(Reason::IntuneNotLicensed) && has_intune(plans) {
            let reason = Reason::ServiceNotProvisioned;
            let message = format!("{} A plan of Intune is assigned.", reason.message());
            results.explain(&probe.key, reason, message);
        }
    }
}

/// Whether Intune answers the probe.
pub(super) fn is_of_intune(probe: &Probe) -> bool {
    let behind = probe
        .path
        .strip_prefix("/v1.0")
        .or(probe.path.strip_prefix("/beta"));
    behind.is_some_and(|path| INTUNE_PATHS.iter().any(|begin| path.starts_with(begin)))
        || probe.path.contains("/managedDevices")
}

/// The probes that Intune answers.
pub(super) fn probes_of_intune(module: &Module) -> impl Iterator<Item = &Probe> {
    module.probes.iter().filter(|probe| is_of_intune(probe))
}
