//! The audit trail. Every other port writes its entries in the transactions of its changes.

use crate::domain::access::Binding;
use crate::domain::audit::{AuditAction, AuditEntry, AuditObject, Change, Origin};
use crate::domain::{AuditEntryId, TokenId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// The time for which no entry can be deleted. The database refuses it, too: migration 19.
pub const KEPT_AT_LEAST: Duration = Duration::from_hours(30 * 24);

/// Which entries to list. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub binding: Binding,
    pub action: Option<AuditAction>,
    pub object: Option<AuditObject>,
    pub object_id: Option<i64>,
    /// Done with this token.
    pub token: Option<TokenId>,
    /// Name of the actor, all of it.
    pub actor: Option<String>,
    /// Not before this time.
    pub since: Option<DateTime<Utc>>,
    /// Not after this time.
    pub until: Option<DateTime<Utc>>,
    /// Only ids below this one (paging).
    pub before: Option<AuditEntryId>,
    pub limit: u32,
}

/// Entries: added, read, deleted when they are old, and never changed.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Adds an entry about what changes no row: a refused sign-in.
    async fn add_audit_entry(&self, change: &Change, by: &Origin) -> Result<(), StoreError>;

    /// By filter.
    async fn audit_entries(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError>;

    /// Deletes up to `batch` of the oldest entries that are older than this. Returns how many.
    async fn prune_audit_entries(
        &self,
        older_than: Duration,
        batch: u32,
    ) -> Result<u64, StoreError>;

    /// How many entries `prune_audit_entries` would delete, without a limit.
    async fn prunable_audit_entries(&self, older_than: Duration) -> Result<u64, StoreError>;
}
