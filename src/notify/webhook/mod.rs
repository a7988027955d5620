//! The webhook channel: sends messages by the [Standard Webhooks](https://www.standardwebhooks.com)
//! specification.

mod address;
pub mod signature;
mod transport;

pub use address::AddressRule;

use super::channel::Channel;
use super::settings::WebhookSettings;
use crate::domain::webhook::AttemptResult;
use crate::outbound::Outbound;
use crate::ports::clock::Clock;
use crate::ports::vault::{Vault, VaultError};
use crate::ports::webhook_deliveries::{LeasedDelivery, SendResult};
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use transport::{Request, Transport};
use zeroize::Zeroizing;

/// Signs messages and posts them to the endpoint's URL.
pub struct WebhookChannel {
    vault: Arc<dyn Vault>,
    clock: Arc<dyn Clock>,
    transport: Transport,
}

impl fmt::Debug for WebhookChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookChannel")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

impl WebhookChannel {
    /// Creates a channel whose requests go through `outbound`.
    pub fn new(
        vault: Arc<dyn Vault>,
        clock: Arc<dyn Clock>,
        settings: &WebhookSettings,
        outbound: &Outbound,
    ) -> Self {
        Self {
            vault,
            clock,
            transport: Transport::new(settings, outbound),
        }
    }

    /// Opens the current secret, and the previous one while it is in use, if that opens.
    fn secrets(&self, delivery: &LeasedDelivery) -> Result<Vec<Zeroizing<Vec<u8>>>, VaultError> {
        let open = |payload: &str| self.vault.open_webhook_secret(&delivery.endpoint, payload);
        let mut secrets = vec![open(&delivery.secrets.current)?];
        match delivery.secrets.previous.as_deref().map(open) {
            Some(Ok(previous)) => secrets.push(previous),
            Some(Err(error)) => tracing::warn!(
                endpoint = delivery.endpoint.endpoint_id.0,
                %error,
                "cannot open the previous secret of a webhook endpoint; only the current one signs"
            ),
            None => {}
        }
        Ok(secrets)
    }
}

#[async_trait]
impl Channel for WebhookChannel {
    async fn send(&self, delivery: &LeasedDelivery) -> SendResult {
        let secrets = match self.secrets(delivery) {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::warn!(
                    endpoint = delivery.endpoint.endpoint_id.0,
                    %error,
                    "cannot open the secret of a webhook endpoint; the attempt fails"
                );
                return SendResult::without_answer(AttemptResult::SecretUnusable);
            }
        };
        let timestamp = self.clock.now().timestamp();
        let signature = signature::sign(
            secrets.iter().map(|secret| &secret[..]),
            &delivery.message_id,
            timestamp,
            &delivery.payload,
        );
        let request = Request {
            url: &delivery.endpoint.url,
            id: &delivery.message_id,
            timestamp,
            signature,
            body: delivery.payload.clone(),
        };
        self.transport.send(request, &*self.clock).await
    }
}
