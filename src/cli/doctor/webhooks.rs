//! Shows pending webhooks, and those that were given up.

use super::{Line, State, bad, error, ok};
use crate::ports::store::Store;
use crate::view::words::{counted, span};

/// A delivery that is pending for longer than this is worth a warning.
const PENDING_FOR_LONG: f64 = 600.0;

pub(super) async fn check(store: &dyn Store) -> Line {
    let part = "webhooks";
    let counts = match store.delivery_counts().await {
        Ok(counts) => counts,
        Err(failure) => return error(part, &failure),
    };
    let oldest = counts.oldest_pending_seconds.unwrap_or(0.0);
    let mut found = format!("{} pending", counts.pending);
    if counts.oldest_pending_seconds.is_some() {
        found += &format!(", the oldest for {}", span((oldest * 1_000.0) as i64));
    } else if counts.pending > 0 {
        found += ", none for an enabled endpoint";
    }
    match (counts.failed, counts.failed_by_age) {
        (0, _) => found += ", none given up",
        (failed, 0) => found += &format!(", {failed} given up"),
        (failed, by_age) => found += &format!(", {failed} given up, {by_age} of them by age"),
    }
    if counts.open_circuits > 0 {
        let endpoints = counted(counts.open_circuits, "endpoint");
        found += &format!(", {endpoints} with an open or half-open circuit");
    }
    let remedy = if counts.open_circuits > 0 || oldest > PENDING_FOR_LONG {
        "see `verifyd webhooks list` for the endpoints that fail, and `verifyd webhooks deliveries --endpoint ENDPOINT` \
         for why"
    } else if counts.failed > 0 {
        "see `verifyd webhooks deliveries --state failed`, then `verifyd webhooks replay DELIVERY`"
    } else {
        return ok(part, found);
    };
    bad(part, State::Warning, found, remedy)
}
