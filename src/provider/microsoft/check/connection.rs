//! Judges sign-in, identity of the directory, and service principal.

use super::refusal::{READS_APPLICATIONS, READS_ORGANIZATION, Rights, is_refusal};
use super::results::CheckResults;
use crate::domain::Reason;
use crate::domain::report::{Evidence, EvidenceKind, Severity};
use crate::provider::microsoft::claims::Claims;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::ServicePrincipal;
use crate::provider::microsoft::modules::{AUTHENTICATION, IDENTITY, SERVICE_PRINCIPAL};
use uuid::Uuid;

pub(super) fn signed_in(results: &mut CheckResults<'_>, evidence: Vec<Evidence>) {
    results.pass(
        AUTHENTICATION,
        "Microsoft Entra accepts the credential.",
        evidence,
    );
}

pub(super) fn another_directory(results: &mut CheckResults<'_>, expected: Uuid, found: Uuid) {
    results.fail(
        IDENTITY,
        &Fault::new(Reason::IdentityMismatch)
            .with(EvidenceKind::Expected, expected)
            .with(EvidenceKind::Found, found),
    );
}

/// Checks that the directory is the expected one. Where it cannot be read, the directory of the token is
/// used, with a warning that says why: the connection itself works.
pub(super) fn judge_identity(
    results: &mut CheckResults<'_>,
    expected: Uuid,
    claims: &Claims,
    rights: &Rights<'_>,
    organization: Result<Vec<Uuid>, Fault>,
) {
    let fault = match organization {
        Ok(found) => {
            return match found.iter().find(|id| **id != expected) {
                None if !found.is_empty() => results.pass(
                    IDENTITY,
                    "The directory that answers is the one of the connection.",
                    Vec::new(),
                ),
                Some(other) => another_directory(results, expected, *other),
                None => results.fail(IDENTITY, &Fault::invalid(200)),
            };
        }
        Err(fault) => rights.meaning(fault, READS_ORGANIZATION),
    };
    if is_refusal(&fault) && claims.tid == Some(expected) {
        results.warn(
            IDENTITY,
            fault.reason,
            fault.reason.severity().min(Severity::Medium),
            "The token names the directory of the connection, which is taken in its place.",
            fault.evidence,
        );
    } else {
        results.fail(IDENTITY, &fault);
    }
}

/// A service principal that may not be read is no failure: the token shows that there is one.
pub(super) fn judge_service_principal(
    results: &mut CheckResults<'_>,
    rights: &Rights<'_>,
    answer: &Result<ServicePrincipal, Fault>,
) {
    let fault = match answer {
        Ok(found) if found.account_enabled == Some(false) => Fault::new(Reason::AppDisabled),
        Ok(_) => {
            return results.pass(
                SERVICE_PRINCIPAL,
                "The application has an enabled service principal in the directory.",
                Vec::new(),
            );
        }
        Err(fault) => rights.meaning(fault.clone(), READS_APPLICATIONS),
    };
    if is_refusal(&fault) {
        results.warn(
            SERVICE_PRINCIPAL,
            fault.reason,
            Severity::Low,
            "Whether it is enabled is only known from the sign-in.",
            fault.evidence,
        );
    } else {
        results.fail(SERVICE_PRINCIPAL, &fault);
    }
}
