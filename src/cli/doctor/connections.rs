//! Finds connections that cannot be used, and credentials that do not open.

use super::{LATEST_ROWS, Line, SHOWN, State, TIMEOUT, bad, error};
use crate::app;
use crate::config::Settings;
use crate::credentials::envelope;
use crate::domain::ConnectionId;
use crate::domain::access::Binding;
use crate::domain::connection::{ConnectionStatus, CredentialBinding, StoredCredential};
use crate::domain::credential_cause::Cause;
use crate::ports::overview::ConnectionFilter;
use crate::ports::store::{Store, StoreError};
use crate::ports::vault::{Vault, VaultError};
use std::collections::BTreeSet;
use std::time::Instant;

/// Credentials that are read at a time.
const PAGE: u32 = 200;

const CORRECT_ROW: &str =
    "correct the row, and whoever wrote it; until then the connection's runs end blocked";

/// Credentials that do not open, of one key and for one cause.
struct Closed {
    key: Option<String>,
    cause: Cause,
    /// What the vault says of the first.
    why: String,
    /// The first of their connections.
    connections: Vec<ConnectionId>,
    count: usize,
}

/// What was found of the stored credentials.
#[derive(Default)]
struct Credentials {
    unreadable: Vec<(ConnectionId, String)>,
    closed: Vec<Closed>,
    /// Keys that have decrypted one, by the ids in envelopes; `None` stands for Laravel's.
    opening: BTreeSet<Option<String>>,
}

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
    // Problems of the keys themselves have a line of their own.
    let vault = app::open_existing_vault(settings).ok();
    let found = match credentials(store, vault.as_deref()).await {
        Ok(found) => found,
        Err(failure) => {
            lines.push(error("connections", &failure));
            return;
        }
    };
    lines.extend(found.closed_lines());
    lines.extend(found.unreadable.into_iter().map(|(id, why)| {
        let at = format!("connection {id}: {why}");
        bad("connections", State::Warning, at, CORRECT_ROW).quoting()
    }));
}

/// Opens the stored credentials, as many as there is time for: reading certificates takes long.
async fn credentials(
    store: &dyn Store,
    vault: Option<&dyn Vault>,
) -> Result<Credentials, StoreError> {
    let mut credentials = Credentials::default();
    let until = Instant::now() + TIMEOUT / 2;
    let (mut after, mut read) = (None, 0);
    while read < LATEST_ROWS && Instant::now() < until {
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
                    if let Some(vault) = vault {
                        credentials.open(vault, binding, &stored);
                    }
                }
                Err(why) if credentials.unreadable.len() < SHOWN as usize => {
                    let why = why.to_string();
                    credentials.unreadable.push((found.connection_id, why));
                }
                Err(_) => {}
            }
        }
    }
    Ok(credentials)
}

impl Credentials {
    fn open(&mut self, vault: &dyn Vault, binding: CredentialBinding, stored: &StoredCredential) {
        let key = envelope::key_id(&stored.payload).map(str::to_owned);
        let failure = vault.open(binding, stored).err();
        let flaw = failure.as_ref().and_then(VaultError::flaw);
        if flaw.is_none_or(|flaw| !flaw.cause.before_decryption()) {
            self.opening.insert(key.clone());
        }
        let (Some(failure), Some(flaw)) = (&failure, flaw) else {
            return;
        };
        let cause = flaw.cause;
        let mut same = self.closed.iter_mut();
        match same.find(|closed| closed.cause == cause && closed.key == key) {
            Some(closed) => {
                closed.count += 1;
                if closed.connections.len() < SHOWN as usize {
                    closed.connections.push(binding.connection_id);
                }
            }
            None => self.closed.push(Closed {
                key,
                cause,
                why: failure.to_string(),
                connections: vec![binding.connection_id],
                count: 1,
            }),
        }
    }

    /// Returns a line for each key and cause. `serve` cannot work where a key is missing and none opens anything.
    fn closed_lines(&self) -> Vec<Line> {
        let is_of_keys = self.closed.iter().any(|closed| closed.cause.is_of_keys());
        let state = if is_of_keys && self.opening.is_empty() {
            State::Failed
        } else {
            State::Warning
        };
        let lines = self.closed.iter().map(|closed| {
            let found = format!("{}: {}", closed.connections(), closed.why);
            bad("keys", state, found, self.remedy(closed))
        });
        lines.collect()
    }

    fn remedy(&self, closed: &Closed) -> String {
        match (&closed.key, closed.cause) {
            (Some(key), Cause::NotAuthentic) if !self.opening.contains(&closed.key) => format!(
                "give the key {key} the value that it had when it sealed the credential, or store the credential \
                 again"
            ),
            (_, cause) => {
                let (first, rest) = cause.step().split_at(1);
                format!("{}{rest}", first.to_lowercase())
            }
        }
    }
}

impl Closed {
    fn connections(&self) -> String {
        let shown: Vec<String> = self.connections.iter().map(ToString::to_string).collect();
        let shown = shown.join(", ");
        match self.count - self.connections.len() {
            _ if self.count == 1 => format!("connection {shown}"),
            0 => format!("connections {shown}"),
            more => format!("connections {shown} and {more} more"),
        }
    }
}
