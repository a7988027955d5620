//! One check of one connection: sign in, ask what can be asked at the same time, then judge the
//! answers in the order of the planned checks.

mod application;
mod connection;
mod expiry;
mod inventory;
mod licences;
mod probes;
mod sheet;
mod why;

use super::cloud::{Cloud, Clouds};
use super::fault::Fault;
use super::graph::{KnownPrincipal, Session, Shared};
use super::modules::{AUTHENTICATION, Modules};
use super::preflight;
use crate::domain::Reason;
use crate::domain::connection_facts::ConnectionFacts;
use crate::domain::credential::Credential;
use crate::domain::link::is_guid;
use crate::domain::report::EvidenceKind;
use crate::ports::provider::{Disposition, Findings, Target, Unmet};
use application::Question;
use chrono::TimeDelta;
use sheet::Sheet;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;
use why::Explanation;

/// So long after it was replaced a certificate may still be unknown to the provider.
const ROTATION: TimeDelta = TimeDelta::minutes(10);
const ROTATION_WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
];

/// Never fails: every error is a finding.
pub(super) async fn run(
    shared: &Shared,
    clouds: &Clouds,
    modules: &Modules,
    target: &Target,
) -> Findings {
    let Some(module) = modules.get(&target.module) else {
        // Preflight refuses it; there is no check to show.
        return Findings {
            checks: Vec::new(),
            healthy: false,
            inventory: None,
            disposition: Disposition::Finished,
            facts: ConnectionFacts::default(),
        };
    };
    let mut sheet = Sheet::new(module, target);
    // Links lead to the right place also where this check cannot sign in.
    if let Ok((cloud, tenant, client_id)) = addressed(clouds, target) {
        sheet.know_client(client_id);
        let key = (cloud.key.clone(), tenant, client_id);
        if let Some(known) = shared.principals.get(&key).await {
            sheet.learn(known);
        }
    }
    let session = match sign_in_patiently(shared, clouds, target).await {
        Ok(session) => session,
        Err(fault) => {
            sheet.fail(AUTHENTICATION, &fault);
            return sheet.finish(None);
        }
    };
    // Nothing is asked with a token that says it is another directory's.
    let token = session.token().await;
    if let Some(tid) = token.claims.tid
        && tid != session.tenant()
    {
        connection::signed_in(&mut sheet);
        connection::another_directory(&mut sheet, session.tenant(), tid);
        return sheet.finish(None);
    }

    let (organization, read, early) = tokio::join!(
        session.organization(),
        inventory::read(&session),
        probes::early(&session, module, &token.claims),
    );
    let inventory = inventory::compare(&session, read).await;
    match &inventory.service_principal {
        Ok(found) => sheet.learn(found.into()),
        Err(fault) if fault.status == Some(404) => sheet.forget_principal(),
        Err(_) => {}
    }
    // It may have been replaced.
    let token = session.token().await;
    let claims = &token.claims;

    if let Some(fault) = session.sign_in_fault().await {
        sheet.fail(AUTHENTICATION, &fault);
        return sheet.finish(None);
    }
    connection::signed_in(&mut sheet);
    let now = shared.clock.now();
    let known = expiry::known(target);
    if known.is_some() {
        expiry::judge(&mut sheet, known, now);
    }
    let plans = organization.as_ref().ok().map(|found| found.plans.clone());
    let name = organization
        .as_ref()
        .ok()
        .and_then(|found| found.name.clone());
    let organization = organization.map(|found| found.ids);
    connection::judge_identity(&mut sheet, session.tenant(), claims, organization);
    if !sheet.is_healthy() {
        return sheet.finish(None);
    }
    // Of another directory not even the name is kept.
    sheet.facts().entra_tenant_name = name;
    connection::judge_service_principal(&mut sheet, &inventory.service_principal);
    if !sheet.is_healthy() {
        return sheet.finish(None);
    }
    let principal = inventory.service_principal.as_ref().ok();
    let principal = principal.map(KnownPrincipal::from);
    let Some(granted) = inventory::judge(&mut sheet, inventory, claims) else {
        return sheet.finish(None);
    };
    let refresh = inventory::judge_permissions(&mut sheet, module, &granted, &target.connection);
    let missing = why::missing(&sheet, module);
    let question = question(shared, clouds, target, &session, principal);
    let explaining = async {
        match (&question, known) {
            _ if !missing.is_empty() => {
                let (id, deadline) = (principal.map(|p| p.id), Question::deadline(target));
                why::read(&session, id, question.as_ref(), &missing, deadline).await
            }
            (Some(question), None) => Explanation::of(question.ask(false).await),
            _ => Explanation::default(),
        }
    };
    let ((), explanation) = tokio::join!(
        probes::run(&mut sheet, &session, module, &granted, early),
        explaining,
    );
    why::explain(&mut sheet, &missing, &explanation);
    licences::attach(&mut sheet, module, plans.as_deref());
    let registered = explanation
        .application()
        .and_then(|application| expiry::registered(target, application, now));
    let known = expiry::combine(known, registered, target.known.expiry, now);
    expiry::judge(&mut sheet, known, now);
    sheet.finish(Some(refresh))
}

/// Whom to ask about the registration; nobody while its owner is unknown.
fn question<'a>(
    shared: &'a Shared,
    clouds: &'a Clouds,
    target: &'a Target,
    session: &'a Session<'a>,
    principal: Option<KnownPrincipal>,
) -> Option<Question<'a>> {
    let known = target.known.owner_tenant_id.as_deref();
    let known = known.and_then(|text| Uuid::try_parse(text).ok());
    Some(Question {
        shared,
        cloud: addressed(clouds, target).ok()?.0,
        target,
        session,
        owner: principal.and_then(|principal| principal.owner).or(known)?,
    })
}

/// A certificate that was registered just now is not known to every server of the provider yet, so
/// one that was replaced lately is tried again, as far as the run's deadline allows.
async fn sign_in_patiently<'a>(
    shared: &'a Shared,
    clouds: &'a Clouds,
    target: &'a Target,
) -> Result<Session<'a>, Fault> {
    let rotated = matches!(target.credential, Credential::Certificate { .. })
        && target
            .credential_changed_at
            .is_some_and(|at| shared.clock.now() - at < ROTATION);
    let mut waits = ROTATION_WAITS.into_iter();
    loop {
        let result = sign_in(shared, clouds, target).await;
        let unregistered = matches!(
            &result,
            Err(fault) if fault.reason == Reason::CertificateNotRegistered
        );
        match waits.next() {
            Some(wait)
                if rotated && unregistered && Instant::now() + 2 * wait < target.deadline =>
            {
                tracing::debug!("the certificate was replaced lately: trying again");
                tokio::time::sleep(wait).await;
            }
            _ => return result,
        }
    }
}

async fn sign_in<'a>(
    shared: &'a Shared,
    clouds: &'a Clouds,
    target: &'a Target,
) -> Result<Session<'a>, Fault> {
    let (cloud, tenant, client_id) = addressed(clouds, target)?;
    Session::open(shared, target, cloud, tenant, client_id).await
}

/// Cloud, directory and application.
fn addressed<'a>(clouds: &'a Clouds, target: &Target) -> Result<(&'a Cloud, Uuid, Uuid), Fault> {
    let unmet = |unmet: Unmet| Fault {
        evidence: unmet.evidence,
        ..Fault::new(unmet.reason)
    };
    // Preflight has looked at these; what stands in an address is looked at again.
    let cloud = preflight::cloud(clouds, &target.connection).map_err(unmet)?;
    let client_id = preflight::client_id(&target.connection, &target.credential).map_err(unmet)?;
    let tenant = Some(target.entra_tenant_id.as_str())
        .filter(|text| is_guid(text))
        .and_then(|text| Uuid::try_parse(text).ok())
        .ok_or_else(|| {
            Fault::new(Reason::TargetScopeMalformed).with(EvidenceKind::Expected, "a GUID")
        })?;
    Ok((cloud, tenant, client_id))
}
