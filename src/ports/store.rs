//! The database, which decides about every run.
//!
//! Every transition is guarded and reports whether it took place. Only the database's clock counts. There is
//! a trait for each concern, so that a caller can ask for the one that it needs.

pub use crate::domain::attempt::{AttemptEnd, AttemptRecord};
pub use crate::domain::overview::LatestReport;
use crate::ports::access::AccessStore;
use crate::ports::acknowledgements::AcknowledgementStore;
use crate::ports::audit::AuditStore;
use crate::ports::budgets::BudgetStore;
pub use crate::ports::claims::{
    Claim, ClaimAnswer, ClaimPolicy, ClaimStore, CompletionStore, ContextSize,
    MAX_FAILED_COMPLETIONS,
};
use crate::ports::completion_events::CompletionEventStore;
pub use crate::ports::connections::{AddConnectionError, ConnectionStore, Seal};
pub use crate::ports::credentials::{CredentialStore, FoundCredential};
use crate::ports::fair_queuing::FairQueuingStore;
use crate::ports::groups::GroupStore;
use crate::ports::invalid_runs::InvalidRunStore;
pub use crate::ports::inventory::{InventoryFreshness, InventoryStore};
use crate::ports::onboarding::OnboardingStore;
pub use crate::ports::orphans::{OpenAttempt, OrphanStore};
use crate::ports::overview::OverviewStore;
pub use crate::ports::partitions::{
    MonthLeft, Months, PartitionPlan, PartitionStore, PartitionsEnd,
};
use crate::ports::plan::PlanStore;
use crate::ports::pools::PoolStore;
use crate::ports::probe::ProbeStore;
pub use crate::ports::recording::{ForSession, NewRun, Recorded, RecordingStore};
use crate::ports::refusals::RefusalStore;
pub use crate::ports::refusals::{RefusedRun, RefusedRuns, RefusedWrite};
use crate::ports::replica::ReplicaStore;
pub use crate::ports::retention::{PrunePolicy, Pruned, RetentionStore};
pub use crate::ports::runs::{RunCounts, RunFilter, RunStore, SummaryStore};
pub use crate::ports::schema::{
    Enforced, GuardStore, Guards, InspectStore, Migrated, PendingMigration, RefusedGuard,
    SchemaFinding, SchemaStore, TableLock,
};
pub use crate::ports::starting_point::{StartingPoint, StartingPointStore};
pub use crate::ports::store_error::StoreError;
pub use crate::ports::sweep::{SweepCursor, SweepPolicy, SweepStore, Swept};
use crate::ports::wake::WakeStore;
use crate::ports::webhook_deliveries::DeliveryStore;
use crate::ports::webhook_endpoints::EndpointStore;
pub use crate::ports::workers::{Heartbeat, WorkerRecord, WorkerStore};

macro_rules! store {
    ($($part:ident),+ $(,)?) => {
        /// A whole database.
        pub trait Store: $($part +)+ std::fmt::Debug {}
        impl<T: $($part +)+ std::fmt::Debug> Store for T {}
    };
}
store!(
    ClaimStore,
    CompletionStore,
    OrphanStore,
    SweepStore,
    RecordingStore,
    RunStore,
    SummaryStore,
    WorkerStore,
    ReplicaStore,
    RetentionStore,
    ConnectionStore,
    CredentialStore,
    StartingPointStore,
    InventoryStore,
    AcknowledgementStore,
    AuditStore,
    BudgetStore,
    InvalidRunStore,
    RefusalStore,
    OnboardingStore,
    OverviewStore,
    PartitionStore,
    PlanStore,
    PoolStore,
    ProbeStore,
    FairQueuingStore,
    GroupStore,
    AccessStore,
    WakeStore,
    CompletionEventStore,
    EndpointStore,
    DeliveryStore,
    SchemaStore,
    InspectStore,
    GuardStore,
);
