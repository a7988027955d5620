//! Support that several test binaries of verifyd share: databases, queues and processes to test with, and
//! servers that misbehave on demand.
//!
//! What only one binary needs stands there, in the module of its suite.

pub mod bench;
pub mod connect_proxy;
pub mod ends_with_test;
pub mod fuzz_targets;
pub mod hostile_server;
pub mod memory;
pub mod microsoft;
pub mod oracle;
pub mod own_process;
pub mod padding;
pub mod pgbouncer;
pub mod port;
pub mod postgres;
pub mod private_postgres;
pub mod proxy;
pub mod redis_server;
pub mod tenant_combinations;
pub mod tls_identity;
pub mod waiting;
pub mod world;
