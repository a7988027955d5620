//! `verifyd connections rotate-keys`: seals again what another key than the writing one sealed.

use crate::app::Services;
use crate::cli::args::RotateKeysArgs;
use crate::cli::origin::terminal;
use crate::cli::{output, render};
use crate::credentials::envelope::is_envelope;
use crate::domain::{ConnectionId, EndpointId};
use crate::ports::vault::VaultError;
use crate::ports::webhook_endpoints::SealedSecrets;
use anyhow::Context as _;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Display;

/// Credentials that are read at a time.
const PAGE: u32 = 200;

/// Most passes over all rows. Rows may be written behind the last one that a pass has read; unless others write, the
/// second one finds nothing to do.
const MAX_PASSES: u32 = 5;

/// What became of rows with payloads: `sealed` in all passes, the others in the last one.
struct Progress<Id> {
    sealed: BTreeSet<Id>,
    current: u64,
    /// Rows that others changed before they could be replaced.
    changed: u64,
    /// Whether nothing was sealed, and nothing was changed meanwhile.
    is_settled: bool,
    undecryptable: Vec<Id>,
}

impl<Id: Ord> Progress<Id> {
    fn after(sealed: BTreeSet<Id>) -> Self {
        Self {
            sealed,
            current: 0,
            changed: 0,
            is_settled: true,
            undecryptable: Vec::new(),
        }
    }

    fn note_current(&mut self, id: Id) {
        if !self.sealed.contains(&id) {
            self.current += 1;
        }
    }

    fn note_swap(&mut self, id: Id, is_swapped: bool) {
        self.is_settled = false;
        if is_swapped {
            self.sealed.insert(id);
        } else {
            self.changed += 1;
        }
    }

    fn print(&self, what: &str) {
        let (sealed, current, changed) = (self.sealed.len(), self.current, self.changed);
        output::line(format!(
            "{what}: {sealed} sealed again, {current} already with the writing key, {changed} changed meanwhile"
        ));
    }
}

/// Credentials of connections.
struct Credentials {
    rows: Progress<ConnectionId>,
    /// How many are left to the application.
    laravel: u64,
    /// Those that decrypt to no usable credential, each with what is wrong.
    malformed: Vec<(ConnectionId, String)>,
    unreadable: Vec<(ConnectionId, String)>,
}

/// Secrets of webhooks.
struct Secrets {
    rows: Progress<EndpointId>,
    /// Endpoints whose previous secret does not open.
    previous: Vec<EndpointId>,
}

/// Seals every payload again that is not sealed with the writing key. Repeatable; what does not open stays as it is.
pub(super) async fn rotate(services: &Services, args: &RotateKeysArgs) -> anyhow::Result<()> {
    let mut credentials = Credentials::after(BTreeSet::new());
    let mut secrets = Secrets::after(BTreeSet::new());
    let mut is_settled = false;
    let ended = async {
        for _ in 0..MAX_PASSES {
            credentials.pass(services, args.laravel_too).await?;
            secrets.pass(services).await?;
            is_settled = credentials.rows.is_settled && secrets.rows.is_settled;
            if is_settled {
                break;
            }
        }
        anyhow::Ok(())
    }
    .await;
    print(&credentials, &secrets, args)?;
    let mut problems = credentials.problems();
    problems.extend(secrets.problems());
    if ended.is_err() {
        problems.iter().for_each(output::note);
        return ended;
    }
    if !is_settled {
        problems.push(format!(
            "others changed credentials or secrets in each of {MAX_PASSES} passes, so an older key may still be in use; \
             repeat the command"
        ));
    }
    anyhow::ensure!(problems.is_empty(), problems.join("; "));
    Ok(())
}

impl Credentials {
    fn after(sealed: BTreeSet<ConnectionId>) -> Self {
        Self {
            rows: Progress::after(sealed),
            laravel: 0,
            malformed: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    async fn pass(&mut self, services: &Services, laravel_too: bool) -> anyhow::Result<()> {
        *self = Self::after(std::mem::take(&mut self.rows.sealed));
        let (store, vault) = (services.store.as_ref(), services.vault.as_ref());
        let mut after = None;
        loop {
            let page = store.credentials(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.connection.id);
            for found in page {
                let id = found.connection.id;
                let (binding, stored) = match found.credential {
                    Ok(credential) => credential,
                    Err(error) => {
                        self.unreadable.push((id, error.to_string()));
                        continue;
                    }
                };
                let opened = vault.open(binding, &stored);
                if !matches!(opened, Err(VaultError::Undecryptable(_))) {
                    if !vault.needs_rotation(&stored.payload) {
                        self.rows.note_current(id);
                        continue;
                    }
                    if !laravel_too && !is_envelope(&stored.payload) {
                        self.laravel += 1;
                        continue;
                    }
                }
                let payload = match vault.reseal(binding, &stored) {
                    Ok(payload) => payload,
                    Err(VaultError::Undecryptable(_)) => {
                        self.rows.undecryptable.push(id);
                        continue;
                    }
                    Err(error @ VaultError::Malformed(_)) => {
                        self.malformed.push((id, error.to_string()));
                        continue;
                    }
                    Err(error @ VaultError::NoKey) => return Err(error.into()),
                };
                let swapped = store
                    .reseal_credential(id, &stored.payload, &payload, &terminal())
                    .await
                    .with_context(|| format!("connection {id}"))?;
                self.rows.note_swap(id, swapped);
            }
        }
        Ok(())
    }

    fn problems(&self) -> Vec<String> {
        let ids = |of: &[(ConnectionId, String)]| joined(of.iter().map(|(id, _)| id));
        let mut problems = Vec::new();
        if !self.rows.undecryptable.is_empty() {
            let ids = joined(&self.rows.undecryptable);
            problems.push(format!(
                "cannot be decrypted with any key here: connections {ids}"
            ));
        }
        if !self.malformed.is_empty() {
            let ids = ids(&self.malformed);
            problems.push(format!(
                "left out, as their credentials are malformed: connections {ids}; store them again and repeat the command"
            ));
        }
        if !self.unreadable.is_empty() {
            let ids = ids(&self.unreadable);
            problems.push(format!(
                "left out, as their rows cannot be read: connections {ids}; correct the rows and repeat the command"
            ));
        }
        problems
    }
}

impl Secrets {
    fn after(sealed: BTreeSet<EndpointId>) -> Self {
        Self {
            rows: Progress::after(sealed),
            previous: Vec::new(),
        }
    }

    /// A secret that does not open stays as it is: a worker may have its key, and sign with it.
    async fn pass(&mut self, services: &Services) -> anyhow::Result<()> {
        *self = Self::after(std::mem::take(&mut self.rows.sealed));
        let (store, vault) = (services.store.as_ref(), services.vault.as_ref());
        for (binding, old) in store.endpoint_secrets().await? {
            let id = binding.endpoint_id;
            // `None`: nothing to write.
            let renewed = |payload: &str, closed: &mut Vec<EndpointId>| match vault
                .open_webhook_secret(&binding, payload)
            {
                Ok(secret) if vault.needs_rotation(payload) => {
                    vault.seal_webhook_secret(&binding, &secret).map(Some)
                }
                Ok(_) => Ok(None),
                Err(_) => {
                    closed.push(id);
                    Ok(None)
                }
            };
            let closed = self.rows.undecryptable.len();
            let current = renewed(&old.current, &mut self.rows.undecryptable)?;
            let previous = match &old.previous {
                Some(payload) => renewed(payload, &mut self.previous)?,
                None => None,
            };
            if current.is_none() && previous.is_none() {
                if closed == self.rows.undecryptable.len() {
                    self.rows.note_current(id);
                }
                continue;
            }
            let new = SealedSecrets {
                current: current.unwrap_or_else(|| old.current.clone()),
                previous: previous.or_else(|| old.previous.clone()),
            };
            let swapped = store
                .reseal_secrets(id, &old, &new, &terminal())
                .await
                .with_context(|| format!("webhook endpoint {id}"))?;
            self.rows.note_swap(id, swapped);
        }
        Ok(())
    }

    fn problems(&self) -> Vec<String> {
        let closed = [
            ("secrets", &self.rows.undecryptable),
            ("previous secrets", &self.previous),
        ];
        let closed = closed.into_iter().filter(|(_, ids)| !ids.is_empty());
        closed
            .map(|(what, ids)| {
                let ids = joined(ids);
                format!("cannot be decrypted with any key here: {what} of webhook endpoints {ids}")
            })
            .collect()
    }
}

fn print(
    credentials: &Credentials,
    secrets: &Secrets,
    args: &RotateKeysArgs,
) -> anyhow::Result<()> {
    let (rows, laravel) = (&credentials.rows, credentials.laravel);
    let why = |of: &[(ConnectionId, String)]| {
        let found = of.iter();
        found
            .map(|(id, why)| json!({ "provider_connection_id": id, "problem": why }))
            .collect::<Vec<_>>()
    };
    if args.json.json {
        output::json(&json!({
            "rotated": rows.sealed.len(),
            "left_to_laravel": laravel,
            "current": rows.current,
            "changed_meanwhile": rows.changed,
            "undecryptable": rows.undecryptable,
            "malformed": why(&credentials.malformed),
            "unreadable": why(&credentials.unreadable),
            "webhooks": {
                "rotated": secrets.rows.sealed.len(),
                "current": secrets.rows.current,
                "changed_meanwhile": secrets.rows.changed,
                "undecryptable": secrets.rows.undecryptable,
                "previous_undecryptable": secrets.previous,
            },
        }))?;
    } else {
        rows.print("credentials");
        secrets.rows.print("secrets of webhooks");
        if laravel > 0 {
            output::line(format!(
                "credentials: {laravel} left as the Laravel application encrypted them (--laravel-too)"
            ));
        }
    }
    for (id, why) in credentials.malformed.iter().chain(&credentials.unreadable) {
        output::note(format!(
            "connection {id} was left out: {}",
            render::clean(why)
        ));
    }
    Ok(())
}

fn joined(ids: impl IntoIterator<Item = impl Display>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    ids.join(", ")
}
