//! Reads the claims of a federated credential's token. They are evidence and never trusted: no signature is
//! checked, and only values in the form of such claims are kept.

use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use crate::domain::report::redact::holds_jwt;
use crate::provider::microsoft::claims::payload;
use crate::provider::microsoft::fault::Fault;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::Value;

/// Tolerance of Microsoft Entra between clocks.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::minutes(5);

/// More audiences are not shown: a federated credential has one.
const MAX_AUDIENCES: usize = 3;

const MAX_CLAIM_CHARS: usize = 255;

/// Claims of the token in a file, as far as they can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct FederatedClaims {
    pub issuer: Option<String>,
    pub subject: Option<String>,
    pub audiences: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub issued_at: Option<DateTime<Utc>>,
    pub not_before: Option<DateTime<Utc>>,
}

impl FederatedClaims {
    /// Reads what it can; an opaque token has no claims.
    pub fn read(token: &str) -> Self {
        let Some(body) = payload(token) else {
            return Self::default();
        };
        let audiences = match body.get("aud") {
            Some(Value::Array(all)) => all.iter().filter_map(claim).take(MAX_AUDIENCES).collect(),
            one => one.and_then(claim).into_iter().collect(),
        };
        Self {
            issuer: body.get("iss").and_then(claim),
            subject: body.get("sub").and_then(claim),
            audiences,
            expires_at: body.get("exp").and_then(moment),
            issued_at: body.get("iat").and_then(moment),
            not_before: body.get("nbf").and_then(moment),
        }
    }

    /// Returns the fault of a token that has expired by its own date, beyond the tolerance between clocks, so
    /// that no request is needed.
    pub fn expired(&self, now: DateTime<Utc>) -> Option<Fault> {
        let is_past = self.expires_at.is_some_and(|at| {
            at.checked_add_signed(CLOCK_DIFFERENCE)
                .is_some_and(|at| at <= now)
        });
        is_past.then(|| self.add_to(Fault::new(Reason::FederatedTokenExpired)))
    }

    /// From its issue to its end.
    pub fn lifetime(&self) -> Option<TimeDelta> {
        Some(self.expires_at? - self.issued_at?)
    }

    /// Until when it is not valid yet, by its own dates.
    pub fn not_valid_before(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let latest = self.issued_at.max(self.not_before);
        latest.filter(|at| *at > now)
    }

    /// Returns the claims to compare, as evidence.
    pub fn evidence(&self) -> Vec<(EvidenceKind, String)> {
        let mut evidence = Vec::new();
        let issuer = self.issuer.iter().map(|v| (EvidenceKind::TokenIssuer, v));
        let subject = self.subject.iter().map(|v| (EvidenceKind::TokenSubject, v));
        let audiences = self
            .audiences
            .iter()
            .map(|v| (EvidenceKind::TokenAudience, v));
        for (kind, value) in issuer.chain(subject).chain(audiences) {
            evidence.push((kind, value.clone()));
        }
        if let Some(at) = self.expires_at {
            let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
            evidence.push((EvidenceKind::TokenExpiresAt, at));
        }
        evidence
    }

    /// Adds the token's claims to the fault.
    pub fn add_to(&self, mut fault: Fault) -> Fault {
        for (kind, value) in self.evidence() {
            // An expired token stays the same, so its date is stable evidence.
            let kind = match (fault.reason, kind) {
                (Reason::FederatedTokenExpired, EvidenceKind::TokenExpiresAt) => {
                    let remark = format!("The token in the file expired at {value}.");
                    fault.remark = Some(remark.into());
                    EvidenceKind::ExpiresAt
                }
                (_, kind) => kind,
            };
            fault = fault.with(kind, value);
        }
        fault
    }
}

/// An issuer, subject or audience: printable ASCII of a bounded length, nothing that could be markup, a
/// token or a name with a password.
fn claim(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let is_plain = |b: u8| matches!(b, b' '..=b'~') && !b"\"'<>\\`".contains(&b);
    let fits = (1..=MAX_CLAIM_CHARS).contains(&text.len()) && text.bytes().all(is_plain);
    let has_password = text.split_once("://").is_some_and(|(_, rest)| {
        rest.split('/')
            .next()
            .is_some_and(|host| host.contains('@'))
    });
    (fits && !has_password && !holds_jwt(text)).then(|| text.to_owned())
}

/// Seconds since 1970, as a number or its text.
fn moment(value: &Value) -> Option<DateTime<Utc>> {
    let seconds = value
        .as_i64()
        .or_else(|| value.as_f64().map(|seconds| seconds as i64))
        .or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))?;
    // Later years have no form in RFC 3339.
    DateTime::from_timestamp(seconds, 0).filter(|at| (0..253_402_300_800).contains(&at.timestamp()))
}
