//! The documents: links lead somewhere, and commands that a reader pastes work.

mod commands;
mod links;
