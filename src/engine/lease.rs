//! The lease of this process on its runs: alive as long as its heartbeat gets through.

use super::motion::Motion;
use super::settings::WorkerSettings;
use crate::domain::WorkerId;
use crate::ports::store::{Beat, WorkerStore};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Knows when the last heartbeat was confirmed.
#[derive(Debug)]
pub struct Lease {
    /// When the last confirmed beat was *sent*: it may have arrived no earlier.
    last_beat: Mutex<Option<Instant>>,
    fence_after: Duration,
    /// Of the loop that beats.
    pub motion: Motion,
}

impl Lease {
    /// A lease that is dead until the first beat.
    pub fn new(fence_after: Duration) -> Self {
        Self {
            last_beat: Mutex::new(None),
            fence_after,
            motion: Motion::default(),
        }
    }

    fn ends(&self) -> Option<Instant> {
        self.last_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map(|at| at + self.fence_after)
    }

    /// Whether this process may claim and complete.
    pub fn is_alive(&self) -> bool {
        self.ends().is_some_and(|ends| Instant::now() < ends)
    }

    /// A beat that was sent at `sent` has been confirmed.
    pub fn renewed(&self, sent: Instant) {
        *self
            .last_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(sent);
    }

    /// Returns when the lease has ended.
    pub async fn lost(&self) {
        while let Some(ends) = self.ends() {
            if Instant::now() >= ends {
                return;
            }
            tokio::time::sleep_until(ends).await;
        }
    }
}

/// Beats once. The lease is renewed from the moment before the call.
pub async fn beat_once(
    store: &dyn WorkerStore,
    lease: &Lease,
    beat: &Beat,
) -> Result<(), crate::ports::store::StoreError> {
    let sent = Instant::now();
    store.beat(beat).await?;
    lease.renewed(sent);
    Ok(())
}

/// Beats until `stop`. Errors are logged and counted; the lease then runs out by itself.
pub async fn keep_beating(
    store: &dyn WorkerStore,
    lease: &Lease,
    worker: &WorkerId,
    settings: &WorkerSettings,
    in_flight: &AtomicU32,
    stop: CancellationToken,
) {
    let mut failing = false;
    loop {
        lease.motion.moved();
        let beat = Beat {
            worker_id: worker.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            concurrency: u32::try_from(settings.concurrency).unwrap_or(u32::MAX),
            in_flight: in_flight.load(Ordering::Relaxed),
        };
        let result =
            tokio::time::timeout(settings.beat_interval, beat_once(store, lease, &beat)).await;
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        match failure {
            None if failing => {
                failing = false;
                tracing::info!("the heartbeat gets through again");
            }
            None => {}
            Some(error) => {
                metrics::counter!("verifyd_heartbeat_failures_total").increment(1);
                if !failing {
                    failing = true;
                    tracing::warn!(%error, "the heartbeat does not get through");
                }
            }
        }
        // While it fails, try more often than the others' patience allows.
        let pause = if failing {
            settings.beat_interval / 5
        } else {
            settings.beat_interval
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_lives_from_beat_to_beat() {
        let lease = Lease::new(Duration::from_secs(10));
        assert!(!lease.is_alive());
        lease.lost().await;

        lease.renewed(Instant::now());
        assert!(lease.is_alive());
        let began = Instant::now();
        tokio::join!(lease.lost(), async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            lease.renewed(Instant::now());
        });
        assert_eq!(began.elapsed().as_secs(), 16);
        assert!(!lease.is_alive());
    }
}
