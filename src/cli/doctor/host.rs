//! The clocks of this machine and the database's, and the disk of an embedded database.

use super::{Line, State, bad, error, ok};
use crate::ports::store::Store;

/// Clocks that are further apart are worth a line.
const CLOCK_SECONDS: f64 = 5.0;

/// Free space on the disk of an embedded database below which a line is a warning.
const LITTLE_SPACE: u64 = 512 * 1024 * 1024;

/// Free space with which `serve` could not write: SQLite's log grows to 4 MiB before its pages are written to the file,
/// which may grow by as much.
const TOO_LITTLE_SPACE: u64 = 8 * 1024 * 1024;

/// Leases, waits and expiries go by the database's clock, tokens and certificates by this machine's.
pub(super) async fn clock(store: &dyn Store, lines: &mut Vec<Line>) {
    match store.clock_ahead().await {
        Ok(ahead) => lines.extend(difference(ahead)),
        Err(failure) => lines.push(error("clock", &failure)),
    }
}

/// `ahead`: by how many seconds the database's clock is.
fn difference(ahead: f64) -> Option<Line> {
    let apart = ahead.abs().round();
    let side = if ahead > 0.0 { "ahead of" } else { "behind" };
    (ahead.abs() > CLOCK_SECONDS).then(|| {
        bad(
            "clock",
            State::Warning,
            format!("the database's clock is {apart} s {side} this machine's"),
            "synchronise both clocks (NTP)",
        )
    })
}

pub(super) fn disk(store: &dyn Store, lines: &mut Vec<Line>) {
    match store.disk_space() {
        Ok(None) => {}
        Ok(Some(space)) => lines.push(free(space.free_bytes)),
        Err(failure) => lines.push(error("disk", &failure)),
    }
}

fn free(bytes: u64) -> Line {
    let found = format!("{} MiB free beside the database's file", bytes >> 20);
    let state = match bytes {
        0..TOO_LITTLE_SPACE => State::Failed,
        TOO_LITTLE_SPACE..LITTLE_SPACE => State::Warning,
        _ => return ok("disk", found),
    };
    let remedy = "make room, or move the file to a larger disk (database.url)";
    bad("disk", state, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_named_with_the_side() {
        for ahead in [0.0, 5.0, -5.0] {
            assert!(difference(ahead).is_none(), "{ahead}");
        }
        for (ahead, found) in [(5.1, "5 s ahead of"), (-61.8, "62 s behind")] {
            let line = difference(ahead).unwrap();
            assert_eq!(line.state, State::Warning);
            assert!(line.found.contains(found), "{}", line.found);
        }
    }

    #[test]
    fn a_disk_without_room_for_a_write_is_a_failure() {
        const MIB: u64 = 1024 * 1024;
        for (bytes, state, found) in [
            (0, State::Failed, "0 MiB free"),
            (8 * MIB - 1, State::Failed, "7 MiB free"),
            (8 * MIB, State::Warning, "8 MiB free"),
            (512 * MIB - 1, State::Warning, "511 MiB free"),
            (512 * MIB, State::Ok, "512 MiB free"),
            (u64::MAX, State::Ok, "MiB free"),
        ] {
            let line = free(bytes);
            assert_eq!(line.state, state, "{bytes}");
            assert!(line.found.contains(found), "{}", line.found);
            assert_eq!(line.remedy.is_none(), state == State::Ok, "{bytes}");
        }
    }
}
