//! The real binary on a real PostgreSQL and a real Redis.

mod bench_on_servers_in_use;
mod debug;
mod doctor;
mod doctor_credentials;
mod doctor_oidc;
mod doctor_privileges;
mod doctor_rules;
mod doctor_sessions;
mod drain;
mod fair_queuing;
mod foreign_locks;
mod library_lines;
mod memory;
mod metrics;
mod partitions;
mod privileges;
mod proxy;
mod refused_claims;
mod refused_completions;
mod replicas;
mod reused_ids;
mod schema;
mod secrets;
mod service_manager;
mod support_bundle;
mod traces;
