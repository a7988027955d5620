//! Warns before the credential expires.

use super::results::CheckResults;
use crate::domain::Reason;
use crate::domain::connection_facts::{CredentialExpiry, ExpirySource};
use crate::domain::credential::Credential;
use crate::domain::report::{Evidence, EvidenceKind, Severity};
use crate::ports::provider::Target;
use crate::provider::microsoft::certificate::SigningCertificate;
use crate::provider::microsoft::graph::RegisteredSecret;
use crate::provider::microsoft::modules::EXPIRY;
use chrono::{DateTime, Datelike as _, SecondsFormat, TimeDelta, Utc};
use secrecy::ExposeSecret;

/// Characters of a secret that its registration shows.
const HINT_CHARS: usize = 3;

/// Largest age of a token that is still in use.
const LONGEST_TOKEN: TimeDelta = TimeDelta::days(1);

/// Days before the end from which on the check warns, with the severity.
const STEPS: [(i64, Severity); 4] = [
    (1, Severity::Critical),
    (7, Severity::High),
    (14, Severity::Medium),
    (30, Severity::Low),
];

/// A known expiry, and the number of secrets of the registration that it was chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub expiry: CredentialExpiry,
    pub candidates: Option<usize>,
}

impl Known {
    fn of(source: ExpirySource, expires_at: Option<DateTime<Utc>>) -> Self {
        // A date that no calendar of a reader has is one for "never".
        let expires_at = expires_at.filter(|at| at.year() <= 9999);
        Self {
            expiry: CredentialExpiry { expires_at, source },
            candidates: None,
        }
    }
}

/// Returns what is known without a request.
pub(super) fn known(target: &Target) -> Option<Known> {
    let recorded = target.credential_expiry;
    let of_recorded = || {
        let expiry = recorded.known()?;
        Some(Known::of(expiry.source, expiry.expires_at))
    };
    match &target.credential {
        Credential::FederatedTokenFile { .. } => {
            Some(Known::of(ExpirySource::FederatedToken, None))
        }
        Credential::Certificate {
            private_key_pem,
            certificate_pem,
        } => {
            let certificate = SigningCertificate::parse(private_key_pem, certificate_pem).ok();
            let own = certificate.map(|certificate| certificate.not_after);
            match own {
                Some(own) if recorded.at().is_none_or(|at| own <= at) => {
                    Some(Known::of(ExpirySource::Certificate, Some(own)))
                }
                _ => of_recorded(),
            }
        }
        Credential::ClientSecret { .. } => of_recorded(),
    }
}

/// Whether the registration knows the end: of a secret, also where a date is recorded, as that may be too late.
pub(super) fn is_told_by_registration(target: &Target) -> bool {
    matches!(target.credential, Credential::ClientSecret { .. })
}

/// Returns the expiry of the connection's secret from the registration. Secrets are identified by their first
/// characters only: of several, the latest that has not expired counts. One whose end is the recorded date is
/// the right one. An expired one did not sign in, unless it was still valid then (`is_fresh`: now).
pub(super) fn registered(
    target: &Target,
    secrets: &[RegisteredSecret],
    now: DateTime<Utc>,
    is_fresh: bool,
) -> Option<Known> {
    let Credential::ClientSecret { secret, .. } = &target.credential else {
        return None;
    };
    let signed_in_after = match is_fresh {
        true => now,
        false => now - LONGEST_TOKEN,
    };
    let hint: String = secret.expose_secret().chars().take(HINT_CHARS).collect();
    let ends = |hint: Option<&str>| -> Vec<DateTime<Utc>> {
        let matching = secrets
            .iter()
            .filter(|s| s.hint.as_deref() == hint)
            // A secret that is not valid yet cannot have signed in.
            .filter(|s| s.starts.is_none_or(|at| at <= now));
        matching.filter_map(|secret| secret.ends).collect()
    };
    let mut candidates = ends(Some(&hint));
    if candidates.is_empty() {
        // Old secrets have no hint.
        candidates = ends(None);
    }
    let is_recorded = |end: &&DateTime<Utc>| {
        let recorded = target.credential_expiry.at();
        recorded.is_some_and(|at| (at - **end).abs() <= TimeDelta::days(1))
    };
    let able = || candidates.iter().filter(|end| **end > signed_in_after);
    let end = able().find(is_recorded).or_else(|| able().max())?;
    let known = Known::of(ExpirySource::Registration, Some(*end));
    Some(Known {
        candidates: (candidates.len() > 1).then_some(candidates.len()),
        ..known
    })
}

/// Returns the earlier of the known expiry and the registration's: preflight stops at a recorded date, the
/// provider at its own. Where the registration cannot be read, the result of an earlier check counts.
pub(super) fn combine(
    known: Option<Known>,
    registered: Option<Known>,
    remembered: Option<CredentialExpiry>,
    now: DateTime<Utc>,
) -> Option<Known> {
    let remembered = remembered
        .filter(|expiry| expiry.expires_at.is_some_and(|end| end > now))
        .filter(|expiry| expiry.source == ExpirySource::Registration)
        .map(|expiry| Known {
            expiry,
            candidates: None,
        });
    let ends = known.into_iter().chain(registered.or(remembered));
    ends.min_by_key(|known| {
        let end = known.expiry.expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC);
        (end, known.expiry.source)
    })
}

/// Judges the known expiry. An unknown one is reported without a penalty. `is_read`: whether the registration
/// showed its secrets.
pub(super) fn judge(
    results: &mut CheckResults<'_>,
    known: Option<Known>,
    is_read: bool,
    now: DateTime<Utc>,
) {
    let Some(known) = known else {
        let remark = match is_read {
            true => {
                "The registration was read: none of its secrets that count now is known to be the stored one."
            }
            false => "The registration cannot be read here.",
        };
        results.skip(EXPIRY, Reason::CredentialExpiryUnknown, remark);
        // The result of an earlier check is refuted.
        results.facts().is_expiry_unknown = is_read;
        return;
    };
    results.facts().expiry = Some(known.expiry);
    let mut evidence = vec![Evidence::new(EvidenceKind::Source, known.expiry.source)];
    let Some(expires_at) = known.expiry.expires_at else {
        let message = match known.expiry.source {
            ExpirySource::FederatedToken => {
                "A federated token does not expire here: a new one is read at each sign-in."
            }
            _ => "The credential never expires.",
        };
        results.pass(EXPIRY, message, evidence);
        return;
    };
    let date = expires_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    evidence.push(Evidence::new(EvidenceKind::EndsAt, &date));
    let mut remark = String::new();
    if let Some(candidates) = known.candidates {
        evidence.push(Evidence::new(EvidenceKind::Candidates, candidates));
        remark = format!(
            " {candidates} secrets of the registration begin alike: the one that lasts longest is taken for it."
        );
    }
    let left = expires_at - now;
    let step = STEPS
        .iter()
        .find(|(days, _)| left <= TimeDelta::days(*days));
    match step {
        None => {
            let message = format!(
                "The credential expires on {}.{remark}",
                expires_at.date_naive()
            );
            results.pass(EXPIRY, &message, evidence);
        }
        Some((_, severity)) => {
            let when = match left.num_days() {
                _ if left <= TimeDelta::zero() => "It has ended.".to_owned(),
                0 => "Less than a day is left.".to_owned(),
                1 => "One day is left.".to_owned(),
                days => format!("{days} days are left."),
            };
            let remark = format!("{when}{remark}");
            results.warn(
                EXPIRY,
                Reason::CredentialExpiring,
                *severity,
                &remark,
                evidence,
            );
        }
    }
}
