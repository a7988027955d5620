//! The real binary on a real PostgreSQL and a real Redis.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/redis.rs"]
mod redis_support;

mod beside;
mod drain;
mod given_again;
mod memory;
mod privileges;
mod replicas;
mod secrets;
mod turns;
