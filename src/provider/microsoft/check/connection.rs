//! Sign-in, identity of the directory, service principal.

use super::sheet::Sheet;
use crate::domain::Reason;
use crate::domain::report::{Evidence, EvidenceKind, Severity};
use crate::provider::microsoft::claims::Claims;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::ServicePrincipal;
use crate::provider::microsoft::modules::{AUTHENTICATION, IDENTITY, SERVICE_PRINCIPAL};
use uuid::Uuid;

pub(super) fn signed_in(sheet: &mut Sheet<'_>, evidence: Vec<Evidence>) {
    sheet.pass(
        AUTHENTICATION,
        "Microsoft Entra accepts the credential.",
        evidence,
    );
}

pub(super) fn another_directory(sheet: &mut Sheet<'_>, expected: Uuid, found: Uuid) {
    sheet.fail(
        IDENTITY,
        &Fault::new(Reason::IdentityMismatch)
            .with(EvidenceKind::Expected, expected)
            .with(EvidenceKind::Found, found),
    );
}

/// The directory must be the expected one. Where it may not be read, the token's own word is taken
/// with a warning: that permission is missing, which its own check says, not the connection broken.
pub(super) fn judge_identity(
    sheet: &mut Sheet<'_>,
    expected: Uuid,
    claims: &Claims,
    organization: Result<Vec<Uuid>, Fault>,
) {
    match organization {
        Ok(found) => match found.iter().find(|id| **id != expected) {
            None if !found.is_empty() => sheet.pass(
                IDENTITY,
                "The directory that answers is the one of the connection.",
                Vec::new(),
            ),
            Some(other) => another_directory(sheet, expected, *other),
            None => sheet.fail(IDENTITY, &Fault::invalid(200)),
        },
        Err(fault) if fault.reason == Reason::PermissionDenied && claims.tid == Some(expected) => {
            let mut evidence = fault.evidence;
            evidence.push(Evidence::new(
                EvidenceKind::Permission,
                "Organization.Read.All",
            ));
            sheet.warn(
                IDENTITY,
                Reason::PermissionDenied,
                Severity::Medium,
                "The token names the directory of the connection, which is taken in its place.",
                evidence,
            );
        }
        Err(fault) => sheet.fail(IDENTITY, &fault),
    }
}

/// A service principal that may not be read is no failure: the token shows that there is one.
pub(super) fn judge_service_principal(
    sheet: &mut Sheet<'_>,
    answer: &Result<ServicePrincipal, Fault>,
) {
    match answer {
        Ok(found) if found.account_enabled == Some(false) => {
            sheet.fail(SERVICE_PRINCIPAL, &Fault::new(Reason::AppDisabled));
        }
        Ok(_) => sheet.pass(
            SERVICE_PRINCIPAL,
            "The application has an enabled service principal in the directory.",
            Vec::new(),
        ),
        Err(fault) if fault.status == Some(404) && fault.reason != Reason::ResponseInvalid => {
            let missing = Fault {
                reason: Reason::ServicePrincipalMissing,
                ..fault.clone()
            };
            sheet.fail(SERVICE_PRINCIPAL, &missing);
        }
        Err(fault) if fault.reason == Reason::PermissionDenied => {
            let mut evidence = fault.evidence.clone();
            evidence.push(Evidence::new(
                EvidenceKind::Permission,
                "Application.Read.All",
            ));
            sheet.warn(
                SERVICE_PRINCIPAL,
                Reason::PermissionDenied,
                Severity::Low,
                "Whether it is enabled is only known from the sign-in.",
                evidence,
            );
        }
        Err(fault) => sheet.fail(SERVICE_PRINCIPAL, fault),
    }
}
