//! Webhook endpoints, and the states and results of deliveries to them.

use super::ids::{EndpointId, WorkspaceId};
use super::names::text_enum;
use serde::{Deserialize, Serialize};

/// Returns an endpoint's address as it is shown. Its query may contain a secret of the receiver, so it is
/// left out.
pub fn shown_url(url: &str) -> String {
    match url.split_once(['?', '#']) {
        Some((before, _)) => format!("{before}?…"),
        None => url.to_owned(),
    }
}

/// `webhook_deliveries.state`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits for its first or next attempt.
    Pending,
    /// The receiver has answered with 2xx.
    Delivered,
    /// Given up. `verifyd webhooks replay` sends it again.
    Failed,
}
text_enum!(
    DeliveryState, "state",
    Pending => "pending", Delivered => "delivered", Failed => "failed",
);

/// `webhook_endpoints.disabled_reason`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// By `verifyd webhooks disable`.
    Operator,
    /// The receiver answered 410: it accepts no more deliveries.
    Gone,
}
text_enum!(DisabledReason, "disabled_reason", Operator => "operator", Gone => "gone");

/// `webhook_deliveries.give_up_reason`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GiveUpReason {
    /// `webhooks.max_attempts` have failed.
    Attempts,
    /// It was pending for `webhooks.give_up_after`.
    Age,
    /// The receiver answered 410.
    Gone,
}
text_enum!(
    GiveUpReason, "give_up_reason",
    Attempts => "attempts", Age => "age", Gone => "gone",
);

/// Result of one attempt: `webhook_attempts.result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptResult {
    /// 2xx.
    Delivered,
    /// 410: the receiver accepts no more deliveries.
    Gone,
    /// Any other status.
    HttpStatus,
    /// 3xx; never followed.
    RedirectRefused,
    /// The address may not be called: not https, or not public.
    AddressRefused,
    /// No connection.
    Unreachable,
    TlsFailed,
    Timeout,
    /// The answer was no HTTP, or ended before its status.
    ResponseInvalid,
    /// The endpoint's secret cannot be decrypted, or does not belong to this row.
    SecretUnusable,
}
text_enum!(
    AttemptResult, "result",
    Delivered => "delivered", Gone => "gone", HttpStatus => "http_status",
    RedirectRefused => "redirect_refused", AddressRefused => "address_refused",
    Unreachable => "unreachable", TlsFailed => "tls_failed", Timeout => "timeout",
    ResponseInvalid => "response_invalid", SecretUnusable => "secret_unusable",
);

/// What a result means for the delivery, independent of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Send it again later, unless its attempts are spent.
    TryAgain,
    /// Do not send it again; disable the endpoint.
    GiveUp,
}

impl AttemptResult {
    /// Returns what this result means for the delivery.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Delivered => Verdict::Delivered,
            Self::Gone => Verdict::GiveUp,
            _ => Verdict::TryAgain,
        }
    }
}

/// What a webhook's secret is bound to. A secret sealed for one endpoint and address opens for no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookBinding {
    pub workspace_id: WorkspaceId,
    pub endpoint_id: EndpointId,
    pub url: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_not_shown() {
        for (url, shown) in [
            ("https://a.example/hook", "https://a.example/hook"),
            (
                "https://a.example/hook?token=s3cr3t",
                "https://a.example/hook?…",
            ),
            ("https://a.example/#s3cr3t", "https://a.example/?…"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }
}
