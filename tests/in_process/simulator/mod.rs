//! The simulator, asked as verifyd asks it: over HTTP, on loopback.

mod caller;
mod certificates;
mod control;
mod faults;
mod federation;
mod graph;
mod sign_in;
