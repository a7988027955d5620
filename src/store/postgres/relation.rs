//! What the name of a table leads to, and how that is changed: by a statement where one works, else in words.
//!
//! A statement stands at the end of its remedy and ends with a semicolon.

use super::indexes::Index;
use crate::store::tables::{Family, Table};

/// `$1`: the name, as statements resolve it. The columns of its partition key; an expression in it is empty.
pub(super) const FIND: &str = "
    SELECT c.oid::bigint, c.relkind::text, ARRAY(
        SELECT coalesce(a.attname::text, '') FROM pg_partitioned_table p
        CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k(attnum)
        LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum
        WHERE p.partrelid = c.oid)
    FROM pg_class c WHERE c.oid = to_regclass($1)";

/// CONCURRENTLY is not possible for a partitioned table.
const BLOCKS_WRITERS: &str = "at a quiet time, since it blocks writers: ";

/// Kinds of relations, by `pg_class.relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
    /// A sequence, an index or a type.
    Other,
}

/// What a name leads to.
#[derive(Debug)]
pub(super) struct Relation {
    pub oid: i64,
    kind: Kind,
    partition_key: Vec<String>,
}

impl Relation {
    /// Creates one from a row of [`FIND`].
    pub fn new((oid, kind, partition_key): (i64, String, Vec<String>)) -> Self {
        let kind = match kind.as_str() {
            "r" => Kind::Table,
            "p" => Kind::Partitioned,
            "v" => Kind::View,
            "m" => Kind::MaterializedView,
            "f" => Kind::Foreign,
            _ => Kind::Other,
        };
        Self {
            oid,
            kind,
            partition_key,
        }
    }

    fn noun(&self) -> &'static str {
        match self.kind {
            Kind::Table => "table",
            Kind::Partitioned => "partitioned table",
            Kind::View => "view",
            Kind::MaterializedView => "materialized view",
            Kind::Foreign => "foreign table",
            Kind::Other => "relation of another kind",
        }
    }

    /// Returns why it cannot take the place of this table, and what to do; `None` if it can. A unique key is not
    /// possible on a view or a foreign table, a write not on a materialized view.
    pub fn unsuitable(&self, table: &Table, is_written: bool) -> Option<(String, &'static str)> {
        let remedy = match self.kind {
            Kind::Table | Kind::Partitioned => return None,
            Kind::View | Kind::Foreign if table.unique.is_empty() => return None,
            Kind::MaterializedView if !is_written => return None,
            Kind::View | Kind::MaterializedView => {
                "let the name lead to the table that it reads: rename both, or put the schema of the table \
                 first in search_path"
            }
            Kind::Foreign => "let database.url name the database that has the table",
            Kind::Other => "give it another name",
        };
        let problem = format!("it is a {}, needed: a table", self.noun());
        Some((problem, remedy))
    }

    /// Returns how to add a missing column.
    pub fn add_column(&self, name: &str, column: &str, family: Family) -> String {
        let wanted = wanted_type(family);
        match self.kind {
            Kind::Table | Kind::Partitioned => {
                format!("ALTER TABLE {name} ADD COLUMN {column} {wanted};")
            }
            Kind::Foreign => format!(
                "add it to the table on the other server, then here: ALTER FOREIGN TABLE {name} \
                 ADD COLUMN {column} {wanted};"
            ),
            Kind::View | Kind::MaterializedView | Kind::Other => format!(
                "create the {} anew with a column {column} of type {wanted}",
                self.noun()
            ),
        }
    }

    /// Returns how to give a column its type, and its default that type's.
    pub fn change_type(
        &self,
        name: &str,
        column: &str,
        found: &str,
        family: Family,
        default: Option<&str>,
    ) -> String {
        let (wanted, noun) = (wanted_type(family), self.noun());
        let value = match (found, family) {
            ("uuid", Family::Id | Family::Number) => {
                return format!(
                    "no statement makes numbers of {found}: give the {noun} a column {column} of type {wanted}"
                );
            }
            ("int2" | "int4" | "int8" | "numeric" | "float8", Family::Time) => {
                format!("to_timestamp({column})")
            }
            _ => format!("{column}::{wanted}"),
        };
        let alter = format!("ALTER COLUMN {column} TYPE {wanted}");
        let (alter_table, alter) = match self.kind {
            Kind::Partitioned if self.partition_key.iter().any(|part| part == column) => {
                return format!(
                    "create the table anew with {column} of type {wanted}: the type of a partition key cannot \
                     be changed"
                );
            }
            Kind::Table | Kind::Partitioned => ("ALTER TABLE", format!("{alter} USING {value}")),
            Kind::Foreign => (
                "change it in the table on the other server, then here: ALTER FOREIGN TABLE",
                alter,
            ),
            Kind::View | Kind::MaterializedView | Kind::Other => {
                return format!("create the {noun} anew with {value} AS {column}");
            }
        };
        match default {
            // A sequence is accepted in either type.
            Some(default) if family != Family::Time && !default.starts_with("nextval(") => format!(
                "{alter_table} {name} ALTER COLUMN {column} DROP DEFAULT, {alter}, \
                 ALTER COLUMN {column} SET DEFAULT ({default})::{wanted};"
            ),
            _ => format!("{alter_table} {name} {alter};"),
        }
    }

    /// Returns how to add a missing unique key.
    pub fn add_unique_key(&self, name: &str, columns: &[&str]) -> String {
        let key = columns.join(", ");
        if self.kind != Kind::Partitioned {
            return format!("CREATE UNIQUE INDEX CONCURRENTLY ON {name} ({key});");
        }
        let mut partition_key = self.partition_key.iter();
        match partition_key.all(|part| columns.contains(&part.as_str())) {
            true => format!("{BLOCKS_WRITERS}CREATE UNIQUE INDEX ON {name} ({key});"),
            false => format!(
                "create the table anew, partitioned by {key} or not at all: a unique key contains the \
                 partition key"
            ),
        }
    }

    /// Returns how to add an index to `operation_runs`.
    pub fn add_index(&self, index: &Index) -> String {
        let (before, how) = match self.kind {
            Kind::Partitioned => (BLOCKS_WRITERS, "INDEX"),
            _ => ("", "INDEX CONCURRENTLY"),
        };
        format!(
            "{before}CREATE {how} {} ON operation_runs {};",
            index.name, index.on
        )
    }
}

pub(super) fn wanted_type(family: Family) -> &'static str {
    match family {
        Family::Id => "bigint",
        Family::Number => "integer",
        Family::Boolean => "boolean",
        Family::Text => "text",
        Family::Time => "timestamptz",
        Family::Json | Family::AnyJson => "jsonb",
        Family::Uuid => "uuid",
    }
}
