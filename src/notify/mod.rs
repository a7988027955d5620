//! Notifications of completed runs.
//!
//! - [`completion_events`] publishes completion events through PostgreSQL and Redis, at most once.
//! - The [`sender`](Sender) works off the deliveries that the completing transaction has recorded, at least
//!   once: it leases what is due, hands it to a [`Channel`](channel::Channel), and records the result. A
//!   sender that ends in between leaves its lease to expire, and the message is sent again under the same id.
//! - [`webhook`] is the channel for HTTP endpoints. Another channel is another implementation of the trait.

pub mod channel;
pub mod completion_events;
mod sender;
mod settings;
pub mod webhook;

pub use sender::Sender;
pub use settings::WebhookSettings;
