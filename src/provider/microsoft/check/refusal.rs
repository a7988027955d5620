//! Judges refusals of Graph. The answer alone is not sufficient: the meaning depends on whether the
//! permission is granted, and whether the token has it. Refusals are judged only here.

use super::graph_requests::GraphAnswers;
use super::propagation::AGAIN_AFTER;
use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use crate::provider::microsoft::claims::Claims;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph::KnownGrants;
use crate::provider::microsoft::modules::{controls_directory, includes, knows_permission};
use chrono::{DateTime, SecondsFormat, Utc};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Permissions for `/organization`, the least privileged first.
pub(super) const READS_ORGANIZATION: &[&str] = &[
    "Organization.Read.All",
    "Organization.ReadWrite.All",
    "Directory.Read.All",
    "Directory.ReadWrite.All",
];
/// Permissions for service principals and their assignments, the least privileged first.
pub(super) const READS_APPLICATIONS: &[&str] = &[
    "Application.Read.All",
    "Application.ReadWrite.OwnedBy",
    "Application.ReadWrite.All",
    "Directory.Read.All",
    "Directory.ReadWrite.All",
];

/// What is known of the application's rights when a refusal is judged.
pub(super) struct Rights<'a> {
    /// By the assignments, where these could be read.
    granted: Option<Arc<KnownGrants>>,
    /// By the token, where it can be read.
    in_token: Option<&'a BTreeSet<String>>,
    /// Graph has answered a call with this token.
    is_accepted: bool,
    /// The directory knows the application.
    is_known: bool,
    /// The application's service principal is enabled.
    is_enabled: bool,
    /// Whether somebody has consented: the token shows it, or the connection is so new that it may not yet.
    is_consented: bool,
    attempts: u32,
    now: DateTime<Utc>,
}

impl<'a> Rights<'a> {
    /// Creates the rights from Graph's answers and the token in use.
    pub fn of(asked: &GraphAnswers, claims: &'a Claims, is_new: bool, now: DateTime<Utc>) -> Self {
        let is_known = asked.read.service_principal.is_ok();
        Self {
            granted: match &asked.read.grants {
                Some(Ok(grants)) => Some(Arc::clone(grants)),
                _ => None,
            },
            in_token: claims.roles.as_ref(),
            is_accepted: is_known || asked.organization.is_ok(),
            is_known,
            is_enabled: matches!(&asked.read.service_principal, Ok(found) if found.account_enabled == Some(true)),
            is_consented: match &claims.roles {
                Some(roles) => !roles.is_empty(),
                None => is_new,
            },
            attempts: asked.attempts,
            now,
        }
    }

    /// The fault with the reason that it has in the light of these rights. One of `opened_by`, the least
    /// privilege first, opens the call.
    pub fn meaning(&self, fault: Fault, opened_by: &[&str]) -> Fault {
        match fault.reason {
            Reason::PermissionDenied => self.refused(fault, opened_by),
            // Other calls were answered with this very token.
            Reason::TokenRejected if self.is_accepted => self.refused(fault, opened_by),
            // So its audience and issuer, and the cloud, are right.
            Reason::WrongCloud if self.is_accepted => Fault {
                reason: Reason::TokenRejected,
                remark: Some("Other calls were answered with the same token.".into()),
                ..fault
            },
            // An answer about Intune's licence from another service.
            Reason::IntuneNotLicensed => Fault {
                reason: Reason::ServiceNotLicensed,
                ..fault
            },
            Reason::ServicePrincipalMissing => self.unknown(fault),
            _ => fault,
        }
    }

    /// Judges the refusal of a probe: a service behind Graph may answer it, which has a service principal of
    /// its own.
    pub fn meaning_of_probe(&self, fault: Fault, opened_by: &[&str], of_intune: bool) -> Fault {
        match fault.reason {
            Reason::AppDisabled if self.is_enabled => Fault {
                reason: Reason::ServiceDisabled,
                ..fault
            },
            Reason::IntuneNotLicensed if of_intune => fault,
            // A redirect that leads nowhere is what Intune has for a tenant that it does not know.
            Reason::ResponseInvalid | Reason::GraphUnknown
                if of_intune && matches!(fault.status, Some(300..400)) =>
            {
                Fault {
                    reason: Reason::IntuneNotLicensed,
                    ..fault
                }
            }
            _ => self.meaning(fault, opened_by),
        }
    }

    /// The fault of a list of grants: the directory that knows the application may not know its grants yet.
    pub fn meaning_of_grants(&self, fault: Fault) -> Fault {
        match fault.reason {
            Reason::ResourceNotFound if self.is_consented && fault.status == Some(404) => {
                self.unknown(fault)
            }
            _ => self.meaning(fault, READS_APPLICATIONS),
        }
    }

    fn refused(&self, fault: Fault, opened_by: &[&str]) -> Fault {
        // The service's own request comes first.
        let asked = self.known(&fault.asks_for, opened_by);
        let grantable = least(&asked);
        let opened_by = if grantable.is_some() {
            &asked
        } else {
            opened_by
        };
        let opens = |names: &BTreeSet<String>| {
            let mut wanted = opened_by.iter();
            wanted.any(|wanted| names.iter().any(|granted| includes(granted, wanted)))
        };
        let in_token = self.in_token.map(opens);
        let granted = self
            .granted
            .as_ref()
            .map(|known| opens(&known.grants.graph));
        let reason = match (in_token, granted) {
            // One of the two has not received the change yet.
            (Some(true), Some(false)) | (Some(false), Some(true)) => Reason::PermissionPropagating,
            (Some(true), _) | (None, Some(true)) => Reason::PermissionNotEffective,
            _ => Reason::PermissionDenied,
        };
        let permission = grantable.or(opened_by.first().copied());
        let permission = permission.map(str::to_owned);
        let fault = Fault { reason, ..fault };
        fault.with_some(EvidenceKind::Permission, permission)
    }

    /// Those of the names in a message that are application permissions of Graph: services name others, too.
    fn known<'n>(&self, names: &'n [String], opened_by: &[&str]) -> Vec<&'n str> {
        let offered = self.granted.as_ref().and_then(|known| known.graph_roles());
        let is_known = |name: &&str| {
            opened_by.contains(name)
                || match offered {
                    Some(roles) => roles.id_of(name).is_some(),
                    None => knows_permission(name),
                }
        };
        names.iter().map(String::as_str).filter(is_known).collect()
    }

    fn unknown(&self, fault: Fault) -> Fault {
        let tried = (self.attempts > 1).then_some(self.attempts);
        let has_attempts = fault.has(EvidenceKind::Attempts);
        let fault = fault.with_some(EvidenceKind::Attempts, tried.filter(|_| !has_attempts));
        if !self.is_consented && !self.is_known {
            return fault;
        }
        let again = (self.now + AGAIN_AFTER).to_rfc3339_opts(SecondsFormat::Secs, true);
        Fault {
            reason: Reason::ConsentPropagating,
            ..fault
        }
        .with(EvidenceKind::RetryAt, again)
    }
}

/// Returns the permission to grant: one that only reads, if possible. No message recommends control of the
/// directory.
fn least<'n>(names: &[&'n str]) -> Option<&'n str> {
    let grantable = names.iter().filter(|name| !controls_directory(name));
    let reads = |name: &&&str| name.split('.').any(|part| part == "Read");
    grantable
        .clone()
        .find(reads)
        .or_else(|| grantable.clone().next())
        .copied()
}

/// Returns whether the call was refused, for whatever reason, so that the token may replace the answer.
pub(super) fn is_refusal(fault: &Fault) -> bool {
    matches!(
        fault.reason,
        Reason::PermissionDenied | Reason::PermissionNotEffective | Reason::PermissionPropagating
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::microsoft::graph::Grants;

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn reason(granted: Option<&[&str]>, in_token: Option<&[&str]>, refused: Reason) -> Reason {
        let in_token = in_token.map(names);
        let rights = Rights {
            granted: granted
                .map(|all| Arc::new(KnownGrants::new(Grants::of_token(&names(all)), Vec::new()))),
            in_token: in_token.as_ref(),
            is_accepted: true,
            is_known: false,
            is_enabled: false,
            is_consented: in_token.as_ref().is_some_and(|roles| !roles.is_empty()),
            attempts: 3,
            now: DateTime::UNIX_EPOCH,
        };
        rights
            .meaning(Fault::new(refused), &["A.Read", "B.Read"])
            .reason
    }

    #[test]
    fn a_refusal_means_what_the_rights_make_of_it() {
        use Reason::*;
        let (a, b, none): (&[&str], &[&str], &[&str]) = (&["A.Read"], &["B.Read"], &[]);
        for (granted, in_token, expected) in [
            (Some(a), Some(a), PermissionNotEffective),
            (Some(b), Some(a), PermissionNotEffective),
            (Some(none), Some(b), PermissionPropagating),
            (None, Some(a), PermissionNotEffective),
            (Some(a), None, PermissionNotEffective),
            (Some(a), Some(none), PermissionPropagating),
            (Some(b), Some(none), PermissionPropagating),
            (Some(none), Some(none), PermissionDenied),
            (None, Some(none), PermissionDenied),
            (Some(none), None, PermissionDenied),
            (None, None, PermissionDenied),
        ] {
            for refused in [PermissionDenied, TokenRejected] {
                let found = reason(granted, in_token, refused);
                assert_eq!(found, expected, "{granted:?} {in_token:?} {refused}");
            }
        }
    }

    #[test]
    fn the_least_that_is_no_control_of_the_directory_is_asked_for() {
        let control = "RoleManagement.ReadWrite.Directory";
        assert_eq!(
            least(&["A.ReadWrite.All", "A.Read.All"]),
            Some("A.Read.All")
        );
        assert_eq!(
            least(&[control, "A.ReadWrite.All"]),
            Some("A.ReadWrite.All")
        );
        assert_eq!(least(&[control]), None);
    }
}
