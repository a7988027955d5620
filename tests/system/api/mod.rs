//! The HTTP API over TCP, on real databases. Every answer of every test is held against the OpenAPI
//! document, see `scene`.

pub mod scene;

mod access;
mod audit;
mod document;
mod generated_client;
mod hostile_input;
mod idempotency;
mod input;
mod limits;
mod pagination;
mod panics;
mod process;
mod resources;
mod situations;
mod slow_peers;
mod surfaces;
mod unusable_rows;
