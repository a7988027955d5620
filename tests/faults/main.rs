//! Faults: two processes of the real binary, servers that fail, and one oracle over the database.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/hostile/mod.rs"]
mod hostile_server;
#[path = "../support/oracle.rs"]
mod oracle;
#[path = "../support/pgbouncer.rs"]
mod pgbouncer;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/private_postgres.rs"]
mod private_postgres;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis.rs"]
mod redis_support;

mod bounds;
mod chaos;
mod conflicts;
mod deliveries;
mod failover;
mod pooler;
mod postgres_faults;
mod processes;
mod providers;
mod recovery;
mod redis_faults;
mod scene;
#[path = "../support/tenant_combinations.rs"]
mod tenant_combinations;
mod tenants;
