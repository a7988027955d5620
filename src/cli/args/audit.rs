//! Arguments of `verifyd audit`.

use super::{JsonArg, whole_number};
use crate::domain::audit::{AuditAction, AuditObject};
use crate::domain::time_input;
use crate::domain::{AuditEntryId, ObjectId, TenantId, TokenId, WorkspaceId};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List entries, newest first
    List(AuditListArgs),
    /// Print every entry, newest first, as JSON, one a line, or as CSV
    Export(AuditExportArgs),
}

#[derive(Debug, Args)]
pub struct AuditFilterArgs {
    /// Only this action, e.g. token.created
    #[arg(long, value_name = "NAME")]
    pub action: Option<AuditAction>,
    /// Only of token, connection, acknowledgement or webhook_endpoint
    #[arg(long, value_name = "KIND")]
    pub object: Option<AuditObject>,
    /// Only of the object with this id
    #[arg(long, value_name = "N", requires = "object")]
    pub id: Option<ObjectId>,
    /// Only what was done with this token
    #[arg(long, value_name = "ID")]
    pub token: Option<TokenId>,
    /// Only by the actor of this name, all of it
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// Only of this workspace
    #[arg(long, value_name = "ID")]
    pub workspace: Option<WorkspaceId>,
    /// Only of this tenant
    #[arg(long, value_name = "ID")]
    pub tenant: Option<TenantId>,
    /// Not before this time, e.g. 2026-12-31 or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = time_input::since)]
    pub since: Option<chrono::DateTime<chrono::Utc>>,
    /// Not after this time
    #[arg(long, value_name = "TIME", value_parser = time_input::until)]
    pub until: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Debug, Args)]
pub struct AuditListArgs {
    #[command(flatten)]
    pub filter: AuditFilterArgs,
    /// Only entries with a smaller id
    #[arg(long, value_name = "ID")]
    pub before: Option<AuditEntryId>,
    /// Most entries to list
    #[arg(long, default_value_t = 50, value_parser = whole_number::<u32>(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct AuditExportArgs {
    #[command(flatten)]
    pub filter: AuditFilterArgs,
    /// Print CSV with a header
    #[arg(long)]
    pub csv: bool,
}
