//! Checks one connection: signs in, sends independent requests concurrently, then judges the answers in the
//! order of the planned checks.

mod application;
mod connection;
mod excess;
mod expiry;
mod graph_requests;
mod inventory;
mod licences;
mod missing_permission;
mod offered_roles;
mod probes;
mod propagation;
mod refusal;
mod results;

use super::cloud::{Cloud, Clouds};
use super::fault::Fault;
use super::graph::{KnownPrincipal, Session, Shared};
use super::modules::{AUTHENTICATION, Modules};
use super::preflight;
use crate::domain::Reason;
use crate::domain::connection_facts::ConnectionFacts;
use crate::domain::link::is_guid;
use crate::domain::report::EvidenceKind;
use crate::ports::provider::{Disposition, Findings, Target, Unmet};
use application::Question;
use missing_permission::Explanation;
use propagation::PropagationBackoff;
use refusal::Rights;
use results::CheckResults;
use uuid::Uuid;

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
    let mut results = CheckResults::new(module, target);
    // Links are correct even where this check cannot sign in.
    if let Ok((cloud, tenant, client_id)) = addressed(clouds, target) {
        results.know_client(client_id);
        let key = (cloud.key.clone(), tenant, client_id);
        if let Some(known) = shared.principals.get(&key).await {
            results.learn(known);
        }
    }
    let now = shared.clock.now();
    let known = expiry::known(target);
    let kept = expiry::combine(known, None, target.known.expiry, now);
    results.facts().expiry = kept.map(|known| known.expiry);
    let session = match sign_in_with_retries(shared, clouds, target).await {
        Ok(session) => session,
        Err(fault) => {
            results.fail(AUTHENTICATION, &fault);
            return results.finish(None);
        }
    };
    // No request is made with a token of another directory.
    let token = session.token().await;
    if let Some(tid) = token.claims.tid
        && tid != session.tenant()
    {
        connection::signed_in(&mut results, session.credential_evidence());
        connection::another_directory(&mut results, session.tenant(), tid);
        return results.finish(None);
    }

    let clock = shared.clock.as_ref();
    let is_new = propagation::is_connection_new(target, clock);
    let backoff = PropagationBackoff::new(shared.caller.longest_wait(), target.deadline);
    let asked = graph_requests::with_retries(&session, module, is_new, backoff).await;
    inventory::compare(&session, &asked.read).await;
    match &asked.read.service_principal {
        Ok(found) => results.learn(found.into()),
        Err(fault) if fault.status == Some(404) => results.forget_principal(),
        Err(_) => {}
    }
    // It may have been replaced.
    let token = session.token().await;
    let claims = &token.claims;

    if let Some(fault) = session.sign_in_fault().await {
        results.fail(AUTHENTICATION, &fault);
        return results.finish(None);
    }
    connection::signed_in(&mut results, session.credential_evidence());
    let now = clock.now();
    if known.is_some() {
        expiry::judge(&mut results, known, false, now);
    }
    let rights = Rights::of(&asked, claims, is_new, now);
    let (organization, plans, name) = match asked.organization {
        Ok(found) => (Ok(found.ids), Some(found.plans), found.name),
        Err(fault) => (Err(fault), None, None),
    };
    connection::judge_identity(
        &mut results,
        session.tenant(),
        claims,
        &rights,
        organization,
    );
    if !results.is_healthy() {
        return results.finish(None);
    }
    // Of another directory not even the name is kept.
    results.facts().entra_tenant_name = name;
    connection::judge_service_principal(&mut results, &rights, &asked.read.service_principal);
    if !results.is_healthy() {
        return results.finish(None);
    }
    let is_fresh = session.is_token_fresh().await;
    let principal = asked.read.service_principal.as_ref().ok();
    let principal = principal.map(KnownPrincipal::from);
    let Some(granted) = inventory::judge(&mut results, asked.read, claims, &rights, is_fresh)
    else {
        return results.finish(None);
    };
    let offered = offered_roles::of_missing(&session, module, &granted).await;
    let connection = &target.connection;
    let refresh =
        inventory::judge_permissions(&mut results, module, &granted, &offered, connection);
    let own = connection.module.as_deref();
    excess::judge(&mut results, modules, module, own, &granted);
    let missing = missing_permission::missing(&results, module);
    let question = question(shared, clouds, target, &session, principal);
    let explaining = async {
        match (&question, known) {
            _ if !missing.is_empty() => {
                let (id, deadline) = (principal.map(|p| p.id), Question::deadline(target));
                missing_permission::read(&session, id, question.as_ref(), &missing, deadline).await
            }
            (Some(question), _) if expiry::is_told_by_registration(target) => {
                Explanation::of(question.ask(false).await)
            }
            _ => Explanation::default(),
        }
    };
    let ((), explanation) = tokio::join!(
        probes::run(
            &mut results,
            &session,
            module,
            &granted,
            &rights,
            asked.early
        ),
        explaining,
    );
    missing_permission::explain(&mut results, &missing, &explanation);
    licences::attach(&mut results, module, plans.as_deref());
    let secrets = explanation.application().and_then(|a| a.secrets.as_deref());
    let secrets = secrets.filter(|_| expiry::is_told_by_registration(target));
    let registered = secrets.and_then(|all| expiry::registered(target, all, now, is_fresh));
    // What the registration says now replaces what it said before.
    let remembered = target.known.expiry.filter(|_| secrets.is_none());
    let known = expiry::combine(known, registered, remembered, now);
    expiry::judge(&mut results, known, secrets.is_some(), now);
    let findings = results.finish(Some(refresh));
    session.ended(findings.disposition);
    findings
}

/// Returns the registration to read; `None` while its owner is unknown.
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

/// Returns whether a credential that was replaced recently may cause this refusal, until it has replicated.
fn may_be_too_new(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::CertificateNotRegistered
            | Reason::SecretInvalid
            | Reason::SecretExpired
            | Reason::FederationMismatch
            | Reason::FederationNotConfigured
    )
}

/// Returns whether an application with a recent consent may cause this refusal.
fn may_be_unknown_yet(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AppNotFound | Reason::ServicePrincipalMissing | Reason::ConsentMissing
    )
}

/// A credential, or a consent, of just now is not known to every server of the provider yet: the sign-in is
/// tried again, as far as the run's deadline allows.
async fn sign_in_with_retries<'a>(
    shared: &'a Shared,
    clouds: &'a Clouds,
    target: &'a Target,
) -> Result<Session<'a>, Fault> {
    let clock = shared.clock.as_ref();
    let mut backoff = PropagationBackoff::new(shared.caller.longest_wait(), target.deadline);
    loop {
        let fault = match sign_in(shared, clouds, target).await {
            Ok(session) => return Ok(session),
            Err(fault) => fault,
        };
        let again = (may_be_too_new(fault.reason)
            && propagation::is_credential_new(target, clock)
            && backoff.wait_for_credential().await)
            || (may_be_unknown_yet(fault.reason)
                && propagation::is_connection_new(target, clock)
                && backoff.wait_for_consent(false).await);
        if !again {
            let tried = backoff.attempts();
            return Err(fault.with_some(EvidenceKind::Attempts, (tried > 1).then_some(tried)));
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
    // Preflight has validated these; values that go into an address are validated again.
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
