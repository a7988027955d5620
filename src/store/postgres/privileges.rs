//! The privileges that `serve` needs: what deploy/postgres-grants.sql grants to `verifyd_serve` on tables. A test
//! compares both.

use super::PostgresStore;
use super::schema::MIGRATIONS_TABLE;
use crate::ports::schema::SchemaFinding;
use crate::ports::store_error::StoreError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Longest time for reading rows of a table, in milliseconds: policies may decide for each of them.
const READING_MS: u32 = 500;

/// query_canceled
const QUERY_CANCELED: &str = "57014";

/// A privilege on a table or on some of its columns.
#[derive(Debug)]
pub(super) struct Privilege {
    name: &'static str,
    /// As GRANT names them; empty: on the table.
    columns: &'static str,
    /// What does not work without it; `None`: `serve` does not.
    pub kept_out: Option<&'static str>,
}

/// Missing privileges on one table.
#[derive(Debug)]
pub(super) struct Missing {
    privileges: Vec<&'static Privilege>,
    /// The sequences that an INSERT takes values from and of which the role lacks USAGE, as SQL lists them.
    sequences: Option<String>,
    /// The role, as SQL names it.
    user: String,
    /// `None`: no policy keeps a row from the role.
    policies: Option<Policies>,
}

/// Policies of a table that may keep rows from the role.
#[derive(Debug)]
struct Policies {
    /// The commands for which no policy admits any row.
    closed: Vec<&'static str>,
    seen: Seen,
    /// RESTRICTIVE policies that do not admit all rows, as SQL lists them.
    restrictive: Option<String>,
    /// The name, as SQL has it, of a policy that admits all rows to the role.
    proposed: String,
}

/// What the role sees of a table.
#[derive(Debug)]
enum Seen {
    /// A row, or nothing is known.
    Any,
    /// No row, where the server has counted some. No row may be there for it yet.
    None,
    /// A policy fails, for lack of a setting of the session for example: the SQLSTATE, if there is one.
    Failure(Option<String>),
}

const fn on_table(name: &'static str) -> Privilege {
    Privilege {
        name,
        columns: "",
        kept_out: None,
    }
}

const fn on_columns(name: &'static str, columns: &'static str) -> Privilege {
    Privilege {
        name,
        columns,
        kept_out: None,
    }
}

/// A privilege that `serve` can do without.
const fn optional(name: &'static str, columns: &'static str, kept_out: &'static str) -> Privilege {
    Privilege {
        name,
        columns,
        kept_out: Some(kept_out),
    }
}

const SELECT: Privilege = on_table("SELECT");
const INSERT: Privilege = on_table("INSERT");
const UPDATE: Privilege = on_table("UPDATE");
const DELETE: Privilege = on_table("DELETE");

const READ: &[Privilege] = &[SELECT];
const ALL: &[Privilege] = &[SELECT, INSERT, UPDATE, DELETE];

const NEEDED: &[(&str, &[Privilege])] = &[
    (MIGRATIONS_TABLE, READ),
    ("verifyd.owned_tables", READ),
    ("verifyd.run_attempts", ALL),
    ("verifyd.workers", ALL),
    ("verifyd.run_deliveries", ALL),
    ("verifyd.latest_reports", ALL),
    ("verifyd.connection_facts", ALL),
    ("verifyd.tenant_inventory", ALL),
    ("verifyd.carried_acknowledgements", ALL),
    ("verifyd.page_sessions", ALL),
    ("verifyd.idempotency_keys", ALL),
    ("verifyd.webhook_deliveries", ALL),
    ("verifyd.webhook_attempts", ALL),
    (
        "verifyd.webhook_endpoints",
        &[
            SELECT,
            on_columns(
                "UPDATE",
                "enabled, disabled_reason, failures, circuit_pauses, circuit_opened_at, circuit_probe_at",
            ),
        ],
    ),
    (
        "verifyd.api_tokens",
        &[
            SELECT,
            on_columns("UPDATE", "last_used_at"),
            optional(
                "INSERT",
                "name, token_hash, scopes, workspace_id, tenant_id, expires_at",
                "nobody can sign in with OpenID Connect (http.oidc) for the first time",
            ),
            optional(
                "UPDATE",
                "name, scopes, workspace_id, tenant_id, expires_at",
                "nobody can sign in with OpenID Connect (http.oidc) again",
            ),
        ],
    ),
    ("verifyd.acknowledgement_actors", &[SELECT, INSERT]),
    (
        "verifyd.audit_entries",
        &[
            SELECT,
            on_columns(
                "INSERT",
                "action, object, object_id, workspace_id, tenant_id, surface, token_id, actor, address, request_id, before, after",
            ),
        ],
    ),
    ("verifyd.provider_budgets", ALL),
    ("verifyd.sweep_lock", &[SELECT, INSERT, UPDATE]),
    (
        "operation_runs",
        &[
            SELECT,
            on_columns(
                "UPDATE",
                "status, outcome, context, failure_summary, started_at, completed_at",
            ),
            optional(
                "INSERT",
                "workspace_id, tenant_id, type, status, context, created_at",
                "this role can start no check by command line, API or page",
            ),
        ],
    ),
    ("provider_connections", READ),
    ("provider_credentials", READ),
    ("tenant_permissions", &[SELECT, INSERT, UPDATE]),
    ("tenants", READ),
    (
        "tenant_onboarding_sessions",
        &[
            SELECT,
            optional(
                "UPDATE",
                "state",
                "this role can start no check of an onboarding session by command line, API or page",
            ),
        ],
    ),
    (
        "verification_check_acknowledgements",
        &[
            SELECT,
            optional(
                "INSERT",
                "operation_run_id, check_key, reason_code, reason, acknowledged_by, acknowledged_at, expires_at",
                "this role can acknowledge nothing by command line, API or page",
            ),
            optional(
                "UPDATE",
                "withdrawn_at, withdrawn_by",
                "this role can withdraw no acknowledgement by command line, API or page",
            ),
        ],
    ),
];

fn needed(table: &str) -> &'static [Privilege] {
    match NEEDED.iter().find(|(name, _)| *name == table) {
        Some((_, privileges)) => privileges,
        None => &[],
    }
}

/// invalid_object_definition: a policy that leads back to its own table
const RECURSION: &str = "42P17";

/// Tables that no check reads or writes: while their rows are hidden `serve` works.
const NOT_OF_CHECKS: [&str; 2] = ["tenants", "tenant_onboarding_sessions"];

/// Returns the privilege by which the column is written, one that `serve` cannot do without before the others.
pub(super) fn written_by(table: &str, column: &str) -> Option<&'static Privilege> {
    let writing = needed(table).iter().filter(|privilege| {
        let mut columns = privilege.columns.split(", ");
        matches!(privilege.name, "INSERT" | "UPDATE")
            && (privilege.columns.is_empty() || columns.any(|name| name == column))
    });
    writing.min_by_key(|privilege| privilege.kept_out.is_some())
}

/// Whether `serve` writes the table.
pub(super) fn is_written(table: &str) -> bool {
    let mut needed = needed(table).iter();
    needed.any(|privilege| privilege.name != "SELECT" && privilege.kept_out.is_none())
}

/// `$1`: the name of a table, `$2` and `$3`: privileges and the columns of each. Which of them are missing, counted from
/// 1, the role, whether policies decide which rows it reads and writes, and a name that is free for a policy. A column that is
/// missing is another finding. UPDATE of a table may be granted on some columns only.
const MISSING: &str = "
    SELECT ARRAY(SELECT p.n FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS p(name, columns, n)
            WHERE NOT CASE
                WHEN p.columns <> '' THEN NOT EXISTS (SELECT FROM pg_attribute a
                    WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
                      AND a.attname::text = ANY (string_to_array(p.columns, ', '))
                      AND NOT has_column_privilege(a.attrelid, a.attnum, p.name))
                WHEN p.name = 'UPDATE' THEN has_any_column_privilege(t.oid, p.name)
                ELSE has_table_privilege(t.oid, p.name) END
            ORDER BY p.n),
        quote_ident(current_user), coalesce(row_security_active(t.oid), false), (
            SELECT quote_ident(p.name::text)
            FROM generate_series(1, 1 + (SELECT count(*) FROM pg_policy l WHERE l.polrelid = t.oid)) AS n
            CROSS JOIN LATERAL (SELECT (concat('admits_', nullif(n, 1) || '_', current_user))::name) AS p(name)
            WHERE NOT EXISTS (SELECT FROM pg_policy l WHERE l.polrelid = t.oid AND l.polname = p.name)
            ORDER BY n LIMIT 1)
    FROM (SELECT to_regclass($1)::oid) AS t(oid)";

/// `$1`: the name of a table. The sequences that its defaults use, where the role may not. A value of an identity column
/// takes no privilege on its sequence.
const SEQUENCES: &str = "
    SELECT string_agg(DISTINCT format('%I.%I', n.nspname, s.relname), ', ')
    FROM pg_attrdef f
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
        AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class s ON s.oid = d.refobjid
    JOIN pg_namespace n ON n.oid = s.relnamespace
    WHERE f.adrelid = to_regclass($1::text)
      AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END";

/// `$1`: the name of a table, `$2`: commands. Of each whether a policy admits rows to the role, whether one admits all, and
/// the RESTRICTIVE policies that do not. A policy without an expression admits nothing and restricts nothing. Rows that
/// are written are tested by the expression that is for them, if there is one.
const POLICIES: &str = "
    SELECT c.name, coalesce(bool_or(p.is_permissive AND p.admits), false),
        coalesce(bool_or(p.is_permissive AND p.admits_all), false),
        string_agg(p.name, ', ' ORDER BY p.name) FILTER (WHERE NOT p.is_permissive AND p.admits AND NOT p.admits_all)
    FROM unnest($2::text[]) AS c(name)
    LEFT JOIN LATERAL (
        SELECT quote_ident(l.polname) AS name, l.polpermissive AS is_permissive,
            CASE c.name WHEN 'INSERT' THEN e.written ELSE e.read END IS NOT NULL AS admits,
            coalesce((c.name = 'INSERT' OR e.read = 'true')
                AND (c.name NOT IN ('INSERT', 'UPDATE') OR e.written = 'true'), false) AS admits_all
        FROM pg_policy l
        CROSS JOIN LATERAL (SELECT pg_get_expr(l.polqual, l.polrelid) AS read,
            coalesce(pg_get_expr(l.polwithcheck, l.polrelid), pg_get_expr(l.polqual, l.polrelid)) AS written) e
        WHERE l.polrelid = to_regclass($1::text)
          AND l.polcmd::text IN ('*', CASE c.name WHEN 'SELECT' THEN 'r' WHEN 'INSERT' THEN 'a' WHEN 'UPDATE' THEN 'w'
              ELSE 'd' END)
          AND EXISTS (SELECT FROM unnest(l.polroles) AS r(oid)
              WHERE CASE WHEN r.oid = 0 THEN true ELSE pg_has_role(r.oid, 'USAGE') END)
    ) p ON true
    GROUP BY c.name";

impl Missing {
    /// Whether the role lacks what it needs to insert a row.
    pub fn has_no_insert(&self) -> bool {
        self.sequences.is_some() || self.privileges.iter().any(|p| p.name == "INSERT")
    }

    fn findings(self, table: &str) -> Vec<SchemaFinding> {
        let mut findings = Vec::new();
        type Privileges = Vec<&'static Privilege>;
        let (optional, fatal): (Privileges, Privileges) = self
            .privileges
            .iter()
            .partition(|privilege| privilege.kept_out.is_some());
        if !fatal.is_empty() {
            let names: Vec<&str> = fatal.iter().map(|privilege| privilege.name).collect();
            let clauses: Vec<String> = fatal.iter().map(|privilege| privilege.clause()).collect();
            findings.push(SchemaFinding::fatal(
                table,
                format!("the privilege is missing: {}", names.join(", ")),
                grant(&clauses.join(", "), table, &self.user),
            ));
        }
        let user = &self.user;
        findings.extend(optional.iter().map(|privilege| {
            SchemaFinding::advice(
                table,
                format!(
                    "the privilege is missing: {}; {}",
                    privilege.name,
                    privilege.kept_out.unwrap_or_default()
                ),
                grant(&privilege.clause(), table, user),
            )
        }));
        if let Some(sequences) = &self.sequences {
            let mut needed = needed(table).iter();
            let insert = needed.find(|privilege| privilege.name == "INSERT");
            let kept_out = insert.and_then(|insert| insert.kept_out);
            let finding = SchemaFinding::advice(
                table,
                format!(
                    "the privilege is missing: USAGE of {sequences}; {}",
                    kept_out.unwrap_or("this role can insert no row")
                ),
                grant("USAGE", &format!("SEQUENCE {sequences}"), user),
            );
            findings.push(SchemaFinding {
                fatal: kept_out.is_none(),
                ..finding
            });
        }
        if let Some(policies) = &self.policies {
            findings.push(policies.finding(table, user));
        }
        let findings = findings.into_iter();
        findings
            .map(|finding| SchemaFinding {
                privilege: true,
                ..finding
            })
            .collect()
    }
}

impl Policies {
    /// Without a row that a check reads or writes, it ends blocked or cannot be completed. Whether a policy hides rows that
    /// it is to admit cannot be told from those that are there.
    fn finding(&self, table: &str, user: &str) -> SchemaFinding {
        let applies = format!("row-level security applies to the role {user}");
        let problem = match (&self.closed[..], &self.seen) {
            ([], Seen::Any) => format!(
                "{applies}, which sees no rows and writes none but those that a policy admits"
            ),
            ([], Seen::None) => format!("{applies}, and hides the rows that are there from it"),
            ([], Seen::Failure(code)) => {
                let code = code.as_deref().unwrap_or("none");
                format!("{applies}, and reading the table fails (SQLSTATE {code})")
            }
            (closed, _) => format!("{applies}, and no policy admits it: {}", closed.join(", ")),
        };
        let fails = !self.closed.is_empty() || matches!(self.seen, Seen::Failure(_));
        let is_own = table.starts_with("verifyd.");
        let unless = match &self.seen {
            _ if fails || is_own => "",
            Seen::None => {
                "where none of these rows is for the role, nothing is to be done, and this warning stays until it sees \
                 one; else "
            }
            _ => {
                "where policies of the table admit all rows to the role, nothing is to be done, and this warning \
                 stays; else "
            }
        };
        let restrictive = match &self.restrictive {
            Some(names) => {
                format!("let the RESTRICTIVE policies ({names}) admit all rows to it, and ")
            }
            None => String::new(),
        };
        let remedy = match is_own {
            // Another policy would not end the recursion.
            _ if matches!(&self.seen, Seen::Failure(Some(code)) if code == RECURSION) => {
                format!(
                    "as the table's owner, correct or drop the policies of {table} that lead back to it, also through another table"
                )
            }
            true => format!(
                "as the table's owner, since only verifyd uses it: ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;"
            ),
            false => format!(
                "{unless}as the table's owner {restrictive}admit them: CREATE POLICY {} ON {table} TO {user} USING (true);",
                self.proposed
            ),
        };
        SchemaFinding {
            fatal: fails && !NOT_OF_CHECKS.contains(&table),
            ..SchemaFinding::advice(table, problem, remedy)
        }
    }
}

impl Privilege {
    /// As GRANT has it.
    fn clause(&self) -> String {
        match self.columns {
            "" => self.name.to_owned(),
            columns => format!("{} ({columns})", self.name),
        }
    }
}

/// How a role gets what it lacks on a table or on sequences: one of deploy/postgres-grants.sql as that file grants it.
fn grant(privileges: &str, on: &str, user: &str) -> String {
    const OTHERS: [&str; 4] = [
        "verifyd_migrate",
        "verifyd_operator",
        "verifyd_prune",
        "verifyd_producer",
    ];
    if user == "verifyd_serve" {
        return "apply deploy/postgres-grants.sql again, as its first lines say".to_owned();
    }
    if OTHERS.contains(&user) {
        return "connect as verifyd_serve".to_owned();
    }
    format!("as the table's owner: GRANT {privileges} ON {on} TO {user};")
}

/// Reads a truth value within [`READING_MS`]. Where that fails the transaction goes on.
pub(super) async fn read_briefly(
    tx: &mut PgConnection,
    statement: String,
) -> Result<Result<Option<bool>, sqlx::Error>, StoreError> {
    let limit = format!("SET LOCAL statement_timeout = {READING_MS}");
    let mut inner = tx.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(limit))
        .execute(&mut *inner)
        .await?;
    let read: Result<Option<bool>, sqlx::Error> = sqlx::query_scalar(AssertSqlSafe(statement))
        .persistent(false)
        .fetch_one(&mut *inner)
        .await;
    // The limit ends with it.
    inner.rollback().await?;
    Ok(read)
}

/// Returns what the role sees of a table, unless that takes long.
async fn seen(tx: &mut PgConnection, table: &str) -> Result<Seen, StoreError> {
    let sees_none = format!(
        "SELECT pg_stat_get_live_tuples(to_regclass('{table}')) > 0 AND NOT EXISTS (SELECT FROM {table})"
    );
    let error = match read_briefly(tx, sees_none).await? {
        Ok(Some(true)) => return Ok(Seen::None),
        Ok(_) => return Ok(Seen::Any),
        Err(error) => error,
    };
    match StoreError::from(error) {
        error if error.sqlstate() == Some(QUERY_CANCELED) => Ok(Seen::Any),
        error if error.is_transient() => Err(error),
        error => Ok(Seen::Failure(error.sqlstate().map(str::to_owned))),
    }
}

impl PostgresStore {
    /// Returns what the role lacks on this table.
    pub(super) async fn missing_privileges(
        &self,
        tx: &mut PgConnection,
        table: &str,
    ) -> Result<Missing, StoreError> {
        let needed = needed(table);
        let names: Vec<&'static str> = needed.iter().map(|privilege| privilege.name).collect();
        let columns: Vec<&'static str> = needed.iter().map(|privilege| privilege.columns).collect();
        let (missing, user, is_restricted, proposed): (Vec<i64>, String, bool, String) = self
            .rows(MISSING)
            .bind(table)
            .bind(names.clone())
            .bind(columns)
            .fetch_one(&mut *tx)
            .await?;
        let sequences: Option<String> = match names.contains(&"INSERT") {
            true => {
                self.scalar(SEQUENCES)
                    .bind(table)
                    .fetch_one(&mut *tx)
                    .await?
            }
            false => None,
        };
        let policies = match is_restricted {
            true => {
                let is_readable = missing.is_empty();
                self.policies(tx, table, is_readable, proposed).await?
            }
            false => None,
        };
        let numbered = (1..).zip(needed);
        let privileges = numbered
            .filter(|(number, _)| missing.contains(number))
            .map(|(_, privilege)| privilege)
            .collect();
        Ok(Missing {
            privileges,
            sequences,
            user,
            policies,
        })
    }

    /// Returns the policies of a table that has row-level security, unless they admit all that `serve` needs.
    async fn policies(
        &self,
        tx: &mut PgConnection,
        table: &str,
        is_readable: bool,
        proposed: String,
    ) -> Result<Option<Policies>, StoreError> {
        let needed = needed(table);
        let names: Vec<&'static str> = needed.iter().map(|privilege| privilege.name).collect();
        let commands: Vec<(String, bool, bool, Option<String>)> = self
            .rows(POLICIES)
            .bind(table)
            .bind(names)
            .fetch_all(&mut *tx)
            .await?;
        let found = |name: &str| commands.iter().find(|(command, ..)| command == name);
        if commands
            .iter()
            .all(|(_, _, all, restrictive)| *all && restrictive.is_none())
        {
            return Ok(None);
        }
        let required = needed
            .iter()
            .filter(|privilege| privilege.kept_out.is_none());
        let closed: Vec<&'static str> = required
            .map(|privilege| privilege.name)
            .filter(|name| found(name).is_some_and(|(_, admits, ..)| !admits))
            .collect();
        // Whether a policy admits what is written is tried by `doctor`.
        let seen = match closed.is_empty() && is_readable && !is_written(table) {
            true => seen(tx, table).await?,
            false => Seen::Any,
        };
        Ok(Some(Policies {
            closed,
            seen,
            restrictive: commands
                .into_iter()
                .find_map(|(.., restrictive)| restrictive),
            proposed,
        }))
    }

    /// Names what the role lacks on this table, with the statement that grants it.
    pub(super) async fn inspect_privileges(
        &self,
        tx: &mut PgConnection,
        table: &str,
        findings: &mut Vec<SchemaFinding>,
    ) -> Result<(), StoreError> {
        let missing = self.missing_privileges(tx, table).await?;
        findings.extend(missing.findings(table));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tables::{APPLICATION, OWN, OWN_LOCKS};

    #[test]
    fn the_privileges_on_each_table_are_known() {
        let own = OWN.iter().chain(OWN_LOCKS);
        let own = own.map(|table| format!("verifyd.{}", table.name));
        let application = APPLICATION.iter().map(|table| table.name.to_owned());
        let mut tables: Vec<String> = own.chain(application).collect();
        tables.push(MIGRATIONS_TABLE.to_owned());
        tables.sort_unstable();
        let mut known: Vec<&str> = NEEDED.iter().map(|(table, _)| *table).collect();
        known.sort_unstable();
        assert_eq!(known, tables);
    }
}
