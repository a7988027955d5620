//! Webhooks: who is told of a workspace's completed runs, and how that went.

use super::ids::{EndpointId, WorkspaceId};
use super::names::text_enum;
use serde::{Deserialize, Serialize};

/// An endpoint's address as it is shown: what stands in its query may be a secret of the receiver's.
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
    /// To be sent, or sent again.
    Pending,
    /// The receiver has answered with 2xx.
    Delivered,
    /// Given up. `verifyd webhooks replay` begins anew.
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
    /// The receiver answered 410: it wants nothing more.
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

/// How one attempt ended: `webhook_attempts.result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptResult {
    /// 2xx.
    Delivered,
    /// 410: the receiver wants nothing more.
    Gone,
    /// Any other status.
    HttpStatus,
    /// 3xx; never followed.
    RedirectRefused,
    /// No address that may be called: not https, or not public.
    AddressRefused,
    /// No connection.
    Unreachable,
    TlsFailed,
    Timeout,
    /// What came back was no HTTP, or broke off before its status.
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

/// Where a webhook's secret belongs. What is sealed for one endpoint opens for no other, nor for
/// another address.
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
