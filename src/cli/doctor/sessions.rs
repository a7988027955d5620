//! Tests the connections that `serve` opens: whether it may have so many, and whether notifications arrive.

use super::{Line, State, bad, error, ok};
use crate::cli::remedy;
use crate::config::Settings;
use crate::ports::store::Store;
use crate::ports::wake::Listening;
use secrecy::ExposeSecret as _;

/// A line where `serve` may not open all its connections.
pub async fn limit(store: &dyn Store) -> Option<Line> {
    let part = "database";
    match store.connection_limit().await {
        Ok(limit) => limit.map(|limit| {
            let found = format!(
                "{} is {}; `serve` opens up to {} connections",
                limit.name, limit.allowed, limit.needed
            );
            bad(part, State::Warning, found, remedy::MORE_CONNECTIONS)
        }),
        Err(failure) => Some(error(part, &failure)),
    }
}

/// Whether a bare INSERT wakes a worker.
pub async fn listening(store: &dyn Store, settings: &Settings) -> Line {
    let part = "listening";
    let not_received =
        "notifications do not arrive, so that bare INSERTs are found by the sweep only";
    match store.try_listening().await {
        Ok(Listening::Received) => ok(part, "notifications arrive: a bare INSERT wakes a worker"),
        Ok(Listening::Off) => ok(part, "off: bare INSERTs are found by the sweep"),
        Ok(Listening::NotReceived) => bad(
            part,
            State::Warning,
            not_received,
            "set database.listen_url to a connection without a pooler in transaction mode",
        ),
        Ok(Listening::Elsewhere) => bad(
            part,
            State::Warning,
            not_received,
            "let database.listen_url name the server and the database of database.url",
        ),
        Err(failure) => bad(
            part,
            State::Warning,
            format!("bare INSERTs are found by the sweep only: {failure}"),
            remedy::of_listening(
                &failure,
                !settings.database.listen_url.expose_secret().is_empty(),
            ),
        ),
    }
}
