//! What the name of a table leads to, and how that is changed: by a statement where one works, else in words.
//!
//! A statement stands at the end of its remedy and ends with a semicolon.

use super::dependents::{Dependent, Difference, drops_own_default, with_dropped};
use super::indexes::Index;
use crate::store::from_row::from_row;
use crate::store::tables::{Family, Room, Table};

/// `$1`: the name, as statements resolve it. Of its partition key the columns; an expression in it is empty. The columns
/// of all partition keys of the table at the root and below it: what is changed is changed there. Of a partition that
/// table.
pub(super) const FIND: &str = "
    SELECT c.oid::bigint AS oid, c.relkind::text AS kind, c.reloftype <> 0 AS is_typed, ARRAY(
            SELECT coalesce(a.attname::text, '') FROM pg_partitioned_table p
            CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k(attnum)
            LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum
            WHERE p.partrelid = c.oid) AS partition_key,
        ARRAY(SELECT a.attname::text FROM pg_partitioned_table p
            CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k(attnum)
            JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum
            WHERE p.partrelid IN (SELECT relid FROM pg_partition_tree(pg_partition_root(c.oid)))) AS dividing,
        CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::regclass::text END AS root
    FROM pg_class c WHERE c.oid = to_regclass($1)";

/// `$1`: a relation. Of a column's type, which may be a domain, the base type, and which of the types that verifyd needs
/// its values can be cast to. Of a text the limit of its length. How the server makes its values, where nobody else may.
/// Of a column that is inherited the table that it comes from, if it is one.
pub(super) const COLUMNS: &str = "
    SELECT a.attname::text AS name, t.typname::text AS type, b.typname::text AS base,
        CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod >= 4 THEN a.atttypmod - 4 END AS length,
        pg_get_expr(d.adbin, d.adrelid) AS default,
        ARRAY(SELECT w.typname::text FROM pg_type w
            WHERE w.typnamespace = 'pg_catalog'::regnamespace
            AND w.typname IN ('int8', 'int4', 'bool', 'text', 'timestamptz', 'jsonb', 'uuid')
            AND (w.oid = b.oid OR 'S' IN (b.typcategory, w.typcategory) OR EXISTS (
                SELECT FROM pg_cast c WHERE c.castsource = b.oid AND c.casttarget = w.oid))) AS casts,
        b.typcategory = 'S' AS is_text, NOT a.attnotnull AS is_nullable,
        CASE WHEN a.attgenerated = 's' THEN 'stored' WHEN a.attgenerated <> '' THEN 'virtual'
            WHEN a.attidentity = 'a' THEN 'identity' END AS made_by,
        a.attinhcount > 0 AS is_inherited,
        (WITH RECURSIVE up AS (
            SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = a.attrelid
            UNION SELECT i.inhparent FROM pg_inherits i JOIN up ON i.inhrelid = up.inhparent)
         SELECT min(o.attrelid::regclass::text) FROM up JOIN pg_attribute o ON o.attrelid = up.inhparent
         WHERE o.attname = a.attname AND o.attinhcount = 0
         HAVING count(*) = 1) AS origin
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    CROSS JOIN LATERAL (
        WITH RECURSIVE base AS (
            SELECT t.oid, t.typbasetype
            UNION ALL SELECT n.oid, n.typbasetype FROM base JOIN pg_type n ON n.oid = base.typbasetype)
        SELECT n.oid, n.typname, n.typcategory FROM base JOIN pg_type n ON n.oid = base.oid
        WHERE base.typbasetype = 0) b
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        AND a.attgenerated = ''
    WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped";

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

from_row! {
    /// What a name leads to, from a row of [`FIND`].
    #[derive(Debug)]
    pub(super) struct Relation {
        pub oid: i64,
        kind: String,
        is_typed: bool,
        partition_key: Vec<String>,
        dividing: Vec<String>,
        root: Option<String>,
    }
}

from_row! {
    /// A column, from a row of [`COLUMNS`].
    #[derive(Debug)]
    pub(super) struct Column {
        pub name: String,
        pub found as "type": String,
        length: Option<i32>,
        base: String,
        default: Option<String>,
        casts: Vec<String>,
        is_text: bool,
        is_nullable: bool,
        made_by: Option<String>,
        is_inherited: bool,
        origin: Option<String>,
    }
}

impl Column {
    fn is_generated(&self) -> bool {
        matches!(self.made_by.as_deref(), Some("stored" | "virtual"))
    }

    fn is_number(&self) -> bool {
        ["int2", "int4", "int8", "numeric", "float4", "float8"].contains(&self.base.as_str())
    }

    /// Compares its type with what verifyd needs.
    fn difference(&self, family: Family) -> Difference {
        match family {
            Family::Id | Family::Number
                if ["int2", "int4", "int8"].contains(&self.base.as_str()) =>
            {
                Difference::Size
            }
            Family::Id | Family::Number if self.is_number() => Difference::Form,
            Family::Text if accepted_types(family).contains(&self.base.as_str()) => {
                Difference::Length
            }
            Family::Json | Family::AnyJson if ["json", "jsonb"].contains(&self.base.as_str()) => {
                Difference::Form
            }
            _ => Difference::Kind,
        }
    }

    /// Returns why its type does not fit, and whether verifyd cannot work with it; `None` if it fits. A text needs room
    /// for what `serve` writes.
    pub fn misfit(&self, family: Family, room: Room) -> Option<(String, bool)> {
        if !accepted_types(family).contains(&self.found.as_str()) {
            let wanted = wanted_type(family);
            return Some((
                format!("the type is {}, needed: {wanted}", self.found),
                true,
            ));
        }
        let length = self.length?;
        let is_less = |least: usize| usize::try_from(length).is_ok_and(|length| length < least);
        let problem = format!("{}({length}) is too short, needed: text", self.found);
        match (is_less(room.needed), is_less(room.longest)) {
            (true, _) => Some((problem, true)),
            (false, true) => Some((format!("{problem} for the longest values"), false)),
            (false, false) => None,
        }
    }

    /// Returns the statement that tells whether texts are numbers of seconds, where the column is to hold times.
    pub fn look_for_epochs(&self, name: &str, family: Family) -> Option<String> {
        let of = &self.name;
        (self.is_text && family == Family::Time).then(|| {
            format!(
                "SELECT bool_or(btrim(s.value) ~ '{EPOCH}') \
                 FROM (SELECT {of}::text AS value FROM {name} LIMIT {SAMPLE_ROWS}) AS s"
            )
        })
    }

    /// Returns the table where its type is changed: what is inherited is changed where it comes from. `name` is the
    /// table's own name.
    pub fn place<'a>(&'a self, name: &'a str) -> &'a str {
        self.origin.as_deref().unwrap_or(name)
    }
}

/// A time from a number of seconds, milliseconds or microseconds since 1970, which its size tells apart: as seconds,
/// 1e11 is the year 5138; as milliseconds, 1973.
fn time_of_number(value: &str) -> String {
    format!(
        "to_timestamp({value} / CASE WHEN abs({value}) >= 1e14 THEN 1000000.0 WHEN abs({value}) >= 1e11 THEN 1000.0 \
         ELSE 1.0 END)"
    )
}

/// A time from a text. One without a zone counts as UTC, whatever the zone of the session, as does a date.
fn time_of_text(value: &str) -> String {
    format!(
        "CASE WHEN {value} ~* '[ t][0-9:.]+ *(z|[+-][0-9:]+|[a-z_/]{{3,}}) *$' THEN {value}::timestamptz \
         ELSE {value}::timestamp AT TIME ZONE 'UTC' END"
    )
}

/// Texts that are numbers of seconds, milliseconds or microseconds since 1970: with as many digits as a recent time has, and
/// none that may be a date without separators.
const EPOCH: &str = "^([0-9]{9,11}|[0-9]{13}|[0-9]{16})([.][0-9]+)?$";

/// Rows in which such texts are searched for.
const SAMPLE_ROWS: u32 = 1_000;

/// A time from a text that may be such a number.
fn time_of_text_or_number(value: &str) -> String {
    let of_number = time_of_number(&format!("{value}::double precision"));
    let of_text = time_of_text(value);
    format!("CASE WHEN {value} ~ '{EPOCH}' THEN {of_number} ELSE {of_text} END")
}

impl Relation {
    fn kind(&self) -> Kind {
        match self.kind.as_str() {
            "r" => Kind::Table,
            "p" => Kind::Partitioned,
            "v" => Kind::View,
            "m" => Kind::MaterializedView,
            "f" => Kind::Foreign,
            _ => Kind::Other,
        }
    }

    fn noun(&self) -> &'static str {
        match self.kind() {
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
        let remedy = match self.kind() {
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

    /// Returns why none of its columns can be changed yet, and the statement that allows it; `None` if they can.
    pub fn fixed_columns(&self, name: &str) -> Option<(&'static str, String)> {
        self.is_typed.then(|| {
            (
                "it is a table of a type (OF), whose columns cannot be changed",
                format!("ALTER TABLE {name} NOT OF;"),
            )
        })
    }

    /// Returns how to add a missing column.
    pub fn add_column(&self, name: &str, column: &str, family: Family) -> String {
        let wanted = wanted_type(family);
        // A partition gets it from there.
        let name = self.root.as_deref().unwrap_or(name);
        match self.kind() {
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

    /// Returns why verifyd cannot write a column of the right name, and what to do; `None` if it can. What is stored stays.
    pub fn make_writable(&self, name: &str, column: &Column) -> Option<(&'static str, String)> {
        let (place, of) = (column.place(name), &column.name);
        let table = match self.kind() {
            Kind::Foreign => "FOREIGN TABLE",
            _ => "TABLE",
        };
        let alter = |how: &str| format!("ALTER {table} {place} ALTER COLUMN {of} {how};");
        match column.made_by.as_deref()? {
            "stored" => Some((
                "it is generated, and verifyd writes it",
                format!(
                    "from then on rows of others have no value in it that they do not give: {}",
                    alter("DROP EXPRESSION")
                ),
            )),
            "identity" => Some((
                "it is GENERATED ALWAYS AS IDENTITY, and verifyd writes it",
                alter("SET GENERATED BY DEFAULT"),
            )),
            _ => Some((
                "it is generated, and verifyd writes it",
                format!("drop the column {of} and add it anew: its expression cannot be dropped"),
            )),
        }
    }

    /// Returns how to give a column its type, and its default that type's. `holds_epochs`: what
    /// [`Column::look_for_epochs`] has found. `dependents` are those of the column at its [`Column::place`].
    pub fn change_type(
        &self,
        name: &str,
        column: &Column,
        family: Family,
        holds_epochs: bool,
        dependents: &[Dependent],
    ) -> String {
        let (wanted, noun) = (wanted_type(family), self.noun());
        let Column {
            name: of, found, ..
        } = column;
        let is_number = column.is_number();
        let is_castable = column
            .casts
            .iter()
            .any(|cast| cast == accepted_types(family)[0]);
        let is_epoch = is_number && family == Family::Time;
        if !is_epoch && !is_castable {
            return format!(
                "no statement makes {wanted} of {found}: give the {noun} a column {of} of type {wanted}"
            );
        }
        let cast = |value: &str| match family {
            Family::Time if is_epoch => time_of_number(value),
            Family::Time if column.is_text => {
                let value = format!("nullif(btrim({value}), '')");
                match holds_epochs {
                    true => time_of_text_or_number(&value),
                    false => time_of_text(&value),
                }
            }
            Family::Time if column.base == "date" => {
                format!("{value}::timestamp AT TIME ZONE 'UTC'")
            }
            // No other type takes an empty text.
            Family::Json | Family::AnyJson if column.is_text && !column.is_nullable => {
                let empty = match of.as_str() {
                    "failure_summary" => "[]",
                    _ => "{}",
                };
                format!("coalesce(nullif(btrim({value}), ''), '{empty}')::{wanted}")
            }
            _ if column.is_text && family != Family::Text => {
                format!("nullif(btrim({value}), '')::{wanted}")
            }
            _ => format!("{value}::{wanted}"),
        };
        let value = cast(of);
        let alter = format!("ALTER COLUMN {of} TYPE {wanted}");
        let (before, alter_table, alter) = match self.kind() {
            Kind::Table | Kind::Partitioned if self.dividing.contains(of) => {
                return format!(
                    "create the table anew with {of} of type {wanted}: the type of a partition key cannot \
                     be changed"
                );
            }
            Kind::Table | Kind::Partitioned if column.is_generated() => {
                return format!(
                    "drop the column {of} and add it anew, generated with the type {wanted}: the type of a generated \
                     column cannot be converted"
                );
            }
            Kind::Table | Kind::Partitioned if is_epoch || holds_epochs => (
                "numbers count as seconds, from 1e11 as milliseconds, from 1e14 as microseconds: ",
                "ALTER TABLE",
                format!("{alter} USING {value}"),
            ),
            Kind::Table | Kind::Partitioned => {
                ("", "ALTER TABLE", format!("{alter} USING {value}"))
            }
            Kind::Foreign => (
                "change it in the table on the other server, then here: ",
                "ALTER FOREIGN TABLE",
                alter,
            ),
            Kind::View | Kind::MaterializedView | Kind::Other => {
                return format!("create the {noun} anew with {value} AS {of}");
            }
        };
        if column.is_inherited && column.origin.is_none() {
            return format!(
                "{of} is inherited from several tables: end that (NO INHERIT), then give it the type {wanted}"
            );
        }
        let place = column.place(name);
        let alter = match &column.default {
            // A sequence is accepted in either type.
            Some(default) if !default.starts_with("nextval(") && !drops_own_default(dependents) => {
                format!(
                    "{alter_table} {place} ALTER COLUMN {of} DROP DEFAULT, {alter}, \
                 ALTER COLUMN {of} SET DEFAULT {};",
                    cast(&format!("({default})"))
                )
            }
            _ => format!("{alter_table} {place} {alter};"),
        };
        let (words, statements) = with_dropped(dependents, column.difference(family), &alter);
        format!("{before}{words}{statements}")
    }

    /// Returns how to give a column `id` without a default further ids than those that are there. `sequence` belongs to it.
    /// Not all versions of PostgreSQL give a partitioned table or a partition an identity.
    pub fn number(&self, name: &str, sequence: Option<&str>) -> String {
        let is_own = name.starts_with("verifyd.");
        let others = match is_own {
            true => "",
            false => "let others that insert rows leave it out, and ",
        };
        let is_plain = self.kind() == Kind::Table && self.root.is_none();
        let alter = format!("ALTER TABLE {name} ALTER COLUMN id");
        let statements = match sequence {
            // It may be ahead of the rows that are left.
            Some(sequence) => {
                let text = sequence.replace('\'', "''");
                format!(
                    "{alter} SET DEFAULT nextval('{text}'); \
                     SELECT setval('{text}', greatest(max(id), (SELECT last_value FROM {sequence}))) FROM {name};"
                )
            }
            None if is_plain => {
                // As the migration has it: nobody chooses the ids of the audit trail.
                let when = match name {
                    "verifyd.audit_entries" => "ALWAYS",
                    _ => "BY DEFAULT",
                };
                format!(
                    "{alter} ADD GENERATED {when} AS IDENTITY; \
                     SELECT setval(pg_get_serial_sequence('{name}', 'id'), nullif(greatest(max(id), 0), 0)) FROM {name};"
                )
            }
            None => format!(
                "CREATE SEQUENCE {name}_ids; {alter} SET DEFAULT nextval('{name}_ids'); \
                 SELECT setval('{name}_ids', nullif(greatest(max(id), 0), 0)) FROM {name};"
            ),
        };
        format!("{others}as the table's owner: {statements}")
    }

    /// Returns the columns of the unique key that is needed. A partitioned table has none without the columns that it is
    /// partitioned by: ids of its runs are unique by their sequence, and nothing refers to them by a foreign key.
    pub fn unique_key<'a>(&'a self, table: &'a Table) -> Vec<&'a str> {
        let mut key: Vec<&str> = table.unique.to_vec();
        let parts = self.partition_key.iter().map(String::as_str);
        if table.name == "operation_runs" && parts.clone().all(|part| !part.is_empty()) {
            key.extend(parts.filter(|part| !table.unique.contains(part)));
        }
        key
    }

    /// Returns how to add a missing unique key.
    pub fn add_unique_key(&self, name: &str, columns: &[&str]) -> String {
        let key = columns.join(", ");
        if self.kind() != Kind::Partitioned {
            // With a name, so that another try does not leave another invalid index.
            let table = name.rsplit('.').next().unwrap_or(name);
            return format!(
                "rows must not repeat ({key}), and after a try that failed DROP INDEX {name}_key; then: \
                 CREATE UNIQUE INDEX CONCURRENTLY {table}_key ON {name} ({key});"
            );
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

    /// Returns how to add an index to `operation_runs`. `is_invalid`: there is one of its name. A try that failed leaves
    /// one, and so it is while it is built.
    pub fn add_index(&self, index: &Index, is_invalid: bool) -> String {
        let (before, concurrently) = match self.kind() {
            Kind::Partitioned => (BLOCKS_WRITERS, ""),
            _ => ("", "CONCURRENTLY "),
        };
        let Index { name, on, .. } = index;
        let first = match is_invalid {
            true => format!(
                "unless it is being built, DROP INDEX {concurrently}{name}, which a try that failed has left, and then: "
            ),
            false => String::new(),
        };
        format!("{first}{before}CREATE INDEX {concurrently}{name} ON operation_runs {on};")
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

/// Names in `pg_type`, that of [`wanted_type`] first.
pub(super) fn accepted_types(family: Family) -> &'static [&'static str] {
    match family {
        Family::Id => &["int8"],
        Family::Number => &["int4"],
        Family::Boolean => &["bool"],
        Family::Text => &["text", "varchar", "bpchar"],
        Family::Time => &["timestamptz", "timestamp"],
        Family::Json => &["jsonb"],
        Family::AnyJson => &["jsonb", "json"],
        Family::Uuid => &["uuid"],
    }
}
