//! What the real binary tells others: a bare INSERT is claimed at once, completions are announced,
//! webhooks arrive.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::print_stdout,
    reason = "a test that measures says what it measured"
)]

#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/redis.rs"]
mod redis_support;

mod announced;
mod circuits;
mod delivered;
mod endless;
mod receiver;
mod woken;
