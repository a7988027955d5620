//! Finds connections that cannot be used, credentials that do not open or end runs blocked, and secrets of webhooks that
//! do not open.

use super::{LATEST_ROWS, Line, SHOWN, State, TIMEOUT, bad, error};
use crate::app;
use crate::cli::connections::{flaw, flaw_words};
use crate::config::Settings;
use crate::credentials::envelope;
use crate::domain::access::Binding;
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, ProviderConnection, StoredCredential,
};
use crate::domain::connection_facts::RecordedExpiry;
use crate::domain::credential::Credential;
use crate::domain::credential_cause::Cause;
use crate::domain::report::EvidenceKind;
use crate::domain::webhook::WebhookBinding;
use crate::domain::{ConnectionId, Reason};
use crate::ports::overview::ConnectionFilter;
use crate::ports::provider::{Providers, Unmet};
use crate::ports::store::{Store, StoreError};
use crate::ports::vault::{Vault, VaultError};
use crate::ports::webhook_endpoints::SealedSecrets;
use std::collections::BTreeSet;
use std::time::Instant;

/// Credentials that are read at a time.
const PAGE: u32 = 200;

const MEND_FIRST: &str = "mend those that are named, then run `verifyd doctor` again";

const CORRECT_ROW: &str =
    "correct the row, and whoever wrote it; until then the connection's runs end blocked";

const INVALID_EXPIRY: &str = "provider_credentials.expires_at is no time from the year 1 on, and counts as absent; \
                              allowed: null, infinity or such a time, as 2030-01-05";

const CORRECT_EXPIRY: &str = "correct the value, and whoever wrote it";

/// The member of a Laravel payload that names an application.
const STORED_CLIENT_ID: &str = "credential.client_id";

/// Whose secret something is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Connection,
    Endpoint,
}

/// Connections or endpoints for which the same holds.
struct Affected {
    owner: Owner,
    /// The first ones.
    ids: Vec<i64>,
    count: usize,
}

/// Credentials or secrets of webhooks that do not open, of one key and for one cause.
struct Closed {
    key: Option<String>,
    cause: Cause,
    /// What the vault says of the first.
    why: String,
    affected: Affected,
}

/// Credentials that open, with which runs end blocked, for one reason and by one member.
struct Refused {
    reason: Reason,
    field: Option<String>,
    /// What the provider says of the first.
    why: String,
    affected: Affected,
}

/// What was found of the stored credentials.
#[derive(Default)]
struct Credentials {
    /// The first ones that cannot be read.
    unreadable: Vec<(ConnectionId, String)>,
    unreadable_count: u64,
    closed: Vec<Closed>,
    refused: Vec<Refused>,
    /// Those whose recorded expiry is invalid.
    invalid_expiry: Option<Affected>,
    /// Keys that have decrypted one, by the ids in envelopes; `None` stands for Laravel's.
    opening: BTreeSet<Option<String>>,
    /// Whether one of them has decrypted a credential.
    opens_credential: bool,
    /// How many were tested.
    tested: u32,
    /// Whether there was no time or room for all.
    is_cut: bool,
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
    let providers = app::providers_offline(settings).unwrap_or_default();
    let mut found = match credentials(store, vault.as_deref(), &providers).await {
        Ok(found) => found,
        Err(failure) => {
            lines.push(error("connections", &failure));
            return;
        }
    };
    if let Some(vault) = &vault {
        match store.endpoint_secrets().await {
            Ok(secrets) => found.open_webhook_secrets(vault.as_ref(), &secrets),
            Err(failure) => lines.push(error("webhooks", &failure)),
        }
    }
    lines.extend(found.closed_lines());
    lines.extend(found.refused_lines());
    lines.extend(found.invalid_expiry.iter().map(|affected| {
        let found = format!("{}: {INVALID_EXPIRY}", affected.words());
        bad("connections", State::Warning, found, CORRECT_EXPIRY)
    }));
    lines.extend(found.unreadable.into_iter().map(|(id, why)| {
        let at = format!("connection {id}: {why}");
        bad("connections", State::Warning, at, CORRECT_ROW).quoting()
    }));
    lines.extend(super::more(
        "connections",
        found.unreadable_count,
        CORRECT_ROW,
    ));
    if found.is_cut {
        let tested = format!("only the first {} credentials were tested", found.tested);
        let remedy = "check the other connections: a report names what is wrong with a credential";
        lines.push(bad("keys", State::Warning, tested, remedy));
    }
}

/// Opens the stored credentials, as many as there is time for: reading certificates takes long.
async fn credentials(
    store: &dyn Store,
    vault: Option<&dyn Vault>,
    providers: &Providers,
) -> Result<Credentials, StoreError> {
    let mut credentials = Credentials::default();
    let until = Instant::now() + TIMEOUT / 2;
    let mut after = None;
    loop {
        let page = store.credentials(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.connection.id);
        for found in page {
            if credentials.tested >= LATEST_ROWS || Instant::now() >= until {
                credentials.is_cut = true;
                return Ok(credentials);
            }
            credentials.tested += 1;
            match found.credential {
                // Of a connection that cannot be used.
                Err(StoreError::Corrupt {
                    table: "provider_connections",
                    ..
                }) => {}
                Ok((binding, stored)) => {
                    if stored.expiry == RecordedExpiry::Invalid {
                        credentials.note_invalid_expiry(found.connection.id);
                    }
                    let opened = vault.and_then(|vault| credentials.open(vault, binding, &stored));
                    if let Some(credential) = opened {
                        credentials.prepare(providers, &found.connection, &credential);
                    }
                }
                Err(why) => {
                    credentials.unreadable_count += 1;
                    if credentials.unreadable.len() < SHOWN as usize {
                        let why = why.to_string();
                        credentials.unreadable.push((found.connection.id, why));
                    }
                }
            }
        }
    }
    Ok(credentials)
}

impl Credentials {
    fn note_invalid_expiry(&mut self, connection: ConnectionId) {
        match &mut self.invalid_expiry {
            Some(affected) => affected.add(connection.0),
            None => self.invalid_expiry = Some(Affected::of(Owner::Connection, connection.0)),
        }
    }

    fn open(
        &mut self,
        vault: &dyn Vault,
        binding: CredentialBinding,
        stored: &StoredCredential,
    ) -> Option<Credential> {
        let opened = vault.open(binding, stored);
        let failure = opened.as_ref().err();
        self.note(
            Owner::Connection,
            binding.connection_id.0,
            &stored.payload,
            failure,
        );
        opened.ok()
    }

    /// Without the current secret nothing is sent; a previous one that does not open is left out.
    fn open_webhook_secrets(
        &mut self,
        vault: &dyn Vault,
        secrets: &[(WebhookBinding, SealedSecrets)],
    ) {
        for (binding, sealed) in secrets {
            let opened = vault.open_webhook_secret(binding, &sealed.current);
            self.note(
                Owner::Endpoint,
                binding.endpoint_id.0,
                &sealed.current,
                opened.as_ref().err(),
            );
        }
    }

    /// Notes with which key a payload was opened, or why it was not.
    fn note(&mut self, owner: Owner, id: i64, payload: &str, failure: Option<&VaultError>) {
        let key = envelope::key_id(payload).map(str::to_owned);
        let flaw = failure.and_then(VaultError::flaw);
        if flaw.is_none_or(|flaw| !flaw.cause.before_decryption()) {
            self.opening.insert(key.clone());
            self.opens_credential |= owner == Owner::Connection;
        }
        let (Some(failure), Some(flaw)) = (failure, flaw) else {
            return;
        };
        let cause = flaw.cause;
        let mut same = self.closed.iter_mut();
        match same.find(|closed| {
            closed.cause == cause && closed.key == key && closed.affected.owner == owner
        }) {
            Some(closed) => closed.affected.add(id),
            None => self.closed.push(Closed {
                why: match owner {
                    Owner::Connection => failure.to_string(),
                    Owner::Endpoint => format!("a secret cannot be decrypted: {flaw}"),
                },
                key,
                cause,
                affected: Affected::of(owner, id),
            }),
        }
    }

    /// Does what a run does before it calls the provider. The runs of a connection that is disabled or unusable end
    /// before that.
    fn prepare(
        &mut self,
        providers: &Providers,
        connection: &ProviderConnection,
        credential: &Credential,
    ) {
        if connection.status != ConnectionStatus::Enabled {
            return;
        }
        let Some(unmet) = flaw(providers, connection, credential) else {
            return;
        };
        let field = value_of(&unmet, EvidenceKind::Field).map(str::to_owned);
        let mut same = self.refused.iter_mut();
        match same.find(|refused| refused.reason == unmet.reason && refused.field == field) {
            Some(refused) => refused.affected.add(connection.id.0),
            None => self.refused.push(Refused {
                reason: unmet.reason,
                field,
                why: flaw_words(&unmet),
                affected: Affected::of(Owner::Connection, connection.id.0),
            }),
        }
    }

    /// Returns a line for each of the first reasons, and one for the others.
    fn refused_lines(&self) -> Vec<Line> {
        let shown = self.refused.iter().take(SHOWN as usize).map(|refused| {
            let found = format!(
                "{}: runs end blocked, {}",
                refused.affected.words(),
                refused.why
            );
            bad("connections", State::Warning, found, refused.remedy()).quoting()
        });
        let more = super::more("connections", self.refused.len() as u64, MEND_FIRST);
        shown.chain(more).collect()
    }

    /// Returns a line for each of the first keys and causes, and one for the others. `serve` cannot work where a key is
    /// missing and none opens a credential.
    fn closed_lines(&self) -> Vec<Line> {
        let is_of_keys = self
            .closed
            .iter()
            .any(|closed| closed.affected.owner == Owner::Connection && closed.cause.is_of_keys());
        let state = if is_of_keys && !self.opens_credential {
            State::Failed
        } else {
            State::Warning
        };
        let shown = self.closed.iter().take(SHOWN as usize).map(|closed| {
            let found = format!("{}: {}", closed.affected.words(), closed.why);
            bad("keys", state, found, self.remedy(closed)).quoting()
        });
        let more = super::more("keys", self.closed.len() as u64, MEND_FIRST);
        shown.chain(more).collect()
    }

    fn remedy(&self, closed: &Closed) -> String {
        let (sealed, again) = match closed.affected.owner {
            Owner::Connection => ("credential", "store the credential again"),
            Owner::Endpoint => ("secret", "run `verifyd webhooks rotate-secret ENDPOINT`"),
        };
        match (&closed.key, closed.cause, closed.affected.owner) {
            (Some(key), Cause::NotAuthentic, _) if !self.opening.contains(&closed.key) => format!(
                "give the key {key} the value that it had when it sealed the {sealed}, or {again}"
            ),
            (_, Cause::KeyNotConfigured, Owner::Endpoint) => {
                format!("add that key to credentials.keys, or {again}")
            }
            (_, _, Owner::Endpoint) => again.to_owned(),
            (_, cause, Owner::Connection) => {
                let (first, rest) = cause.step().split_at(1);
                format!("{}{rest}", first.to_lowercase())
            }
        }
    }
}

impl Refused {
    fn remedy(&self) -> String {
        if self.field.as_deref() == Some(STORED_CLIENT_ID) {
            return "correct client_id of the connection, or store the secret of its own application".to_owned();
        }
        let (step, _) = self.reason.steps()[0];
        let (first, rest) = step.split_at(1);
        format!("{}{rest}", first.to_lowercase())
    }
}

fn value_of(unmet: &Unmet, kind: EvidenceKind) -> Option<&str> {
    let mut evidence = unmet.evidence.iter();
    let found = evidence.find(|evidence| evidence.kind == kind)?;
    Some(&found.value)
}

impl Affected {
    fn of(owner: Owner, id: i64) -> Self {
        Self {
            owner,
            ids: vec![id],
            count: 1,
        }
    }

    fn add(&mut self, id: i64) {
        self.count += 1;
        if self.ids.len() < SHOWN as usize {
            self.ids.push(id);
        }
    }

    fn words(&self) -> String {
        let shown: Vec<String> = self.ids.iter().map(ToString::to_string).collect();
        let shown = shown.join(", ");
        let owner = match self.owner {
            Owner::Connection => "connection",
            Owner::Endpoint => "webhook endpoint",
        };
        match self.count - self.ids.len() {
            _ if self.count == 1 => format!("{owner} {shown}"),
            0 => format!("{owner}s {shown}"),
            more => format!("{owner}s {shown} and {more} more"),
        }
    }
}
