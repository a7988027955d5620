//! The documents: links lead somewhere, and commands that a reader pastes work.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod links;
