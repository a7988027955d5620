//! Collects the results of the checks of one run.

use super::licences;
use crate::domain::Reason;
use crate::domain::connection_facts::ConnectionFacts;
use crate::domain::link::{Link, LinkContext};
use crate::domain::permission::InventoryRefresh;
use crate::domain::report::{Check, CheckStatus, Evidence, EvidenceKind, NextStep, Severity};
use crate::outbound::failure::FailureKind;
use crate::ports::provider::{CheckSpec, Disposition, Findings, Target};
use crate::provider::microsoft::fault::{Fault, Later};
use crate::provider::microsoft::graph::KnownPrincipal;
use crate::provider::microsoft::modules::{self, Module};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use uuid::Uuid;

/// Keeps the planned order and includes every check: those without a result are skipped.
pub(super) struct CheckResults<'a> {
    planned: Vec<CheckSpec>,
    /// Includes facts that this check has found out.
    links: Cow<'a, LinkContext>,
    facts: ConnectionFacts,
    done: HashMap<String, Check>,
    /// Keys of the probes of Intune.
    intune: HashSet<String>,
    healthy: bool,
    later: Option<Later>,
    /// A failure that waiting does not change: the run must not go back to the queue.
    settled: bool,
}

impl<'a> CheckResults<'a> {
    /// Nothing is filled in yet.
    pub fn new(module: &Module, target: &'a Target) -> Self {
        Self {
            planned: modules::planned_checks(module),
            links: Cow::Borrowed(&target.links),
            facts: ConnectionFacts::default(),
            done: HashMap::new(),
            intune: licences::probes_of_intune(module)
                .map(|probe| probe.key.clone())
                .collect(),
            healthy: true,
            later: None,
            settled: false,
        }
    }

    /// Adds the principal to the links of the checks that follow.
    pub fn learn(&mut self, principal: KnownPrincipal) {
        let links = self.links.to_mut();
        links.service_principal_id = Some(principal.id.to_string());
        self.facts.service_principal_id = links.service_principal_id.clone();
        if let Some(owner) = principal.owner {
            links.owner_tenant_id = Some(owner.to_string());
            self.facts.owner_tenant_id = links.owner_tenant_id.clone();
        }
    }

    /// The application that signs in, where the connection does not name it.
    pub fn know_client(&mut self, client_id: Uuid) {
        if self.links.client_id.is_none() {
            self.links.to_mut().client_id = Some(client_id.to_string());
        }
    }

    /// Removes the principal of an earlier check, which no longer exists, from the links.
    pub fn forget_principal(&mut self) {
        if self.links.service_principal_id.is_some() {
            self.links.to_mut().service_principal_id = None;
        }
    }

    fn set(&mut self, key: &str, make: impl FnOnce(&CheckSpec, &LinkContext) -> Check) {
        if let Some(spec) = self.planned.iter().find(|spec| spec.key == key) {
            self.done.insert(key.to_owned(), make(spec, &self.links));
        }
    }

    /// The check is passed.
    pub fn pass(&mut self, key: &str, message: &str, evidence: Vec<Evidence>) {
        self.set(key, |spec, _| spec.pass(message, evidence));
    }

    /// One of the connection's own checks failed: the run ends failed.
    pub fn fail(&mut self, key: &str, fault: &Fault) {
        self.healthy = false;
        self.settled |= !fault.is_transient();
        self.later = self.later.max(fault.later.as_deref().copied());
        self.set(key, |spec, links| {
            let evidence = fault.evidence.clone();
            let mut check = match fault.advice {
                Some(advice) => {
                    let steps = advice.steps;
                    let mut check =
                        spec.reason_with(CheckStatus::Fail, fault.reason, steps, links, evidence);
                    check.message = format!("{} {}", fault.reason.what(), advice.why);
                    check
                }
                None => spec.fail(fault.reason, links, evidence),
            };
            if let Some(remark) = &fault.remark {
                check.message = format!("{} {remark}", check.message);
            }
            if let Some(label) = fault.failure.and_then(FailureKind::label) {
                let step = links.step(&label, Link::Run);
                check.next_steps.insert(0, step);
            }
            if let Some(code) = fault.look_up.map(NonZeroU64::get) {
                let url = links.error_lookup(code);
                if !check.next_steps.iter().any(|step| step.url == url) {
                    let label = format!("Look up AADSTS{code}");
                    check.next_steps.push(NextStep { url, label });
                }
            }
            check
        });
    }

    /// Sets a warning; the outcome does not change. `remark`: what the reason does not say.
    pub fn warn(
        &mut self,
        key: &str,
        reason: Reason,
        severity: Severity,
        remark: &str,
        evidence: Vec<Evidence>,
    ) {
        self.set(key, |spec, links| {
            let mut check = spec.reason(CheckStatus::Warn, reason, links, evidence);
            check.severity = severity;
            if !remark.is_empty() {
                check.message = format!("{} {remark}", check.message);
            }
            check
        });
    }

    /// A required permission is not granted, or cannot be; the outcome stays as it is. `instead`: the step in
    /// place of the reason's.
    pub fn missing(
        &mut self,
        key: &str,
        reason: Reason,
        message: String,
        instead: Option<(&str, Link)>,
        evidence: Vec<Evidence>,
    ) {
        self.set(key, |spec, links| {
            let mut check = spec.fail(reason, links, evidence);
            check.severity = spec.severity;
            check.message = message;
            if let Some((label, link)) = instead {
                check.next_steps = vec![links.step(label, link)];
            }
            check
        });
    }

    /// Adds why it is missing; severity and evidence stay.
    pub fn explain(&mut self, key: &str, reason: Reason, message: String) {
        let links = &self.links;
        if let Some(check) = self.done.get_mut(key) {
            check.reason_code = Some(reason);
            check.message = message;
            let steps = reason.steps().iter();
            check.next_steps = steps
                .map(|(label, link)| links.step(label, *link))
                .collect();
        }
    }

    /// Sets a check as skipped, for a reason that is no fault of the connection.
    pub fn skip(&mut self, key: &str, reason: Reason, remark: &str) {
        self.set(key, |spec, links| {
            let mut check = spec.reason(CheckStatus::Skip, reason, links, Vec::new());
            check.message = format!("{} {remark}", check.message);
            check
        });
    }

    /// More evidence for a check that did not pass.
    pub fn add_evidence(&mut self, key: &str, evidence: &[Evidence]) {
        if let Some(check) = self.done.get_mut(key)
            && check.status != CheckStatus::Pass
        {
            check.evidence.extend_from_slice(evidence);
        }
    }

    /// The reason of a check so far.
    pub fn reason(&self, key: &str) -> Option<Reason> {
        self.done.get(key)?.reason_code
    }

    /// The facts that findings take along.
    pub fn facts(&mut self) -> &mut ConnectionFacts {
        &mut self.facts
    }

    /// False as soon as one of the connection's own checks failed.
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Removes steps that another check has as done, or that lead to a service that was not called.
    fn remove_obsolete_steps(&mut self) {
        let leads_to = |links: &[Link]| -> Vec<String> {
            links.iter().map(|link| self.links.resolve(*link)).collect()
        };
        let of_intune = leads_to(&[Link::IntuneLicences, Link::IntuneRoles]);
        let of_registration = leads_to(&[Link::ApiPermissions]);
        let permission = |check: &Check| {
            let mut named = check.evidence.iter();
            named
                .find(|e| e.kind == EvidenceKind::Permission)
                .map(|e| e.value.clone())
        };
        let requested: HashSet<String> = self
            .done
            .values()
            .filter(|check| check.reason_code == Some(Reason::PermissionNotConsented))
            .filter_map(permission)
            .collect();
        for (key, check) in &mut self.done {
            let obsolete = match check.reason_code {
                Some(Reason::PermissionNotEffective) if !self.intune.contains(key) => &of_intune,
                Some(Reason::PermissionDenied)
                    if permission(check).is_some_and(|name| requested.contains(&name)) =>
                {
                    &of_registration
                }
                _ => continue,
            };
            check
                .next_steps
                .retain(|step| !obsolete.contains(&step.url));
        }
    }

    /// The findings, in the planned order.
    pub fn finish(mut self, inventory: Option<InventoryRefresh>) -> Findings {
        self.remove_obsolete_steps();
        let checks = self
            .planned
            .iter()
            .map(|spec| {
                self.done
                    .remove(&spec.key)
                    .unwrap_or_else(|| spec.skip(&self.links))
            })
            .collect();
        Findings {
            checks,
            healthy: self.healthy,
            inventory,
            facts: self.facts,
            disposition: match self.later {
                Some(later) if !self.settled => later.into(),
                _ => Disposition::Finished,
            },
        }
    }
}
