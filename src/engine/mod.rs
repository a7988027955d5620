//! From a claim to a completed run.
//!
//! `worker` takes hints from the queue and hands each to `process`: claim → `preflight` → the
//! provider's checks → `outcome` (report and completion) → complete. Beside it run `lease` (the
//! heartbeat) and `reconciler` (what the queue lost, and what this process has lost sight of:
//! `in_work`). `alone` keeps runs apart that may kill their worker, `turns` sees to it that no tenant waits
//! behind all runs of another.

pub mod acknowledge;
pub mod alone;
pub mod announcer;
pub mod finished;
pub mod hinted;
pub mod in_work;
pub mod invalid;
pub mod lease;
pub mod motion;
pub mod outcome;
pub mod plan;
pub mod preflight;
pub mod process;
pub mod reading;
pub mod reconciler;
pub mod schema;
pub mod settings;
pub mod submit;
pub mod turns;
pub mod worker;

use crate::domain::WorkerId;
use crate::domain::link::LinkContext;
use crate::domain::run::{ClaimedRun, RunRequest};
use crate::ports::clock::Clock;
use crate::ports::provider::{Provider, Providers};
use crate::ports::store::Store;
use crate::ports::vault::Vault;
use alone::Alone;
use finished::Finished;
use in_work::InWork;
use lease::Lease;
use motion::Failing;
use schema::SchemaWatch;
use settings::{LinkSettings, WorkerSettings};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio_util::sync::CancellationToken;
use turns::Turns;

/// Everything that working on a run needs. One per process, shared by all its runs.
#[derive(Clone)]
pub struct Engine {
    pub store: Arc<dyn Store>,
    pub vault: Arc<dyn Vault>,
    pub providers: Providers,
    pub clock: Arc<dyn Clock>,
    pub worker: WorkerId,
    pub settings: WorkerSettings,
    pub links: LinkSettings,
    /// This process's right to work at all: it lasts as long as the heartbeat gets through.
    pub lease: Arc<Lease>,
    /// Runs in work.
    pub in_flight: Arc<AtomicU32>,
    /// Which runs these are, and those that are being claimed.
    pub in_work: Arc<InWork>,
    /// For how long no claim has been answered.
    pub unclaimed: Arc<Failing>,
    /// For runs that need to be alone.
    pub alone: Arc<Alone>,
    /// Tenants in work, and those that come before the hints.
    pub turns: Arc<Turns>,
    /// Whether the database's schema fits.
    pub schema: Arc<SchemaWatch>,
    /// Runs whose further hints need no claim.
    pub finished: Arc<Finished>,
    /// Fires when the grace period is over: what is still in work goes back to the queue.
    pub release_now: CancellationToken,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("worker", &self.worker)
            .field("store", &self.store)
            .field("providers", &self.providers.keys())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Where next steps lead for this run, as far as its connection is known and its own.
    fn links_for(
        &self,
        run: &ClaimedRun,
        request: &RunRequest,
        connection: Option<&crate::domain::connection::ProviderConnection>,
        provider: Option<&dyn Provider>,
    ) -> LinkContext {
        let cloud = connection.and_then(|c| c.cloud.as_deref());
        LinkContext {
            run_id: run.id.0,
            connection_id: request.provider_connection_id.map(|id| id.0),
            entra_tenant_id: connection.and_then(|c| c.entra_tenant_id.clone()),
            client_id: connection.and_then(|c| c.client_id.clone()),
            ..self.links.context(provider, cloud)
        }
    }
}
