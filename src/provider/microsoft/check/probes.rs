//! Calls that show whether a module's services answer.

use super::inventory::Granted;
use super::refusal::Rights;
use super::sheet::Sheet;
use crate::domain::Reason;
use crate::domain::permission::satisfied_by;
use crate::domain::report::{Evidence, EvidenceKind, Severity};
use crate::provider::microsoft::claims::Claims;
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::Session;
use crate::provider::microsoft::modules::{Expect, Module, Probe};
use futures::future::join_all;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Answers by the probe's key.
pub(super) type Answers = HashMap<&'static str, Result<Value, Fault>>;

/// Makes the probes that the token says are allowed, while the inventory is still being read.
pub(super) async fn early(session: &Session<'_>, module: &Module, claims: &Claims) -> Answers {
    let Some(roles) = &claims.roles else {
        return Answers::new();
    };
    let allowed = module
        .probes
        .iter()
        .filter(|probe| is_allowed(module, probe, roles));
    ask(session, allowed).await
}

/// Makes the remaining probes that the inventory allows, and judges all. One whose permission is
/// known to be missing is not made: its permission's check says why.
pub(super) async fn run(
    sheet: &mut Sheet<'_>,
    session: &Session<'_>,
    module: &Module,
    granted: &Granted,
    rights: &Rights<'_>,
    mut answers: Answers,
) {
    let allowed: Vec<&Probe> = module
        .probes
        .iter()
        .filter(|probe| is_allowed(module, probe, granted.graph()))
        .collect();
    let open = allowed
        .iter()
        .copied()
        .filter(|probe| !answers.contains_key(probe.key));
    answers.extend(ask(session, open).await);
    for probe in allowed {
        match answers.remove(probe.key) {
            Some(Ok(answer)) => judge(sheet, probe, &answer),
            Some(Err(fault)) => {
                let fault = rights.meaning(fault, &opened_by(module, probe));
                if fault.reason == Reason::PermissionPropagating {
                    let severity = fault.reason.severity();
                    sheet.warn(probe.key, fault.reason, severity, "", fault.evidence);
                } else {
                    sheet.fail(probe.key, &fault);
                }
            }
            None => {}
        }
    }
}

/// The permissions that open the probe, its own one first.
fn opened_by(module: &Module, probe: &Probe) -> Vec<&'static str> {
    let required = module
        .permissions
        .iter()
        .find(|p| p.key == probe.permission);
    std::iter::once(probe.permission)
        .chain(
            required
                .into_iter()
                .flat_map(|p| p.satisfied_by.iter().copied()),
        )
        .collect()
}

async fn ask<'p>(session: &Session<'_>, probes: impl Iterator<Item = &'p Probe>) -> Answers {
    let calls = probes.map(|probe| async move { (probe.key, session.probe(probe).await) });
    join_all(calls).await.into_iter().collect()
}

fn is_allowed(module: &Module, probe: &Probe, granted: &BTreeSet<String>) -> bool {
    module
        .permissions
        .iter()
        .find(|permission| permission.key == probe.permission)
        .is_some_and(|permission| satisfied_by(permission, granted).is_some())
}

fn judge(sheet: &mut Sheet<'_>, probe: &Probe, answer: &Value) {
    match probe.expect {
        Expect::List => {
            if answer.get("value").is_some_and(Value::is_array) {
                sheet.pass(probe.key, "The service answers.", Vec::new());
            } else {
                sheet.fail(probe.key, &Fault::invalid(200));
            }
        }
        Expect::ActiveSubscription => {
            let Some(state) = evidence::code(answer.get("subscriptionState")) else {
                sheet.fail(probe.key, &Fault::invalid(200));
                return;
            };
            let found = |state| {
                vec![
                    Evidence::new(EvidenceKind::Expected, "active"),
                    Evidence::new(EvidenceKind::Found, state),
                ]
            };
            match state {
                "active" => sheet.pass(
                    probe.key,
                    "The tenant's Intune subscription is active.",
                    Vec::new(),
                ),
                // The period of grace: it still works.
                "warning" => sheet.warn(
                    probe.key,
                    Reason::IntuneInactive,
                    Severity::Medium,
                    "It is about to end, but still works.",
                    found(state),
                ),
                other => {
                    let inactive = Fault {
                        evidence: found(other),
                        ..Fault::new(Reason::IntuneInactive)
                    };
                    sheet.fail(probe.key, &inactive);
                }
            }
        }
    }
}
