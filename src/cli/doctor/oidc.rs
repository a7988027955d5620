//! Tests whether people can sign in with OpenID Connect.

use super::{Line, State, TIMEOUT, bad, late, ok};
use crate::config::Settings;
use crate::http::oidc::SignIn;
use crate::outbound::Outbound;
use crate::ports::clock::SystemClock;
use std::sync::Arc;

const PART: &str = "oidc";

const REMEDY: &str = "correct http.oidc, or let this machine reach the provider; until then people log in with API tokens";

/// Reads the provider's discovery document and keys, and the client's secret. Checks run without them.
pub(super) async fn check(settings: &Settings) -> Option<Line> {
    let oidc = settings.http.oidc.clone();
    // What is wrong with it has a line of its own.
    let outbound = Outbound::new(&settings.outbound).ok()?;
    let sign_in = SignIn::new(oidc, outbound, Arc::new(SystemClock))?;
    let examined = tokio::time::timeout(TIMEOUT, sign_in.examine()).await;
    Some(match examined {
        Ok(Ok(found)) => ok(PART, found),
        Ok(Err(problem)) => bad(PART, State::Warning, problem, REMEDY),
        Err(_) => late(PART, State::Warning, REMEDY),
    })
}
