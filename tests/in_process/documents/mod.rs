//! The documents: links lead somewhere, and commands that a reader pastes work. So do those that other texts name.

mod commands;
mod links;
#[cfg(feature = "simulator")]
mod named_commands;
