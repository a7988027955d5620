//! What the real binary tells others: a bare INSERT is claimed at once, completions are announced,
//! webhooks arrive.

mod completion_events;
pub mod receiver;
mod wake_up;
mod webhook_causes;
mod webhook_circuits;
mod webhook_endless_answer;
mod webhook_reused_connection;
mod webhooks;
