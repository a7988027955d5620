//! Publishes completion events after the commit, at most once.
//!
//! It does so in batches, outside the completing transaction, because a transaction that notifies through
//! PostgreSQL holds a server-wide lock while it commits. An event that cannot be published is dropped.

use crate::domain::completion_event::CompletionEvent;
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

/// Largest number of events in one statement or pipeline.
const MAX_BATCH_SIZE: usize = 256;
/// Time for a batch to fill under load.
const BATCH_DELAY: Duration = Duration::from_millis(50);
/// Longest time for publishing one batch to one server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes completion events through the database and the queue.
#[derive(Debug)]
pub struct CompletionEventPublisher {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    completions: Receiver<CompletionEvent>,
}

/// Whether a server failed last time, so that an outage is one line in the log.
#[derive(Debug, Default)]
struct Publishing {
    failing: bool,
}

impl CompletionEventPublisher {
    /// Creates a publisher of the runs that this process completes from now on.
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn Queue>) -> Self {
        let completions = store.completions();
        Self {
            store,
            queue,
            completions,
        }
    }

    /// Publishes until `stop`, then the events that are left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut database = Publishing::default();
        let mut queue = Publishing::default();
        loop {
            let first = tokio::select! {
                biased;
                received = self.completions.recv() => match received {
                    Ok(event) => event,
                    Err(RecvError::Lagged(lost)) => {
                        count_dropped("all", lost);
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                },
                () = stop.cancelled() => return,
            };
            let mut batch = vec![first];
            self.gather(&mut batch);
            if batch.len() > 1 && batch.len() < MAX_BATCH_SIZE {
                tokio::time::sleep(BATCH_DELAY).await;
                self.gather(&mut batch);
            }
            tokio::join!(
                database.publish(
                    "postgres",
                    batch.len(),
                    self.store.publish_completions(&batch)
                ),
                queue.publish("redis", batch.len(), self.queue.publish_completions(&batch)),
            );
        }
    }

    /// Adds the events that are available now.
    fn gather(&mut self, batch: &mut Vec<CompletionEvent>) {
        while batch.len() < MAX_BATCH_SIZE {
            match self.completions.try_recv() {
                Ok(event) => batch.push(event),
                Err(TryRecvError::Lagged(lost)) => count_dropped("all", lost),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

impl Publishing {
    async fn publish<E: Display>(
        &mut self,
        channel: &'static str,
        events: usize,
        publishing: impl Future<Output = Result<(), E>>,
    ) {
        let why = match tokio::time::timeout(TIMEOUT, publishing).await {
            Ok(Ok(())) => {
                self.failing = false;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timed out".to_owned(),
        };
        count_dropped(channel, events as u64);
        if !self.failing {
            tracing::warn!(
                channel,
                why,
                "cannot publish completion events; dropping them"
            );
        }
        self.failing = true;
    }
}

fn count_dropped(channel: &'static str, events: u64) {
    metrics::counter!("verifyd_completion_events_dropped_total", "channel" => channel)
        .increment(events);
}
