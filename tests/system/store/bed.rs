//! A store to test, and a door behind it: raw SQL, in the words of either database.

use secrecy::SecretString;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, Executor as _, PgPool, Postgres, Sqlite, Transaction};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use test_support::pgbouncer::PgBouncer;
use test_support::postgres::TestDatabase;
use test_support::waiting::until;
use verifyd::domain::{ConnectionId, RunId, TenantId};
use verifyd::ports::store::Store;
use verifyd::store::DatabaseSettings;

/// A store on a database of its own.
pub struct Bed {
    pub store: Arc<dyn Store>,
    door: Door,
    place: Place,
}

enum Door {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

enum Place {
    Postgres(TestDatabase),
    /// The store sees it through a pooler; the door behind it does not.
    Pooled(TestDatabase, PgBouncer),
    Sqlite(tempfile::TempDir),
}

/// Settings with limits that only guard against hanging.
pub fn settings(url: &str) -> DatabaseSettings {
    DatabaseSettings {
        url: SecretString::from(url.to_owned()),
        password_file: PathBuf::new(),
        max_connections: 8,
        acquire_timeout: Duration::from_secs(300),
        statement_timeout: Duration::from_secs(3600),
        listen_url: SecretString::default(),
        read_url: SecretString::default(),
    }
}

impl Place {
    fn url(&self) -> String {
        match self {
            Self::Postgres(database) => database.url(),
            Self::Pooled(database, pooler) => pooler.url_of(&database.url()),
            Self::Sqlite(folder) => format!("sqlite:{}", folder.path().join("test.db").display()),
        }
    }
}

impl Bed {
    pub async fn postgres() -> Self {
        Self::on(Place::Postgres(TestDatabase::migrated().await)).await
    }

    /// With a table of runs that is partitioned by month.
    pub async fn partitioned() -> Self {
        Self::on(Place::Postgres(TestDatabase::partitioned().await)).await
    }

    /// Through PgBouncer in transaction mode, with fewer connections than the store has.
    pub async fn pooled() -> Self {
        Self::behind_pooler(TestDatabase::migrated().await).await
    }

    pub async fn sqlite() -> Self {
        let bed = Self::empty_sqlite().await;
        bed.store.migrate().await.unwrap();
        bed
    }

    pub async fn empty_postgres() -> Self {
        Self::on(Place::Postgres(TestDatabase::create().await)).await
    }

    async fn empty_sqlite() -> Self {
        Self::on(Place::Sqlite(tempfile::tempdir().unwrap())).await
    }

    async fn empty_pooled() -> Self {
        Self::behind_pooler(TestDatabase::create().await).await
    }

    async fn behind_pooler(database: TestDatabase) -> Self {
        let pooler = PgBouncer::before(&database.url(), 5);
        Self::on(Place::Pooled(database, pooler)).await
    }

    async fn on(place: Place) -> Self {
        let store = verifyd::store::connect(&settings(&place.url()))
            .await
            .unwrap();
        let door = match &place {
            Place::Postgres(database) | Place::Pooled(database, _) => {
                Door::Postgres(PgPool::connect(&database.url()).await.unwrap())
            }
            Place::Sqlite(folder) => Door::Sqlite(
                SqlitePool::connect_with(
                    SqliteConnectOptions::new()
                        .filename(folder.path().join("test.db"))
                        .busy_timeout(Duration::from_secs(300)),
                )
                .await
                .unwrap(),
            ),
        };
        Self { store, door, place }
    }

    /// An empty database of the same kind.
    pub async fn empty_sibling(&self) -> Self {
        match self.place {
            Place::Postgres(_) => Self::empty_postgres().await,
            Place::Pooled(..) => Self::empty_pooled().await,
            Place::Sqlite(_) => Self::empty_sqlite().await,
        }
    }

    /// Another replica: connections of its own to the same database.
    pub async fn replica(&self) -> Arc<dyn Store> {
        verifyd::store::connect(&settings(&self.place.url()))
            .await
            .unwrap()
    }

    /// A store that connects in another way.
    pub async fn connect_as(&self, change: impl FnOnce(&mut url::Url)) -> Arc<dyn Store> {
        let mut url: url::Url = self.url().parse().unwrap();
        change(&mut url);
        let store = verifyd::store::connect(&settings(url.as_str())).await;
        store.unwrap()
    }

    pub fn url(&self) -> String {
        self.place.url()
    }

    /// Direct access where a test is about PostgreSQL itself.
    pub fn pg(&self) -> &PgPool {
        match &self.door {
            Door::Postgres(pool) => pool,
            Door::Sqlite(_) => panic!("this test is about PostgreSQL"),
        }
    }

    /// A setting of this PostgreSQL database, for connections that are opened from now on.
    pub async fn set(&self, setting: &str) {
        let url = self.url();
        let name = url.rsplit('/').next().unwrap();
        let statement = AssertSqlSafe(format!("ALTER DATABASE {name} SET {setting}"));
        self.pg().execute(statement).await.unwrap();
    }

    /// Returns once a session of this PostgreSQL database waits for a lock.
    pub async fn somebody_waits_for_a_lock(&self) {
        const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until("somebody waits for a lock", async || {
            self.number(WAITING).await > 0
        })
        .await;
    }

    /// The name of one of verifyd's own tables.
    pub fn own(&self, table: &str) -> String {
        match &self.door {
            Door::Postgres(_) => format!("verifyd.{table}"),
            Door::Sqlite(_) => format!("verifyd_{table}"),
        }
    }

    /// Runs a statement that both databases understand.
    pub async fn exec(&self, sql: &str) {
        self.try_exec(sql).await.unwrap();
    }

    pub async fn try_exec(&self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.door {
            Door::Postgres(pool) => sqlx::raw_sql(sql).execute(pool).await.map(|_| ()),
            Door::Sqlite(pool) => sqlx::raw_sql(sql).execute(pool).await.map(|_| ()),
        }
    }

    /// One number.
    pub async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.door {
            Door::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Door::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// One text.
    pub async fn text(&self, sql: &str) -> String {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.door {
            Door::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Door::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// Everything that a table holds; with PostgreSQL the place and the age of each row's version
    /// too, so that a row written again with the same content shows.
    pub async fn dump(&self, table: &str) -> Vec<String> {
        match &self.door {
            Door::Postgres(pool) => sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT to_jsonb(t)::text || ' ' || t.ctid::text || ' ' || t.xmin::text \
                        || ' ' || t.xmax::text FROM {table} t ORDER BY 1"
            )))
            .fetch_all(pool)
            .await
            .unwrap(),
            Door::Sqlite(pool) => {
                let columns: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
                    "SELECT name FROM pragma_table_info('{table}')"
                )))
                .fetch_all(pool)
                .await
                .unwrap();
                sqlx::query_scalar(AssertSqlSafe(format!(
                    "SELECT json_array({}) FROM {table} ORDER BY 1",
                    columns.join(", ")
                )))
                .fetch_all(pool)
                .await
                .unwrap()
            }
        }
    }

    /// The same without what PostgreSQL notes beside a row, for example of a lock that was given back.
    pub async fn content(&self, table: &str) -> Vec<String> {
        let dump = self.dump(table).await.into_iter();
        dump.map(|row| row.split("} ").next().unwrap().to_owned())
            .collect()
    }

    /// All runs go, and ids begin anew.
    pub async fn restart_runs(&self) {
        self.exec(match &self.door {
            Door::Postgres(_) => "TRUNCATE operation_runs RESTART IDENTITY",
            Door::Sqlite(_) => {
                "DELETE FROM operation_runs; \
                 DELETE FROM sqlite_sequence WHERE name = 'operation_runs'"
            }
        })
        .await;
    }

    /// Takes the guards of a run's identity and of completed runs away, as only the table's owner
    /// can.
    pub async fn unguard(&self) {
        for name in ["completed_run", "run_identity", "run_recorded"] {
            let on = match &self.door {
                Door::Postgres(_) => " ON operation_runs",
                Door::Sqlite(_) => "",
            };
            self.exec(&format!("DROP TRIGGER IF EXISTS verifyd_guard_{name}{on}"))
                .await;
        }
    }

    /// Moves a time of some rows into the past.
    pub async fn age(&self, table: &str, column: &str, rows: &str, seconds: u32) {
        if table == "operation_runs" {
            self.unguard().await;
        }
        let earlier = match &self.door {
            Door::Postgres(_) => format!("{column} - interval '{seconds} seconds'"),
            Door::Sqlite(_) => {
                format!("strftime('%Y-%m-%dT%H:%M:%fZ', {column}, '-{seconds} seconds')")
            }
        };
        self.exec(&format!(
            "UPDATE {table} SET {column} = {earlier} WHERE {rows}"
        ))
        .await;
    }

    /// What any application may do: insert a row, and tell nobody.
    pub async fn insert(&self, kind: &str, status: &str, context: &Value) -> RunId {
        self.insert_for(TenantId(7), kind, status, context).await
    }

    pub async fn insert_for(
        &self,
        tenant: TenantId,
        kind: &str,
        status: &str,
        context: &Value,
    ) -> RunId {
        let sql = "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
                   VALUES (1, $1, $2, $3, $4) RETURNING id";
        let id = match &self.door {
            Door::Postgres(pool) => {
                let insert = sqlx::query_scalar(sql)
                    .bind(tenant.0)
                    .bind(kind)
                    .bind(status);
                insert.bind(context).fetch_one(pool).await
            }
            Door::Sqlite(pool) => {
                let insert = sqlx::query_scalar(sql)
                    .bind(tenant.0)
                    .bind(kind)
                    .bind(status);
                insert.bind(context).fetch_one(pool).await
            }
        };
        RunId(id.unwrap())
    }

    /// Gives a run a status that verifyd's own table would refuse, as another application's might
    /// hold it.
    pub async fn force_status(&self, run: RunId, status: &str) {
        if self.is_postgres() {
            self.exec("ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_status")
                .await;
        }
        let update = format!("UPDATE operation_runs SET status = '{status}' WHERE id = {run}");
        self.unchecked(&update).await;
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.door, Door::Postgres(_))
    }

    /// Makes `operation_runs` as another application's table: without verifyd's constraints.
    pub async fn lift_constraints(&self) {
        if self.is_postgres() {
            for name in ["status", "outcome", "context_size"] {
                self.exec(&format!(
                    "ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_{name}"
                ))
                .await;
            }
            return;
        }
        for name in ["context_size", "context_size_kept", "time_size_kept"] {
            self.exec(&format!("DROP TRIGGER verifyd_guard_{name}"))
                .await;
        }
    }

    /// Runs statements that SQLite's constraints, which cannot be dropped, would refuse.
    pub async fn unchecked(&self, sql: &str) {
        match self.is_postgres() {
            true => self.exec(sql).await,
            false => {
                self.exec(&format!(
                    "PRAGMA ignore_check_constraints = ON; {sql}; \
                     PRAGMA ignore_check_constraints = OFF"
                ))
                .await;
            }
        }
    }

    /// The text of a run's context, as the database has it.
    pub async fn context_of(&self, run: RunId) -> String {
        self.text(&format!(
            "SELECT CAST(context AS text) FROM operation_runs WHERE id = {run}"
        ))
        .await
    }

    /// Holds a run as another transaction would: PostgreSQL its row, SQLite the whole file.
    pub async fn lock_run(&self, run: RunId) -> HeldLock {
        match &self.door {
            Door::Postgres(pool) => {
                let mut tx = pool.begin().await.unwrap();
                sqlx::query("SELECT 1 FROM operation_runs WHERE id = $1 FOR UPDATE")
                    .bind(run.0)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                HeldLock::Postgres(tx)
            }
            Door::Sqlite(pool) => {
                HeldLock::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await.unwrap())
            }
        }
    }

    /// Gives a connection a status that verifyd does not know.
    pub async fn corrupt_connection(&self, id: ConnectionId) {
        if self.is_postgres() {
            self.exec(
                "ALTER TABLE provider_connections DROP CONSTRAINT provider_connections_status",
            )
            .await;
        }
        let update = format!("UPDATE provider_connections SET status = 'odd' WHERE id = {id}");
        self.unchecked(&update).await;
    }

    /// Makes every later credential collide with that of this connection.
    pub async fn collide_credentials(&self, id: ConnectionId) {
        match &self.door {
            Door::Postgres(_) => {
                self.exec(&format!(
                    "CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS \
                     'BEGIN new.provider_connection_id := {id}; RETURN new; END'; \
                     CREATE TRIGGER collide BEFORE INSERT ON provider_credentials \
                     FOR EACH ROW EXECUTE FUNCTION collide()"
                ))
                .await;
            }
            Door::Sqlite(_) => {
                self.exec(&format!(
                    "CREATE TRIGGER collide AFTER INSERT ON provider_credentials BEGIN \
                     UPDATE provider_credentials SET provider_connection_id = {id} \
                     WHERE id = new.id; END"
                ))
                .await;
            }
        }
    }
}

/// A lock that another transaction holds until it is released.
pub enum HeldLock {
    Postgres(Transaction<'static, Postgres>),
    Sqlite(Transaction<'static, Sqlite>),
}

impl HeldLock {
    pub async fn release(self) {
        match self {
            Self::Postgres(tx) => tx.rollback().await.unwrap(),
            Self::Sqlite(tx) => tx.rollback().await.unwrap(),
        }
    }
}
