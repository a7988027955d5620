//! The pages: over plain HTTP, and in a real browser.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "this is a test")]

#[path = "../support/world.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;

mod axe;
mod browser;
mod demo;
mod hostile;
mod limits;
mod modules;
mod plain;
mod screenshots;
mod site;
mod surfaces;
mod walk;
