//! The real binary on a real PostgreSQL and a real Redis.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/connect_proxy.rs"]
mod connect_proxy;
#[path = "../support/identity_of_tls.rs"]
mod identity_of_tls;
#[path = "../support/pgbouncer.rs"]
mod pgbouncer;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/private_postgres.rs"]
mod private_postgres;
#[path = "../support/redis.rs"]
mod redis_support;

mod beside;
mod doctor;
mod drain;
mod fair_queuing;
mod given_again;
mod memory;
mod privileges;
mod proxy;
mod replicas;
mod schema;
mod secrets;
