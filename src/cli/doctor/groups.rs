//! Says of each group of workspaces what waits, and whether anybody works on it.

use super::{Line, State, bad, error, ok};
use crate::engine::settings::WorkerSettings;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::runs::RunCounts;
use crate::ports::store::Store;
use crate::ports::workers::{WorkerRecord, alive_in_group};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

const PART: &str = "group";

/// Adds nothing where there are no groups and no worker has one.
pub(super) async fn check(
    store: &dyn Store,
    settings: &WorkerSettings,
    workers: &[WorkerRecord],
    lines: &mut Vec<Line>,
) {
    let now = SystemClock.now();
    for name in settings.groups.names() {
        let Some(members) = settings.groups.members(name) else {
            break;
        };
        match store.counts_of_group(&members).await {
            Ok(counts) => {
                let alive = alive_in_group(workers, name, now, settings.dead_after);
                lines.push(line(name, &counts, alive));
            }
            Err(failure) => return lines.push(error(PART, &failure)),
        }
    }
    lines.extend(unknown(settings, workers, now));
}

fn line(name: &str, counts: &RunCounts, alive: usize) -> Line {
    let plural = if alive == 1 { "" } else { "s" };
    let found = format!(
        "{name}: {} queued, {} running, {alive} worker{plural} alive",
        counts.queued, counts.running
    );
    if alive > 0 {
        return ok(PART, found);
    }
    let waiting = counts.oldest_queued_seconds;
    let waiting = waiting.map(|s| format!("; the oldest has waited for {s:.0} s"));
    bad(
        PART,
        State::Warning,
        found + &waiting.unwrap_or_default(),
        format!("start `verifyd serve` with worker.group = \"{name}\""),
    )
}

/// Workers of groups that this configuration does not have: theirs is another one.
fn unknown(
    settings: &WorkerSettings,
    workers: &[WorkerRecord],
    now: DateTime<Utc>,
) -> Option<Line> {
    let beating = workers
        .iter()
        .filter(|worker| worker.is_beating(now, settings.dead_after));
    let groups: BTreeSet<&str> = beating
        .map(WorkerRecord::group)
        .filter(|name| settings.groups.names().all(|known| known != *name))
        .collect();
    let names: Vec<&str> = groups.into_iter().collect();
    (!names.is_empty()).then(|| {
        bad(
            PART,
            State::Warning,
            format!("workers alive of unknown groups: {}", names.join(", ")),
            "give all processes, and this command, the same worker.groups",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_a_worker_is_a_warning() {
        let counts = RunCounts {
            queued: 2,
            running: 0,
            oldest_queued_seconds: Some(90.4),
        };
        let served = line("eu", &counts, 1);
        assert_eq!(served.state, State::Ok);
        assert_eq!(served.found, "eu: 2 queued, 0 running, 1 worker alive");
        let unserved = line("eu", &counts, 0);
        assert_eq!(unserved.state, State::Warning);
        assert_eq!(
            unserved.found,
            "eu: 2 queued, 0 running, 0 workers alive; the oldest has waited for 90 s"
        );
    }
}
