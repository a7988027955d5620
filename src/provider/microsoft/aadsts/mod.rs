//! Translates token errors of Microsoft Entra into reasons, by the kind of credential.
//!
//! `codes.toml` is the data, `table` reads it, `parse` extracts codes from answers.

mod advice;
mod parse;
mod table;

pub(super) use table::document;

use super::fault::{Advice, Fault, Retry};
use super::http::Intermediary;
use super::sign_in::FederatedClaims;
use crate::domain::Reason;
use crate::domain::connection::CredentialKind;
use crate::domain::report::EvidenceKind;
use chrono::{DateTime, SecondsFormat, Utc};
use parse::ParsedError;
use std::num::NonZeroU64;
use std::time::Duration;
use table::{Claim, Class, CodeRow, Table};
use uuid::Uuid;

/// A proxy requires credentials, a network requires a login, or a firewall of Azure denies the call.
const IN_BETWEEN: [u16; 3] = [407, 470, 511];

/// Statuses by which a proxy or a gateway refuses in its own words.
const REFUSALS: [u16; 2] = [401, 403];

/// Who signs in, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignIn<'a> {
    pub kind: CredentialKind,
    /// Of the token in the file.
    pub federated: Option<&'a FederatedClaims>,
    pub now: DateTime<Utc>,
}

/// A token answer without a token.
#[derive(Clone, Copy)]
pub(super) struct Refusal<'a> {
    pub status: u16,
    pub body: &'a [u8],
    pub retry_after: Option<Duration>,
    /// Id that the answer's headers give to the request.
    pub request_id: Option<Uuid>,
    /// Who between here and the provider shows as the answer's author.
    pub intermediary: Option<Intermediary>,
}

/// Returns the fault of a token answer other than success.
pub(super) fn fault(refusal: Refusal<'_>, by: SignIn<'_>) -> Fault {
    judge(refusal, &ParsedError::of(refusal.body), by)
}

/// Returns the fault where the body states that the sign-in is refused, whatever the status.
pub(super) fn stated_fault(refusal: Refusal<'_>, by: SignIn<'_>) -> Option<Fault> {
    let parsed = ParsedError::of(refusal.body);
    parsed.is_certain().then(|| judge(refusal, &parsed, by))
}

fn judge(refusal: Refusal<'_>, parsed: &ParsedError, by: SignIn<'_>) -> Fault {
    let status = refusal.status;
    let known = known(parsed);
    let (reason, retry) = match known {
        Some((code, row)) => by_code(code, row, parsed, by),
        None => by_error(refusal, parsed, by.kind),
    };
    let code = known
        .map(|(code, _)| code)
        .or(parsed.listed.first().copied())
        .or(parsed.quoted.first().copied());
    let mut fault = Fault::new(reason)
        .status(status)
        .with_some(
            EvidenceKind::AadstsCode,
            code.map(|code| format!("AADSTS{code}")),
        )
        .with_some(EvidenceKind::OauthError, parsed.error.as_deref())
        .with_some(EvidenceKind::TraceId, parsed.trace_id)
        .with_some(
            EvidenceKind::RequestId,
            refusal.request_id.filter(|id| parsed.trace_id != Some(*id)),
        )
        .with_some(EvidenceKind::CorrelationId, parsed.correlation_id)
        .retry(retry, refusal.retry_after);
    let look_up = match known {
        None => code,
        // A generic code does not hide an unknown one.
        Some((_, row)) if row.class == Class::Generic => parsed.first_unknown(),
        Some(_) => None,
    };
    fault.look_up = look_up.and_then(NonZeroU64::new);
    if reason == Reason::FederationMismatch
        && let Some(claim) = known.and_then(|(_, row)| row.claim)
    {
        fault = mismatch(fault, claim);
    }
    if reason == Reason::ProviderUnreachable {
        fault.remark = Some(Intermediary::CANNOT_REACH.into());
    }
    fault = advised(fault, known.map(|(_, row)| row), by);
    match by.federated {
        Some(claims) if !fault.is_transient() => claims.add_to(fault),
        _ => fault,
    }
}

/// Returns the code that decides: the first of `error_codes` by class and row. Codes quoted in texts count
/// where there is none, or only a generic one.
fn known(parsed: &ParsedError) -> Option<(u64, &'static CodeRow)> {
    let table = Table::get();
    let first = |codes: &mut dyn Iterator<Item = &u64>| {
        codes
            .filter_map(|code| table.rank(*code).map(|rank| (rank, *code)))
            .min()
            .map(|(_, code)| code)
    };
    let listed = first(&mut parsed.listed.iter());
    let code = match listed.and_then(|code| table.row(code)) {
        Some(row) if row.class < Class::Generic => listed,
        _ => first(&mut parsed.listed.iter().chain(&parsed.quoted)),
    }?;
    table.row(code).map(|row| (code, row))
}

/// Adds the advice that is more exact than the reason.
fn advised(mut fault: Fault, row: Option<&CodeRow>, by: SignIn<'_>) -> Fault {
    let row_advice = row
        .and_then(|row| row.advice)
        .and_then(|kind| kind.advice(by.federated));
    let ahead = by
        .federated
        .and_then(|claims| claims.not_valid_before(by.now));
    let advice: Option<&'static Advice> = match (fault.reason, by.kind) {
        (Reason::AssertionTimeInvalid, CredentialKind::FederatedTokenFile) => match ahead {
            Some(_) => Some(&advice::ISSUERS_CLOCK),
            None => Some(&advice::CLOCKS_DIFFER),
        },
        _ => row_advice,
    };
    fault = fault.with_some(EvidenceKind::Field, advice.and_then(|advice| advice.field));
    if let (Some(at), Reason::AssertionTimeInvalid) = (ahead, fault.reason) {
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        fault = fault.with(EvidenceKind::ValidFrom, at);
    }
    fault.advice = advice;
    fault
}

fn by_code(code: u64, row: &CodeRow, parsed: &ParsedError, by: SignIn<'_>) -> (Reason, Retry) {
    // Some answers list the general code only; the phrase may belong to another one that they quote.
    let phrase = Table::get().by_phrase(code, by.kind, &parsed.text);
    let reason = phrase.unwrap_or_else(|| row.reason(by.kind));
    let expires_at = by.federated.and_then(|claims| claims.expires_at);
    match reason {
        // The clocks differ: by this one the token is valid.
        Reason::FederatedTokenExpired if expires_at.is_some_and(|at| at > by.now) => {
            (Reason::AssertionTimeInvalid, Retry::Never)
        }
        _ => (reason, row.retry(by.kind)),
    }
}

/// Where no code is known: the error of OAuth, and only then the status.
fn by_error(refusal: Refusal<'_>, parsed: &ParsedError, kind: CredentialKind) -> (Reason, Retry) {
    let status = refusal.status;
    let is_foreign = refusal.request_id.is_none() && parsed.is_foreign();
    let table = Table::get();
    let wait = Retry::Backoff;
    let error = parsed.error.as_deref();
    let by_error = error.and_then(|error| table.by_error(error, kind));
    let by_family = parsed
        .first_unknown()
        .and_then(|code| table.by_family(code, kind));
    let by_suberror = parsed
        .suberror
        .as_deref()
        .and_then(|suberror| table.by_suberror(suberror, kind));
    match by_error {
        Some(temporary @ (_, Retry::Backoff)) => return temporary,
        _ if status == 429 => return (Reason::Throttled, wait),
        _ if is_foreign && REFUSALS.contains(&status) => {
            return (Reason::ProxyRefused, Retry::Never);
        }
        _ => {}
    }
    let blocked = Reason::ConditionalAccessBlocked;
    let challenge = parsed.challenged.then_some(blocked);
    by_suberror
        .or(challenge.or(by_family).map(|reason| (reason, Retry::Never)))
        .or(by_error)
        .or(refusal.intermediary.map(Intermediary::meaning))
        .unwrap_or_else(|| by_status(status, parsed))
}

/// Where the answer names no error that is known.
fn by_status(status: u16, parsed: &ParsedError) -> (Reason, Retry) {
    let wait = Retry::Backoff;
    match status {
        _ if IN_BETWEEN.contains(&status) => (Reason::ProxyRefused, Retry::Never),
        408 => (Reason::ProviderTimeout, wait),
        425 | 500.. => (Reason::ProviderUnavailable, wait),
        // Not the token endpoint's own answer: it always names its error.
        _ if !parsed.says_something() => (Reason::ResponseInvalid, Retry::Never),
        _ => (Reason::AuthUnknown, Retry::Never),
    }
}

fn mismatch(fault: Fault, claim: Claim) -> Fault {
    let (name, remark) = match claim {
        Claim::Issuer => ("issuer", "Its issuer does not match."),
        Claim::Subject => ("subject", "Its subject does not match."),
        Claim::SubjectCase => (
            "subject",
            "Its subject matches in all but upper and lower case.",
        ),
        Claim::Audience => ("audience", "Its audience does not match."),
    };
    let mut fault = fault.with(EvidenceKind::Field, name);
    fault.remark = Some(remark.into());
    fault
}
