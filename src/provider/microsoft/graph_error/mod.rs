//! Translates errors of Microsoft Graph into reasons: by codes, then messages, then the status.
//!
//! Whether a refusal means that a permission is missing depends on more than the answer: see
//! `check::refusal`.

mod body;
mod codes;

pub(super) use codes::EXPIRED_PAGE;

use super::evidence;
use super::fault::{Fault, Retry};
use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use body::ErrorBody;
use chrono::{DateTime, Utc};
use codes::{Table, by_status};
use serde_json::Value;
use std::time::Duration;

/// Returns the fault of a 401 by which an intermediary requires a login of its own.
pub(super) fn foreign_login(status: u16) -> Fault {
    Fault::new(Reason::ProxyRefused).status(status)
}

/// Returns the fault of a Graph answer other than success. `body` is `None` when it was no JSON;
/// `challenged`: the answer requires a token with other claims; `is_graphs`: its headers show that Graph has
/// sent it.
pub(super) fn fault(
    status: u16,
    body: Option<&Value>,
    retry_after: Option<Duration>,
    challenged: bool,
    is_graphs: bool,
    now: DateTime<Utc>,
) -> Fault {
    let parsed = ErrorBody::of(body);
    let (reason, retry) = meaning(status, parsed.as_ref(), challenged, is_graphs);
    let parsed = parsed.unwrap_or_default();
    let error = body::error(body);
    let inner = error.and_then(|e| e.get("innerError").or_else(|| e.get("innererror")));
    let id =
        |member: &str| evidence::guid(inner.and_then(|i| i.get(member)).and_then(Value::as_str));
    let outer = evidence::code(error.and_then(|e| e.get("code")));
    let table = Table::get();
    // The service's own code, where it is more specific.
    let mut codes = parsed.codes.iter().rev();
    let exact = codes.find(|code| Some(code.as_str()) != outer && table.means(code, reason));
    let is_lost = reason == Reason::TokenRejected && table.lacks_token(&parsed);
    let remark = is_lost.then(|| {
        Box::from("It says that no token arrived: a proxy may take it out of the requests.")
    });
    let asks_for = parsed.asks_for.clone().into_boxed_slice();
    let fault = Fault::new(reason)
        .status(status)
        .with_some(EvidenceKind::GraphCode, outer)
        .with_some(EvidenceKind::GraphCode, exact)
        .with_some(EvidenceKind::RequestId, id("request-id"))
        .with_some(EvidenceKind::CorrelationId, id("client-request-id"))
        .retry(retry, retry_after.or_else(|| parsed.retry_after(now)));
    Fault {
        asks_for,
        remark,
        ..fault
    }
}

/// Whether the answer has an error object, as all of Graph's own have.
pub(super) fn is_graphs(body: Option<&Value>) -> bool {
    body::error(body).is_some()
}

fn meaning(
    status: u16,
    body: Option<&ErrorBody>,
    challenged: bool,
    is_graphs: bool,
) -> (Reason, Retry) {
    let Some(body) = body else {
        return match challenged {
            true => (Reason::ConditionalAccessBlocked, Retry::Never),
            false => by_status(status, is_graphs),
        };
    };
    if status == 429 {
        return by_status(status, true);
    }
    let table = Table::get();
    if let Some(known) = table.by_code(body) {
        return known;
    }
    // Answers of a failing server about the tenant are not reliable.
    if status >= 500 {
        return by_status(status, true);
    }
    if let Some(known) = table.by_words(body) {
        return known;
    }
    if challenged {
        return (Reason::ConditionalAccessBlocked, Retry::Never);
    }
    // Graph has passed the token on to the service that refuses.
    if status == 401 && body.nested {
        return (Reason::PermissionDenied, Retry::Never);
    }
    table
        .by_vague_code(body)
        .unwrap_or_else(|| by_status(status, true))
}
