//! The interface between the sender and the ways to deliver a message.

use crate::ports::webhook_deliveries::{LeasedDelivery, SendResult};
use async_trait::async_trait;
use std::fmt::Debug;

/// A way to deliver messages to endpoints.
///
/// The sender decides when a message is sent and what follows from the result; a channel only sends it.
#[async_trait]
pub trait Channel: Send + Sync + Debug {
    /// Sends a message to its endpoint, once, within the lease of the delivery.
    ///
    /// Never fails: the result says whether the message was delivered, is to be tried again (and not before
    /// `retry_after`), or is to be given up.
    async fn send(&self, delivery: &LeasedDelivery) -> SendResult;
}
