//! A PostgreSQL database of its own for each test.
//!
//! `VERIFYD_TEST_DATABASE_URL` names a server where databases may be created.

use crate::waiting::{PATIENCE, until};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::OnceCell;
use verifyd::store::{DatabaseSettings, ListenMode};

/// The databases that [`TestDatabase::migrated`] and [`TestDatabase::partitioned`] copy. The server is thrown away with
/// them.
static MIGRATED: OnceCell<String> = OnceCell::const_new();
static PARTITIONED: OnceCell<String> = OnceCell::const_new();

/// A database with a random name; dropped, with whoever is still connected, at the end.
#[derive(Debug)]
pub struct TestDatabase {
    server: url::Url,
    name: String,
}

impl TestDatabase {
    /// Creates it. Fails the test where no server is named.
    pub async fn create() -> Self {
        Self::create_on(&server()).await
    }

    /// Creates it empty, in this encoding. The locale C fits all.
    pub async fn in_encoding(encoding: &str) -> Self {
        let options =
            format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        Self::create_with(&server(), &options).await
    }

    /// Creates it as migrations leave an empty one: migrating takes ten times as long as copying.
    pub async fn migrated() -> Self {
        Self::copy_of(&MIGRATED, false).await
    }

    /// The same with a table of runs that is partitioned by month.
    pub async fn partitioned() -> Self {
        Self::copy_of(&PARTITIONED, true).await
    }

    async fn copy_of(template: &OnceCell<String>, is_partitioned: bool) -> Self {
        let server = server();
        let template = template.get_or_init(|| migrate(&server, is_partitioned));
        let template = template.await;
        Self::create_with(&server, &format!("TEMPLATE {template}")).await
    }

    /// Creates it on this server, which must outlive it.
    pub async fn create_on(server: &str) -> Self {
        Self::create_with(server, "").await
    }

    async fn create_with(server: &str, options: &str) -> Self {
        let name = format!("verifyd_test_{}", uuid::Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(server)
            .await
            .expect("the test's PostgreSQL answers");
        admin
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name} {options}")))
            .await
            .expect("a database can be created");
        admin.close().await.expect("the connection closes");
        let server = server
            .parse()
            .expect("the address of the test's PostgreSQL is a URL");
        Self { server, name }
    }

    /// From now on it is another server that has this database.
    pub fn has_moved_to(&mut self, server: &str) {
        self.server = server.parse().expect("the address is a URL");
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let mut url = self.server.clone();
        url.set_path(&self.name);
        url.into()
    }
}

fn server() -> String {
    std::env::var("VERIFYD_TEST_DATABASE_URL")
        .expect("run scripts/test, which starts PostgreSQL and Redis")
}

/// Migrates a new database and returns its name once nobody is connected to it, so that it can be copied.
async fn migrate(server: &str, is_partitioned: bool) -> String {
    let template = TestDatabase::create_on(server).await;
    let settings = DatabaseSettings {
        url: SecretString::from(template.url()),
        password_file: PathBuf::new(),
        max_connections: 2,
        acquire_timeout: Duration::from_secs(300),
        statement_timeout: Duration::from_secs(1800),
        listen: ListenMode::Off,
        listen_url: SecretString::default(),
        read_url: SecretString::default(),
    };
    let store = verifyd::store::connect(&settings)
        .await
        .expect("the new database answers");
    store
        .migrate()
        .await
        .expect("an empty database is migrated");
    if is_partitioned {
        let partitioned = store.partition_by_month().await;
        partitioned.expect("the table is verifyd's own");
        let months = store.add_months().await.expect("months can be added");
        assert_eq!(months.left, []);
    }
    drop(store);

    let mut admin = PgConnection::connect(server)
        .await
        .expect("the test's PostgreSQL answers");
    until("nobody is connected to the migrated database", async || {
        let sessions = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1",
        );
        let sessions = sessions.bind(&template.name).fetch_one(&mut admin).await;
        sessions.expect("the test's PostgreSQL answers") == 0
    })
    .await;
    admin.close().await.expect("the connection closes");
    let name = template.name.clone();
    std::mem::forget(template);
    name
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = self.server.to_string();
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // The test's runtime cannot wait in a destructor; a thread with a runtime of its own can.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            let dropping = async {
                let mut admin = PgConnection::connect(&server).await?;
                // Where a test fails, the standby that commits wait for is gone before.
                admin.execute("SET synchronous_commit = local").await?;
                admin.execute(AssertSqlSafe(drop)).await?;
                admin.close().await
            };
            runtime.block_on(async { tokio::time::timeout(PATIENCE, dropping).await })
        })
        .join();
        if !matches!(dropped, Ok(Ok(Ok(())))) && !std::thread::panicking() {
            panic!("the test's database could not be dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private_postgres::PrivatePostgres;

    #[tokio::test]
    async fn a_database_is_dropped_although_commits_wait_for_a_standby_that_is_gone() {
        let server = PrivatePostgres::start();
        let database = TestDatabase::create_on(&server.url()).await;
        let mut sql = PgConnection::connect(&server.url()).await.unwrap();
        for statement in [
            "ALTER SYSTEM SET synchronous_standby_names = 'gone'",
            "SELECT pg_reload_conf()",
        ] {
            sql.execute(statement).await.unwrap();
        }
        until("commits wait", async || {
            let standby = sqlx::query_scalar::<_, String>("SHOW synchronous_standby_names");
            standby.fetch_one(&mut sql).await.unwrap() == "gone"
        })
        .await;
        drop(database);
        drop(server);
    }
}
