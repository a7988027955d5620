//! Tests of stores, queues and the real binary on a real PostgreSQL and a real Redis, which
//! `scripts/test` starts, and of the pages in a real browser.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::print_stdout,
    reason = "a test that measures says what it measured"
)]

mod advisories;
mod api;
mod check_deploy;
mod daemon;
mod enqueue;
mod failed_claims;
mod hostile_producer;
mod notify;
mod pages;
mod queue;
mod store;
mod test_command;
mod tools;
