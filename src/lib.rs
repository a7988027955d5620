//! verifyd: a queue-driven worker daemon that checks whether a customer's provider connection
//! really works.
//!
//! `domain` ← `ports` ← `engine` ← `operations` ← adapters (`store`, `queue`, `provider`, `credentials`,
//! `notify`) and surfaces (`http`, `cli`, `debug`), joined in `app`. See `docs/explanation/architecture.md`.

pub mod app;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod debug;
pub mod domain;
pub mod engine;
pub(crate) mod files;
pub mod http;
pub mod notify;
pub mod operations;
pub mod outbound;
pub mod ports;
pub mod producer;
pub mod provider;
pub mod queue;
pub mod store;
pub mod telemetry;
pub mod view;
