//! A temporary database beside the one that the settings name.
//!
//! A temporary schema would not suffice: verifyd's own state is in the schema `verifyd` of its database.

use super::connector::Connector;
use crate::domain::host_list::HostList;
use crate::ports::store_error::StoreError;
use crate::store::settings::DatabaseSettings;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::time::Duration;

/// Prefix of all names; only hexadecimal digits follow.
const PREFIX: &str = "verifyd_bench_";

/// Making and removing a database copies and deletes files.
const TIMEOUT: Duration = Duration::from_secs(60);

const LEFT_OVER: &str = "
    SELECT datname::text FROM pg_database d WHERE datname ~ ('^' || $1 || '[0-9a-f]{16}$')
    AND datname <> $2 AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)
    ORDER BY 1";

/// A temporary database on the PostgreSQL server that the settings name. The database that they name is
/// neither read nor written.
///
/// It exists until [`Private::remove`], so that a measurement on a server in use leaves nothing behind.
#[derive(Debug)]
pub struct Private {
    server: DatabaseSettings,
    private: DatabaseSettings,
    name: String,
}

impl Private {
    /// Makes it. Needs the right to make databases.
    pub async fn make(server: &DatabaseSettings) -> Result<Self, StoreError> {
        let name = format!("{PREFIX}{:016x}", rand::random::<u64>());
        let mut private = server.clone();
        private.url = leading_to(&name, &server.url);
        private.listen_url = leading_to(&name, &server.listen_url);
        private.read_url = SecretString::default();
        let made = Self {
            server: server.clone(),
            private,
            name,
        };
        // Of template1 an installation may have made something of its own.
        made.execute(format!(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
            made.name
        ))
        .await?;
        Ok(made)
    }

    /// The settings, leading to it.
    pub fn settings(&self) -> &DatabaseSettings {
        &self.private
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns other temporary databases without a connection: a killed process left them.
    pub async fn left_over(&self) -> Result<Vec<String>, StoreError> {
        let mut connection = self.connect().await?;
        let found = sqlx::query_scalar(LEFT_OVER)
            .persistent(false)
            .bind(PREFIX)
            .bind(&self.name)
            .fetch_all(&mut connection)
            .await?;
        let _ = connection.close().await;
        Ok(found)
    }

    /// Removes it, and ends the connections to it.
    pub async fn remove(&self) -> Result<(), StoreError> {
        self.execute(format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            self.name
        ))
        .await
    }

    /// A connection to the database of the settings: to which other ones the user may connect is
    /// not known.
    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connector = Connector::of(&self.server)?;
        tokio::time::timeout(self.server.acquire_timeout, connector.open())
            .await
            .map_err(|_| {
                StoreError::Unavailable("no connection within database.acquire_timeout".into())
            })?
    }

    /// Outside of a transaction, as the server demands for these statements.
    async fn execute(&self, statement: String) -> Result<(), StoreError> {
        let mut connection = self.connect().await?;
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection);
        let done = tokio::time::timeout(TIMEOUT, done)
            .await
            .map_err(|_| StoreError::Unavailable(format!("no answer within {TIMEOUT:?}").into()))?;
        let _ = connection.close().await;
        match done {
            Ok(_) => Ok(()),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
                Err(StoreError::Refused(
                    "the user of database.url may not make databases. Give another user in \
                     DATABASE_URL, or the right for as long as it is needed: \
                     ALTER ROLE … CREATEDB"
                        .into(),
                ))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the same address with another database; an empty one stays empty.
fn leading_to(name: &str, url: &SecretString) -> SecretString {
    let hosts = HostList::of(url.expose_secret());
    let Some(mut parsed) = hosts.first() else {
        return url.clone();
    };
    let others: Vec<(String, String)> = parsed
        .query_pairs()
        .filter(|(key, _)| key != "dbname")
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect();
    parsed.set_path(name);
    parsed.set_query(None);
    if !others.is_empty() {
        parsed.query_pairs_mut().extend_pairs(others);
    }
    SecretString::from(hosts.with_all(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(url: &str) -> String {
        leading_to("mine", &SecretString::from(url))
            .expose_secret()
            .to_owned()
    }

    #[test]
    fn only_the_database_of_the_address_changes() {
        assert_eq!(led(""), "");
        assert_eq!(led("postgres://h/app"), "postgres://h/mine");
        assert_eq!(led("postgres://h"), "postgres://h/mine");
        assert_eq!(
            led("postgres://u@h1:1,h2:2/app?target_session_attrs=primary"),
            "postgres://u@h1:1,h2:2/mine?target_session_attrs=primary"
        );
        assert_eq!(
            led("postgres://u:p%40ss@h:6432/app?dbname=other&sslmode=require"),
            "postgres://u:p%40ss@h:6432/mine?sslmode=require"
        );
    }
}
