//! Faults: two processes of the real binary, servers that fail, and one oracle over the database.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod chaos;
mod completion_conflicts;
mod failover;
mod hint_deliveries;
mod hostile_providers;
mod pgbouncer;
mod poison_runs;
mod postgres_faults;
mod processes;
mod read_replica;
mod recovery_time;
mod redis_faults;
mod scene;
mod sentinel;
mod tenant_isolation;
mod upgrade;
