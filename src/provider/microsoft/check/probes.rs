//! Makes the calls that show whether a module's services answer.

use super::inventory::Granted;
use super::licences;
use super::refusal::Rights;
use super::results::CheckResults;
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
pub(super) type Answers = HashMap<String, Result<Value, Fault>>;

/// Makes the probes that the token allows, while the inventory is being read.
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

/// Makes the remaining probes that the inventory allows, and judges all. A probe whose permission is known to
/// be missing is skipped: the permission's check says why.
pub(super) async fn run(
    results: &mut CheckResults<'_>,
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
        .filter(|probe| !answers.contains_key(&probe.key));
    answers.extend(ask(session, open).await);
    for probe in allowed {
        match answers.remove(&probe.key) {
            Some(Ok(answer)) => judge(results, module, probe, &answer),
            Some(Err(fault)) => {
                let of_intune = licences::is_of_intune(probe);
                let fault = rights.meaning_of_probe(fault, &opened_by(module, probe), of_intune);
                if fault.reason == Reason::PermissionPropagating {
                    let severity = fault.reason.severity();
                    results.warn(&probe.key, fault.reason, severity, "", fault.evidence);
                } else {
                    results.fail(&probe.key, &fault);
                }
            }
            None => {}
        }
    }
}

/// The permissions that open the probe, its own one first.
fn opened_by<'m>(module: &'m Module, probe: &'m Probe) -> Vec<&'m str> {
    let required = module
        .permissions
        .iter()
        .find(|p| p.key == probe.permission);
    std::iter::once(probe.permission.as_str())
        .chain(
            required
                .into_iter()
                .flat_map(|p| p.satisfied_by.iter().map(String::as_str)),
        )
        .collect()
}

async fn ask<'p>(session: &Session<'_>, probes: impl Iterator<Item = &'p Probe>) -> Answers {
    let calls = probes.map(|probe| async move { (probe.key.clone(), session.probe(probe).await) });
    join_all(calls).await.into_iter().collect()
}

fn is_allowed(module: &Module, probe: &Probe, granted: &BTreeSet<String>) -> bool {
    module
        .permissions
        .iter()
        .find(|permission| permission.key == probe.permission)
        .is_some_and(|permission| satisfied_by(permission, granted).is_some())
}

/// States in which a subscription of Intune is not active, from Microsoft Graph's
/// `deviceManagementSubscriptionState`. Others may be added to it, and mean something else.
const INACTIVE: [&str; 5] = ["pending", "disabled", "deleted", "blocked", "lockedOut"];

fn judge(results: &mut CheckResults<'_>, module: &Module, probe: &Probe, answer: &Value) {
    let value = answer.get("value").and_then(Value::as_array);
    let malformed = |results: &mut CheckResults<'_>, expected: &str, found: &str| {
        // A built-in module expects what Graph promises; other modules expect what their authors say.
        let reason = match module.file {
            None => Reason::ResponseInvalid,
            Some(_) => Reason::ProbeUnexpected,
        };
        fail(results, probe, reason, expected, found);
    };
    let form = match answer.get("value") {
        None => "an object without value",
        Some(_) => "a value that is no list",
    };
    match &probe.expect {
        Expect::Object if answer.is_object() => answers(results, probe),
        Expect::List if value.is_some() => answers(results, probe),
        Expect::NotEmpty => match value {
            Some(list) if list.is_empty() => unexpected(results, probe, "at least one", "none"),
            Some(_) => answers(results, probe),
            None => malformed(results, "a list in value", form),
        },
        Expect::List => malformed(results, "a list in value", form),
        Expect::Object => malformed(results, "an object", "something else"),
        Expect::Member {
            name,
            one_of,
            tolerated,
        } => {
            let wanted = || format!("{name}: {}", one_of.join(", "));
            let Some(found) = member(answer, name) else {
                let found = match answer.get(name) {
                    None => "no such member",
                    Some(Value::Null) => "null",
                    Some(_) => "a value that is no code, number, true or false",
                };
                return malformed(results, &wanted(), found);
            };
            let is_name = |text: &str| serde_json::from_str::<Value>(text).is_err();
            let is_named = one_of.iter().all(|value| is_name(value));
            if is_named && !answer.get(name).is_some_and(Value::is_string) {
                malformed(results, &wanted(), &found);
            } else if one_of.contains(&found) {
                let message = format!("The service answers: {name} is {found}.");
                results.pass(&probe.key, &message, Vec::new());
            } else if tolerated.contains(&found) {
                results.warn(
                    &probe.key,
                    probe.reason,
                    Severity::Medium,
                    "It is about to end, but still works.",
                    compared(&one_of.join(", "), &found),
                );
            } else {
                unexpected(results, probe, &one_of.join(", "), &found);
            }
        }
    }
}

fn answers(results: &mut CheckResults<'_>, probe: &Probe) {
    results.pass(&probe.key, "The service answers.", Vec::new());
}

fn unexpected(results: &mut CheckResults<'_>, probe: &Probe, expected: &str, found: &str) {
    let reason = match probe.reason {
        Reason::IntuneInactive if !INACTIVE.contains(&found) => Reason::ProbeUnexpected,
        reason => reason,
    };
    fail(results, probe, reason, expected, found);
}

fn fail(
    results: &mut CheckResults<'_>,
    probe: &Probe,
    reason: Reason,
    expected: &str,
    found: &str,
) {
    let fault = Fault {
        evidence: compared(expected, found),
        ..Fault::new(reason)
    };
    results.fail(&probe.key, &fault);
}

fn compared(expected: &str, found: &str) -> Vec<Evidence> {
    vec![
        Evidence::new(EvidenceKind::Expected, expected),
        Evidence::new(EvidenceKind::Found, found),
    ]
}

/// A member as evidence may show it: a code, a number, or true or false.
fn member(answer: &Value, name: &str) -> Option<String> {
    let found = answer.get(name)?;
    match found {
        Value::Bool(_) | Value::Number(_) => Some(found.to_string()),
        _ => evidence::code(Some(found)).map(str::to_owned),
    }
}
