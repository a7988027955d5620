//! Migrations, and access to the server.

use super::timeouts::MAY_WRITE;
use super::{ADVISORY_MIGRATE, ADVISORY_SPACE, PostgresStore};
use crate::ports::schema::{Migrated, PendingMigration, SchemaStore};
use crate::ports::store_error::StoreError;
use crate::store::tables::APPLICATION_TABLES;
use crate::store::{migration_plan, migrations};
use async_trait::async_trait;
use sqlx::{PgConnection, Row};
use std::collections::BTreeSet;

/// Which migrations were applied.
pub(super) const MIGRATIONS_TABLE: &str = "verifyd.schema_migrations";

/// What is said where the role sees no row of it, although `migrate` has added some.
const HIDDEN_MIGRATIONS: &str =
    "row-level security hides every row of verifyd.schema_migrations from this role";

/// A migration has no time limit; only one process migrates at a time. Lock and limits end with the
/// transaction.
const UNLIMITED: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;
     SET LOCAL idle_in_transaction_session_timeout = 0";

/// The driver's migrator gives its statements names whatever the URL says, and leaves them in the session.
/// Behind a pooler they would collide with statements of the next client.
pub(super) const FORGET_NAMED_STATEMENTS: &str = r"DO $$ DECLARE statement text; BEGIN
    FOR statement IN SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqlx\_s\_%' LOOP
        EXECUTE format('DEALLOCATE %I', statement);
    END LOOP;
END $$";

/// The schemas that unqualified names are looked up in, without `verifyd`: a role of that name
/// would otherwise find it first (`"$user"`) and get the application's tables in there.
const APPLICATION_SEARCH_PATH: &str = "
    SELECT string_agg(quote_ident(s), ', ' ORDER BY n)
    FROM unnest(current_schemas(false)) WITH ORDINALITY AS t(s, n) WHERE s <> 'verifyd'";

/// Where each of the tables is found, and whether verifyd made it.
const FIND_TABLES: &str = "
    SELECT n.nspname || '.' || c.relname AS name,
           EXISTS (SELECT FROM verifyd.owned_tables o
                   WHERE o.table_schema = n.nspname AND o.table_name = c.relname) AS owned
    FROM unnest($1::text[]) AS t(name)
    JOIN pg_class c ON c.oid = to_regclass(t.name) JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY 1";

const OWN_TABLES: &str = "
    SELECT n.nspname || '.' || c.relname FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'verifyd' AND c.relkind IN ('r', 'p') ORDER BY 1";

const THERE: &str =
    "SELECT t.name FROM unnest($1::text[]) AS t(name) WHERE to_regclass(t.name) IS NOT NULL";

const OWNED: &str = "
    SELECT t.name FROM unnest($1::text[]) AS t(name)
    JOIN pg_class c ON c.oid = to_regclass(t.name) JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN verifyd.owned_tables o ON o.table_schema = n.nspname AND o.table_name = c.relname";

#[async_trait]
impl SchemaStore for PostgresStore {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn migrate(&self) -> Result<Migrated, StoreError> {
        self.untimed_transaction(async |tx| {
            sqlx::raw_sql(UNLIMITED).execute(&mut *tx).await?;
            // Before anything is made: migrations may not even fit into another encoding.
            if let Some(unfit) = self.inspect_encoding(tx).await? {
                let why = format!("{}: {}. {}", unfit.subject, unfit.problem, unfit.remedy);
                return Err(StoreError::Schema(why.into()));
            }
            self.sql("SELECT pg_advisory_xact_lock($1, $2)")
                .bind(ADVISORY_SPACE)
                .bind(ADVISORY_MIGRATE)
                .execute(&mut *tx)
                .await?;
            self.forget_named_statements(tx).await?;
            let path: Option<String> = self
                .scalar(APPLICATION_SEARCH_PATH)
                .fetch_one(&mut *tx)
                .await?;
            let Some(path) = path else {
                return Err(StoreError::Schema(
                    "search_path names no schema for the application's tables".into(),
                ));
            };
            self.sql("SELECT set_config('search_path', $1, true)")
                .bind(path)
                .execute(&mut *tx)
                .await?;
            let before = self.applied(tx).await?;
            let mut migrator = migrations::migrator(migrations::postgres(), MIGRATIONS_TABLE);
            migrator.create_schema("verifyd");
            // `run` requires a connection of any lifetime, which a transaction's is not.
            migrator.run_direct(None, &mut *tx, false).await?;
            self.forget_named_statements(tx).await?;
            let after = self.applied(tx).await?;
            let mut migrated = Migrated {
                applied: after.difference(&before).copied().collect(),
                version: after.last().copied().unwrap_or_default(),
                owned: self.scalar(OWN_TABLES).fetch_all(&mut *tx).await?,
                foreign: Vec::new(),
            };
            let found = self
                .sql(FIND_TABLES)
                .bind(APPLICATION_TABLES)
                .fetch_all(&mut *tx)
                .await?;
            for row in found {
                let name: String = row.try_get("name")?;
                if row.try_get("owned")? {
                    migrated.owned.push(name);
                } else {
                    migrated.foreign.push(name);
                }
            }
            Ok(migrated)
        })
        .await
        .inspect(|migrated| migrations::log_applied(&migrations::postgres(), migrated))
    }

    async fn pending_migrations(&self) -> Result<Vec<PendingMigration>, StoreError> {
        self.transaction(async |tx| {
            let applied = self.applied(tx).await?;
            let tables = migration_plan::tables();
            let there: Vec<String> = self.scalar(THERE).bind(tables).fetch_all(&mut *tx).await?;
            let owned: Vec<String> = if there.iter().any(|name| name == "verifyd.owned_tables") {
                let owned = self.scalar(OWNED).bind(there.clone());
                owned.fetch_all(&mut *tx).await?
            } else {
                Vec::new()
            };
            Ok(migration_plan::pending(&applied, &there, &owned))
        })
        .await
    }

    async fn applied_migrations(&self) -> Result<Vec<i64>, StoreError> {
        self.transaction(async |tx| {
            let applied = self.applied(tx).await?;
            Ok(applied.into_iter().collect())
        })
        .await
    }

    fn wanted_schema_version(&self) -> i64 {
        migrations::WANTED_VERSION
    }

    async fn ping(&self) -> Result<String, StoreError> {
        self.transaction(async |tx| {
            let version: String = self
                .scalar("SELECT current_setting('server_version')")
                .fetch_one(&mut *tx)
                .await?;
            Ok(version)
        })
        .await
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        self.transaction(async |tx| {
            let may_write: bool = self.scalar(MAY_WRITE).fetch_one(&mut *tx).await?;
            match may_write {
                true => Ok(()),
                false => Err(StoreError::Unavailable("it only reads".into())),
            }
        })
        .await
    }

    async fn close(&self) {
        self.close_connections().await;
    }
}

impl PostgresStore {
    async fn forget_named_statements(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), StoreError> {
        if !self.named {
            sqlx::raw_sql(FORGET_NAMED_STATEMENTS)
                .execute(connection)
                .await?;
        }
        Ok(())
    }

    /// Versions applied so far; empty when `migrate` has never run. An error where row-level security hides them: they
    /// are not to be applied a second time.
    pub(super) async fn applied(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeSet<i64>, StoreError> {
        let there: bool = self
            .scalar("SELECT to_regclass('verifyd.schema_migrations') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await?;
        if !there {
            return Ok(BTreeSet::new());
        }
        let versions: Vec<i64> = self
            .scalar("SELECT version FROM verifyd.schema_migrations WHERE success")
            .fetch_all(&mut *connection)
            .await?;
        if versions.is_empty() {
            let is_restricted: bool = self
                .scalar("SELECT row_security_active('verifyd.schema_migrations')")
                .fetch_one(connection)
                .await?;
            if is_restricted {
                return Err(StoreError::Refused(HIDDEN_MIGRATIONS.into()));
            }
        }
        Ok(versions.into_iter().collect())
    }
}
