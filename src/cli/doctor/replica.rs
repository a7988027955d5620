//! Whether the replica of `database.read_url` is one of this database, and near enough to be read.

use super::{Line, State, TIMEOUT, bad, late, may_quote, ok, with_one_session};
use crate::app;
use crate::config::Settings;
use crate::domain::WorkerId;
use crate::http::reads::{MAX_HEARTBEAT_INTERVAL, MAX_LAG};
use crate::ports::replica::Replayed;
use crate::ports::workers::WorkerRecord;
use crate::view::words::span_of_seconds;
use chrono::TimeDelta;

const PART: &str = "replica";

const REMEDY: &str = "look at the server of database.read_url, and at pg_stat_replication of its primary; meanwhile \
     database.url is read";

/// A line where there is one. `serve` works without it. `workers`: those of `database.url`.
pub(super) async fn check(settings: &Settings, workers: &[WorkerRecord]) -> Option<Line> {
    let replica = match app::open_replica(&with_one_session(settings)) {
        Ok(replica) => replica?,
        Err(error) => {
            let found = format!("{error:#}");
            return Some(bad(PART, State::Failed, found, "correct database.read_url"));
        }
    };
    // Without a worker, the server can still tell whether it lets this role read, and whether it is a replica.
    let expected = expected(workers);
    let worker = expected.map(|(worker, _)| worker.worker_id.clone());
    let worker = WorkerId(worker.unwrap_or_default());
    let line = match tokio::time::timeout(TIMEOUT, replica.replayed(&worker)).await {
        Ok(Ok(replayed)) => line(replayed, expected),
        Ok(Err(failure)) => {
            let line = bad(PART, State::Warning, failure.to_string(), REMEDY);
            if may_quote(&failure) {
                line.quoting()
            } else {
                line
            }
        }
        Err(_) => late(PART, State::Warning, REMEDY),
    };
    replica.close().await;
    Some(line)
}

/// Returns the worker by which the replica is recognized, and whether one that is near enough has a heartbeat of it. That
/// of the latest heartbeat may have begun a moment ago: then another one that is alive is taken, if there is one.
fn expected(workers: &[WorkerRecord]) -> Option<(&WorkerRecord, bool)> {
    let latest = workers
        .iter()
        .map(|worker| worker.last_heartbeat_at)
        .max()?;
    let candidates = workers.iter().map(|worker| {
        let has_begun_before = worker.started_at + MAX_LAG <= latest;
        let is_alive = worker.last_heartbeat_at + MAX_HEARTBEAT_INTERVAL >= latest;
        (worker, has_begun_before && is_alive)
    });
    candidates.max_by_key(|(worker, is_known)| (*is_known, worker.last_heartbeat_at))
}

fn line(replayed: Replayed, expected: Option<(&WorkerRecord, bool)>) -> Line {
    let warning = |found: String, remedy: &str| bad(PART, State::Warning, found, remedy);
    if !replayed.is_replica {
        let found = "it accepts writes: it was promoted, or never was a replica";
        return warning(found.to_owned(), REMEDY);
    }
    let Some((worker, is_known)) = expected else {
        let found = "no heartbeat of a worker is known, by which a replica is recognized";
        return warning(found.to_owned(), "start `verifyd serve`");
    };
    let Some(last_heartbeat_at) = replayed.last_heartbeat_at else {
        if !is_known {
            let found =
                "it has no heartbeat of the latest worker yet, which may have begun just now";
            let remedy = format!(
                "run `verifyd doctor` again when `verifyd serve` has been running for {} s",
                MAX_LAG.as_secs()
            );
            return warning(found.to_owned(), &remedy);
        }
        let found = "it has no heartbeat of a worker: it is of another database, or far behind";
        return warning(found.to_owned(), REMEDY);
    };
    let lag = (worker.last_heartbeat_at - last_heartbeat_at).max(TimeDelta::zero());
    let lag = lag.to_std().unwrap_or_default();
    let found = format!("{} behind", span_of_seconds(lag.as_secs()));
    if lag <= MAX_LAG {
        return ok(PART, found);
    }
    let at_most = span_of_seconds(MAX_LAG.as_secs());
    warning(format!("{found}, and read with {at_most} at most"), REMEDY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
    }

    fn worker(id: &str, started_at: i64, last_heartbeat_at: i64) -> WorkerRecord {
        WorkerRecord {
            worker_id: id.to_owned(),
            version: String::new(),
            concurrency: 1,
            in_flight: 0,
            started_at: at(started_at),
            last_heartbeat_at: at(last_heartbeat_at),
        }
    }

    #[test]
    fn a_replica_is_recognized_by_a_worker_that_it_must_know() {
        let new = worker("new", 90, 100);
        let old = worker("old", 0, 95);
        let dead = worker("dead", 0, 80);
        for (workers, expected_one) in [
            (vec![], None),
            (vec![&new, &dead], Some(("new", false))),
            (vec![&new, &old, &dead], Some(("old", true))),
            (vec![&dead], Some(("dead", true))),
        ] {
            let workers: Vec<WorkerRecord> = workers.into_iter().cloned().collect();
            let found = expected(&workers);
            let found = found.map(|(worker, is_known)| (&*worker.worker_id, is_known));
            assert_eq!(found, expected_one);
        }
        let replayed = Replayed {
            is_replica: true,
            last_heartbeat_at: None,
        };
        let line = line(replayed, Some((&new, false)));
        assert!(
            line.found.contains("no heartbeat of the latest worker yet"),
            "{}",
            line.found
        );
    }

    #[test]
    fn a_replica_that_is_not_read_is_a_warning() {
        let latest = worker("w1", 0, 100);
        for (is_replica, last_heartbeat_at, state, found) in [
            (true, Some(at(100)), State::Ok, "0 s behind"),
            (true, Some(at(101)), State::Ok, "0 s behind"),
            (true, Some(at(70)), State::Ok, "30 s behind"),
            (
                true,
                Some(at(69)),
                State::Warning,
                "31 s behind, and read with",
            ),
            (
                true,
                None,
                State::Warning,
                "no heartbeat of a worker: it is of another database",
            ),
            (false, Some(at(100)), State::Warning, "accepts writes"),
        ] {
            let replayed = Replayed {
                is_replica,
                last_heartbeat_at,
            };
            let line = line(replayed, Some((&latest, true)));
            assert_eq!(line.state, state, "{}", line.found);
            assert!(line.found.contains(found), "{found}: {}", line.found);
            assert_eq!(line.remedy.is_none(), state == State::Ok);
        }
        let replayed = Replayed {
            is_replica: true,
            last_heartbeat_at: None,
        };
        assert_eq!(line(replayed, None).state, State::Warning);
    }
}
