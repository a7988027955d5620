//! Whether the replica of `database.read_url` is one of this database, and near enough to be read.

use super::{Line, State, TIMEOUT, bad, late, may_quote, ok, with_one_session};
use crate::app;
use crate::config::Settings;
use crate::domain::WorkerId;
use crate::http::reads::MAX_LAG;
use crate::ports::replica::Replayed;
use crate::ports::workers::WorkerRecord;
use crate::view::words::span_of_seconds;
use chrono::TimeDelta;

const PART: &str = "replica";

const REMEDY: &str = "look at the server of database.read_url, and at pg_stat_replication of its primary; meanwhile \
     database.url is read";

/// A line where there is one. `serve` works without it. `latest`: the worker of `database.url` with the latest
/// heartbeat, which the replica must have.
pub(super) async fn check(settings: &Settings, latest: Option<WorkerRecord>) -> Option<Line> {
    let replica = match app::open_replica(&with_one_session(settings)) {
        Ok(replica) => replica?,
        Err(error) => {
            let found = format!("{error:#}");
            return Some(bad(PART, State::Failed, found, "correct database.read_url"));
        }
    };
    // Without a worker, the server can still tell whether it lets this role read, and whether it is a replica.
    let worker = latest.as_ref().map(|latest| latest.worker_id.clone());
    let worker = WorkerId(worker.unwrap_or_default());
    let line = match tokio::time::timeout(TIMEOUT, replica.replayed(&worker)).await {
        Ok(Ok(replayed)) => line(replayed, latest.as_ref()),
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

fn line(replayed: Replayed, latest: Option<&WorkerRecord>) -> Line {
    let warning = |found: String, remedy: &str| bad(PART, State::Warning, found, remedy);
    if !replayed.is_replica {
        let found = "it accepts writes: it was promoted, or never was a replica";
        return warning(found.to_owned(), REMEDY);
    }
    let Some(latest) = latest else {
        let found = "no heartbeat of a worker is known, by which a replica is recognized";
        return warning(found.to_owned(), "start `verifyd serve`");
    };
    let Some(beat_at) = replayed.beat_at else {
        let found =
            "it has no heartbeat of the latest worker: it is of another database, or far behind";
        return warning(found.to_owned(), REMEDY);
    };
    let lag = (latest.beat_at - beat_at).max(TimeDelta::zero());
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

    #[test]
    fn a_replica_that_is_not_read_is_a_warning() {
        let at = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap();
        let latest = WorkerRecord {
            worker_id: "w1".to_owned(),
            version: String::new(),
            concurrency: 1,
            in_flight: 0,
            started_at: DateTime::<Utc>::default(),
            beat_at: at(100),
        };
        for (is_replica, beat_at, state, found) in [
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
                "no heartbeat of the latest worker",
            ),
            (false, Some(at(100)), State::Warning, "accepts writes"),
        ] {
            let replayed = Replayed {
                is_replica,
                beat_at,
            };
            let line = line(replayed, Some(&latest));
            assert_eq!(line.state, state, "{}", line.found);
            assert!(line.found.contains(found), "{found}: {}", line.found);
            assert_eq!(line.remedy.is_none(), state == State::Ok);
        }
        let replayed = Replayed {
            is_replica: true,
            beat_at: None,
        };
        assert_eq!(line(replayed, None).state, State::Warning);
    }
}
