//! The real binary on a real PostgreSQL and a real Redis.
#![cfg(feature = "simulator")]

#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/redis.rs"]
mod redis_support;

mod bench;
mod drain;
mod replicas;
mod secrets;
