//! Sends webhooks by the [Standard Webhooks](https://www.standardwebhooks.com) specification.
//!
//! The transaction that completes a run writes a delivery for each endpoint that is to hear of it
//! (`store`), so none is lost. A [`Sender`] in each replica leases what is due, signs it
//! ([`signature`]), sends it ([`transport`]) and records how that went. At least once: a sender that
//! ends in between leaves its lease to pass, and the message goes out again under the same id.

mod sender;
mod settings;
pub mod signature;
mod transport;

pub use sender::Sender;
pub use settings::WebhookSettings;
pub use transport::{AddressError, AddressRule};
