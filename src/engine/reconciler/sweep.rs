//! One sweep: reclaims runs from lost workers, and delivers those that are due.

use super::{DELIVER_BELOW, Next, Reconciler};
use crate::domain::RunId;
use crate::ports::log_throttle::log_limited;
use crate::ports::queue::QueueError;
use crate::ports::store::{StoreError, SweepPolicy};
use std::sync::atomic::Ordering;

/// Largest number of queued runs that a sweep reads ahead of its cursor, and behind it. Each part takes a few
/// milliseconds.
pub const SWEEP_WINDOW: u32 = 2_048;

/// Most runs that one sweep reclaims, and most that it delivers: one statement each, of a few milliseconds.
const BATCH: u32 = 500;

/// A queued run is delivered again only while fewer hints than this wait: in a longer queue its hint is most
/// likely not lost but waiting.
const REDELIVER_BELOW: u64 = 100;

// Otherwise hints that were lost would never be sent again.
const _: () = assert!(REDELIVER_BELOW <= DELIVER_BELOW);
const _: () = assert!(BATCH <= SWEEP_WINDOW);

impl Reconciler {
    /// Sweeps once. A sweep that is dropped halfway leaves nothing but marks of delivery, which expire.
    pub(super) async fn sweep(&mut self) -> Result<Next, StoreError> {
        let depth = self.usable_depth().await;
        self.note_untaken_hints(depth);
        let full = depth.is_some_and(|depth| depth >= DELIVER_BELOW);
        let batch = match depth {
            Some(_) if !full => BATCH,
            _ => self.polling.capacity(full).min(BATCH),
        };
        let policy = SweepPolicy {
            worker_dead_after: self.worker.settings.dead_after,
            redeliver_after: self.settings.redeliver_after,
            redeliver: depth.is_none_or(|d| d < REDELIVER_BELOW),
            batch,
            window: SWEEP_WINDOW,
            from: self.cursor,
        };
        let Some(swept) = self.store.sweep(&policy).await? else {
            return Ok(match self.worker.settings.groups.is_empty() {
                true => Next::Pause,
                false => Next::AwaitLock,
            });
        };
        self.state.forget_failures();
        self.cursor = swept.next;
        if !swept.reclaimed.is_empty() {
            metrics::counter!("verifyd_runs_reclaimed_total")
                .increment(swept.reclaimed.len() as u64);
            log_limited!(warn, runs = ?ids(&swept.reclaimed), "reclaimed from lost workers");
        }
        if swept.due.is_empty() {
            return Ok(match swept.more {
                true => Next::Sweep,
                false => Next::Pause,
            });
        }
        metrics::counter!("verifyd_runs_redelivered_total").increment(swept.due.len() as u64);
        let is_all = (swept.due.len() as u64) < u64::from(batch) && !swept.more;
        if full {
            tracing::debug!(depth, "the queue is long; sending no hints");
        } else if depth.is_some() {
            match self.queue.send_runs(&swept.due).await {
                Ok(()) if is_all => return Ok(Next::Pause),
                Ok(()) => return Ok(Next::Sweep),
                Err(error) => self.begin_polling_for(&error),
            }
        } else {
            // Where the queue did not answer, polling has begun already.
            self.begin_polling("its consumer has stalled", None);
        }
        self.polling.take(swept.due).await?;
        Ok(match full && !is_all {
            true => Next::AwaitShorterQueue,
            false => Next::Pause,
        })
    }

    /// Returns the queue's depth, or `None` when the queue is unavailable or its consumer has stalled. Begins
    /// and ends polling.
    async fn usable_depth(&self) -> Option<u64> {
        let polling = self.state.polling.load(Ordering::Relaxed);
        let stalled = self.consumer.is_stalled();
        // A full server still reports its length, and takes no hint.
        let takes_hints = match polling || stalled {
            true => self.queue.try_sending().await,
            false => Ok(()),
        };
        let answered = match takes_hints {
            Ok(()) => self.queue.depth().await,
            Err(error) => Err(error),
        };
        self.consumer.record(stalled && answered.is_ok());
        if let Err(error) = &answered {
            // Also while nothing is due: readiness depends on it.
            self.begin_polling_for(error);
        }
        let depth = answered.ok().filter(|_| !stalled);
        if polling && depth.is_some() {
            self.end_polling();
        }
        depth
    }

    /// Records whether hints wait that this process does not take. Dead letters never reach a handler.
    fn note_untaken_hints(&mut self, depth: Option<u64>) {
        let dead_letters = self.queue.health().dead_letters;
        let taken = dead_letters != self.dead_letters;
        self.dead_letters = dead_letters;
        let wait = depth.is_some_and(|depth| depth > 0);
        // Runs may keep all slots for long, where their completions wait.
        let may_take = self.worker.lease.is_alive() && self.worker.slots.free() > 0;
        let untaken = wait && !taken && may_take;
        self.state.hints_untaken.set(untaken);
    }

    /// Begins to poll for an error of the queue, which holds the server's own answer.
    fn begin_polling_for(&self, error: &QueueError) {
        let remedy = self.queue.remedy(error);
        self.begin_polling(&error.to_string(), remedy.as_deref());
    }

    fn begin_polling(&self, why: &str, remedy: Option<&str>) {
        if !self.state.polling.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                why,
                remedy,
                "the queue is unavailable; taking runs from the database"
            );
        }
    }

    fn end_polling(&self) {
        self.state.polling.store(false, Ordering::Relaxed);
        tracing::info!("the queue is available again");
    }
}

/// Returns the first ids, for the log.
pub(super) fn ids(runs: &[RunId]) -> Vec<i64> {
    runs.iter().take(20).map(|r| r.0).collect()
}
