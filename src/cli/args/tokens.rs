//! Arguments of `verifyd tokens`.

use super::acknowledgements::expiry;
use super::{Expiry, JsonArg};
use crate::domain::access::Scope;
use crate::domain::{TenantId, TokenId, WorkspaceId};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token and print it, this once
    Create(TokensCreateArgs),
    /// List tokens: what they allow and when they were last used, never their text
    List(JsonArg),
    /// Make a token worthless at once
    Revoke(TokenArgs),
}

#[derive(Debug, Args)]
pub struct TokensCreateArgs {
    /// Purpose of the token, for people
    #[arg(long, value_name = "TEXT")]
    pub name: String,
    /// Scope: read, run, admin or audit; repeatable, none includes another
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    pub scopes: Vec<Scope>,
    /// The only workspace that it reaches; every workspace if absent
    #[arg(long, value_name = "N")]
    pub workspace: Option<WorkspaceId>,
    /// The only tenant that it reaches
    #[arg(long, value_name = "N", requires = "workspace")]
    pub tenant: Option<TenantId>,
    /// End of its validity, e.g. 2026-12-31, or a duration, e.g. 90d; without it the token is valid until it
    /// is revoked
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub expires: Option<Expiry>,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[arg(value_name = "ID")]
    pub id: TokenId,
    #[command(flatten)]
    pub json: JsonArg,
}
