//! Arguments of `verifyd modules` and `verifyd plan`.

use super::JsonArg;
use crate::domain::{TenantId, WorkspaceId};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum ModulesCommand {
    /// List the modules: those of verifyd itself, and those of microsoft.modules_dir
    List(JsonArg),
    /// Show one module: what it needs, what that is needed for, and what it probes
    Show(ModuleArgs),
    /// Test files of modules; exit code 1 if one has a mistake
    Validate(ModulesValidateArgs),
    /// Print the JSON Schema of module files
    Schema,
}

#[derive(Debug, Args)]
pub struct ModuleArgs {
    #[arg(value_name = "KEY")]
    pub key: String,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct ModulesValidateArgs {
    /// TOML files, each with one module
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// File of the module, or the key of one that verifyd knows
    #[arg(long, value_name = "FILE|KEY")]
    pub module: String,
    /// Only connections of this workspace
    #[arg(long, value_name = "ID")]
    pub workspace: Option<WorkspaceId>,
    /// Only connections of this tenant
    #[arg(long, value_name = "ID")]
    pub tenant: Option<TenantId>,
    /// Print CSV, a line for each connection
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    #[command(flatten)]
    pub json: JsonArg,
}
