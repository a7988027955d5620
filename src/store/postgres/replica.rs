//! How far a streaming replica is behind.

use super::PostgresStore;
use crate::ports::replica::ReplicaStore;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::time::Duration;

/// Whether the server is a replica, the age of the latest commit that it has replayed, and whether it has replayed all
/// that it has received. That alone would not tell that nothing arrives any more.
const REPLAYED: &str = "
    SELECT pg_is_in_recovery(),
        extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8,
        coalesce(pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn(), false)";

#[async_trait]
impl ReplicaStore for PostgresStore {
    async fn lag(&self, quiet: Duration) -> Result<Option<Duration>, StoreError> {
        let replayed: (bool, Option<f64>, bool) = self
            .transaction(async |tx| Ok::<_, StoreError>(self.rows(REPLAYED).fetch_one(tx).await?))
            .await?;
        Ok(lag_of(replayed, quiet))
    }
}

/// See [`REPLAYED`]. Clocks that differ make no negative age. A server that is no replica may be a former primary, or
/// none of this database: it tells nothing.
fn lag_of(
    (is_replica, age, has_all): (bool, Option<f64>, bool),
    quiet: Duration,
) -> Option<Duration> {
    if !is_replica {
        return None;
    }
    let age = Duration::try_from_secs_f64(age?.max(0.0)).ok()?;
    Some(match has_all && age <= quiet {
        true => Duration::ZERO,
        false => age,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_lags_by_what_it_has_not_replayed_or_no_longer_receives() {
        let quiet = Duration::from_secs(10);
        for (replayed, seconds) in [
            ((false, None, false), None),
            ((false, Some(1.0), true), None),
            ((true, None, true), None),
            ((true, Some(-3.0), false), Some(0)),
            ((true, Some(4.0), true), Some(0)),
            ((true, Some(4.0), false), Some(4)),
            ((true, Some(60.0), true), Some(60)),
            ((true, Some(f64::NAN), false), Some(0)),
            ((true, Some(f64::INFINITY), false), None),
        ] {
            let lag = lag_of(replayed, quiet);
            assert_eq!(lag, seconds.map(Duration::from_secs), "{replayed:?}");
        }
    }
}
