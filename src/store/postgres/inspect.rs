//! Inspects the schema: names what is missing, what has another type, and what would be faster.

use super::PostgresStore;
use super::dependents::{DEPENDENTS, Dependent};
use super::indexes;
use super::privileges;
use super::relation::{COLUMNS, Column, FIND, Relation};
use super::schema::MIGRATIONS_TABLE;
use crate::ports::schema::{InspectStore, SchemaFinding};
use crate::ports::store_error::StoreError;
use crate::store::migrations::WANTED_VERSION;
use crate::store::tables::{
    APPLICATION, APPLICATION_TABLES, NUMBERED, OWN, OWN_LOCKS, Room, Table, room,
};
use async_trait::async_trait;
use sqlx::PgConnection;

/// The oldest server that verifyd is made for.
const MIN_SERVER_VERSION: i32 = 150_000;

/// `server_version_num`
const SERVER_VERSION: &str = "SELECT current_setting('server_version_num')::int";

/// The encoding of the database, and a name for one in its place.
const ENCODING: &str = "
    SELECT getdatabaseencoding()::text, quote_ident(left(current_database()::text, 58) || '_utf8')";

/// `$1`: the name of a table of [`NUMBERED`]. Columns that an INSERT must name, and that verifyd's own does not: `id`, and
/// of runs any; of the ids a sequence that belongs to them, as a default that was dropped leaves one behind.
pub(super) const UNNAMED: &str = "
    SELECT quote_ident(a.attname), CASE WHEN a.attname = 'id' THEN pg_get_serial_sequence($1::text, 'id') END
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
    WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
      AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = ''
      AND CASE WHEN a.attname = 'id' THEN a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
          ELSE $1::text = 'operation_runs'
              AND a.attname <> ALL ('{workspace_id,tenant_id,type,status,context,created_at}')
              AND a.attname <> ALL ('{outcome,started_at,completed_at}') END
    ORDER BY a.attnum";

/// Columns that have to be NULL in a new run, and are not where its producer leaves them out; whether they are
/// NOT NULL.
const FILLED: &str = "
    SELECT a.attname::text, a.attnotnull FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1::oid AND a.attgenerated = ''
      AND a.attname IN ('outcome', 'started_at', 'completed_at')
      AND (a.attnotnull OR ltrim(pg_get_expr(d.adbin, d.adrelid), '(') NOT LIKE 'NULL%')
    ORDER BY a.attnum";

/// `$1`: names of tables, as statements resolve them. The mark changes when a table is created again, renamed
/// or truncated, and when a column, a unique index, a constraint, a trigger or its function, a privilege, row-level
/// security, or a setting of the database or the role changes.
/// It reads only catalogues.
const MARK: &str = "
    SELECT md5(concat_ws(' ', (SELECT string_agg(s::text, ';' ORDER BY s::text) FROM pg_db_role_setting s
        WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
          AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))),
      (SELECT concat(r.rolsuper, r.rolbypassrls) FROM pg_roles r WHERE r.rolname = current_user),
      string_agg(concat_ws(' ', t.name, c.oid, c.relfilenode, c.relkind, c.relowner, c.relacl, c.relrowsecurity,
        c.relforcerowsecurity,
        (SELECT string_agg(concat_ws(' ', l.oid, l.polcmd, l.polpermissive, l.polroles, l.polqual, l.polwithcheck), ','
                           ORDER BY l.oid) FROM pg_policy l WHERE l.polrelid = c.oid),
        (SELECT string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attacl), ','
                           ORDER BY a.attnum)
         FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT string_agg(concat_ws(' ', i.indexrelid, i.indkey), ',' ORDER BY i.indexrelid)
         FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid),
        (SELECT string_agg(k.oid::text, ',' ORDER BY k.oid)
         FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f', 'x')),
        (SELECT string_agg(concat_ws(' ', g.oid, g.tgenabled, p.oid, p.xmin), ',' ORDER BY g.oid)
         FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid WHERE g.tgrelid = c.oid AND NOT g.tgisinternal)), ';'
        ORDER BY t.name)))
    FROM unnest($1::text[]) AS t(name) LEFT JOIN pg_class c ON c.oid = to_regclass(t.name)";

/// An index over all rows with exactly these key columns, in any order.
const UNIQUE: &str = "
    SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1::oid AND i.indisunique
        AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
             FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k)
            = (SELECT array_agg(c ORDER BY c) FROM unnest($2::text[]) c))";

/// `$1`: the name of a table that statements do not find, `$2`: those of the application. Where they find none of these, a
/// schema that has the table and one of runs, `public` first, whether the role may use that schema, the role, its
/// search_path, and the same with that schema; the database.
const ELSEWHERE: &str = "
    SELECT quote_ident(n.nspname), has_schema_privilege(n.oid, 'USAGE'), quote_ident(current_user),
        current_setting('search_path'),
        concat_ws(', ', nullif(nullif(current_setting('search_path'), ''), '\"\"'), quote_ident(n.nspname)),
        quote_ident(current_database())
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = $1::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND NOT EXISTS (SELECT FROM unnest($2::text[]) AS t(name)
          WHERE t.name <> 'tenants' AND to_regclass(t.name) IS NOT NULL)
      AND EXISTS (SELECT FROM pg_class r WHERE r.relnamespace = n.oid AND r.relname = 'operation_runs')
      AND n.nspname NOT IN ('verifyd', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
    ORDER BY n.nspname <> 'public', n.nspname LIMIT 1";

#[async_trait]
impl InspectStore for PostgresStore {
    async fn inspect(&self) -> Result<Vec<SchemaFinding>, StoreError> {
        self.transaction(async |tx| {
            let mut findings = Vec::new();
            let server: i32 = self.scalar(SERVER_VERSION).fetch_one(&mut *tx).await?;
            if server < MIN_SERVER_VERSION {
                findings.push(SchemaFinding::fatal(
                    "server",
                    format!(
                        "PostgreSQL {}, needed: {} or later",
                        server / 10_000,
                        MIN_SERVER_VERSION / 10_000
                    ),
                    "use a newer PostgreSQL",
                ));
            }
            findings.extend(self.inspect_encoding(tx).await?);
            self.inspect_privileges(tx, MIGRATIONS_TABLE, &mut findings)
                .await?;
            let is_readable = !findings.iter().any(|f| f.privilege && f.fatal);
            let version = match is_readable {
                true => self.applied(tx).await?.last().copied(),
                false => None,
            };
            // Where it has been applied, `migrate` makes nothing a second time.
            let migrated = version.is_some_and(|version| version >= WANTED_VERSION);
            for table in OWN.iter().chain(OWN_LOCKS) {
                let name = format!("verifyd.{}", table.name);
                let owner = Owner::Verifyd { migrated };
                let found = self
                    .inspect_table(tx, &name, table, owner, &mut findings)
                    .await?;
                if let Some(found) = found {
                    self.advise_unnamed(tx, &name, &found, &mut findings)
                        .await?;
                }
            }
            for table in APPLICATION {
                let owner = Owner::Application { migrated };
                let found = self
                    .inspect_table(tx, table.name, table, owner, &mut findings)
                    .await?;
                let Some(found) = found else { continue };
                self.advise_unnamed(tx, table.name, &found, &mut findings)
                    .await?;
                if table.name == "operation_runs" {
                    self.advise_filled(tx, &found, &mut findings).await?;
                    self.advise_indexes(tx, &found, &mut findings).await?;
                }
            }
            if let Some(version) = version.filter(|version| *version < WANTED_VERSION) {
                findings.push(SchemaFinding::fatal(
                    MIGRATIONS_TABLE,
                    format!("version {version}, needed: {WANTED_VERSION}"),
                    "run: verifyd migrate",
                ));
            }
            Ok(findings)
        })
        .await
    }

    async fn schema_mark(&self) -> Result<String, StoreError> {
        let names: Vec<String> = OWN
            .iter()
            .chain(OWN_LOCKS)
            .map(|table| format!("verifyd.{}", table.name))
            .chain([MIGRATIONS_TABLE.to_owned()])
            .chain(APPLICATION.iter().map(|table| table.name.to_owned()))
            .collect();
        let query = self.scalar::<String>(MARK).bind(names);
        let now = self
            .transaction(async |tx| Ok::<_, StoreError>(query.fetch_one(tx).await?))
            .await?;
        let before = self.mark.lock().await.replace(now.clone());
        if before.is_some_and(|before| before != now) {
            self.renewal.begin();
        }
        Ok(now)
    }
}

impl PostgresStore {
    /// Requires UTF-8. Another encoding lacks characters of names that Microsoft knows, so that results with them cannot
    /// be written. `SQL_ASCII` takes any bytes, and those that are no UTF-8 end every statement that reads them.
    pub(super) async fn inspect_encoding(
        &self,
        tx: &mut PgConnection,
    ) -> Result<Option<SchemaFinding>, StoreError> {
        let found = self.rows(ENCODING);
        let (encoding, other): (String, String) = found.fetch_one(&mut *tx).await?;
        Ok((encoding != "UTF8").then(|| {
            SchemaFinding::fatal(
                "server_encoding",
                format!("the database has the encoding {encoding}, needed: UTF8"),
                format!(
                    "dump the database (pg_dump, of SQL_ASCII with --encoding and the encoding that its text is in), \
                     restore it into a new one, and let database.url (DATABASE_URL) lead there; with this or another \
                     locale of UTF8: CREATE DATABASE {other} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' \
                     LC_CTYPE 'C';"
                ),
            )
        }))
    }

    /// Returns what the name leads to, if it can take the place of the table.
    async fn inspect_table(
        &self,
        tx: &mut PgConnection,
        name: &str,
        table: &Table,
        owner: Owner,
        findings: &mut Vec<SchemaFinding>,
    ) -> Result<Option<Relation>, StoreError> {
        let found = self.rows(FIND).bind(name);
        let Some(relation): Option<Relation> = found.fetch_optional(&mut *tx).await? else {
            findings.push(self.missing_table(tx, name, owner).await?);
            return Ok(None);
        };
        let is_written = privileges::is_written(name);
        if let Some((problem, remedy)) = relation.unsuitable(table, is_written) {
            findings.push(SchemaFinding::fatal(name.to_owned(), problem, remedy));
            return Ok(None);
        }
        let oid = relation.oid;
        let columns: Vec<Column> = self.rows(COLUMNS).bind(oid).fetch_all(&mut *tx).await?;
        let first = findings.len();
        for (column, family) in table.columns {
            let subject = format!("{name}.{column}");
            match columns.iter().find(|found| found.name == *column) {
                None => findings.push(SchemaFinding::fatal(
                    subject,
                    "the column is missing",
                    relation.add_column(name, column, *family),
                )),
                Some(column) => {
                    if let Some(privilege) = privileges::written_by(name, &column.name)
                        && let Some((problem, remedy)) = relation.make_writable(name, column)
                    {
                        findings.push(SchemaFinding {
                            fatal: privilege.kept_out.is_none(),
                            ..SchemaFinding::advice(subject, problem, remedy)
                        });
                        continue;
                    }
                    let room = owner.room(table.name, &column.name);
                    let Some((problem, fatal)) = column.misfit(*family, room) else {
                        continue;
                    };
                    let dependents: Vec<Dependent> = self
                        .rows(DEPENDENTS)
                        .bind(column.place(name))
                        .bind(&column.name)
                        .fetch_all(&mut *tx)
                        .await?;
                    let holds_epochs = match column.look_for_epochs(name, *family) {
                        Some(look) => {
                            let found = privileges::read_briefly(tx, look).await?;
                            matches!(found, Ok(Some(true)))
                        }
                        None => false,
                    };
                    let remedy =
                        relation.change_type(name, column, *family, holds_epochs, &dependents);
                    findings.push(SchemaFinding {
                        fatal,
                        ..SchemaFinding::advice(subject, problem, remedy)
                    });
                }
            }
        }
        if findings.iter().skip(first).any(|finding| finding.fatal)
            && let Some((problem, remedy)) = relation.fixed_columns(name)
        {
            let finding = SchemaFinding::fatal(name.to_owned(), problem, remedy);
            findings.insert(first, finding);
        }
        let key = relation.unique_key(table);
        if !key.is_empty() {
            let unique: bool = self
                .scalar(UNIQUE)
                .bind(oid)
                .bind(&key)
                .fetch_one(&mut *tx)
                .await?;
            if !unique {
                findings.push(SchemaFinding::fatal(
                    format!("{name} ({})", key.join(", ")),
                    "the unique key is missing",
                    relation.add_unique_key(name, &key),
                ));
            }
        }
        self.inspect_privileges(tx, name, findings).await?;
        Ok(Some(relation))
    }

    /// See [`UNNAMED`]. What takes no new row of the table is done all the same.
    async fn advise_unnamed(
        &self,
        tx: &mut PgConnection,
        name: &str,
        table: &Relation,
        findings: &mut Vec<SchemaFinding>,
    ) -> Result<(), StoreError> {
        let Some((_, refused)) = NUMBERED.iter().find(|(numbered, _)| *numbered == name) else {
            return Ok(());
        };
        let unnamed = self.rows(UNNAMED).bind(name);
        let unnamed: Vec<(String, Option<String>)> = unnamed.fetch_all(&mut *tx).await?;
        findings.extend(unnamed.into_iter().map(|(column, sequence)| {
            let remedy = match column.as_str() {
                "id" => table.number(name, sequence.as_deref()),
                _ => format!(
                    "ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT …; or DROP NOT NULL"
                ),
            };
            SchemaFinding::advice(
                format!("{name}.{column}"),
                format!(
                    "NOT NULL and without a default, so that verifyd's own INSERT is refused: \
                     {refused}"
                ),
                remedy,
            )
        }));
        Ok(())
    }

    /// See [`FILLED`]. verifyd's own runs are worked on all the same.
    async fn advise_filled(
        &self,
        tx: &mut PgConnection,
        runs: &Relation,
        findings: &mut Vec<SchemaFinding>,
    ) -> Result<(), StoreError> {
        let filled: Vec<(String, bool)> =
            self.rows(FILLED).bind(runs.oid).fetch_all(&mut *tx).await?;
        findings.extend(filled.into_iter().map(|(column, is_not_null)| {
            let problem = match column.as_str() {
                _ if is_not_null => "NOT NULL, so that no run can be recorded that a worker claims",
                "started_at" => {
                    "a default fills it, so that runs of other producers count as claimed before"
                }
                _ => "a default fills it, so that no worker claims runs of other producers",
            };
            let drop_not_null = match is_not_null {
                true => format!(", ALTER COLUMN {column} DROP NOT NULL"),
                false => String::new(),
            };
            SchemaFinding::advice(
                format!("operation_runs.{column}"),
                problem,
                format!(
                    "ALTER TABLE operation_runs ALTER COLUMN {column} DROP DEFAULT{drop_not_null};"
                ),
            )
        }));
        Ok(())
    }

    /// Why a name leads to nothing: the table is missing, or the role does not see it.
    async fn missing_table(
        &self,
        tx: &mut PgConnection,
        name: &str,
        owner: Owner,
    ) -> Result<SchemaFinding, StoreError> {
        let elsewhere = self.rows(ELSEWHERE).bind(name).bind(APPLICATION_TABLES);
        let elsewhere: Option<(String, bool, String, String, String, String)> =
            elsewhere.fetch_optional(&mut *tx).await?;
        let (problem, remedy) = match &elsewhere {
            None => (
                "the table is missing".to_owned(),
                owner.missing_table().to_owned(),
            ),
            Some((schema, false, user, ..)) => (
                format!("the role {user} may not use the schema {schema}, which has the table"),
                format!("as the schema's owner: GRANT USAGE ON SCHEMA {schema} TO {user};"),
            ),
            Some((schema, true, user, path, longer_path, database)) => (
                format!(
                    "search_path ({path}) does not name the schema {schema}, which has the table"
                ),
                format!(
                    "correct search_path in the options of database.url if it is there; else: ALTER ROLE {user} \
                     IN DATABASE {database} SET search_path = {longer_path};"
                ),
            ),
        };
        Ok(SchemaFinding {
            privilege: matches!(elsewhere, Some((_, false, ..))),
            ..SchemaFinding::fatal(name.to_owned(), problem, remedy)
        })
    }

    async fn advise_indexes(
        &self,
        tx: &mut PgConnection,
        runs: &Relation,
        findings: &mut Vec<SchemaFinding>,
    ) -> Result<(), StoreError> {
        for index in indexes::ALL {
            let there: bool = self
                .scalar(index.there)
                .bind("operation_runs")
                .fetch_one(&mut *tx)
                .await?;
            if !there {
                let invalid = self.scalar(indexes::INVALID).bind(runs.oid);
                let is_invalid: bool = invalid.bind(index.name).fetch_one(&mut *tx).await?;
                findings.push(SchemaFinding::advice(
                    "operation_runs",
                    index.problem,
                    runs.add_index(index, is_invalid),
                ));
            }
        }
        Ok(())
    }
}

/// Who makes a table, and whether `migrate` has been run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Verifyd { migrated: bool },
    Application { migrated: bool },
}

impl Owner {
    /// What a column of text must have room for: in a table of verifyd's as much as there is.
    fn room(self, table: &str, column: &str) -> Room {
        match self {
            Self::Verifyd { .. } => Room {
                needed: usize::MAX,
                longest: usize::MAX,
            },
            Self::Application { .. } => room(table, column),
        }
    }

    fn missing_table(self) -> &'static str {
        match self {
            Self::Verifyd { migrated: false } | Self::Application { migrated: false } => {
                "run: verifyd migrate"
            }
            Self::Verifyd { migrated: true } => {
                "restore it from a backup; or, to begin anew without attempts, reports, tokens, webhooks and the audit \
                 trail: DROP SCHEMA verifyd CASCADE; and then: verifyd migrate"
            }
            Self::Application { migrated: true } => {
                "give the table its name back, or restore it from a backup"
            }
        }
    }
}
