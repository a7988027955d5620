//! Runs the statements that both databases share.

use super::{SqliteStore, Tx, modifier};
use crate::ports::pools::{PoolState, PoolStore};
use crate::ports::store_error::StoreError;
use crate::store::pools;
use crate::store::sql_store::{self, InProcess, SqlConnection, SqlRow, SqlStore, SqlTransaction};
use crate::store::statement::{Statement, Value};
use crate::store::workers::HeartbeatWriter;
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};
use std::ops::DerefMut;

fn query(statement: Statement) -> Query<'static, Sqlite, SqliteArguments> {
    let query = sqlx::query(AssertSqlSafe(statement.sqlite));
    let values = statement.values.into_iter();
    values.fold(query, |query, value| match value {
        Value::Flag(flag) => query.bind(flag),
        Value::Integer(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
        // As the database's own times are written, so that they compare as texts.
        Value::Time(at) => query.bind(at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))),
        Value::Json(json) => query.bind(json),
        Value::Later(period) => query.bind(period.map(|period| modifier('+', period))),
        Value::Earlier(period) => query.bind(modifier('-', period)),
        Value::Integers(numbers) => query.bind(serde_json::Value::from(numbers)),
        Value::Texts(texts) => query.bind(serde_json::Value::from(texts)),
    })
}

#[async_trait]
impl<C: DerefMut<Target = SqliteConnection> + Send> SqlConnection for C {
    async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        Ok(query(statement).execute(&mut **self).await?.rows_affected())
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<SqlRow>, StoreError> {
        let rows = query(statement).fetch_all(&mut **self).await?;
        Ok(rows.into_iter().map(SqlRow::Sqlite).collect())
    }
}

#[async_trait]
impl SqlTransaction for Tx {
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok((*self).commit().await?)
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Ok((*self).rollback().await?)
    }
}

/// A reader begins no transaction.
#[async_trait]
impl SqlTransaction for PoolConnection<Sqlite> {
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl SqlStore for SqliteStore {
    async fn begin(&self) -> Result<sql_store::Tx, StoreError> {
        Ok(sql_store::Tx::new(SqliteStore::begin(self).await?))
    }

    async fn begin_read(&self) -> Result<sql_store::Tx, StoreError> {
        Ok(sql_store::Tx::new(self.reader().await?))
    }

    fn in_process(&self) -> &InProcess {
        &self.in_process
    }
}

#[async_trait]
impl HeartbeatWriter for SqliteStore {
    async fn write_heartbeat(&self, heartbeat: Statement) -> Result<(DateTime<Utc>,), StoreError> {
        sql_store::transaction(self, async |tx| heartbeat.fetch_one(tx).await).await
    }
}

impl PoolStore for SqliteStore {
    fn pools(&self) -> Vec<PoolState> {
        vec![
            pools::state_of("writer", &self.writer),
            pools::state_of("readers", &self.readers),
        ]
    }
}
