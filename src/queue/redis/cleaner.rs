//! Removes what apalis-redis never removes.
//!
//! - `done`: every acknowledged delivery, its payload and its meta.
//! - `dead`: dead letters beyond `dead_keep`, the oldest of a sample first.
//! - `data`: payloads longer than any hint, also those that no entry leads to.
//! - `meta:*` without a payload, `meta` and `signal`, which only a producer writes.
//! - keys of another type, also where no fetcher meets them.
//! - `workers:metadata:*` of workers that are on the list no more (a killed process), a few keys at
//!   a time.
//!
//! Each step is one atomic script over a bounded chunk, so any number of replicas may clean.

use super::connections::Connections;
use super::key_types::remove_misfits;
use super::keys::Keys;
use super::orphan_recovery::Malformed;
use super::settings::ConsumerSettings;
use crate::domain::hint::MAX_PAYLOAD_BYTES;
use crate::ports::queue::QueueError;
use rand::Rng;
use redis::{Script, ScriptInvocation};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

static CLEAN_DONE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/clean_done.lua")));
static CLEAN_DEAD: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/clean_dead.lua")));
static CLEAN_LARGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/clean_large.lua")));
static CLEAN_META: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/clean_meta.lua")));
static FORGET_WORKER: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/forget_worker.lua")));

/// Payloads whose length is read in one round.
const SAMPLED: usize = 100;

/// Keys that one step of SCAN looks at.
const SCANNED: usize = 200;

/// Deliveries that one script removes: Redis does nothing else meanwhile.
const CHUNK: usize = 500;

/// Removes a bounded chunk of each kind in every round.
#[derive(Debug)]
pub(super) struct Cleaner {
    connections: Arc<Connections>,
    keys: Keys,
    every: Duration,
    dead_keep: usize,
    /// The cursor of SCAN.
    cursor: u64,
    /// The same for metas.
    meta_cursor: u64,
}

impl Cleaner {
    pub fn new(connections: Arc<Connections>, keys: Keys, settings: &ConsumerSettings) -> Self {
        Self {
            connections,
            keys,
            every: settings.clean_interval,
            dead_keep: settings.dead_keep,
            cursor: 0,
            meta_cursor: 0,
        }
    }

    /// Cleans until `stop`; the next cleaner removes the rest.
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
                    metrics::counter!("verifyd_queue_entries_removed_total").increment(removed);
                    tracing::trace!(removed, "cleaned the queue");
                }
                // The fetchers report an unreachable server.
                Err(error) => tracing::debug!(%error, "cannot clean the queue; trying again"),
            }
        }
    }

    /// Runs one round of all steps. Returns the number of deliveries that it removed.
    async fn round(&mut self) -> Result<u64, QueueError> {
        // Nobody may be fetching or acknowledging, who would remove them at once.
        self.connections
            .call(async |connection| remove_misfits(connection, &self.keys, &[]).await)
            .await?;
        let mut removed = 0;
        let (data, meta) = (&self.keys.data, &self.keys.meta);
        let mut done = CLEAN_DONE.prepare_invoke();
        done.key(&self.keys.done).key(data).key(meta);
        done.arg(CHUNK);
        let mut dead = CLEAN_DEAD.prepare_invoke();
        dead.key(&self.keys.dead).key(data).key(meta);
        dead.arg(CHUNK).arg(self.dead_keep);
        for script in [&done, &dead] {
            loop {
                let chunk = self.invoke(script).await?;
                removed += chunk;
                if chunk < CHUNK as u64 {
                    break;
                }
            }
        }
        let too_large = self.clean_large().await?;
        Malformed {
            too_large,
            ..Malformed::default()
        }
        .report();
        let metas = self.clean_meta().await?;
        self.forget_workers().await?;
        Ok(removed + too_large + metas)
    }

    async fn invoke(&self, script: &ScriptInvocation<'_>) -> Result<u64, QueueError> {
        self.connections
            .call(async |connection| script.invoke_async(connection).await)
            .await
    }

    async fn clean_large(&self) -> Result<u64, QueueError> {
        let mut script = CLEAN_LARGE.prepare_invoke();
        script
            .key(&self.keys.data)
            .key(&self.keys.meta)
            .key(&self.keys.dead)
            .arg(SAMPLED)
            .arg(MAX_PAYLOAD_BYTES);
        self.invoke(&script).await
    }

    /// Runs one step of a scan that never ends.
    async fn clean_meta(&mut self) -> Result<u64, QueueError> {
        let mut script = CLEAN_META.prepare_invoke();
        script
            .key(&self.keys.data)
            .key(&self.keys.meta)
            .key(&self.keys.signal)
            .arg(self.meta_cursor)
            .arg(SCANNED);
        let (cursor, removed): (u64, u64) = self
            .connections
            .call(async |connection| script.invoke_async(connection).await)
            .await?;
        self.meta_cursor = cursor;
        Ok(removed)
    }

    /// Runs one step of a scan that never ends: its cost does not depend on the number of keys.
    async fn forget_workers(&mut self) -> Result<(), QueueError> {
        let prefix = self.keys.worker_metadata_prefix();
        let mut scan = redis::cmd("SCAN");
        scan.arg(self.cursor)
            .arg("MATCH")
            .arg(format!("{prefix}*"))
            .arg("COUNT")
            .arg(SCANNED);
        let (cursor, found): (u64, Vec<String>) = self
            .connections
            .call(async |connection| scan.query_async(connection).await)
            .await?;
        self.cursor = cursor;
        for key in found {
            let Some(worker) = key.strip_prefix(&prefix) else {
                continue;
            };
            let mut script = FORGET_WORKER.prepare_invoke();
            script.key(&self.keys.workers).key(&key).arg(worker);
            self.invoke(&script).await?;
        }
        Ok(())
    }
}
