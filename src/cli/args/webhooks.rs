//! Arguments of `verifyd webhooks`.

use super::{JsonArg, duration, whole_number};
use crate::domain::time_input;
use crate::domain::webhook::DeliveryState;
use crate::domain::{DeliveryId, EndpointId, WorkspaceId};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// Add an endpoint; its secret is shown once
    Add(WebhooksAddArgs),
    /// List endpoints
    List(WebhooksListArgs),
    /// Make a new secret, shown once; the one before signs as well for a while
    RotateSecret(RotateSecretArgs),
    /// Disable an endpoint: nothing more is recorded for it, pending deliveries wait
    Disable(EndpointArgs),
    /// Enable an endpoint again; pending deliveries are sent at once
    Enable(EndpointArgs),
    /// Remove an endpoint and everything that was recorded for it
    Remove(EndpointArgs),
    /// List messages, newest first, with how their last attempt ended
    Deliveries(DeliveriesArgs),
    /// List the attempts of one message
    Attempts(DeliveryArgs),
    /// Send messages again, under their old ids
    #[command(override_usage = concat!(
        "verifyd webhooks replay <DELIVERY>",
        "\n       ",
        "verifyd webhooks replay --endpoint <ID> --since <TIME>"
    ))]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub struct WebhooksAddArgs {
    #[arg(long, value_name = "N")]
    pub workspace: WorkspaceId,
    /// Where to send; https, and a public address
    #[arg(long, value_name = "URL")]
    pub url: String,
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Send only runs whose report differs from the previous one
    #[arg(long)]
    pub changed_only: bool,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct WebhooksListArgs {
    #[arg(long, value_name = "N")]
    pub workspace: Option<WorkspaceId>,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct EndpointArgs {
    #[arg(value_name = "ENDPOINT")]
    pub id: EndpointId,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct RotateSecretArgs {
    #[arg(value_name = "ENDPOINT")]
    pub id: EndpointId,
    /// Time for which the previous secret signs as well, e.g. 24h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub keep_previous: std::time::Duration,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct DeliveriesArgs {
    #[arg(long, value_name = "ID")]
    pub endpoint: Option<EndpointId>,
    /// pending, delivered or failed
    #[arg(long)]
    pub state: Option<DeliveryState>,
    /// Only messages with a smaller id
    #[arg(long, value_name = "ID")]
    pub before: Option<DeliveryId>,
    /// Most messages to list
    #[arg(long, default_value_t = 50, value_parser = whole_number::<u32>(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct DeliveryArgs {
    #[arg(value_name = "DELIVERY")]
    pub id: DeliveryId,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The message to send again
    #[arg(
        value_name = "DELIVERY",
        required_unless_present = "endpoint",
        conflicts_with = "endpoint"
    )]
    pub id: Option<DeliveryId>,
    /// All messages of this endpoint that were given up; requires --since
    #[arg(long, value_name = "ID", requires = "since")]
    pub endpoint: Option<EndpointId>,
    /// Only those recorded since then, e.g. 2026-12-31 or RFC 3339
    #[arg(long, value_name = "TIME", requires = "endpoint", value_parser = time_input::since)]
    pub since: Option<chrono::DateTime<chrono::Utc>>,
    /// Also those that were delivered
    #[arg(long, requires = "endpoint")]
    pub delivered_too: bool,
    #[command(flatten)]
    pub json: JsonArg,
}
