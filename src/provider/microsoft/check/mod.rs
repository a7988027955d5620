//! One check of one connection: sign in, ask what can be asked at the same time, then judge the
//! answers in the order of the planned checks.

mod asking;
mod connection;
mod inventory;
mod patience;
mod probes;
mod refusal;
mod sheet;

use super::cloud::Clouds;
use super::fault::Fault;
use super::graph::{Session, Shared};
use super::modules::{self, AUTHENTICATION};
use super::preflight;
use crate::domain::Reason;
use crate::domain::link::is_guid;
use crate::domain::report::EvidenceKind;
use crate::ports::provider::{Disposition, Findings, Target, Unmet};
use patience::Patience;
use refusal::Rights;
use sheet::Sheet;
use uuid::Uuid;

/// Never fails: every error is a finding.
pub(super) async fn run(shared: &Shared, clouds: &Clouds, target: &Target) -> Findings {
    let Some(module) = modules::module(&target.module) else {
        // Preflight refuses it; there is no check to show.
        return Findings {
            checks: Vec::new(),
            healthy: false,
            inventory: None,
            disposition: Disposition::Finished,
        };
    };
    let mut sheet = Sheet::new(module, target);
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

    let clock = shared.clock.as_ref();
    let is_new = patience::is_connection_new(target, clock);
    let patience = Patience::new(shared.caller.longest_wait(), target.deadline);
    let asked = asking::patiently(&session, module, is_new, patience).await;
    inventory::compare(&session, &asked.read).await;
    // It may have been replaced.
    let token = session.token().await;
    let claims = &token.claims;

    if let Some(fault) = session.sign_in_fault().await {
        sheet.fail(AUTHENTICATION, &fault);
        return sheet.finish(None);
    }
    connection::signed_in(&mut sheet);
    let rights = Rights::of(&asked, claims, is_new, clock.now());
    connection::judge_identity(
        &mut sheet,
        session.tenant(),
        claims,
        &rights,
        asked.organization,
    );
    if !sheet.is_healthy() {
        return sheet.finish(None);
    }
    connection::judge_service_principal(&mut sheet, &rights, &asked.read.service_principal);
    if !sheet.is_healthy() {
        return sheet.finish(None);
    }
    let is_fresh = session.is_token_fresh().await;
    let Some(granted) = inventory::judge(&mut sheet, asked.read, claims, &rights, is_fresh) else {
        return sheet.finish(None);
    };
    let refresh = inventory::judge_permissions(&mut sheet, module, &granted, &target.connection);
    probes::run(&mut sheet, &session, module, &granted, &rights, asked.early).await;
    sheet.finish(Some(refresh))
}

/// What a credential that was replaced a short while ago may be refused with until it is known everywhere.
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

/// What an application that was consented to a short while ago may be refused with.
fn may_be_unknown_yet(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AppNotFound | Reason::ServicePrincipalMissing | Reason::ConsentMissing
    )
}

/// A credential, or a consent, of just now is not known to every server of the provider yet: the sign-in is
/// tried again, as far as the run's deadline allows.
async fn sign_in_patiently<'a>(
    shared: &'a Shared,
    clouds: &'a Clouds,
    target: &'a Target,
) -> Result<Session<'a>, Fault> {
    let clock = shared.clock.as_ref();
    let mut patience = Patience::new(shared.caller.longest_wait(), target.deadline);
    loop {
        let fault = match sign_in(shared, clouds, target).await {
            Ok(session) => return Ok(session),
            Err(fault) => fault,
        };
        let again = (may_be_too_new(fault.reason)
            && patience::is_credential_new(target, clock)
            && patience.wait_for_credential().await)
            || (may_be_unknown_yet(fault.reason)
                && patience::is_connection_new(target, clock)
                && patience.wait_for_consent(false).await);
        if !again {
            let tried = patience.attempts();
            return Err(fault.with_some(EvidenceKind::Attempts, (tried > 1).then_some(tried)));
        }
    }
}

async fn sign_in<'a>(
    shared: &'a Shared,
    clouds: &'a Clouds,
    target: &'a Target,
) -> Result<Session<'a>, Fault> {
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
    Session::open(shared, target, cloud, tenant, client_id).await
}
