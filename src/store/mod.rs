//! The databases behind `ports::store`: PostgreSQL in production, SQLite as the embedded default.
//!
//! Both have the same tables and the same protocol, and pass one conformance suite
//! (`tests/system/store`). A port whose steps are the same in both is implemented once, in this folder, with a
//! statement for each: see `sql_store`. What differs by more is in a folder for each database.

mod access;
mod acknowledgements;
mod address;
mod audit;
mod batching;
mod bounds;
mod budgets;
mod claims;
mod completion;
mod connections;
mod credentials;
mod dialect;
mod due;
mod error;
mod fair_queuing;
mod filters;
mod from_row;
mod groups;
mod invalid_runs;
mod inventory;
mod migration_plan;
mod migrations;
mod onboarding;
mod orphans;
mod overview;
mod plan;
mod pools;
mod postgres;
mod probe;
mod prune;
mod recording;
mod refusals;
mod refused_requeues;
mod repeated_ids;
mod reused_ids;
mod rows;
mod runs;
mod settings;
mod shares;
mod sql;
mod sql_store;
mod sqlite;
mod starting_point;
mod statement;
mod summaries;
mod sweep;
mod tables;
mod tolerant_decoding;
mod webhook_deliveries;
mod webhook_endpoints;
mod webhook_rows;
mod workers;

pub use address::problem as address_problem;
pub use postgres::Private;
pub use settings::{DatabaseSettings, LISTEN_OFF, LimitSettings};
pub use tables::APPLICATION_TABLES;

use crate::ports::schema::PendingMigration;
use crate::ports::store::Store;
use crate::ports::store_error::StoreError;
use secrecy::ExposeSecret;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// The target of the driver's log lines about statements, which hold no parameters.
pub const STATEMENTS: &str = "sqlx::query";

/// Connects to the database that the URL names; its scheme chooses the kind.
///
/// Opens one connection, within `acquire_timeout`, so that a wrong URL shows at once; a pool that
/// has started reconnects by itself. Does not migrate. Refuses a file with tables of another application alone.
pub async fn connect(settings: &DatabaseSettings) -> Result<Arc<dyn Store>, StoreError> {
    connect_with(settings, LimitSettings::default()).await
}

/// Connects with other limits than the default ones.
pub async fn connect_with(
    settings: &DatabaseSettings,
    limits: LimitSettings,
) -> Result<Arc<dyn Store>, StoreError> {
    connect_to(settings, limits, Unmigrated::Empty).await
}

/// Connects to a database that a person wants verifyd's tables in, whatever other tables it has.
pub async fn connect_to_migrate(
    settings: &DatabaseSettings,
    limits: LimitSettings,
) -> Result<Arc<dyn Store>, StoreError> {
    connect_to(settings, limits, Unmigrated::Any).await
}

/// Opens the replica that `read_url` names, if it names one. It connects once it is asked: nothing waits for a replica.
pub fn connect_replica(
    settings: &DatabaseSettings,
    limits: LimitSettings,
) -> Result<Option<Arc<dyn Store>>, StoreError> {
    if settings.read_url.expose_secret().is_empty() {
        return Ok(None);
    }
    Ok(Some(postgres::PostgresStore::of_replica(settings, limits)?))
}

async fn connect_to(
    settings: &DatabaseSettings,
    limits: LimitSettings,
    unmigrated: Unmigrated,
) -> Result<Arc<dyn Store>, StoreError> {
    match scheme(settings.url.expose_secret()) {
        "postgres" | "postgresql" => Ok(postgres::PostgresStore::connect(settings, limits).await?),
        "sqlite" => Ok(sqlite::SqliteStore::connect(settings, limits, unmigrated).await?),
        // The text in place of a scheme may be a password: it is never quoted.
        _ => Err(StoreError::Settings(
            "the scheme of database.url is not known, allowed: postgres://, postgresql://, sqlite:"
                .into(),
        )),
    }
}

/// Returns the file of an embedded database that is missing and that connecting would create; an error where it
/// cannot be created. Creates nothing.
pub fn missing_file(settings: &DatabaseSettings) -> Result<Option<PathBuf>, StoreError> {
    match scheme(settings.url.expose_secret()) {
        "sqlite" => sqlite::missing_file(settings),
        _ => Ok(None),
    }
}

/// What `migrate` would do.
#[derive(Debug)]
pub struct SchemaPlan {
    /// `None`: no migration is applied.
    pub version: Option<i64>,
    /// The version that this build needs.
    pub wanted: i64,
    pub pending: Vec<PendingMigration>,
}

/// Returns what `migrate` would do with an embedded database; `None` for one on a server. Neither creates the file nor
/// changes it, so that it may be one that may only be read.
pub async fn plan_of_file(settings: &DatabaseSettings) -> Result<Option<SchemaPlan>, StoreError> {
    if scheme(settings.url.expose_secret()) != "sqlite" {
        return Ok(None);
    }
    let applied = match sqlite::missing_file(settings)? {
        Some(_) => BTreeSet::new(),
        None => sqlite::applied_migrations(settings).await?,
    };
    Ok(Some(SchemaPlan {
        version: applied.last().copied(),
        wanted: migrations::WANTED_VERSION,
        pending: migration_plan::pending(&applied, &[], &[]),
    }))
}

/// Which files without verifyd's tables are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unmigrated {
    /// Only those without any table: the first command may migrate them.
    Empty,
    /// Also those with tables of another application.
    Any,
}

/// How a transaction ends that decides it itself.
enum End<T> {
    Commit(T),
    Rollback(T),
}

impl<T> End<T> {
    /// Ends the transaction as its work says. After an error this waits for the rollback: PostgreSQL sends an error
    /// before it gives the locks back, and whoever tries the same again at once, on another connection, would find its
    /// own run locked.
    async fn reach<X, E, F, C, R>(
        tx: X,
        worked: Result<Self, E>,
        commit: impl FnOnce(X) -> C,
        rollback: impl FnOnce(X) -> R,
    ) -> Result<T, E>
    where
        E: From<StoreError>,
        StoreError: From<F>,
        C: Future<Output = Result<(), F>>,
        R: Future<Output = Result<(), F>>,
    {
        let (ended, answer) = match worked {
            Ok(Self::Commit(answer)) => (commit(tx).await, answer),
            Ok(Self::Rollback(answer)) => (rollback(tx).await, answer),
            Err(error) => {
                // Where the connection is lost, the server rolls back by itself.
                let _ = rollback(tx).await;
                return Err(error);
            }
        };
        ended.map_err(StoreError::from)?;
        Ok(answer)
    }
}

fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}
