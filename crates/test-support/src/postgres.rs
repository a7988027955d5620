//! A PostgreSQL database of its own for each test.
//!
//! `VERIFYD_TEST_DATABASE_URL` names a server where databases may be created.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// A database with a random name; dropped, with whoever is still connected, at the end.
#[derive(Debug)]
pub struct TestDatabase {
    server: url::Url,
    name: String,
}

impl TestDatabase {
    /// Creates it. Fails the test where no server is named.
    pub async fn create() -> Self {
        let server = std::env::var("VERIFYD_TEST_DATABASE_URL")
            .expect("run scripts/test, which starts PostgreSQL and Redis");
        Self::create_on(&server).await
    }

    /// Creates it on this server, which must outlive it.
    pub async fn create_on(server: &str) -> Self {
        let name = format!("verifyd_test_{}", uuid::Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(server)
            .await
            .expect("the test's PostgreSQL answers");
        admin
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
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
            runtime.block_on(async {
                let mut admin = PgConnection::connect(&server).await?;
                admin.execute(AssertSqlSafe(drop)).await?;
                admin.close().await
            })
        })
        .join();
        if !matches!(dropped, Ok(Ok(()))) && !std::thread::panicking() {
            panic!("the test's database could not be dropped");
        }
    }
}
