//! The lease of this process on its runs: alive as long as its heartbeat is confirmed.

use super::liveness::LoopActivity;
use super::worker::WorkerState;
use crate::ports::store::{Heartbeat, StoreError, WorkerStore};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The time up to which this process may claim and complete runs.
#[derive(Debug)]
pub struct Lease {
    /// When the last confirmed heartbeat was *sent*: it may have arrived no earlier.
    last_heartbeat: Mutex<Option<Instant>>,
    fence_after: Duration,
    /// The activity of the loop that sends heartbeats.
    pub activity: LoopActivity,
}

impl Lease {
    /// Creates a lease that is dead until the first heartbeat.
    pub fn new(fence_after: Duration) -> Self {
        Self {
            last_heartbeat: Mutex::new(None),
            fence_after,
            activity: LoopActivity::default(),
        }
    }

    fn ends(&self) -> Option<Instant> {
        self.last_heartbeat.lock().map(|at| at + self.fence_after)
    }

    /// Returns whether this process may claim and complete.
    pub fn is_alive(&self) -> bool {
        self.ends().is_some_and(|ends| Instant::now() < ends)
    }

    /// Returns the time that is left; `None` before the first heartbeat.
    pub fn left(&self) -> Option<Duration> {
        let ends = self.ends()?;
        Some(ends.saturating_duration_since(Instant::now()))
    }

    /// Renews the lease: a heartbeat that was sent at `sent` has been confirmed.
    pub fn renew(&self, sent: Instant) {
        *self.last_heartbeat.lock() = Some(sent);
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

/// Sends one heartbeat. It renews the lease from the time before the call.
pub async fn send_heartbeat(
    store: &dyn WorkerStore,
    worker: &WorkerState,
) -> Result<(), StoreError> {
    let sent = Instant::now();
    let written_at = store
        .heartbeat(&Heartbeat {
            worker_id: worker.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            concurrency: u32::try_from(worker.settings.concurrency).unwrap_or(u32::MAX),
            in_flight: worker.in_flight.claimed(),
        })
        .await?;
    worker.lease.renew(sent);
    worker.heartbeats.add(sent, written_at);
    Ok(())
}

/// Sends heartbeats until `stop`. Errors are logged and counted; the lease then expires.
pub async fn send_heartbeats(
    store: &dyn WorkerStore,
    worker: &WorkerState,
    stop: CancellationToken,
) {
    let interval = worker.settings.heartbeat_interval;
    let mut failing = false;
    loop {
        worker.lease.activity.touch();
        match super::with_timeout(interval, send_heartbeat(store, worker)).await {
            Ok(()) => {
                if failing {
                    tracing::info!("heartbeat succeeded again");
                }
                failing = false;
            }
            Err(error) => {
                metrics::counter!("verifyd_heartbeat_failures_total").increment(1);
                if !failing {
                    tracing::warn!(%error, "heartbeat failed; retrying more often");
                }
                failing = true;
            }
        }
        // While it fails it is tried more often, so that it succeeds before other workers reclaim the runs.
        let pause = if failing { interval / 5 } else { interval };
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
    async fn a_lease_lives_from_heartbeat_to_heartbeat() {
        let lease = Lease::new(Duration::from_secs(10));
        assert!(!lease.is_alive());
        lease.lost().await;

        lease.renew(Instant::now());
        assert!(lease.is_alive());
        let began = Instant::now();
        tokio::join!(lease.lost(), async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            lease.renew(Instant::now());
        });
        assert_eq!(began.elapsed().as_secs(), 16);
        assert!(!lease.is_alive());
    }
}
