//! The connection of a fetcher's worker, which records answers as activity.
//!
//! Answers to the worker's own commands (heartbeats, fetches, acknowledgements) are the only sign that a consumer is
//! not stalled: the process outlives an ended worker. Registration is none: workers may register and end for ever.

use crate::queue::consumer_health::{ConsumerHealth, LastActivity};
use futures::FutureExt;
use redis::aio::{ConnectionLike, ConnectionManager};
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A connection that records every answer.
#[derive(Clone)]
pub(super) struct ObservedConnection {
    pub connection: ConnectionManager,
    pub worker: Arc<LastActivity>,
    pub consumer: Arc<ConsumerHealth>,
    /// Whether the worker has fetched, or waits for a slot to fetch.
    pub works: Arc<AtomicBool>,
}

impl ObservedConnection {
    /// Sets whether answers are activity of the consumer: not until the worker has fetched.
    pub fn set_works(&self, works: bool) {
        self.works.store(works, Ordering::Relaxed);
    }

    fn record<T>(&self, result: &RedisResult<T>) {
        // An error that the server sends is an answer, but no progress.
        let reached = match result {
            Ok(_) => {
                self.worker.touch();
                if self.works.load(Ordering::Relaxed) {
                    self.consumer.activity.touch();
                }
                true
            }
            Err(error) => error.code().is_some(),
        };
        self.consumer.connected.store(reached, Ordering::Relaxed);
    }
}

impl ConnectionLike for ObservedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let result = self.connection.req_packed_command(cmd).await;
            self.record(&result);
            result
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let result = self
                .connection
                .req_packed_commands(pipeline, offset, count)
                .await;
            self.record(&result);
            result
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
