//! Webhook endpoints, and the states and results of deliveries to them.

use super::ids::{EndpointId, WorkspaceId};
use super::names::text_enum;
use url::Url;

/// Returns an endpoint's address as it is shown. Its query may contain a secret of the receiver, so it is
/// left out.
pub fn shown_url(url: &str) -> String {
    match url.find(['?', '#']) {
        Some(at) => format!("{}…", &url[..=at]),
        None => url.to_owned(),
    }
}

/// Returns where an endpoint's address leads, without path and query: either may contain a secret of the receiver.
pub fn origin_of(url: &str) -> Option<String> {
    let origin = Url::parse(url).ok()?.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

text_enum! {
    /// `webhook_deliveries.state`
    pub enum DeliveryState: "state" {
        /// Waits for its first or next attempt.
        Pending => "pending",
        /// The receiver has answered with 2xx.
        Delivered => "delivered",
        /// Given up. `verifyd webhooks replay` sends it again.
        Failed => "failed",
    }
}

text_enum! {
    /// `webhook_endpoints.disabled_reason`
    pub enum DisabledReason: "disabled_reason" {
        /// By `verifyd webhooks disable`.
        Operator => "operator",
        /// The receiver answered 410: it accepts no more deliveries.
        Gone => "gone",
    }
}

text_enum! {
    /// `webhook_deliveries.give_up_reason`
    pub enum GiveUpReason: "give_up_reason" {
        /// As many attempts have failed as a message has.
        Attempts => "attempts",
        /// It was pending for `webhooks.give_up_after`.
        Age => "age",
        /// The receiver answered 410.
        Gone => "gone",
    }
}

text_enum! {
    /// Result of one attempt: `webhook_attempts.result`.
    pub enum AttemptResult: "result" {
        /// 2xx.
        Delivered => "delivered",
        /// 410: the receiver accepts no more deliveries.
        Gone => "gone",
        /// Any other status.
        HttpStatus => "http_status",
        /// 3xx; never followed.
        RedirectRefused => "redirect_refused",
        /// The address may not be called: not https, or not public.
        AddressRefused => "address_refused",
        /// No connection.
        Unreachable => "unreachable",
        TlsFailed => "tls_failed",
        Timeout => "timeout",
        /// The answer was no HTTP, or ended before its status.
        ResponseInvalid => "response_invalid",
        /// The endpoint's secret cannot be decrypted, or does not belong to this row.
        SecretUnusable => "secret_unusable",
    }
}

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
            ("https://a.example/#s3cr3t", "https://a.example/#…"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }

    #[test]
    fn the_origin_of_an_address_has_no_secret() {
        for (url, origin) in [
            (
                "https://a.example/s3cr3t/s3cr3t?s3cr3t#s3cr3t",
                Some("https://a.example"),
            ),
            (
                "https://s3cr3t:s3cr3t@a.example:8443/",
                Some("https://a.example:8443"),
            ),
            (
                "https://[2001:db8::7]:444/x",
                Some("https://[2001:db8::7]:444"),
            ),
            ("data:s3cr3t", None),
            ("s3cr3t", None),
        ] {
            assert_eq!(origin_of(url).as_deref(), origin, "{url}");
        }
    }
}
