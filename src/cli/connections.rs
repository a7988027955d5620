//! `verifyd connections`

mod list;
mod rotation;

use super::args::{
    ConnectionArgs, ConnectionsAddArgs, ConnectionsCommand, CredentialArgs, SetCredentialArgs,
};
use super::origin::terminal;
use super::{output, render};
use crate::app::Services;
use crate::credentials::{NamedFile, Validity, credential_from_files, validity};
use crate::domain::access::Binding;
use crate::domain::client_secret;
use crate::domain::connection::{ConnectionStatus, CredentialKind, ProviderConnection};
use crate::domain::connection_facts::RecordedExpiry;
use crate::domain::credential::Credential;
use crate::domain::permission::PermissionStatus;
use crate::domain::plan::Unknown;
use crate::domain::reason::Reason;
use crate::domain::text_decoding;
use crate::files;
use crate::operations::connections::{self as operations, ConnectionRequest};
use crate::operations::plan;
use crate::ports::provider::{Providers, Unmet};
use crate::ports::store::StoreError;
use crate::ports::vault::VaultError;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use owo_colors::OwoColorize as _;
use secrecy::SecretString;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use zeroize::Zeroizing;

/// Largest file: secrets, passwords and certificates with their chains are smaller.
const MAX_FILE_BYTES: usize = 64 * 1024;

pub async fn run(services: &Services, command: ConnectionsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConnectionsCommand::Add(args) => add(services, args).await?,
        ConnectionsCommand::List(args) => list::list(services, &args).await?,
        ConnectionsCommand::Show(args) => show(services, &args).await?,
        ConnectionsCommand::Disable(args) => {
            set_status(services, &args, ConnectionStatus::Disabled).await?;
        }
        ConnectionsCommand::Enable(args) => {
            set_status(services, &args, ConnectionStatus::Enabled).await?;
        }
        ConnectionsCommand::SetCredential(args) => set_credential(services, &args).await?,
        ConnectionsCommand::RotateKeys(args) => rotation::rotate(services, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the text of a secret or a password, without a line end.
fn secret_line(bytes: &[u8]) -> anyhow::Result<Zeroizing<String>> {
    let text = text_decoding::decode(bytes)?;
    Ok(match text_decoding::without_line_end(&text) {
        line if line.len() == text.len() => text,
        line => Zeroizing::new(line.to_owned()),
    })
}

/// Reads a secret from standard input, as this flag asks for.
fn standard_input(flag: &str) -> anyhow::Result<Zeroizing<String>> {
    files::limited(std::io::stdin(), MAX_FILE_BYTES)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| secret_line(&bytes))
        .with_context(|| format!("{flag}: standard input"))
}

/// The credential that the arguments point to, if they point to one.
fn credential(args: &CredentialArgs, now: DateTime<Utc>) -> anyhow::Result<Option<Credential>> {
    let source = &args.source;
    if source.secret_stdin {
        let secret = standard_input("--secret-stdin")?;
        client_secret::check(&secret).context("--secret-stdin: standard input")?;
        return Ok(Some(Credential::ClientSecret {
            secret: SecretString::from(secret.as_str()),
            client_id: None,
        }));
    }
    if let Some(file) = &source.certificate {
        return certificate(file, args, now).map(Some);
    }
    if let Some(file) = &source.federated_token_file {
        anyhow::ensure!(
            file.is_absolute(),
            "--federated-token-file {}: allowed is an absolute path, as the workers see it",
            file.display()
        );
        return Ok(Some(Credential::FederatedTokenFile { path: file.clone() }));
    }
    Ok(None)
}

fn certificate(
    path: &Path,
    args: &CredentialArgs,
    now: DateTime<Utc>,
) -> anyhow::Result<Credential> {
    let read = |flag: &str, path: &Path| {
        files::read(path, MAX_FILE_BYTES).with_context(|| format!("{flag} {}", path.display()))
    };
    let bytes = read("--certificate", path)?;
    let key = match &args.private_key {
        Some(path) => Some((path.display().to_string(), read("--private-key", path)?)),
        None => None,
    };
    let password = if let Some(path) = &args.certificate_password_file {
        let at = || format!("--certificate-password-file {}", path.display());
        let bytes = files::read(path, MAX_FILE_BYTES).with_context(at)?;
        Some(secret_line(&bytes).with_context(at)?)
    } else if args.certificate_password_stdin {
        Some(standard_input("--certificate-password-stdin")?)
    } else {
        None
    };
    let name = path.display().to_string();
    let password = password.map(|password| SecretString::from(password.as_str()));
    credential_from_files(
        NamedFile {
            name: &name,
            bytes: &bytes,
        },
        key.as_ref().map(|(name, bytes)| NamedFile { name, bytes }),
        password.as_ref(),
        now,
    )
    .with_context(|| match &key {
        Some((key, _)) => format!("--certificate {name} --private-key {key}"),
        None => format!("--certificate {name}"),
    })
}

/// Says what will block the connection's runs: dates that are past, or not yet there.
fn note_dates(
    services: &Services,
    what: CredentialKind,
    validity: Option<Validity>,
    expires_at: Option<DateTime<Utc>>,
) {
    let now = services.clock.now();
    let own = validity.map(|validity| validity.until);
    let until = [expires_at, own].into_iter().flatten().min();
    if let Some(until) = until.filter(|until| *until <= now) {
        let at = output::minute(until);
        output::note(match own == Some(until) {
            true => {
                format!("The {what} has expired: it was valid until {at}; its runs end blocked.")
            }
            false => format!(
                "The date of --expires-at, {at}, is in the past: the {what} counts as expired, and its \
                 runs end blocked."
            ),
        });
    } else if let Some(validity) = validity.filter(|validity| validity.from > now) {
        output::note(format!(
            "The {what} is not valid yet: it is valid from {} on; until then its runs end blocked.",
            output::minute(validity.from)
        ));
    }
}

async fn add(services: &Services, args: ConnectionsAddArgs) -> anyhow::Result<()> {
    let request = ConnectionRequest {
        workspace_id: args.workspace,
        tenant_id: args.tenant,
        provider: args.provider,
        display_name: args.display_name,
        entra_tenant_id: args.entra_tenant_id,
        client_id: args.client_id,
        cloud: args.cloud,
        module: args.module,
        credential: credential(&args.credential, services.clock.now())?,
        expires_at: args.credential.expires_at,
    };
    let (store, vault) = (services.store.as_ref(), services.vault.as_ref());
    let by = terminal();
    let id = operations::add_connection(store, vault, &services.providers, &request, &by).await?;
    if let Some(credential) = &request.credential {
        let (kind, validity) = (credential.kind(), validity(credential));
        note_dates(services, kind, validity, request.expires_at);
    }
    if args.json.json {
        return output::json(&json!({ "provider_connection_id": id }));
    }
    output::line(id);
    output::note(match request.credential {
        Some(_) => format!("Check it with: verifyd enqueue --connection {id} --wait 60"),
        None => format!(
            "Without a credential its runs end blocked; store one with: verifyd connections \
             set-credential {id} --secret-stdin"
        ),
    });
    Ok(())
}

async fn show(services: &Services, args: &ConnectionArgs) -> anyhow::Result<()> {
    let store = services.store.as_ref();
    let state = operations::find_connection(store, &Binding::EVERYTHING, args.id).await?;
    let (connection, latest, facts) = (state.connection, state.latest_report, state.facts);
    // What cannot be used is shown with the reason, as far as it can be read.
    let (credential, problem) = match store.connection(args.id).await {
        Ok(stored) => (stored.and_then(|(_, credential)| credential), None),
        Err(error @ StoreError::Corrupt { .. }) => (None, Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let freshness = store.inventory_freshness(connection.tenant_id).await?;
    let is_foreign = freshness.is_some() && !plan::inventory_counts_for(store, &connection).await?;
    let freshness = freshness.filter(|_| !is_foreign);
    let permissions = match is_foreign {
        true => Vec::new(),
        false => store.permissions(connection.tenant_id).await?,
    };
    let opened = credential
        .as_ref()
        .map(|stored| services.vault.open(connection.binding(), stored));
    let decrypts = opened
        .as_ref()
        .map(|opened| !matches!(opened, Err(VaultError::Undecryptable(_))));
    let why = match opened {
        Some(Ok(credential)) => {
            flaw(&services.providers, &connection, &credential).map(|unmet| flaw_words(&unmet))
        }
        Some(Err(error)) => Some(error.to_string()),
        None => None,
    };
    if args.json.json {
        return output::json(&json!({
            "connection": connection,
            "problem": problem,
            "credential": credential.as_ref().map(|c| json!({
                "kind": c.kind,
                "expires_at": c.expiry.at(),
                "updated_at": c.updated_at,
                "decryptable": decrypts,
                "problem": why,
                "needs_rotation": services.vault.needs_rotation(&c.payload),
            })),
            "latest": latest,
            "inventory": {
                "freshness": freshness,
                "permissions": permissions,
                "unknown": is_foreign.then_some(Unknown::ReadByAnotherConnection),
            },
        }));
    }
    let or_dash = |text: Option<&str>| render::clean(text.unwrap_or("–"));
    let line = |name: &str, value: String| {
        output::line(format!("{:<14} {value}", name.dimmed()));
    };
    line("connection", connection.id.to_string());
    line("name", or_dash(connection.display_name.as_deref()));
    line("status", connection.status.to_string());
    if let Some(problem) = &problem {
        line(
            "problem",
            format!("cannot be used: {}", render::clean(problem)),
        );
    }
    line(
        "owner",
        format!(
            "workspace {}, tenant {}",
            output::id_or_dash(connection.workspace_id.0),
            output::id_or_dash(connection.tenant_id.0)
        ),
    );
    line("provider", render::clean(&connection.provider));
    line(
        "Entra tenant",
        match &facts.entra_tenant_name {
            Some(name) => format!(
                "{} ({})",
                render::clean(name),
                or_dash(connection.entra_tenant_id.as_deref())
            ),
            None => or_dash(connection.entra_tenant_id.as_deref()),
        },
    );
    line("client id", or_dash(connection.client_id.as_deref()));
    line("cloud", or_dash(connection.cloud.as_deref()));
    line("module", or_dash(connection.module.as_deref()));
    line(
        "credential",
        match (&credential, decrypts) {
            (Some(c), Some(_)) => format!(
                "{}{}{}",
                c.kind,
                c.expiry
                    .at()
                    .map(|at| format!(", expires {}", output::day(at)))
                    .unwrap_or_default(),
                why.as_ref()
                    .map(|why| format!("; {why}"))
                    .unwrap_or_default()
            ),
            _ if problem.is_some() => "not read".to_owned(),
            _ => "none".to_owned(),
        },
    );
    let expiry = credential.as_ref().map(|c| c.expiry);
    line(
        "expires",
        match facts.credential_expiry_source {
            Some(source) => format!(
                "{} ({source})",
                list::expires(facts.credential_expires_at, Some(source))
            ),
            None if expiry == Some(RecordedExpiry::Invalid) => {
                "unknown: provider_credentials.expires_at is no time from the year 1 on".to_owned()
            }
            None => list::expires(facts.credential_expires_at, None),
        },
    );
    line(
        "latest report",
        match &latest {
            Some(l) => format!(
                "{} (run {}, {})",
                render::overall(&l.overall),
                l.operation_run_id,
                output::minute(l.completed_at)
            ),
            None => "none".to_owned(),
        },
    );
    if is_foreign {
        let why = Unknown::ReadByAnotherConnection.words();
        line("permissions", format!("unknown: {why}"));
    }
    if let Some(freshness) = freshness {
        line(
            "permissions",
            format!(
                "read {} by run {}",
                output::minute(freshness.refreshed_at),
                freshness.operation_run_id
            ),
        );
        for permission in &permissions {
            let mark = match permission.status {
                PermissionStatus::Granted => "✓".green().to_string(),
                PermissionStatus::Missing => "✗".red().to_string(),
            };
            output::line(format!(
                "  {mark} {}",
                render::clean(&permission.permission_key)
            ));
        }
    }
    Ok(())
}

/// Returns what the provider finds wrong with a credential that opens: its expiry has places of its own.
pub(super) fn flaw(
    providers: &Providers,
    connection: &ProviderConnection,
    credential: &Credential,
) -> Option<Unmet> {
    let provider = providers.get(&connection.provider)?;
    let unmet = provider.preflight(connection, credential).err()?;
    let is_flaw = matches!(
        unmet.reason,
        Reason::CredentialMalformed | Reason::CertificateNotYetValid
    );
    is_flaw.then_some(unmet)
}

/// In the words of a report.
pub(super) fn flaw_words(unmet: &Unmet) -> String {
    let facts = unmet.evidence.iter();
    let facts: Vec<String> = facts.map(|f| format!("{} {}", f.kind, f.value)).collect();
    format!("{}: {}", unmet.reason, facts.join(", "))
}

async fn set_status(
    services: &Services,
    args: &ConnectionArgs,
    status: ConnectionStatus,
) -> anyhow::Result<()> {
    operations::set_status(services.store.as_ref(), args.id, status, &terminal()).await?;
    if args.json.json {
        return output::json(&json!({ "provider_connection_id": args.id, "status": status }));
    }
    output::line(format!("connection {} is {status}", args.id));
    Ok(())
}

async fn set_credential(services: &Services, args: &SetCredentialArgs) -> anyhow::Result<()> {
    let given = args.credential.expires_at;
    let now = services.clock.now();
    let credential = match (credential(&args.credential, now)?, given) {
        (Some(credential), _) => credential,
        (None, Some(expires_at)) => return set_expiry(services, args, expires_at).await,
        (None, None) => anyhow::bail!(
            "no credential given, allowed: --secret-stdin, --certificate FILE or \
             --federated-token-file FILE; --expires-at alone records when the stored one expires"
        ),
    };
    let (store, vault) = (services.store.as_ref(), services.vault.as_ref());
    let by = terminal();
    let sealed = operations::set_credential(store, vault, args.id, &credential, given, &by).await?;
    note_dates(services, sealed.kind, validity(&credential), given);
    if args.json.json {
        return output::json(&json!({
            "provider_connection_id": args.id,
            "kind": sealed.kind,
            "expires_at": sealed.expires_at,
        }));
    }
    output::line(format!(
        "connection {} has a new {}{}",
        args.id,
        sealed.kind,
        sealed
            .expires_at
            .map(|at| format!(", which expires {}", output::day(at)))
            .unwrap_or_default()
    ));
    Ok(())
}

/// Records when the stored credential expires: at most until its certificate ends.
async fn set_expiry(
    services: &Services,
    args: &SetCredentialArgs,
    given: DateTime<Utc>,
) -> anyhow::Result<()> {
    let store = services.store.as_ref();
    let stored = match store.connection(args.id).await {
        Ok(found) => found.and_then(|(connection, stored)| Some((connection, stored?))),
        Err(StoreError::Corrupt { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // Of a certificate that cannot be opened only the given date is known.
    let own = stored.as_ref().and_then(|(connection, stored)| {
        let opened = services.vault.open(connection.binding(), stored);
        validity(&opened.ok()?)
    });
    let expires_at = own.map_or(given, |own| own.until.min(given));
    operations::set_credential_expiry(store, args.id, expires_at, &terminal()).await?;
    if let Some((_, stored)) = &stored {
        note_dates(services, stored.kind, own, Some(expires_at));
    }
    if expires_at < given {
        output::note(format!(
            "The certificate ends before {}, and the earlier date counts.",
            output::day(given)
        ));
    }
    if args.json.json {
        return output::json(&json!({
            "provider_connection_id": args.id,
            "expires_at": expires_at,
        }));
    }
    output::line(format!(
        "the credential of connection {} expires {}",
        args.id,
        output::day(expires_at)
    ));
    Ok(())
}
