//! verifyd: a queue-driven worker daemon that checks whether a customer's provider connection
//! really works.
//!
//! `domain` ← `ports` ← `engine` ← `operations` ← surfaces: `http`, `cli`, `producer`, which show `view`s of the
//! domain.
//! `domain` ← `ports` ← adapters: `store`, `queue`, `provider`, `credentials`, `notify`; some use `files` and
//! `outbound`.
//! `app` joins them; `config`, `telemetry` and `debug` serve the whole process. See `docs/explanation/architecture.md`.

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
