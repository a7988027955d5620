//! Who is at the terminal.

use crate::domain::acknowledgement::{Actor, PERSON_CHARS, Surface};
use crate::domain::audit::Origin;

/// Returns the system's user from the environment, which may have any value.
pub fn user() -> Option<String> {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
}

/// Returns the system's user by its number, which only the system gives, and behind it by the name that the environment
/// has for it.
pub fn terminal() -> Origin {
    let uid = rustix::process::geteuid().as_raw();
    let actor = Actor {
        surface: Surface::Cli,
        token_id: None,
        name: name(uid, user().as_deref()),
    };
    actor.into()
}

fn name(uid: u32, user: Option<&str>) -> String {
    let name = match user {
        Some(user) => format!("uid {uid} ($USER {user})"),
        None => format!("uid {uid}"),
    };
    name.chars().take(PERSON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_in_the_environment_takes_the_place_of_the_number() {
        assert_eq!(name(1000, Some("ann")), "uid 1000 ($USER ann)");
        assert_eq!(name(1000, None), "uid 1000");
        let forged = format!("uid 0{}", " ".repeat(PERSON_CHARS));
        let shown = name(1000, Some(&forged));
        assert!(shown.starts_with("uid 1000 ($USER uid 0 "), "{shown}");
        assert_eq!(shown.chars().count(), PERSON_CHARS);
    }
}
