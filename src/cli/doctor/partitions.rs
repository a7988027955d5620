//! Warns before the partitions of `operation_runs` end.

use super::{Line, State, bad, error, ok};
use crate::ports::partitions::PartitionsEnd;
use crate::ports::store::Store;
use crate::view::words::span;

const PART: &str = "partitions";

/// What is left is worth a warning. Whoever adds partitions of a day does so some days before.
const LITTLE_SECONDS: f64 = 3.0 * 24.0 * 3_600.0;

/// A line where the table is partitioned by `created_at`, and its partitions end.
pub(super) async fn check(store: &dyn Store) -> Option<Line> {
    match store.partitions_end().await {
        Ok(end) => end.map(line),
        Err(failure) => Some(error(PART, &failure)),
    }
}

fn line(end: PartitionsEnd) -> Line {
    let PartitionsEnd {
        seconds,
        has_default,
    } = end;
    let then = match has_default {
        true => "later rows go to the default one",
        false => "later rows are refused, as there is no default one",
    };
    let length = span((seconds.abs() * 1_000.0) as i64);
    let found = match seconds > 0.0 {
        true => format!("those of operation_runs end in {length}; {then}"),
        false => format!("those of operation_runs ended {length} ago; {then}"),
    };
    if seconds > LITTLE_SECONDS {
        return ok(PART, found);
    }
    let state = match has_default || seconds > 0.0 {
        true => State::Warning,
        false => State::Failed,
    };
    let remedy = "add partitions: with `verifyd migrate` where `verifyd migrate --partition-by-month` made them, else as \
         your application does";
    bad(PART, state, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_end_soon_are_named_with_what_comes_then() {
        const DAY: f64 = 86_400.0;
        for (days, has_default, state, then) in [
            (40.0, true, State::Ok, "default one"),
            (3.5, false, State::Ok, "refused"),
            (2.0, false, State::Warning, "refused"),
            (-1.0, true, State::Warning, "default one"),
            (-1.0, false, State::Failed, "refused"),
        ] {
            let line = line(PartitionsEnd {
                seconds: days * DAY,
                has_default,
            });
            assert_eq!(line.state, state, "{days}");
            assert!(line.found.contains(then), "{}", line.found);
            assert_eq!(line.remedy.is_none(), state == State::Ok);
        }
    }
}
