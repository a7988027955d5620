//! Finds granted permissions that the connection's modules do not need.

use super::inventory::Granted;
use super::results::CheckResults;
use crate::domain::Reason;
use crate::domain::excess::Excess;
use crate::domain::module::{ExcessPolicy, Module};
use crate::domain::permission::RequiredPermission;
use crate::domain::report::{Evidence, EvidenceKind};
use crate::provider::microsoft::modules::{EXCESS, Modules, controls_directory};
use std::collections::BTreeSet;

/// Permissions of each kind that a report names. A check has at most 50 pieces of evidence.
const NAMED: usize = 16;

/// The checked module, and the connection's own where that is another one: what a connection is used
/// for. verifyd's own needs come on top.
fn required<'m>(
    modules: &'m Modules,
    checked: &'m Module,
    own: Option<&str>,
) -> impl Iterator<Item = &'m RequiredPermission> {
    let own = own
        .filter(|key| *key != checked.key)
        .and_then(|key| modules.get(key));
    checked
        .permissions
        .iter()
        .chain(own.into_iter().flat_map(|module| &module.permissions))
        .chain(modules.of_verifyd())
}

/// Lists permissions that are granted and not needed. The outcome does not change.
pub(super) fn judge(
    results: &mut CheckResults<'_>,
    modules: &Modules,
    checked: &Module,
    own: Option<&str>,
    granted: &Granted,
) {
    let names: BTreeSet<String> = granted.names().cloned().collect();
    let excess = Excess::of(&names, required(modules, checked, own));
    let control: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| controls_directory(name))
        .collect();
    let mut evidence: Vec<Evidence> = Vec::new();
    if !excess.is_empty() {
        evidence.push(Evidence::new(EvidenceKind::Count, excess.len()));
    }
    let unneeded = excess.unneeded.iter();
    evidence.extend(
        unneeded
            .take(NAMED)
            .map(|name| Evidence::new(EvidenceKind::Unneeded, name)),
    );
    evidence.extend(excess.broader.iter().take(NAMED).map(|(name, instead)| {
        let instead: Vec<&str> = instead.iter().map(String::as_str).collect();
        let value = format!("{name}: {}", instead.join(", "));
        Evidence::new(EvidenceKind::LeastPrivilege, value)
    }));
    evidence.extend(
        control
            .iter()
            .take(NAMED)
            .map(|name| Evidence::new(EvidenceKind::DirectoryControl, name)),
    );
    let remark = remark(&control);
    if excess.is_empty() {
        let message = format!("Nothing is granted beyond what is needed.{remark}");
        results.pass(EXCESS, message.trim_end(), evidence);
        return;
    }
    match checked.excess {
        ExcessPolicy::Info => {
            let message = format!("{}{remark}", describe(&excess));
            results.pass(EXCESS, message.trim_end(), evidence);
        }
        ExcessPolicy::Warn => {
            let reason = Reason::PermissionExcess;
            let remark = format!("{}{remark}", describe(&excess));
            results.warn(
                EXCESS,
                reason,
                reason.severity(),
                remark.trim_end(),
                evidence,
            );
        }
    }
}

/// How much is beyond the need; the evidence has the names.
fn describe(excess: &Excess) -> String {
    let (unneeded, broader) = (excess.unneeded.len(), excess.broader.len());
    let mut parts = Vec::new();
    if unneeded > 0 {
        parts.push(format!("Granted and not needed: {unneeded}."));
    }
    if broader > 0 {
        parts.push(format!("Granted though less would do: {broader}."));
    }
    parts.join(" ")
}

/// Permissions with control of the directory, for people; the evidence has all of them.
fn remark(control: &[&str]) -> String {
    match control {
        [] => String::new(),
        [one] => format!(" {one} amounts to control of the directory."),
        [first, rest @ ..] => format!(
            " {first} and {} more amount to control of the directory.",
            rest.len()
        ),
    }
}
