//! Inspects the schema: names what is missing and what has another type.

use super::{REPLACED, SqliteStore};
use crate::ports::schema::{InspectStore, SchemaFinding, SchemaStore as _};
use crate::ports::store_error::StoreError;
use crate::store::from_row::from_row;
use crate::store::migrations::WANTED_VERSION;
use crate::store::tables::{APPLICATION, Family, OWN, Table};
use async_trait::async_trait;
use sqlx::SqliteConnection;

const COLUMNS: &str = "SELECT name, type, pk > 0 AS key FROM pragma_table_info($1)";

/// The columns of every unique index over all rows, one index per row.
const UNIQUE: &str = "
    SELECT (SELECT group_concat(c.name, ',') FROM pragma_index_info(i.name) c)
    FROM pragma_index_list($1) i WHERE i.\"unique\" AND NOT i.partial";

/// Levels of JSON that a producer's library of SQLite before 3.42 writes. `.cargo/config.toml` makes verifyd's own
/// library read as many; a build that does not read that file gets half of them.
const JSON_LEVELS: i64 = 2_000;

/// Whether the library reads JSON of so many levels: `PRAGMA compile_options` does not tell.
const READS_JSON: &str = "SELECT json_valid(printf('%.*c', $1, '[') || printf('%.*c', $1, ']'))";

/// The remedy where the file was replaced.
const RESTART: &str = "stop `verifyd serve`, remove the -wal and -shm of the former file, put the file in place, \
     and start `verifyd serve` again";

from_row! {
    struct Column {
        name: String,
        declared as "type": String,
        key: bool,
    }
}

#[async_trait]
impl InspectStore for SqliteStore {
    async fn inspect(&self) -> Result<Vec<SchemaFinding>, StoreError> {
        if self.is_replaced() {
            let file = self.file.display().to_string();
            return Ok(vec![SchemaFinding::fatal(file, REPLACED, RESTART)]);
        }
        let mut findings = Vec::new();
        let mut reader = self.reader().await?;
        inspect_library(&mut reader, JSON_LEVELS, &mut findings).await?;
        for table in OWN {
            let name = format!("verifyd_{}", table.name);
            inspect_table(&mut reader, &name, table, &mut findings).await?;
        }
        for table in APPLICATION {
            inspect_table(&mut reader, table.name, table, &mut findings).await?;
        }
        drop(reader);
        let version = self.schema_version().await?;
        if let Some(version) = version.filter(|version| *version < WANTED_VERSION) {
            findings.push(SchemaFinding::fatal(
                "verifyd_schema_migrations",
                format!("version {version}, needed: {WANTED_VERSION}"),
                "run: verifyd migrate",
            ));
        }
        Ok(findings)
    }

    async fn schema_mark(&self) -> Result<String, StoreError> {
        if self.is_replaced() {
            return Ok(REPLACED.to_owned());
        }
        Ok(
            sqlx::query_scalar("SELECT CAST(schema_version AS TEXT) FROM pragma_schema_version")
                .fetch_one(&mut *self.reader().await?)
                .await?,
        )
    }
}

/// Finds out whether the library that verifyd was built with reads what producers may write.
async fn inspect_library(
    connection: &mut SqliteConnection,
    levels: i64,
    findings: &mut Vec<SchemaFinding>,
) -> Result<(), StoreError> {
    let reads: bool = sqlx::query_scalar(READS_JSON)
        .bind(levels)
        .fetch_one(connection)
        .await?;
    if !reads {
        findings.push(SchemaFinding::advice(
            "SQLite",
            format!(
                "this build reads JSON of less than {levels} levels; a deeper context makes lists \
                 fail"
            ),
            "build verifyd with LIBSQLITE3_FLAGS=SQLITE_JSON_MAX_DEPTH=2000",
        ));
    }
    Ok(())
}

async fn inspect_table(
    connection: &mut SqliteConnection,
    name: &str,
    table: &Table,
    findings: &mut Vec<SchemaFinding>,
) -> Result<(), StoreError> {
    let columns: Vec<Column> = sqlx::query_as(COLUMNS)
        .bind(name)
        .fetch_all(&mut *connection)
        .await?;
    let mut find = |subject: String, problem: String, remedy: &str| {
        findings.push(SchemaFinding::fatal(subject, problem, remedy.to_owned()));
    };
    if columns.is_empty() {
        find(
            name.to_owned(),
            "the table is missing".into(),
            "run: verifyd migrate",
        );
        return Ok(());
    }
    const OWN_FILE: &str = "give verifyd a file of its own, made by: verifyd migrate";
    for (column, family) in table.columns {
        let subject = format!("{name}.{column}");
        let wanted = declared_type(*family);
        match columns.iter().find(|found| found.name == *column) {
            None => find(subject, "the column is missing".into(), OWN_FILE),
            Some(found) if !found.declared.eq_ignore_ascii_case(wanted) => find(
                subject,
                format!("the type is {}, needed: {wanted}", found.declared),
                OWN_FILE,
            ),
            Some(_) => {}
        }
    }
    let key: Vec<&str> = columns
        .iter()
        .filter(|column| column.key)
        .map(|column| column.name.as_str())
        .collect();
    if table.unique.is_empty() || same_columns(&key, table.unique) {
        return Ok(());
    }
    let unique: Vec<String> = sqlx::query_scalar(UNIQUE)
        .bind(name)
        .fetch_all(connection)
        .await?;
    let there = unique
        .iter()
        .any(|columns| same_columns(&columns.split(',').collect::<Vec<_>>(), table.unique));
    if !there {
        find(
            format!("{name} ({})", table.unique.join(", ")),
            "the unique key is missing".into(),
            OWN_FILE,
        );
    }
    Ok(())
}

fn same_columns(found: &[&str], wanted: &[&str]) -> bool {
    found.len() == wanted.len() && wanted.iter().all(|column| found.contains(column))
}

/// STRICT tables know no other types.
fn declared_type(family: Family) -> &'static str {
    match family {
        Family::Id | Family::Number | Family::Boolean => "INTEGER",
        Family::Text | Family::Time | Family::Json | Family::AnyJson | Family::Uuid => "TEXT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::Connection as _;

    #[tokio::test]
    async fn a_library_that_reads_too_few_levels_is_found() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let mut findings = Vec::new();
        for (levels, found) in [(JSON_LEVELS, 0), (JSON_LEVELS + 1, 1)] {
            inspect_library(&mut connection, levels, &mut findings)
                .await
                .unwrap();
            assert_eq!(findings.len(), found, "{findings:?}");
        }
        assert!(!findings[0].fatal);
    }
}
