//! Tells others of completed runs, after the commit: at most once, a hint.
//!
//! Apart from the completing transaction, in batches: whoever notifies through PostgreSQL holds a
//! lock of the whole server while it commits. What cannot be told now is not told later.

use crate::domain::completion_event::CompletionEvent;
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

/// Most notices in one statement or pipeline.
const BATCH: usize = 256;
/// Under load, time for a batch to fill.
const GATHER: Duration = Duration::from_millis(50);
/// Longest time for telling one batch to one server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Passes notices on to the database and the queue.
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
    /// Hears of what is completed from now on.
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn Queue>) -> Self {
        let completions = store.completions();
        Self {
            store,
            queue,
            completions,
        }
    }

    /// Announces until `stop`, then what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut database = Channel::default();
        let mut queue = Channel::default();
        loop {
            let first = tokio::select! {
                biased;
                received = self.completions.recv() => match received {
                    Ok(notice) => notice,
                    Err(RecvError::Lagged(lost)) => {
                        note_lost("all", lost);
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                },
                () = stop.cancelled() => return,
            };
            let mut batch = vec![first];
            self.gather(&mut batch);
            if batch.len() > 1 && batch.len() < BATCH {
                tokio::time::sleep(GATHER).await;
                self.gather(&mut batch);
            }
            tokio::join!(
                database.tell("postgres", batch.len(), self.store.announce(&batch)),
                queue.tell("redis", batch.len(), self.queue.announce(&batch)),
            );
        }
    }

    /// What is there already.
    fn gather(&mut self, batch: &mut Vec<CompletionEvent>) {
        while batch.len() < BATCH {
            match self.completions.try_recv() {
                Ok(notice) => batch.push(notice),
                Err(TryRecvError::Lagged(lost)) => note_lost("all", lost),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

impl Channel {
    async fn tell<E: Display>(
        &mut self,
        channel: &'static str,
        notices: usize,
        telling: impl Future<Output = Result<(), E>>,
    ) {
        let why = match tokio::time::timeout(PATIENCE, telling).await {
            Ok(Ok(())) => {
                self.failing = false;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        note_lost(channel, notices as u64);
        if !self.failing {
            tracing::warn!(channel, why, "completed runs cannot be announced");
        }
        self.failing = true;
    }
}

fn note_lost(channel: &'static str, notices: u64) {
    metrics::counter!("verifyd_notices_lost_total", "channel" => channel).increment(notices);
}
