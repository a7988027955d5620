//! The composition root: the only place where ports and adapters meet.

use crate::config::Settings;
use crate::credentials;
use crate::debug::Observed;
use crate::domain::WorkerId;
use crate::engine::pipeline::Pipeline;
use crate::engine::pipeline::preflight::Preflight;
use crate::engine::reconciler::ReconcilerState;
use crate::engine::scheduling::isolation::PoisonRunIsolation;
use crate::engine::worker::{Worker, WorkerState};
use crate::http::api::{Api, Switch};
use crate::http::health::{CHECK_TIMEOUT, Health};
use crate::http::oidc::SignIn;
use crate::http::pages::Pages;
use crate::http::reads::Reads;
use crate::http::request_limits::RequestLimits;
use crate::notify::Sender;
use crate::notify::completion_events::CompletionEventPublisher;
use crate::notify::webhook::WebhookChannel;
use crate::outbound::Outbound;
use crate::ports::budgets::BudgetStore;
use crate::ports::clock::{Clock, SystemClock};
use crate::ports::provider::{Provider, Providers};
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use crate::ports::vault::Vault;
use crate::provider::microsoft::MicrosoftProvider;
use crate::queue::in_process::{self, InProcessQueue};
use crate::queue::redis::RedisQueue;
use crate::store;
use crate::telemetry::log_filter::LogFilter;
use crate::telemetry::metrics::Metrics;
use anyhow::Context as _;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Everything that a command works with.
#[derive(Clone)]
pub struct Services {
    pub settings: Settings,
    pub store: Arc<dyn Store>,
    /// Where API and pages read lists and details.
    pub reads: Arc<Reads>,
    pub queue: Arc<dyn Queue>,
    pub vault: Arc<dyn Vault>,
    pub providers: Providers,
    pub clock: Arc<dyn Clock>,
    /// The way of all calls to the outside.
    pub outbound: Outbound,
    /// Limits that API and pages share.
    pub request_limits: Arc<RequestLimits>,
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
        let store = open_ready_store(&settings).await?;
        let replica = open_replica(&settings)?;
        let vault = open_vault(&settings)?;
        let queue = open_queue(&settings)?;
        let outbound = Outbound::new(&settings.outbound).context("cannot set up outbound calls")?;
        let budgets = Arc::clone(&store) as Arc<dyn BudgetStore>;
        let providers = open_providers(&settings, Arc::clone(&clock), &outbound, Some(budgets))?;
        Ok(Self {
            outbound,
            request_limits: Arc::new(RequestLimits::new(
                &settings.http,
                settings.database.max_connections,
            )),
            reads: Arc::new(Reads::new(replica)),
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

    /// Creates a worker with a fresh name and a lease that is dead until the first heartbeat.
    pub fn worker(&self) -> Worker {
        let settings = self.settings.worker.clone();
        let group = settings.groups.members(&settings.group);
        let reconciler = self.settings.reconciler.clone();
        // A hint that waits for longer may have a successor already.
        let isolation = PoisonRunIsolation::new(settings.concurrency, reconciler.redeliver_after);
        let id = WorkerId::fresh(&host_name()).in_group(&settings.group);
        let state = Arc::new(WorkerState::new(id, settings));
        let preflight = Preflight::new(
            Arc::clone(&self.vault),
            self.providers.clone(),
            Arc::clone(&self.clock),
            self.settings.links.clone(),
        );
        let store = Arc::clone(&self.store);
        if let Some(group) = group {
            store.serve_group(group);
        }
        Worker {
            pipeline: Arc::new(Pipeline::new(
                Arc::clone(&store),
                Arc::clone(&state),
                preflight,
                isolation,
            )),
            store,
            queue: Arc::clone(&self.queue),
            state,
            reconciler,
            reconciler_state: Arc::new(ReconcilerState::default()),
        }
    }

    /// Creates the publisher of the runs that are completed from now on.
    pub fn completion_event_publisher(&self) -> CompletionEventPublisher {
        CompletionEventPublisher::new(Arc::clone(&self.store), Arc::clone(&self.queue))
    }

    /// Creates the sender of webhooks.
    pub fn webhook_sender(&self) -> Sender {
        let settings = &self.settings.webhooks;
        let channel = WebhookChannel::new(
            Arc::clone(&self.vault),
            Arc::clone(&self.clock),
            settings,
            &self.outbound,
        );
        Sender::new(Arc::clone(&self.store), Arc::new(channel), settings.clone())
    }

    /// Creates what the health endpoints of this worker look at.
    pub fn health(
        &self,
        worker: &Worker,
        metrics: Metrics,
        stopping: CancellationToken,
    ) -> Arc<Health> {
        let settings = &self.settings;
        // While slots are free, hints wait no longer than one of these.
        let busy = settings
            .worker
            .run_deadline
            .max(settings.reconciler.redeliver_after);
        let stuck_after = settings.worker.stuck_after(settings.reconciler.interval);
        Arc::new(Health {
            store: Arc::clone(&self.store),
            queue: Arc::clone(&self.queue),
            worker: Arc::clone(&worker.state),
            reconciler: Arc::clone(&worker.reconciler_state),
            metrics,
            check_timeout: CHECK_TIMEOUT,
            stuck_after,
            unclaimed_after: settings.worker.dead_after,
            untaken_after: stuck_after.max(2 * busy),
            stopping,
            logged: Mutex::default(),
            rendered: Default::default(),
            database: Default::default(),
        })
    }

    /// Creates what people look into while this worker runs.
    pub fn observed(
        &self,
        worker: &Worker,
        log_filter: Arc<LogFilter>,
        stopping: CancellationToken,
    ) -> Arc<Observed> {
        Arc::new(Observed {
            store: Arc::clone(&self.store),
            queue: Arc::clone(&self.queue),
            worker: Arc::clone(&worker.state),
            reconciler: Arc::clone(&worker.reconciler_state),
            log_filter,
            started: Instant::now(),
            stopping,
        })
    }

    /// The pages for people, until `stopping`.
    pub fn pages(&self, stopping: CancellationToken) -> Arc<Pages> {
        Arc::new(Pages::new(
            Arc::clone(&self.store),
            Arc::clone(&self.reads),
            Some(Arc::clone(&self.queue)),
            self.providers.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.request_limits),
            &self.settings.http,
            self.settings.pages.clone(),
            SignIn::new(
                self.settings.http.oidc.clone(),
                self.outbound.clone(),
                Arc::clone(&self.clock),
            ),
            self.settings.links.clone(),
            self.settings.worker.dead_after,
            self.settings.worker.groups.clone(),
            stopping,
        ))
    }

    /// The API, unless it is switched off. Its hints go to the workers of this process, too.
    pub fn api(&self) -> Option<Arc<Api>> {
        let settings = &self.settings.http.api;
        (settings.enabled == Switch::On).then(|| {
            Arc::new(Api::new(
                Arc::clone(&self.store),
                Arc::clone(&self.reads),
                Some(Arc::clone(&self.queue)),
                self.providers.clone(),
                Arc::clone(&self.clock),
                Arc::clone(&self.request_limits),
                settings,
            ))
        })
    }
}

/// The database that the settings name.
pub async fn open_store(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    store::connect_with(&settings.database, settings.limits)
        .await
        .context("cannot open the database")
}

/// The replica that the settings name, if they name one. It need not answer yet.
pub fn open_replica(settings: &Settings) -> anyhow::Result<Option<Arc<dyn Store>>> {
    store::connect_replica(&settings.database, settings.limits)
        .context("cannot use database.read_url")
}

/// The same as `open_store` for `migrate`, which a person runs for that very database: it may have other tables.
pub async fn open_store_to_migrate(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    store::connect_to_migrate(&settings.database, settings.limits)
        .await
        .context("cannot open the database")
}

/// Returns the file of the embedded database if it is missing and can be created. Creates nothing.
pub fn missing_database(settings: &Settings) -> anyhow::Result<Option<PathBuf>> {
    store::missing_file(&settings.database).context("cannot open the database")
}

/// Refuses to go on where the embedded database is missing: what opens it would create an empty one.
pub fn require_database(settings: &Settings) -> anyhow::Result<()> {
    let Some(file) = missing_database(settings)? else {
        return Ok(());
    };
    // The reader may be in another folder than he thinks.
    let file = std::path::absolute(&file).unwrap_or(file);
    anyhow::bail!(
        "there is no database at {}: correct database.url (DATABASE_URL), or create it with `verifyd migrate`",
        file.display()
    );
}

/// Opens the database, and migrates it where it is the embedded one.
pub async fn open_ready_store(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    let store = open_store(settings).await?;
    if store.kind() == "sqlite" && !has_wanted_schema(store.as_ref()).await? {
        store
            .migrate()
            .await
            .context("cannot migrate the embedded database")?;
    }
    Ok(store)
}

/// Migrating waits for everybody who writes into the file, also where nothing is left to migrate.
async fn has_wanted_schema(store: &dyn Store) -> anyhow::Result<bool> {
    let version = store.schema_version().await;
    let version = version.context("cannot read the schema of the embedded database")?;
    Ok(version == Some(store.wanted_schema_version()))
}

/// Opens the keys that credentials are encrypted with. The embedded default creates one beside its database
/// when none is configured.
pub fn open_vault(settings: &Settings) -> anyhow::Result<Arc<dyn Vault>> {
    let vault = credentials::open_vault(
        &settings.credentials,
        settings.embedded_key_file().as_deref(),
    )
    .context("cannot read the keys for credentials")?;
    Ok(Arc::new(vault))
}

/// The same without creating a key.
pub fn open_existing_vault(settings: &Settings) -> anyhow::Result<Arc<dyn Vault>> {
    let vault = credentials::open_existing_vault(
        &settings.credentials,
        settings.embedded_key_file().as_deref(),
    )
    .context("cannot read the keys for credentials")?;
    Ok(Arc::new(vault))
}

/// Redis when its address is known, else a queue in this process. It is the queue of this process's group.
pub fn open_queue(settings: &Settings) -> anyhow::Result<Arc<dyn Queue>> {
    open_queue_of(settings, &settings.worker.group)
}

/// The same for another group.
pub fn open_queue_of(settings: &Settings, group: &str) -> anyhow::Result<Arc<dyn Queue>> {
    if settings.has_redis() {
        let groups = &settings.worker.groups;
        RedisQueue::connect_in_group(&settings.redis, &host_name(), groups, group)
            .context("cannot open the queue")
    } else {
        Ok(InProcessQueue::open(in_process::CAPACITY))
    }
}

/// All providers there are: a new one is a folder in `provider` and a line here. `budgets`: where they share the
/// budgets of throttled applications; `None` where they make no calls.
pub fn open_providers(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    outbound: &Outbound,
    budgets: Option<Arc<dyn BudgetStore>>,
) -> anyhow::Result<Providers> {
    let mut microsoft = MicrosoftProvider::with_outbound(&settings.microsoft, clock, outbound)
        .context("cannot set up the provider microsoft")?;
    if let Some(budgets) = budgets {
        microsoft = microsoft.with_budgets(budgets);
    }
    Ok(Providers::new([Arc::new(microsoft) as Arc<dyn Provider>]))
}

/// Sets up the providers for commands that make no calls.
pub fn providers_offline(settings: &Settings) -> anyhow::Result<Providers> {
    let outbound = Outbound::direct().context("cannot set up outbound calls")?;
    open_providers(settings, Arc::new(SystemClock), &outbound, None)
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
