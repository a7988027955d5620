//! Says of each group of workspaces what waits, and whether anybody works on it.

use super::{Line, State, bad, error, of_counts};
use crate::domain::groups::WorkspaceGroups;
use crate::engine::settings::WorkerSettings;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::runs::RunCounts;
use crate::ports::store::Store;
use crate::ports::workers::{WorkerRecord, alive_in_group};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;
use std::time::Duration;

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
    lines.extend(unknown(&settings.groups, workers, now, settings.dead_after));
}

fn line(name: &str, counts: &RunCounts, alive: usize) -> Line {
    let unserved =
        (alive == 0).then(|| format!("start `verifyd serve` with worker.group = \"{name}\""));
    let slow = "add workers of the group; give all processes the same worker.groups";
    let line = of_counts(PART, counts, alive, unserved, slow);
    Line {
        found: format!("{name}: {}", line.found),
        ..line
    }
}

/// Workers of groups that this configuration does not have: theirs is another one.
fn unknown(
    configured: &WorkspaceGroups,
    workers: &[WorkerRecord],
    now: DateTime<Utc>,
    dead_after: Duration,
) -> Option<Line> {
    let alive = workers
        .iter()
        .filter(|worker| worker.is_alive(now, dead_after));
    let groups: BTreeSet<&str> = alive
        .map(WorkerRecord::group)
        .filter(|name| configured.names().all(|known| known != *name))
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
    use crate::domain::groups::{DEFAULT_GROUP, WorkspaceGroup};
    use crate::domain::{WorkerId, WorkspaceId};

    fn counts(oldest_queued_seconds: f64) -> RunCounts {
        RunCounts {
            queued: 3,
            running: 0,
            not_due: 1,
            oldest_queued_seconds: Some(oldest_queued_seconds),
        }
    }

    #[test]
    fn a_group_without_a_worker_is_a_warning() {
        let served = line("eu", &counts(50.4), 1);
        assert_eq!(served.state, State::Ok);
        assert_eq!(
            served.found,
            "eu: 3 queued (1 not due yet), 0 running, 1 worker alive"
        );
        let unserved = line("eu", &counts(50.4), 0);
        assert_eq!(unserved.state, State::Warning);
        assert_eq!(
            unserved.found,
            "eu: 3 queued (1 not due yet), 0 running, 0 workers alive; the oldest has been due for 50 s"
        );
    }

    #[test]
    fn a_group_whose_runs_wait_for_long_is_a_warning() {
        let slow = line("eu", &counts(90.4), 1);
        assert_eq!(slow.state, State::Warning);
        assert_eq!(
            slow.found,
            "eu: 3 queued (1 not due yet), 0 running, 1 worker alive; the oldest has been due for 90 s"
        );
    }

    #[test]
    fn workers_alive_of_a_group_that_is_not_configured_are_a_warning() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let dead_after = Duration::from_secs(15);
        let worker = |group: &str, age: Duration| WorkerRecord {
            worker_id: WorkerId::fresh("host").in_group(group).0,
            version: String::new(),
            concurrency: 1,
            in_flight: 0,
            started_at: now,
            last_heartbeat_at: now - age,
        };
        let groups = WorkspaceGroups::new(vec![WorkspaceGroup {
            name: "eu".to_owned(),
            workspaces: vec![WorkspaceId(2)],
        }]);
        let mut workers = vec![
            worker(DEFAULT_GROUP, Duration::ZERO),
            worker("eu", Duration::ZERO),
            worker("former", 2 * dead_after),
        ];
        assert!(unknown(&groups, &workers, now, dead_after).is_none());
        workers.push(worker("us", Duration::ZERO));
        let line = unknown(&groups, &workers, now, dead_after).unwrap();
        assert_eq!(line.state, State::Warning);
        assert_eq!(line.found, "workers alive of unknown groups: us");
    }
}
