//! The protocol of `docs/explanation/protocol.md` as a model. `tests/model.rs` explores every history of it up to a
//! number of faults.
//!
//! A crate of its own, because exploring takes optimized code: the profiles in the workspace's `Cargo.toml` say so.

#![allow(clippy::unwrap_used, reason = "only a test explores it")]

pub mod actions;
pub mod faults;
pub mod history;
pub mod progress;
pub mod protocol;
pub mod state;
pub mod store;
