//! The queues behind `ports::queue`: one conformance suite over both, what only Redis can suffer,
//! and the contracts that other producers rely on.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "these are tests; the measurements are printed"
)]

#[path = "support/redis.rs"]
mod redis_support;

#[path = "support/proxy.rs"]
mod proxy;

#[path = "queue/probe.rs"]
mod probe;

#[macro_use]
#[path = "queue/conformance.rs"]
mod conformance;

#[path = "queue/contract.rs"]
mod contract;
#[path = "queue/frozen_link.rs"]
mod frozen_link;
#[path = "queue/hostile_entries.rs"]
mod hostile_entries;
#[path = "queue/in_process.rs"]
mod in_process;
#[path = "queue/redis.rs"]
mod redis;
#[path = "queue/redis_causes.rs"]
mod redis_causes;
#[path = "queue/redis_faults.rs"]
mod redis_faults;
