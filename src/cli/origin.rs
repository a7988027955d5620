//! Who is at the terminal.

use crate::domain::acknowledgement::{Actor, PERSON_CHARS, Surface};
use crate::domain::audit::Origin;
use std::os::unix::fs::MetadataExt as _;

/// Returns the system's user from the environment, which may have any value.
pub fn user() -> Option<String> {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
}

/// The system's user by its number, which only the system gives, and by the name that the
/// environment has for it.
pub fn terminal() -> Origin {
    let uid = uid().map(|uid| format!("uid {uid}"));
    let known: Vec<String> = user().into_iter().chain(uid).collect();
    let name: String = known.join(", ").chars().take(PERSON_CHARS).collect();
    let actor = Actor {
        surface: Surface::Cli,
        token_id: None,
        name: if name.is_empty() {
            "unknown user".to_owned()
        } else {
            name
        },
    };
    actor.into()
}

/// Of this process.
fn uid() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|own| own.uid())
}
