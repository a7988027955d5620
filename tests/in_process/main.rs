//! Tests that need no server, no browser and nothing installed besides Rust.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod checks;
mod cli;
mod documents;
mod fuzz_corpus;
mod generated;
mod layering;
mod microsoft;
mod reports;
mod verdicts;
