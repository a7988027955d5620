//! Statements with their parameters, for either database.

use super::sql_store::{FromSqlRow, SqlConnection};
use crate::ports::store_error::StoreError;
use chrono::{DateTime, Utc};
use std::borrow::Cow;
use std::time::Duration;

/// The text of one statement in the language of each database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sql {
    pub postgres: &'static str,
    pub sqlite: &'static str,
}

impl Sql {
    /// Adds the first parameter.
    pub fn bind(self, value: impl Into<Value>) -> Statement {
        Statement::from(self).bind(value)
    }

    /// Runs it without parameters; returns how many rows it has changed.
    pub async fn execute(self, connection: &mut dyn SqlConnection) -> Result<u64, StoreError> {
        Statement::from(self).execute(connection).await
    }

    /// Returns its first row, without parameters.
    pub async fn fetch_one<T: FromSqlRow>(
        self,
        connection: &mut dyn SqlConnection,
    ) -> Result<T, StoreError> {
        Statement::from(self).fetch_one(connection).await
    }
}

/// A parameter.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Flag(bool),
    Integer(Option<i64>),
    Text(Option<String>),
    Time(Option<DateTime<Utc>>),
    Json(serde_json::Value),
    /// A time after the database's own.
    Later(Option<Duration>),
    /// A time before the database's own.
    Earlier(Duration),
    /// An array in PostgreSQL, rows for `json_each` in SQLite.
    Integers(Vec<i64>),
    Texts(Vec<String>),
}

/// A period after the database's time.
pub(super) fn later(period: Duration) -> Value {
    Value::Later(Some(period))
}

/// A period before the database's time.
pub(super) fn earlier(period: Duration) -> Value {
    Value::Earlier(period)
}

macro_rules! values {
    ($($type:ty, |$value:ident| $made:expr;)+) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $made
            }
        })+
    };
}

values! {
    bool, |flag| Self::Flag(flag);
    i64, |number| Self::Integer(Some(number));
    i32, |number| Self::Integer(Some(number.into()));
    u32, |number| Self::Integer(Some(number.into()));
    u16, |number| Self::Integer(Some(number.into()));
    Option<i64>, |number| Self::Integer(number);
    Option<u16>, |number| Self::Integer(number.map(i64::from));
    &str, |text| Self::Text(Some(text.to_owned()));
    &String, |text| Self::Text(Some(text.clone()));
    String, |text| Self::Text(Some(text));
    Option<&str>, |text| Self::Text(text.map(str::to_owned));
    Option<String>, |text| Self::Text(text);
    &Option<String>, |text| Self::Text(text.clone());
    DateTime<Utc>, |at| Self::Time(Some(at));
    Option<DateTime<Utc>>, |at| Self::Time(at);
    &serde_json::Value, |json| Self::Json(json.clone());
    Vec<i64>, |numbers| Self::Integers(numbers);
    &[i64], |numbers| Self::Integers(numbers.to_vec());
    &Vec<String>, |texts| Self::Texts(texts.clone());
}

/// A statement with its parameters.
#[derive(Debug)]
pub(super) struct Statement {
    pub postgres: Cow<'static, str>,
    pub sqlite: Cow<'static, str>,
    pub values: Vec<Value>,
}

impl From<Sql> for Statement {
    fn from(sql: Sql) -> Self {
        Self {
            postgres: sql.postgres.into(),
            sqlite: sql.sqlite.into(),
            values: Vec::new(),
        }
    }
}

impl Statement {
    /// Adds a parameter of the text.
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Appends to the text.
    pub fn push(&mut self, sql: Sql) -> &mut Self {
        self.postgres.to_mut().push_str(sql.postgres);
        self.sqlite.to_mut().push_str(sql.sqlite);
        self
    }

    /// Appends text that is the same in both databases.
    pub fn push_text(&mut self, text: &str) -> &mut Self {
        self.postgres.to_mut().push_str(text);
        self.sqlite.to_mut().push_str(text);
        self
    }

    /// Appends a parameter.
    pub fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.push_text(&format!("${}", self.values.len()))
    }

    /// Runs it; returns how many rows it has changed.
    pub async fn execute(self, connection: &mut dyn SqlConnection) -> Result<u64, StoreError> {
        connection.execute(self).await
    }

    /// Returns its rows.
    pub async fn fetch_all<T: FromSqlRow>(
        self,
        connection: &mut dyn SqlConnection,
    ) -> Result<Vec<T>, StoreError> {
        let rows = connection.fetch(self).await?;
        let rows = rows.iter().map(T::from_sql_row);
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Returns its rows, which are ids.
    pub async fn fetch_ids(
        self,
        connection: &mut dyn SqlConnection,
    ) -> Result<Vec<i64>, StoreError> {
        let rows: Vec<(i64,)> = self.fetch_all(connection).await?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Returns its first row, if there is one.
    pub async fn fetch_optional<T: FromSqlRow>(
        self,
        connection: &mut dyn SqlConnection,
    ) -> Result<Option<T>, StoreError> {
        let rows = connection.fetch(self).await?;
        Ok(rows.first().map(T::from_sql_row).transpose()?)
    }

    /// Returns its first row.
    pub async fn fetch_one<T: FromSqlRow>(
        self,
        connection: &mut dyn SqlConnection,
    ) -> Result<T, StoreError> {
        let found = self.fetch_optional(connection).await?;
        Ok(found.ok_or(sqlx::Error::RowNotFound)?)
    }
}
