//! `verifyd tokens`

use super::args::{TokenArgs, TokensCommand, TokensCreateArgs};
use super::origin::terminal;
use super::{output, render};
use crate::app;
use crate::config::Settings;
use crate::domain::access::{Binding, Scope};
use crate::operations::tokens::{TokenRequest, create_token, revoke_token};
use crate::ports::access::TokenRecord;
use crate::ports::clock::{Clock, SystemClock};
use crate::ports::store::Store;
use crate::view::words;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret as _;
use serde_json::json;
use std::process::ExitCode;

pub async fn run(settings: &Settings, command: &TokensCommand) -> anyhow::Result<ExitCode> {
    let store = app::open_ready_store(settings).await?;
    let code = match command {
        TokensCommand::Create(args) => create(store.as_ref(), args).await,
        TokensCommand::List(args) => list(store.as_ref(), args.json).await,
        TokensCommand::Revoke(args) => revoke(store.as_ref(), args).await,
    }?;
    store.close().await;
    Ok(code)
}

/// Prints only the token to standard output. It is not shown again.
async fn create(store: &dyn Store, args: &TokensCreateArgs) -> anyhow::Result<ExitCode> {
    let now = SystemClock.now();
    let request = TokenRequest {
        name: args.name.clone(),
        scopes: args.scopes.clone(),
        binding: Binding {
            workspace_id: args.workspace,
            tenant_id: args.tenant,
        },
        expires_at: args.expires.map(|expiry| expiry.at(now)),
    };
    let (record, text) = create_token(store, request, &terminal(), now).await?;
    if args.json.json {
        let mut shown = serde_json::to_value(&record)?;
        shown["token"] = json!(text.expose_secret());
        output::json(&shown)?;
    } else {
        output::line(text.expose_secret());
        output::note(format!(
            "token {} ({}), {}, {}; it is not shown again",
            record.id,
            scopes(&record.scopes),
            reach(&record.binding),
            expiry(record.expires_at),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(store: &dyn Store, as_json: bool) -> anyhow::Result<ExitCode> {
    let tokens = store.tokens().await?;
    if as_json {
        output::json(&tokens)?;
        return Ok(ExitCode::SUCCESS);
    }
    if tokens.is_empty() {
        output::note("No tokens.");
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemClock.now();
    let mut table = output::table([
        "Token",
        "Name",
        "Scopes",
        "Reaches",
        "State",
        "Last used",
        "Created",
    ]);
    for token in &tokens {
        let ago = |at| words::ago(at, now);
        table.add_row([
            token.id.to_string(),
            render::clean(&token.name),
            scopes(&token.scopes),
            reach(&token.binding),
            state(token, now),
            token.last_used_at.map_or_else(|| "never".to_owned(), ago),
            ago(token.created_at),
        ]);
    }
    output::line(table);
    Ok(ExitCode::SUCCESS)
}

async fn revoke(store: &dyn Store, args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let revoked = revoke_token(store, args.id, &terminal()).await?;
    if args.json.json {
        output::json(&json!({ "token_id": args.id, "revoked_now": revoked }))?;
    } else if revoked {
        output::line(format!("token {} is revoked", args.id));
    } else {
        output::line(format!("token {} was revoked before", args.id));
    }
    Ok(ExitCode::SUCCESS)
}

fn scopes(scopes: &[Scope]) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    names.join(", ")
}

fn reach(binding: &Binding) -> String {
    match (binding.workspace_id, binding.tenant_id) {
        (None, _) => "every workspace".to_owned(),
        (Some(workspace), None) => format!("workspace {workspace}"),
        (Some(workspace), Some(tenant)) => format!("tenant {tenant} of workspace {workspace}"),
    }
}

fn expiry(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(
        || "never expires".to_owned(),
        |at| format!("expires {}", output::minute(at)),
    )
}

fn state(token: &TokenRecord, now: DateTime<Utc>) -> String {
    if token.revoked_at.is_some() {
        "revoked".to_owned()
    } else if token.expires_at.is_some_and(|at| at <= now) {
        "expired".to_owned()
    } else {
        expiry(token.expires_at)
    }
}
