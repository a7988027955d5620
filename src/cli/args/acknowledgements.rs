//! Arguments of `verifyd acknowledgements`.

use super::{JsonArg, duration, whole_number};
use crate::domain::time_input;
use crate::domain::{AcknowledgementId, ConnectionId, RunId};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct AcknowledgeArgs {
    #[arg(value_name = "RUN")]
    pub run: RunId,
    /// Key of a check that is fail or warn, as in the report
    #[arg(value_name = "CHECK")]
    pub check: String,
    /// Why it is accepted
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who accepts it; the user at the terminal if absent
    #[arg(long, value_name = "PERSON")]
    pub by: Option<String>,
    /// End of the acknowledgement: a day or a time, e.g. 2026-12-31, or a duration from now, e.g. 30d
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub expires: Option<Expiry>,
    #[command(flatten)]
    pub json: JsonArg,
}

/// When an acknowledgement or a token expires.
#[derive(Clone, Copy, Debug)]
pub enum Expiry {
    At(chrono::DateTime<chrono::Utc>),
    After(std::time::Duration),
}

pub(super) fn expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(at) = time_input::until(text) {
        return Ok(Expiry::At(at));
    }
    duration(text).map(Expiry::After).map_err(|_| {
        format!(
            "allowed is {}, or a duration such as 30d, at most 100years",
            time_input::FORMS
        )
    })
}

#[derive(Debug, Subcommand)]
pub enum AcknowledgementsCommand {
    /// Acknowledge a check of a completed run; changes no status and no outcome
    Add(AcknowledgeArgs),
    /// List acknowledgements, newest first, withdrawn and expired ones included
    List(AcknowledgementsListArgs),
    /// Withdraw an acknowledgement; it stays as history
    Withdraw(WithdrawArgs),
}

#[derive(Debug, Args)]
pub struct AcknowledgementsListArgs {
    /// Only those made on this run
    #[arg(long, value_name = "ID")]
    pub run: Option<RunId>,
    /// Only those made on runs of this connection
    #[arg(long, value_name = "ID")]
    pub connection: Option<ConnectionId>,
    /// Neither withdrawn nor expired
    #[arg(long)]
    pub active: bool,
    /// Only those with a smaller id
    #[arg(long, value_name = "ID")]
    pub before: Option<AcknowledgementId>,
    /// Most acknowledgements to list
    #[arg(long, default_value_t = 50, value_parser = whole_number::<u32>(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct WithdrawArgs {
    #[arg(value_name = "ID")]
    pub id: AcknowledgementId,
    /// Who withdraws it; the user at the terminal if absent
    #[arg(long, value_name = "PERSON")]
    pub by: Option<String>,
    #[command(flatten)]
    pub json: JsonArg,
}
