//! Every way to enqueue, as docs/guides/enqueue.md shows it: each snippet is run as it stands.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/redis.rs"]
mod redis_support;

mod mistakes;
mod page;
mod producer;
mod snippets;
