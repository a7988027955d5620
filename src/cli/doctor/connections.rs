//! Finds connections that cannot be used, and credentials that the configured keys do not open.

use super::{LATEST_ROWS, Line, SHOWN, State, bad, error};
use crate::app;
use crate::config::Settings;
use crate::credentials::envelope;
use crate::domain::ConnectionId;
use crate::domain::access::Binding;
use crate::domain::connection::{ConnectionStatus, CredentialBinding, StoredCredential};
use crate::ports::overview::ConnectionFilter;
use crate::ports::store::{Store, StoreError};
use crate::ports::vault::Vault;
use std::collections::BTreeMap;

/// Credentials that are read at a time.
const PAGE: u32 = 200;

const CORRECT_ROW: &str =
    "correct the row, and whoever wrote it; until then the connection's runs end blocked";

/// The first credential that each key has sealed, by the key's name.
type BySealer = BTreeMap<String, (CredentialBinding, StoredCredential)>;

pub async fn check(store: &dyn Store, settings: &Settings, lines: &mut Vec<Line>) {
    let filter = ConnectionFilter {
        status: Some(ConnectionStatus::Unusable),
        limit: SHOWN,
        ..ConnectionFilter::default()
    };
    match store.connection_states(&filter).await {
        Ok(found) => {
            let is_full = found.len() == SHOWN as usize;
            lines.extend(found.into_iter().filter_map(|state| {
                let at = format!("connection {}: {}", state.connection.id, state.problem?);
                Some(bad("connections", State::Warning, at, CORRECT_ROW).quoting())
            }));
            if is_full && let Ok(counts) = store.connection_counts(&Binding::EVERYTHING).await {
                lines.extend(super::more("connections", counts.unusable, CORRECT_ROW));
            }
        }
        Err(failure) => lines.push(error("connections", &failure)),
    }
    let (sealed, unreadable) = match credentials(store).await {
        Ok(found) => found,
        Err(failure) => {
            lines.push(error("connections", &failure));
            return;
        }
    };
    lines.extend(unreadable.into_iter().map(|(id, why)| {
        let at = format!("connection {id}: {why}");
        bad("connections", State::Warning, at, CORRECT_ROW).quoting()
    }));
    // Problems of the keys themselves have a line of their own.
    if let Ok(vault) = app::open_existing_vault(settings) {
        lines.extend(keys(vault.as_ref(), &sealed));
    }
}

/// One credential of each key, and those that cannot be read.
async fn credentials(
    store: &dyn Store,
) -> Result<(BySealer, Vec<(ConnectionId, String)>), StoreError> {
    let (mut sealed, mut unreadable) = (BySealer::new(), Vec::new());
    let (mut after, mut read) = (None, 0);
    while read < LATEST_ROWS {
        let page = store.credentials(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.connection_id);
        read += PAGE;
        for found in page {
            match found.credential {
                // Of a connection that cannot be used.
                Err(StoreError::Corrupt {
                    table: "provider_connections",
                    ..
                }) => {}
                Ok((binding, stored)) => {
                    let key = match envelope::key_id(&stored.payload) {
                        Some(key) => format!("key {key:?}"),
                        None if envelope::is_envelope(&stored.payload) => continue,
                        None => "a Laravel application".to_owned(),
                    };
                    sealed.entry(key).or_insert((binding, stored));
                }
                Err(why) if unreadable.len() < SHOWN as usize => {
                    unreadable.push((found.connection_id, why.to_string()));
                }
                Err(_) => {}
            }
        }
    }
    Ok((sealed, unreadable))
}

/// Returns a line for each key whose credentials cannot be opened. `serve` cannot work where none can.
fn keys(vault: &dyn Vault, sealed: &BySealer) -> Vec<Line> {
    let mut closed = Vec::new();
    for (key, (binding, stored)) in sealed {
        if let Err(why) = vault.open(*binding, stored) {
            closed.push(format!(
                "the credential of connection {} was sealed with {key} and does not open: {why}",
                binding.connection_id
            ));
        }
    }
    let state = if closed.len() == sealed.len() {
        State::Failed
    } else {
        State::Warning
    };
    closed
        .into_iter()
        .map(|found| {
            bad(
                "keys",
                state,
                found,
                "add the key that sealed it to credentials.keys or credentials.keys_file \
                 (credentials.laravel_keys for a Laravel application's), or store the credential again \
                 with `verifyd connections set-credential`",
            )
        })
        .collect()
}
