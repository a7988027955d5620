//! The connection that a fetcher's worker uses.
//!
//! Whether a consumer lives is told by answers to its own commands (registration, heartbeats,
//! fetches, acknowledgements) and by nothing else: a worker that ended leaves its process there.

use crate::queue::pulse::{Pulse, Vitals};
use futures::FutureExt;
use redis::aio::{ConnectionLike, ConnectionManager};
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Notes every answer.
#[derive(Clone)]
pub(super) struct Observed {
    pub connection: ConnectionManager,
    /// Of this worker.
    pub pulse: Arc<Pulse>,
    /// Of the whole consumer.
    pub vitals: Arc<Vitals>,
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl Observed {
    fn note<T>(&self, result: &RedisResult<T>) {
        // An error that the server sends is an answer, but no progress.
        let reached = match result {
            Ok(_) => {
                self.pulse.beat();
                self.vitals.pulse.beat();
                true
            }
            Err(error) => error.code().is_some(),
        };
        self.vitals.connected.store(reached, Ordering::Relaxed);
    }
}

impl ConnectionLike for Observed {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let result = self.connection.req_packed_command(cmd).await;
            self.note(&result);
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
            self.note(&result);
            result
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
