//! The composition root: the only place where ports and adapters meet.

use crate::config::Settings;
use crate::credentials;
use crate::domain::WorkerId;
use crate::engine::Engine;
use crate::engine::lease::Lease;
use crate::engine::reconciler::ReconcilerState;
use crate::engine::worker::Worker;
use crate::ports::clock::{Clock, SystemClock};
use crate::ports::provider::{Provider, Providers};
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use crate::ports::vault::Vault;
use crate::provider::microsoft::MicrosoftProvider;
use crate::queue::in_process::InProcessQueue;
use crate::queue::redis::RedisQueue;
use crate::store;
use anyhow::Context as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio_util::sync::CancellationToken;

/// Everything that a command works with.
#[derive(Clone)]
pub struct Services {
    pub settings: Settings,
    pub store: Arc<dyn Store>,
    pub queue: Arc<dyn Queue>,
    pub vault: Arc<dyn Vault>,
    pub providers: Providers,
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services")
            .field("store", &self.store)
            .field("queue", &self.queue)
            .field("providers", &self.providers.keys())
            .finish_non_exhaustive()
    }
}

impl Services {
    /// Connects to what the settings name. The embedded database is brought up to date at once; on
    /// PostgreSQL that is `migrate`'s to do.
    pub async fn open(settings: Settings) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = open_store(&settings).await?;
        if store.kind() == "sqlite" {
            store
                .migrate()
                .await
                .context("the embedded database cannot be brought up to date")?;
        }
        let vault = open_vault(&settings)?;
        let queue = open_queue(&settings)?;
        let providers = open_providers(&settings, Arc::clone(&clock))?;
        Ok(Self {
            settings,
            store,
            queue,
            vault,
            providers,
            clock,
        })
    }

    /// The queue, if workers in other processes listen to it.
    pub fn shared_queue(&self) -> Option<&dyn Queue> {
        (self.queue.kind() != "in_process").then(|| self.queue.as_ref())
    }

    /// An engine with a fresh worker name and a lease that is dead until the first heartbeat.
    pub fn engine(&self) -> Engine {
        let worker = WorkerId::fresh(&host_name());
        Engine {
            store: Arc::clone(&self.store),
            vault: Arc::clone(&self.vault),
            providers: self.providers.clone(),
            clock: Arc::clone(&self.clock),
            worker,
            lease: Arc::new(Lease::new(self.settings.worker.self_fence_after())),
            settings: self.settings.worker.clone(),
            links: self.settings.links.clone(),
            in_flight: Arc::new(AtomicU32::new(0)),
            release_now: CancellationToken::new(),
        }
    }

    /// A worker around this engine.
    pub fn worker(&self, engine: Engine) -> Worker {
        Worker {
            engine,
            queue: Arc::clone(&self.queue),
            reconciler: self.settings.reconciler.clone(),
            reconciler_state: Arc::new(ReconcilerState::new()),
        }
    }
}

/// The database that the settings name.
pub async fn open_store(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    store::connect(&settings.database)
        .await
        .context("the database cannot be opened")
}

/// The keys that credentials are encrypted with. The embedded default makes one beside its
/// database when none is configured.
pub fn open_vault(settings: &Settings) -> anyhow::Result<Arc<dyn Vault>> {
    let vault = credentials::open_vault(
        &settings.credentials,
        settings.embedded_key_file().as_deref(),
    )
    .context("the keys for credentials cannot be read")?;
    Ok(Arc::new(vault))
}

/// Redis when its address is known, else a queue in this process.
pub fn open_queue(settings: &Settings) -> anyhow::Result<Arc<dyn Queue>> {
    if settings.has_redis() {
        RedisQueue::connect(&settings.redis, &host_name()).context("the queue cannot be opened")
    } else {
        Ok(InProcessQueue::open(&settings.in_process_queue))
    }
}

/// All providers there are: a new one is a folder in `provider` and a line here.
pub fn open_providers(settings: &Settings, clock: Arc<dyn Clock>) -> anyhow::Result<Providers> {
    let microsoft = MicrosoftProvider::new(&settings.microsoft, clock)
        .context("the provider microsoft cannot be set up")?;
    Ok(Providers::new([Arc::new(microsoft) as Arc<dyn Provider>]))
}

/// The machine's name, for people; it need not be unique.
fn host_name() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| {
            name.trim()
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c))
                .take(64)
                .collect::<String>()
        })
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".to_owned())
}
