//! Handles panics of request handlers and of the calls that they share: each is answered and counted, and its
//! connection stays open.

use axum::response::Response;
use futures::FutureExt as _;
use std::panic::AssertUnwindSafe;

/// The answer, or that of `otherwise` where a handler panics.
pub async fn caught(
    answer: impl Future<Output = Response>,
    otherwise: impl FnOnce() -> Response,
) -> Response {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(answer) => answer,
        Err(_) => {
            count();
            otherwise()
        }
    }
}

/// Runs a call that handlers share, and counts its panic before that goes on.
pub async fn counted<T>(call: impl Future<Output = T>) -> T {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => {
            count();
            std::panic::resume_unwind(panic)
        }
    }
}

/// Counts a panic of a handler, or of a call that handlers share.
pub fn count() {
    metrics::counter!("verifyd_http_panics_total").increment(1);
    tracing::error!("an HTTP handler panicked; its request fails");
}
