//! Publishes completion events after the commit, at most once.
//!
//! It does so in batches, apart from the completing transaction: a transaction that notifies through
//! PostgreSQL holds a lock of the whole server while it commits. An event that cannot be published now is
//! dropped.

use crate::domain::completion_event::CompletionEvent;
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

/// Most events in one statement or pipeline.
const MAX_BATCH_SIZE: usize = 256;
/// Under load, time for a batch to fill.
const GATHER: Duration = Duration::from_millis(50);
/// Longest time for publishing one batch to one server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes completion events through the database and the queue.
#[derive(Debug)]
pub struct Announcer {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    completions: Receiver<CompletionEvent>,
}

/// Whether a channel failed last time, so that an outage is one line in the log.
#[derive(Debug, Default)]
struct Channel {
    failing: bool,
}

impl Announcer {
    /// Creates an announcer of what is completed from now on.
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn Queue>) -> Self {
        let completions = store.completions();
        Self {
            store,
            queue,
            completions,
        }
    }

    /// Publishes until `stop`, then what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut database = Channel::default();
        let mut queue = Channel::default();
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
                tokio::time::sleep(GATHER).await;
                self.gather(&mut batch);
            }
            tokio::join!(
                database.publish("postgres", batch.len(), self.store.announce(&batch)),
                queue.publish("redis", batch.len(), self.queue.announce(&batch)),
            );
        }
    }

    /// Adds what is there already.
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

impl Channel {
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
            Err(_) => "no answer in time".to_owned(),
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
    metrics::counter!("verifyd_notices_lost_total", "channel" => channel).increment(events);
}
