//! The queues behind `ports::queue`: one conformance suite over both, what only Redis can suffer,
//! and the contracts that other producers rely on.

mod probe;

#[macro_use]
mod conformance;

mod hint_contract;
mod hostile_entries;
mod in_process;
mod redis;
mod redis_error_causes;
mod redis_faults;
mod sentinel;
