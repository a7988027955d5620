//! The database: the record of truth, and who may work on what.
//!
//! Every transition is guarded: it says whether it took place. Only the database's clock counts.

use crate::domain::access::Binding;
pub use crate::domain::attempt::{AttemptEnd, AttemptRecord};
use crate::domain::completion::Completion;
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::connection_facts::KeptFacts;
pub use crate::domain::overview::LatestReport;
use crate::domain::permission::StoredPermission;
use crate::domain::run::{ClaimedRun, OperationRun, Outcome, RunState, RunStatus, RunSummary};
use crate::domain::{ConnectionId, RunId, SessionId, TenantId, WorkerId, WorkspaceId};
use crate::ports::access::AccessStore;
use crate::ports::acknowledgements::AcknowledgementStore;
use crate::ports::completion_events::CompletionEventStore;
use crate::ports::invalid_runs::InvalidRunStore;
use crate::ports::onboarding::OnboardingStore;
use crate::ports::overview::OverviewStore;
use crate::ports::plan::PlanStore;
use crate::ports::probe::ProbeStore;
pub use crate::ports::store_error::StoreError;
pub use crate::ports::sweep::{SweepCursor, SweepPolicy, Swept};
use crate::ports::turns::TurnStore;
use crate::ports::vault::SealedCredential;
use crate::ports::wake::WakeStore;
use crate::ports::webhooks::WebhookStore;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

/// Attempts that were only to complete a run and did not; after so many the next claim is the last
/// resort.
pub const MAX_FUTILE_ATTEMPTS: u32 = 3;

/// How runs are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimPolicy {
    /// Attempts that count, at most (N of the promise).
    pub max_attempts: u32,
    /// How long one attempt may take; after it the lease is dead.
    pub run_deadline: Duration,
    /// Whether a run may be claimed that needs to be alone: the caller sees to it that no other such
    /// run is in work in its process.
    pub alone: bool,
}

/// What a claim is answered with.
#[derive(Clone, Debug)]
pub enum ClaimAnswer {
    Claimed(Box<Claim>),
    /// The run is not there, not verifyd's, not queued, or not due yet.
    NotClaimable,
    /// It has one attempt left and has lost a worker before, or none is left: it may be what killed
    /// the worker, or have been killed beside it. Nothing was written; claim it with `alone`.
    NeedsToBeAlone,
}

impl ClaimAnswer {
    /// The claim, if there is one.
    pub fn claimed(self) -> Option<Claim> {
        match self {
            Self::Claimed(claim) => Some(*claim),
            Self::NotClaimable | Self::NeedsToBeAlone => None,
        }
    }
}

/// An attempt that the database takes its worker to be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAttempt {
    pub run: RunId,
    pub token: Uuid,
}

/// What was found about the size of a run's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextSize {
    /// The completion's members are added to it, along with other runs'.
    Small,
    /// They are added to it in a transaction of its own.
    Large,
    /// It is replaced: the database cannot be asked to copy it.
    Huge,
    /// It was not looked at; it is replaced unless it is small.
    Unknown,
}

/// The right to work on a run, proven by the token.
#[derive(Clone, Debug)]
pub struct Claim {
    pub run: ClaimedRun,
    /// How the completion is to write the run's context.
    pub context: ContextSize,
    /// Number of this attempt, from 1, the uncounted ones included.
    pub attempt: i32,
    /// Random; compared for equality by every later transition.
    pub token: Uuid,
    pub worker: WorkerId,
    /// Attempts that count, this one included unless `exhausted`.
    pub counted_attempts: u32,
    /// All counted attempts were spent before this claim. The provider must not be called again:
    /// the run is to be completed as `worker_lost`. This attempt does not count.
    pub exhausted: bool,
    /// Completing it failed [`MAX_FUTILE_ATTEMPTS`] times, too. The context of the run was not read: it
    /// is to be completed from its id alone.
    pub last_resort: bool,
    /// When the run was first claimed, by the database's clock.
    pub first_claimed_at: DateTime<Utc>,
    /// When this attempt was claimed, by the database's clock.
    pub claimed_at: DateTime<Utc>,
    /// What the check starts from, where it was read together with the claim. None: ask for it.
    pub start: Option<StartingPoint>,
}

/// A run to be recorded.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub workspace_id: WorkspaceId,
    pub tenant_id: Option<TenantId>,
    /// `operation_runs.context`
    pub context: serde_json::Value,
    /// The connection whose active run is returned in place of a second one, if it has one of the
    /// same workspace and tenant.
    pub unless_active: Option<ConnectionId>,
    /// The onboarding session that the run is for: in the same transaction it is pointed to the run,
    /// or to the active run that is returned. One of another workspace or tenant, or out of reach of
    /// whoever asks, is refused, and nothing is recorded.
    pub onboarding_session: Option<ForSession>,
}

/// The onboarding session that a run is recorded for, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForSession {
    pub id: SessionId,
    /// What whoever asks for it may reach: a session out of it does not exist.
    pub reach: Binding,
}

impl NewRun {
    /// Refuses what can only be recorded on its own.
    pub fn plain(several: &[Self]) -> Result<(), StoreError> {
        let special = |new: &Self| new.unless_active.is_some() || new.onboarding_session.is_some();
        if several.iter().any(special) {
            return Err(StoreError::Refused(
                "runs with unless_active or onboarding_session are recorded one by one".into(),
            ));
        }
        Ok(())
    }
}

/// The answer to recording a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub run_id: RunId,
    /// False when an active run of the same connection was there already.
    pub created: bool,
}

/// What a check starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct StartingPoint {
    pub connection: ProviderConnection,
    pub credential: Option<StoredCredential>,
    /// The run of the connection's latest report.
    pub latest_run: Option<RunId>,
    /// What earlier checks have learnt of it.
    pub facts: Option<KeptFacts>,
}

/// Which runs to list. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    pub binding: Binding,
    pub status: Option<RunStatus>,
    pub outcome: Option<Outcome>,
    pub connection: Option<ConnectionId>,
    pub tenant: Option<TenantId>,
    /// Only ids below this one (paging).
    pub before: Option<RunId>,
    pub limit: u32,
}

/// When a tenant's inventory was last read, and by which run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InventoryFreshness {
    pub tenant_id: TenantId,
    pub operation_run_id: RunId,
    pub refreshed_at: DateTime<Utc>,
    pub source: String,
}

/// A live or recently live worker process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerRecord {
    pub worker_id: String,
    pub version: String,
    pub concurrency: u32,
    pub in_flight: u32,
    pub started_at: DateTime<Utc>,
    pub beat_at: DateTime<Utc>,
}

/// What a worker says of itself with each beat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub worker_id: WorkerId,
    pub version: String,
    pub concurrency: u32,
    pub in_flight: u32,
}

/// Which completed runs to delete, and how many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Runs that were completed longer ago than this, by the database's clock.
    pub older_than: Duration,
    /// Most runs to delete in one transaction.
    pub batch: u32,
}

/// What one call of `prune` deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub runs: u64,
    pub attempts: u64,
    pub deliveries: u64,
    pub acknowledgements: u64,
    /// Where to go on: nothing is left to delete up to this run. None when nothing is left at all.
    #[serde(skip)]
    pub last: Option<RunId>,
}

impl Pruned {
    /// Counts these, too.
    pub fn add(&mut self, more: &Self) {
        self.runs += more.runs;
        self.attempts += more.attempts;
        self.deliveries += more.deliveries;
        self.acknowledgements += more.acknowledgements;
    }

    /// Attempts of runs that were not there, by their runs. The last run may have more of them.
    pub(crate) fn stray_attempts(runs: &[i64]) -> Self {
        Self {
            attempts: runs.len() as u64,
            last: runs.iter().max().map(|id| RunId(id - 1)),
            ..Self::default()
        }
    }
}

/// How many runs of verifyd's type there are, and how long the oldest has been waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RunCounts {
    pub queued: u64,
    pub running: u64,
    /// Seconds since `created_at` of the oldest queued run.
    pub oldest_queued_seconds: Option<f64>,
}

/// Claim, release, complete, reclaim and redeliver: the protocol.
#[async_trait]
pub trait RunStore: Send + Sync {
    /// `queued` → `running`, with a new attempt and token.
    async fn claim(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError>;

    /// `running` → `completed`: run, report, failure summary, inventory and latest report in one
    /// transaction. False: the token is not the current one; nothing was written.
    async fn complete(&self, claim: &Claim, completion: &Completion) -> Result<bool, StoreError>;

    /// `running` → `queued`, due again after `not_before` (from now). False: the token is not the
    /// current one; nothing was written.
    async fn release(
        &self,
        claim: &Claim,
        end: AttemptEnd,
        not_before: Option<Duration>,
    ) -> Result<bool, StoreError>;

    /// Reclaims dead leases and finds what is due, under a lock that only one replica gets at a
    /// time. None: another replica is at it.
    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError>;

    /// The open attempts of a worker, in the order of their runs.
    async fn open_attempts(&self, worker: &WorkerId) -> Result<Vec<OpenAttempt>, StoreError>;

    /// `running` → `queued`: this worker does not work on these. Their attempts end as
    /// `worker_lost`. Returns the runs that are queued now; an attempt that is not open any more,
    /// or of another worker, is left as it is.
    async fn disown(
        &self,
        worker: &WorkerId,
        attempts: &[OpenAttempt],
    ) -> Result<Vec<RunId>, StoreError>;

    /// Takes back the mark of delivery: the hints could not be sent.
    async fn undeliver(&self, runs: &[RunId]) -> Result<(), StoreError>;

    /// Renews this worker's lease on all its runs.
    async fn beat(&self, beat: &Beat) -> Result<(), StoreError>;

    /// Takes the worker off the list.
    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError>;

    /// Records a run as `queued` and marks it as delivered: the caller sends the hint.
    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError>;

    /// Records several runs in one transaction, as [`RunStore::record`] does with one, in the order
    /// of the ids that are returned. They are recorded whatever is active, and for no onboarding
    /// session: one that asks for either is refused with all others.
    async fn record_many(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError>;

    /// One run of verifyd's type. Of a context that is too large the report is read, and of the rest
    /// what is needed to tell what the run was about.
    async fn run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError>;

    /// Runs of verifyd's type as lists show them, newest first.
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, StoreError>;

    /// One run as lists show it.
    async fn run_summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError>;

    /// How far one run is.
    async fn run_state(&self, id: RunId) -> Result<Option<RunState>, StoreError>;

    /// How far the latest runs are, newest first.
    async fn run_states(&self, binding: &Binding, limit: u32) -> Result<Vec<RunState>, StoreError>;

    /// The attempts of a run, oldest first.
    async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError>;

    /// Workers that beat within the last day.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError>;

    /// Counts for metrics and `doctor`.
    async fn counts(&self) -> Result<RunCounts, StoreError>;

    /// Deletes completed runs with an id above `after`, in the order of their ids, with their
    /// attempts, deliveries and acknowledgements. Never the latest report of a connection, and never
    /// a run that an onboarding session points to.
    async fn prune(&self, policy: &PrunePolicy, after: Option<RunId>)
    -> Result<Pruned, StoreError>;

    /// Deletes up to so many ended attempts of runs with an id above `after` that are not there any more:
    /// whoever deleted the runs does not know of them.
    async fn prune_stray_attempts(
        &self,
        batch: u32,
        after: Option<RunId>,
    ) -> Result<Pruned, StoreError>;

    /// How many runs `prune` would delete.
    async fn prunable(&self, older_than: Duration) -> Result<u64, StoreError>;

    /// The latest report of a connection.
    async fn latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError>;
}

/// Makes the credential for a connection whose id has just become known.
pub type Seal<'a> = &'a (
        dyn Fn(
    crate::domain::connection::CredentialBinding,
) -> Result<SealedCredential, crate::ports::vault::VaultError>
            + Send
            + Sync
    );

/// What kept a connection from being added.
#[derive(Debug, thiserror::Error)]
pub enum AddConnectionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] crate::ports::vault::VaultError),
}

/// A stored credential with what it is bound to, or why it cannot be read.
#[derive(Debug)]
pub struct FoundCredential {
    pub connection_id: ConnectionId,
    pub credential: Result<(CredentialBinding, StoredCredential), StoreError>,
}

/// Connections, credentials and inventories.
#[async_trait]
pub trait ConnectionStore: Send + Sync {
    /// The connection and its credential, if there are any.
    async fn connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError>;

    /// What a check of this connection starts from.
    async fn starting_point(&self, id: ConnectionId) -> Result<Option<StartingPoint>, StoreError>;

    /// Keeps what a check has learnt, in place of what was kept before.
    async fn keep_facts(&self, kept: &KeptFacts) -> Result<(), StoreError>;

    /// Connections in the order of their ids, after `after`.
    async fn connections(
        &self,
        tenant: Option<TenantId>,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<ProviderConnection>, StoreError>;

    /// Adds a connection and its credential in one transaction; a minimal tenant, too, where
    /// `tenants` is verifyd's own.
    async fn add_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
    ) -> Result<ConnectionId, AddConnectionError>;

    /// Enables or disables. False: no such connection.
    async fn set_connection_status(
        &self,
        id: ConnectionId,
        status: ConnectionStatus,
    ) -> Result<bool, StoreError>;

    /// Replaces the credential.
    async fn set_credential(
        &self,
        id: ConnectionId,
        sealed: &SealedCredential,
    ) -> Result<(), StoreError>;

    /// Credentials in the order of the connections' ids, after `after`; those that cannot be read, too.
    async fn credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError>;

    /// Replaces the payload if it is still the old one. False: somebody else changed it.
    async fn reseal_credential(
        &self,
        id: ConnectionId,
        old_payload: &str,
        new_payload: &str,
    ) -> Result<bool, StoreError>;

    /// The inventory of a tenant, by permission key.
    async fn permissions(&self, tenant: TenantId) -> Result<Vec<StoredPermission>, StoreError>;

    /// When the inventory of a tenant was last read.
    async fn inventory_freshness(
        &self,
        tenant: TenantId,
    ) -> Result<Option<InventoryFreshness>, StoreError>;
}

/// What `migrate` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Versions applied now.
    pub applied: Vec<i64>,
    /// Version of the schema afterwards.
    pub version: i64,
    /// Tables that verifyd made and owns.
    pub owned: Vec<String>,
    /// Tables that were there before verifyd and belong to another application.
    pub foreign: Vec<String>,
}

/// Something about the schema that keeps verifyd from working, or slows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaFinding {
    /// True: verifyd cannot work. False: advice.
    pub fatal: bool,
    /// It is the user of `database.url` who lacks a right; the schema may fit for another one.
    pub privilege: bool,
    /// `operation_runs.context`
    pub subject: String,
    pub problem: String,
    pub remedy: String,
}

/// The guards on `operation_runs`, by name: what the database itself refuses or puts back, whoever
/// writes a run of verifyd's type. Runs of other types are free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guards {
    pub in_place: Vec<String>,
    pub missing: Vec<String>,
}

/// What `enforce` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Enforced {
    /// Guards that were there already.
    pub in_place: Vec<String>,
    /// Guards, and an index, added now.
    pub added: Vec<String>,
    /// Guards that could not be added because of rows that break them.
    pub refused: Vec<RefusedGuard>,
}

/// A guard that existing rows break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedGuard {
    pub guard: String,
    /// What it demands, in words.
    pub demands: String,
    /// How many runs break it.
    pub rows: u64,
    /// The latest of them.
    pub example: RunId,
}

/// The schema and the server behind it.
#[async_trait]
pub trait SchemaStore: Send + Sync {
    /// `postgres` or `sqlite`.
    fn kind(&self) -> &'static str;

    /// Brings verifyd's schema up to date; repeatable. Never changes a table that is another
    /// application's.
    async fn migrate(&self) -> Result<Migrated, StoreError>;

    /// Null when `migrate` has never run.
    async fn schema_version(&self) -> Result<Option<i64>, StoreError>;

    /// The version that this build needs.
    fn wanted_schema_version(&self) -> i64;

    /// Names every missing table and column and every wrong type. With anything fatal among it nothing is
    /// served.
    async fn inspect(&self) -> Result<Vec<SchemaFinding>, StoreError>;

    /// A text that changes whenever what `inspect` finds may have changed, for the price of one query.
    async fn schema_mark(&self) -> Result<String, StoreError>;

    /// Which guards are there. Without a table of runs, all are missing.
    async fn guards(&self) -> Result<Guards, StoreError>;

    /// Adds the guards that are missing, also to a table that is another application's, in steps
    /// that hold it up for moments only; repeatable, and to be repeated after a failure.
    async fn enforce(&self) -> Result<Enforced, StoreError>;

    /// One round trip; returns the server's version.
    async fn ping(&self) -> Result<String, StoreError>;

    /// Closes all connections.
    async fn close(&self);
}

/// A whole database.
pub trait Store:
    RunStore
    + ConnectionStore
    + AcknowledgementStore
    + InvalidRunStore
    + OnboardingStore
    + OverviewStore
    + PlanStore
    + ProbeStore
    + TurnStore
    + AccessStore
    + WakeStore
    + CompletionEventStore
    + WebhookStore
    + SchemaStore
    + std::fmt::Debug
{
}
impl<T> Store for T where
    T: RunStore
        + ConnectionStore
        + AcknowledgementStore
        + InvalidRunStore
        + OnboardingStore
        + OverviewStore
        + PlanStore
        + ProbeStore
        + TurnStore
        + AccessStore
        + WakeStore
        + CompletionEventStore
        + WebhookStore
        + SchemaStore
        + std::fmt::Debug
{
}
