//! Whether the replica of `database.read_url` is near enough to be read.

use super::{Line, State, TIMEOUT, bad, late, may_quote, ok, with_one_session};
use crate::app;
use crate::config::Settings;
use crate::http::reads::{MAX_LAG, quiet};
use crate::view::words::span_of_seconds;
use std::time::Duration;

const PART: &str = "replica";

const REMEDY: &str = "look at the server of database.read_url, and at pg_stat_replication of its primary; meanwhile \
     database.url is read";

/// A line where there is one. `serve` works without it.
pub(super) async fn check(settings: &Settings) -> Option<Line> {
    let replica = match app::open_replica(&with_one_session(settings)) {
        Ok(replica) => replica?,
        Err(error) => {
            let found = format!("{error:#}");
            return Some(bad(PART, State::Failed, found, "correct database.read_url"));
        }
    };
    let quiet = quiet(settings.worker.heartbeat_interval);
    let line = match tokio::time::timeout(TIMEOUT, replica.lag(quiet)).await {
        Ok(Ok(lag)) => line(lag),
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

fn line(lag: Option<Duration>) -> Line {
    let Some(lag) = lag else {
        let found = "it is no replica, or has replayed no commit since it started";
        return bad(PART, State::Warning, found, REMEDY);
    };
    let found = format!("{} behind", span_of_seconds(lag.as_secs()));
    if lag <= MAX_LAG {
        return ok(PART, found);
    }
    let found = format!(
        "{found}, and read with {} at most",
        span_of_seconds(MAX_LAG.as_secs())
    );
    bad(PART, State::Warning, found, REMEDY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_is_not_read_is_a_warning() {
        for (seconds, state) in [
            (Some(0), State::Ok),
            (Some(30), State::Ok),
            (Some(31), State::Warning),
            (None, State::Warning),
        ] {
            let line = line(seconds.map(Duration::from_secs));
            assert_eq!(line.state, state, "{}", line.found);
            assert_eq!(line.remedy.is_none(), state == State::Ok);
        }
    }
}
