//! Heartbeats that the database has confirmed. They date what a replica of it has.

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// For how long a heartbeat is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    /// By the clock of this process.
    sent: Instant,
    /// In its row, by the clock of the primary.
    written_at: DateTime<Utc>,
}

/// What the heartbeat that a replica has tells of the replica's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// For how long the next heartbeat has been missing there; zero where none is missing.
    pub lag: Duration,
    /// Everything that was committed longer ago is there.
    pub at_most: Duration,
}

/// The heartbeats of a worker that were confirmed within the last minute.
#[derive(Debug, Default)]
pub struct ConfirmedHeartbeats(Mutex<VecDeque<Heartbeat>>);

impl ConfirmedHeartbeats {
    /// Adds a heartbeat that was sent at `sent`, and which the database has dated `written_at`.
    pub fn add(&self, sent: Instant, written_at: DateTime<Utc>) {
        let mut all = self.0.lock();
        all.retain(|heartbeat| heartbeat.sent.elapsed() < REMEMBERED);
        all.push_back(Heartbeat { sent, written_at });
    }

    /// Returns the age of the oldest one that is remembered; `None` before the first one.
    pub fn oldest(&self) -> Option<Duration> {
        Some(self.0.lock().front()?.sent.elapsed())
    }

    /// Returns how old the data of a replica is whose latest heartbeat of this worker was written at
    /// `written_at`. `None`: that is unknown.
    pub fn date(&self, written_at: DateTime<Utc>) -> Option<Dated> {
        let all = self.0.lock();
        if let Some(found) = all
            .iter()
            .rposition(|heartbeat| heartbeat.written_at == written_at)
        {
            let next = all.get(found + 1);
            return Some(Dated {
                lag: next.map_or(Duration::ZERO, |next| next.sent.elapsed()),
                at_most: all.get(found)?.sent.elapsed(),
            });
        }
        // It is forgotten, or its confirmation is still under way: only the clock of the primary tells. A time after the
        // present one is of the clock of another primary.
        let newest = all.back()?;
        let since = TimeDelta::from_std(newest.sent.elapsed()).ok()?;
        let missing = newest.written_at - written_at;
        let at_most = (since + missing).to_std().ok()?;
        Some(Dated {
            lag: match missing > TimeDelta::zero() {
                true => at_most,
                false => Duration::ZERO,
            },
            at_most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The time of the primary.
    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
    }

    fn dated(lag: u64, at_most: u64) -> Option<Dated> {
        Some(Dated {
            lag: seconds(lag),
            at_most: seconds(at_most),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_lags_since_the_first_heartbeat_that_is_missing() {
        let heartbeats = ConfirmedHeartbeats::default();
        assert_eq!((heartbeats.oldest(), heartbeats.date(at(0))), (None, None));
        for second in [0, 5, 10] {
            heartbeats.add(Instant::now(), at(second));
            tokio::time::advance(seconds(5)).await;
        }
        tokio::time::advance(seconds(2)).await;
        assert_eq!(heartbeats.oldest(), Some(seconds(17)));
        assert_eq!(heartbeats.date(at(10)), dated(0, 7));
        assert_eq!(heartbeats.date(at(5)), dated(7, 12));
        assert_eq!(heartbeats.date(at(0)), dated(12, 17));
    }

    /// The worker's own heartbeat is held up, and then confirmed.
    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_is_late_makes_no_replica_late() {
        let heartbeats = ConfirmedHeartbeats::default();
        heartbeats.add(Instant::now(), at(0));
        tokio::time::advance(seconds(50)).await;
        assert_eq!(heartbeats.date(at(0)), dated(0, 50));
        heartbeats.add(Instant::now(), at(50));
        tokio::time::advance(seconds(1)).await;
        assert_eq!(heartbeats.date(at(0)), dated(1, 51));
        assert_eq!(heartbeats.date(at(50)), dated(0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_is_not_remembered_is_dated_by_the_clock_of_the_primary() {
        let heartbeats = ConfirmedHeartbeats::default();
        heartbeats.add(Instant::now(), at(0));
        tokio::time::advance(REMEMBERED).await;
        heartbeats.add(Instant::now(), at(60));
        tokio::time::advance(seconds(3)).await;
        assert_eq!(heartbeats.oldest(), Some(seconds(3)));
        // Forgotten; not confirmed; in the future.
        assert_eq!(heartbeats.date(at(0)), dated(63, 63));
        assert_eq!(heartbeats.date(at(62)), dated(0, 1));
        assert_eq!(heartbeats.date(at(64)), None);
    }
}
