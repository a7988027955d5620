//! Removes what apalis-redis never removes.
//!
//! - `done`: every acknowledged delivery, its payload and its meta.
//! - `dead`: rejected ones beyond `dead_keep`, the oldest of a sample first.
//! - `data`: payloads longer than any hint, also those that no entry leads to.
//! - `workers:metadata:*` of workers that are on the list no more (a killed process), a few keys at
//!   a time.
//!
//! Each step is one atomic script over a bounded chunk, so any number of replicas may clean.

use super::custody::Malformed;
use super::keys::Keys;
use super::link::Link;
use super::settings::RedisSettings;
use crate::domain::job::MAX_PAYLOAD_BYTES;
use crate::ports::queue::QueueError;
use rand::Rng;
use redis::Script;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

static CLEAN_DONE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/clean_done.lua")));
static CLEAN_DEAD: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/clean_dead.lua")));
static CLEAN_LARGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/clean_large.lua")));
static FORGET_WORKER: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/forget_worker.lua")));

/// Payloads whose length is looked at in one round.
const SAMPLED: usize = 100;

/// Keys that one step of SCAN looks at.
const SCANNED: usize = 200;

#[derive(Debug)]
pub(super) struct Cleaner {
    link: Arc<Link>,
    keys: Keys,
    every: Duration,
    chunk: usize,
    dead_keep: usize,
    /// Where SCAN goes on.
    cursor: u64,
}

impl Cleaner {
    pub fn new(link: Arc<Link>, keys: Keys, settings: &RedisSettings) -> Self {
        Self {
            link,
            keys,
            every: settings.clean_interval,
            chunk: settings.clean_chunk,
            dead_keep: settings.dead_keep,
            cursor: 0,
        }
    }

    /// Cleans until `stop`; what is left then the next one removes.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = self.every.mul_f64(rand::rng().random_range(0.75..1.25));
            let round = async {
                tokio::time::sleep(pause).await;
                self.round().await
            };
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = round => result,
            };
            match result {
                Ok(0) => {}
                Ok(removed) => {
                    metrics::counter!("verifyd_queue_cleaned_total").increment(removed);
                    tracing::trace!(removed, "cleaned the queue");
                }
                // The fetchers report an unreachable server.
                Err(error) => tracing::debug!(%error, "the queue was not cleaned"),
            }
        }
    }

    async fn round(&mut self) -> Result<u64, QueueError> {
        let mut removed = 0;
        loop {
            let n = self.clean_done().await?;
            removed += n;
            if n < self.chunk as u64 {
                break;
            }
        }
        loop {
            let n = self.clean_dead().await?;
            removed += n;
            if n < self.chunk as u64 {
                break;
            }
        }
        let large = self.clean_large().await?;
        Malformed {
            too_large: large,
            ..Malformed::default()
        }
        .note();
        self.forget_workers().await?;
        Ok(removed + large)
    }

    async fn clean_large(&self) -> Result<u64, QueueError> {
        let mut script = CLEAN_LARGE.prepare_invoke();
        script
            .key(&self.keys.data)
            .key(&self.keys.meta)
            .key(&self.keys.dead)
            .arg(SAMPLED)
            .arg(MAX_PAYLOAD_BYTES);
        self.link
            .call(async |connection| script.invoke_async(connection).await)
            .await
    }

    async fn clean_done(&self) -> Result<u64, QueueError> {
        let mut script = CLEAN_DONE.prepare_invoke();
        script
            .key(&self.keys.done)
            .key(&self.keys.data)
            .key(&self.keys.meta)
            .arg(self.chunk);
        self.link
            .call(async |connection| script.invoke_async(connection).await)
            .await
    }

    async fn clean_dead(&self) -> Result<u64, QueueError> {
        let mut script = CLEAN_DEAD.prepare_invoke();
        script
            .key(&self.keys.dead)
            .key(&self.keys.data)
            .key(&self.keys.meta)
            .arg(self.chunk)
            .arg(self.dead_keep);
        self.link
            .call(async |connection| script.invoke_async(connection).await)
            .await
    }

    /// One step of a walk that never ends: the cost is the same however many keys there are.
    async fn forget_workers(&mut self) -> Result<(), QueueError> {
        let prefix = self.keys.worker_metadata_prefix();
        let mut scan = redis::cmd("SCAN");
        scan.arg(self.cursor)
            .arg("MATCH")
            .arg(format!("{prefix}*"))
            .arg("COUNT")
            .arg(SCANNED);
        let (cursor, found): (u64, Vec<String>) = self
            .link
            .call(async |connection| scan.query_async(connection).await)
            .await?;
        self.cursor = cursor;
        for key in found {
            let Some(worker) = key.strip_prefix(&prefix) else {
                continue;
            };
            let mut script = FORGET_WORKER.prepare_invoke();
            script.key(&self.keys.workers).key(&key).arg(worker);
            self.link
                .call(async |connection| script.invoke_async::<u64>(connection).await)
                .await?;
        }
        Ok(())
    }
}
