//! Tests of the simulator over HTTP on loopback, the way verifyd calls it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod caller;
mod certificates;
mod control;
mod faults;
mod federation;
mod graph;
mod sign_in;
