//! The HTTP API over TCP, on real databases. Every answer of every test is held against the OpenAPI
//! document, see `scene`.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/bench.rs"]
mod bench;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis.rs"]
mod redis_support;
mod scene;
#[path = "../support/world.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod world;

mod access;
mod bounds;
mod document;
mod hostile;
mod idempotency;
mod input;
mod pages;
mod panics;
mod process;
mod python;
mod resources;
mod slow;
mod surfaces;
mod unusable;
