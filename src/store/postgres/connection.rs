//! Runs the statements that both databases share.

use super::{PostgresStore, Tx};
use crate::ports::pools::{PoolState, PoolStore};
use crate::ports::store_error::StoreError;
use crate::store::pools;
use crate::store::shares::Share;
use crate::store::sql_store::{self, InProcess, SqlConnection, SqlRow, SqlStore, SqlTransaction};
use crate::store::statement::{Statement, Value};
use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};
use std::ops::DerefMut;

/// A connection, and whether its prepared statements have names.
pub(super) struct PostgresConnection<C> {
    connection: C,
    named: bool,
}

impl PostgresStore {
    /// The connection for shared statements.
    pub(super) fn shared<C>(&self, connection: C) -> PostgresConnection<C> {
        PostgresConnection {
            connection,
            named: self.named,
        }
    }
}

impl<C> PostgresConnection<C> {
    fn query(&self, statement: Statement) -> Query<'static, Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(statement.postgres)).persistent(self.named);
        let values = statement.values.into_iter();
        values.fold(query, |query, value| match value {
            Value::Flag(flag) => query.bind(flag),
            Value::Integer(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Time(at) => query.bind(at),
            Value::Json(json) => query.bind(json),
            Value::Later(period) => query.bind(period.map(|period| period.as_secs_f64())),
            Value::Earlier(period) => query.bind(period.as_secs_f64()),
            Value::Integers(numbers) => query.bind(numbers),
            Value::Texts(texts) => query.bind(texts),
        })
    }
}

#[async_trait]
impl<C: DerefMut<Target = PgConnection> + Send> SqlConnection for PostgresConnection<C> {
    async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        let query = self.query(statement);
        Ok(query.execute(&mut *self.connection).await?.rows_affected())
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<SqlRow>, StoreError> {
        let query = self.query(statement);
        let rows = query.fetch_all(&mut *self.connection).await?;
        Ok(rows.into_iter().map(SqlRow::Postgres).collect())
    }
}

#[async_trait]
impl SqlTransaction for PostgresConnection<Tx> {
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(self.connection.commit().await?)
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Ok(self.connection.rollback().await?)
    }
}

#[async_trait]
impl SqlStore for PostgresStore {
    async fn begin(&self) -> Result<sql_store::Tx, StoreError> {
        Ok(sql_store::Tx::new(
            self.shared(PostgresStore::begin(self).await?),
        ))
    }

    async fn begin_read(&self) -> Result<sql_store::Tx, StoreError> {
        SqlStore::begin(self).await
    }

    fn release_share(&self) -> Option<&Share> {
        Some(&self.completions)
    }

    fn in_process(&self) -> &InProcess {
        &self.in_process
    }
}

impl PoolStore for PostgresStore {
    fn pools(&self) -> Vec<PoolState> {
        vec![pools::state_of("main", &self.pool)]
    }
}
