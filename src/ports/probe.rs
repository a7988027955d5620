//! Tests that `doctor` makes, so that problems show before `serve` runs, and figures for those who look for the cause
//! of one.

use crate::domain::{RunId, TenantId};
use crate::ports::store_error::{Detail, Sign, StoreError};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The steps of [`ProbeStore::try_writing`] with a run, which its errors have.
pub(crate) const RECORDING: &str = "recording a check";
pub(crate) const CLAIMING: &str = "claiming a run";
pub(crate) const RELEASING: &str = "releasing a run";
pub(crate) const COMPLETING: &str = "completing a run";
pub(crate) const WRITING_INVENTORY: &str = "writing the inventory of a tenant (tenant_permissions)";
pub(crate) const SWEEPING: &str = "sweeping";
pub(crate) const KEEPING_FACTS: &str = "keeping the facts of a connection";

/// feature_not_supported, of a step with a table whose rules (`CREATE RULE`) are named: a rule is refused where the
/// statement writes within WITH or has ON CONFLICT, or RETURNING where the rule replaces it.
pub(crate) const REWRITTEN: Sign = ("0A000", " (rules: ");

/// What the database accepts of the writes of `serve`.
#[derive(Debug)]
#[must_use]
pub enum Writing {
    Accepted {
        /// Whether the INSERT of the check has notified the workers; `None`: it cannot be told.
        notifies: Option<bool>,
        /// What a trigger changes of a run that is completed all the same, in words.
        changed: Option<String>,
    },
    /// verifyd can record no run, for lack of a connection or a reason that is named elsewhere. A queued one of another
    /// producer was claimed, and nothing else.
    OnlyClaimed,
    /// The same, and none is queued: nothing was tried.
    NothingTried,
    /// A queued run was claimed, released and completed, and verifyd cannot record one: `serve` works for runs of other
    /// producers.
    NotRecording(StoreError),
    /// verifyd cannot record a run, and none is queued with which claiming could be tried.
    NotTried(StoreError),
}

/// A run that waits, and what its claim fails with.
#[derive(Debug)]
pub struct RefusedClaim {
    pub run: RunId,
    pub tenant: Option<TenantId>,
    pub error: StoreError,
}

/// A table whose sequence is at its end, or gives an id next that is not larger than all that are there, or not positive,
/// or that counts down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableIds {
    pub table: &'static str,
    /// With its schema, quoted.
    pub sequence: String,
    /// `None`: the sequence is at its end.
    pub next: Option<i64>,
    /// The first id from `next` on that is there.
    pub taken: Option<i64>,
    /// By how much the sequence counts up; negative where it counts down.
    pub increment: i64,
    /// Of those that are there; 0 where none is larger.
    pub largest: i64,
    /// The sequence gives no larger one.
    pub last: i64,
}

/// How the connections of `database.url` reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Each has a session of its own.
    None,
    /// A pooler in transaction mode shares sessions out, and statements are sent without names.
    Transaction,
    /// A pooler in transaction mode that does not know the names of prepared statements: a statement that was
    /// prepared in one session is executed in another.
    TransactionWithLostStatements,
}

/// What limits connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// `CONNECTION LIMIT` of the role of this name, quoted as an identifier.
    Role(String),
    /// The same of a database.
    Database(String),
    /// `max_connections`
    Server,
    /// A pooler in session mode, which lets further clients wait: it has no more sessions for the role and database.
    Pool,
    /// The same, of which others have so many that these are free now.
    FreeInPool,
}

/// A limit that leaves a process fewer connections than it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimit {
    pub by: LimitedBy,
    pub allowed: i64,
    /// With fewer `serve` does not work: there is none for its heartbeat.
    pub least: i64,
    /// As many as `serve` opens under load.
    pub needed: i64,
}

/// A host of `database.url`, where it names several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// With its port; of a socket the path.
    pub name: String,
    pub role: HostRole,
    /// Whether connections go there.
    pub is_used: bool,
}

/// What a host is to this role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRole {
    Primary,
    /// It accepts writes, and yet a standby has been promoted since: they are lost.
    FormerPrimary,
    /// No standby, and yet the settings of the role or database refuse writes.
    ReadOnly,
    Standby,
    /// Or it refuses the connection, for this reason.
    Unreachable(Detail),
}

impl fmt::Display for HostRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::FormerPrimary => f.write_str("former primary"),
            Self::ReadOnly => f.write_str("primary that only reads"),
            Self::Standby => f.write_str("standby"),
            Self::Unreachable(why) => write!(f, "unreachable ({why})"),
        }
    }
}

/// The file of `database.password_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordRead {
    pub path: PathBuf,
    /// When it was last read.
    pub at: DateTime<Utc>,
}

/// Room on the disk of an embedded database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
}

/// The size of a table with its indexes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableSize {
    pub table: String,
    pub bytes: i64,
    /// As the server estimates it; `None` where it does not.
    pub rows: Option<i64>,
}

/// Tests and figures of the database. They leave nothing behind.
#[async_trait]
pub trait ProbeStore: Send + Sync {
    /// Finds out whether a pooler is between here and the server. Works behind every pooler.
    async fn try_pooling(&self) -> Result<Pooling, StoreError> {
        Ok(Pooling::None)
    }

    /// Writes what `serve` writes, reads it back, and rolls back, as the user of `database.url`: `doctor` shows what comes
    /// of it, and decides for `migrate`, the start of `serve` and readiness. An error that is not transient refuses to
    /// serve. No worker sees the runs, and nobody is notified; in PostgreSQL each try uses up ids.
    async fn try_writing(&self) -> Result<Writing, StoreError>;

    /// Claims the oldest runs of a few tenants that have waited for so long, and rolls back. Reports each whose claim a rule
    /// of the application refuses or holds up, as soon as it is found: such a rule may be of one tenant, and
    /// [`Self::try_writing`] need not find it. An error is one of the server or of the test.
    async fn refused_claims(
        &self,
        waited: Duration,
        report: &mut (dyn FnMut(RefusedClaim) + Send),
    ) -> Result<(), StoreError>;

    /// Returns the tables that verifyd inserts into and whose next ids are taken, as after a restore of rows alone, or no
    /// ids that verifyd takes.
    async fn unusable_ids(&self) -> Result<Vec<UnusableIds>, StoreError> {
        Ok(Vec::new())
    }

    /// Returns the lowest limit of connections, where it is too low for one process, whose pool has so many. Behind a pooler
    /// that gives each connection a session, opens as many as a process does, and returns a limit where the pooler has
    /// fewer, or has fewer free while no worker runs.
    async fn connection_limit(&self, _pool: u32) -> Result<Option<ConnectionLimit>, StoreError> {
        Ok(None)
    }

    /// Returns what each host of `database.url` is, where it names several.
    async fn hosts(&self) -> Vec<Host> {
        Vec::new()
    }

    /// None: the password is in no file.
    fn password_read(&self) -> Option<PasswordRead> {
        None
    }

    /// Returns by how many seconds the database's clock is ahead of this machine's.
    async fn clock_ahead(&self) -> Result<f64, StoreError> {
        Ok(0.0)
    }

    /// Returns the sizes of verifyd's own tables and of those that it uses, the largest first.
    async fn table_sizes(&self) -> Result<Vec<TableSize>, StoreError>;

    /// None: the database is not on a disk of this machine.
    fn disk_space(&self) -> Result<Option<DiskSpace>, StoreError> {
        Ok(None)
    }
}
