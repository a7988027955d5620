//! The simulator, asked as verifyd asks it: over HTTP, on loopback.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "simulator/caller.rs"]
mod caller;
#[path = "simulator/certificates.rs"]
mod certificates;
#[path = "simulator/control.rs"]
mod control;
#[path = "simulator/faults.rs"]
mod faults;
#[path = "simulator/federation.rs"]
mod federation;
#[path = "simulator/graph.rs"]
mod graph;
#[path = "simulator/sign_in.rs"]
mod sign_in;
