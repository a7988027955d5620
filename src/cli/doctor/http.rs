//! Tests whether `serve` can listen on `http.listen`.

use super::{Line, State, bad, ok};
use crate::cli::{healthcheck, remedy};
use crate::config::Settings;
use crate::http;
use serde_json::Value;
use std::io::ErrorKind;
use std::net::SocketAddr;

const PART: &str = "http";

/// Binds the address as `serve` does, and releases it. Beside a running worker, that has it.
pub(super) async fn check(settings: &Settings) -> Line {
    let listen = settings.http.listen;
    let error = match http::bind(&settings.http).await {
        Ok(_) => return ok(PART, format!("{listen} can be bound")),
        Err(error) => error,
    };
    if error.kind() == ErrorKind::AddrInUse && is_verifyd(listen).await {
        let found =
            format!("{listen} is in use by a running verifyd; another one needs its own port");
        return ok(PART, found);
    }
    let remedy = remedy::of_binding(error.kind());
    let found = format!("{}{listen}: {error}", remedy::LISTEN);
    bad(PART, State::Failed, found, remedy)
}

/// Asks for the readiness of what listens there: no other program names these checks.
async fn is_verifyd(listen: SocketAddr) -> bool {
    let Ok((_, body)) = healthcheck::ask(listen, "/readyz").await else {
        return false;
    };
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    ["database", "lease", "claims"]
        .iter()
        .all(|check| answer["checks"][check].is_string())
}
