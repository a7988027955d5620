//! The connection that a fetcher's worker uses.
//!
//! Whether a consumer lives is told by answers to its own commands (registration, heartbeats,
//! fetches, acknowledgements) and by nothing else: a worker that ended leaves its process there.

use super::ahead::{Ahead, is_fetch};
use super::bell::Bell;
use super::keys::Keys;
use crate::queue::pulse::{Pulse, Vitals};
use futures::FutureExt;
use redis::aio::{ConnectionLike, ConnectionManager};
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Notes every answer, fetches ahead, and rings the bell that rang during a command once more at its
/// end.
#[derive(Clone)]
pub(super) struct Observed {
    pub connection: ConnectionManager,
    pub bell: Arc<Bell>,
    /// Of this worker.
    pub pulse: Arc<Pulse>,
    /// Of the whole consumer.
    pub vitals: Arc<Vitals>,
    /// Of this worker.
    pub ahead: Arc<Ahead>,
    pub keys: Arc<Keys>,
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
        self.bell.echo();
    }
}

impl ConnectionLike for Observed {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let fetches = is_fetch(cmd, &self.keys);
            if fetches && let Some(next) = self.ahead.next() {
                return Ok(next);
            }
            self.bell.silence();
            let result = if fetches {
                let wide = self.ahead.widened(cmd);
                let result = self.connection.req_packed_command(&wide).await;
                result.map(|fetched| self.ahead.keep(fetched))
            } else {
                self.connection.req_packed_command(cmd).await
            };
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
            self.bell.silence();
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
