//! The guards on `operation_runs`, for tables of another application too, and those of the audit trail.
//!
//! Each step is a transaction of its own that waits for its lock only for a moment, and is tried
//! again: behind a statement that waits for a table, all others wait. Constraints are added `NOT
//! VALID`, which reads no row, and validated under a lock that lets everybody read and write.

use super::indexes::{self, Index};
use super::{ADVISORY_MIGRATE, ADVISORY_SPACE, PostgresStore, run_type};
use crate::domain::RunId;
use crate::ports::schema::{Enforced, GuardStore, Guards, LostGuard, RefusedGuard};
use crate::ports::store_error::StoreError;
use crate::store::error::connecting;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use std::time::Duration;

/// How long a step waits for its lock, how often it is tried, and the pause between tries.
const LOCK_WAIT: Duration = Duration::from_secs(1);
pub(super) const TRIES: u32 = 10;
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A constraint, in SQL and in words.
struct Check {
    name: &'static str,
    /// Name of the equivalent, possibly stricter rule in a table that verifyd made.
    own: &'static str,
    demands: &'static str,
    /// A part of its definition that an older form of it, which has to be replaced, lacks.
    mark: &'static str,
    /// True, and not NULL, for every row that may exist.
    holds: &'static str,
}

const CHECKS: [Check; 3] = [
    Check {
        name: "verifyd_completed_has_outcome",
        own: "operation_runs_check_outcome",
        demands: "a completed run has one of the outcomes succeeded, failed, blocked and a \
                  completed_at",
        mark: "",
        holds: sql!(
            "(type IS DISTINCT FROM " run_type!() " OR status IS DISTINCT FROM 'completed' \
              OR (outcome IN ('succeeded', 'failed', 'blocked') AND completed_at IS NOT NULL)) \
              IS TRUE"
        ),
    },
    Check {
        name: "verifyd_blocked_has_report",
        own: "operation_runs_check_blocked",
        demands: "a blocked run has reason_code, next_steps and a verification_report",
        mark: "",
        holds: sql!(
            "(type IS DISTINCT FROM " run_type!() " OR outcome IS DISTINCT FROM 'blocked' OR ( \
                jsonb_typeof(context -> 'reason_code') = 'string' \
                AND jsonb_typeof(context -> 'next_steps') = 'array' \
                AND jsonb_typeof(context -> 'verification_report') = 'object' \
                AND context -> 'verification_report' ?& ARRAY['schema_version', 'flow', \
                    'generated_at', 'fingerprint', 'previous_report_id', 'identity', 'summary', \
                    'checks'] \
                AND context #>> '{verification_report,flow}' = type \
                AND context #>> '{verification_report,fingerprint}' ~ '^[0-9a-f]{64}$' \
                AND jsonb_typeof(context #> '{verification_report,checks}') = 'array')) IS TRUE"
        ),
    },
    // Only for runs that were never claimed: what a claim or a completion writes is never refused. One that is
    // recorded as running is queued later, by the sweep.
    Check {
        name: "verifyd_context_size",
        own: "operation_runs_check_context_size",
        demands: "the context of a run that was never claimed has at most 262144 bytes",
        mark: "'running'",
        holds: sql!(
            "(type IS DISTINCT FROM " run_type!()
            " OR (status IN ('queued', 'running')) IS NOT TRUE OR started_at IS NOT NULL OR context IS NULL \
              OR CASE WHEN pg_column_size(context) > 1048576 THEN false \
                      ELSE octet_length(context::text) <= 262144 END) IS TRUE"
        ),
    },
];

/// A trigger; its function came with migration 3, 6 or 19.
pub(super) struct Trigger {
    pub name: &'static str,
    function: &'static str,
    event: &'static str,
    scope: &'static str,
}

impl Trigger {
    /// Returns the statement that puts it on this table.
    pub fn create_on(&self, table: &str) -> String {
        let Self {
            name,
            function,
            event,
            scope,
        } = self;
        format!("CREATE TRIGGER {name} {event} ON {table} {scope} EXECUTE FUNCTION {function}")
    }
}

pub(super) const TRIGGERS: [Trigger; 3] = [
    Trigger {
        name: "verifyd_guard_completed_run",
        function: "verifyd.guard_completed_run()",
        event: "BEFORE UPDATE",
        scope: sql!("FOR EACH ROW WHEN (old.type = " run_type!() " AND old.status = 'completed')"),
    },
    Trigger {
        name: "verifyd_guard_run_identity",
        function: "verifyd.guard_run_identity()",
        event: "BEFORE UPDATE",
        scope: sql!(
            "FOR EACH ROW WHEN (old.type = " run_type!()
            " AND (new.id, new.type, new.tenant_id, new.workspace_id, new.created_at) \
              IS DISTINCT FROM (old.id, old.type, old.tenant_id, old.workspace_id, old.created_at))"
        ),
    },
    // It guards nothing, but it is put there and missed in the same way.
    Trigger {
        name: "verifyd_notify_queued",
        function: "verifyd.notify_queued()",
        event: "AFTER INSERT",
        scope: "REFERENCING NEW TABLE AS recorded FOR EACH STATEMENT",
    },
];

/// Of `verifyd.audit_entries`.
const AUDIT_TRIGGERS: [Trigger; 2] = [
    Trigger {
        name: "verifyd_guard_audit_entries",
        function: "verifyd.guard_audit_entries()",
        event: "BEFORE UPDATE OR DELETE",
        scope: "FOR EACH ROW",
    },
    Trigger {
        name: "verifyd_guard_audit_trail",
        function: "verifyd.guard_audit_entries()",
        event: "BEFORE TRUNCATE",
        scope: "FOR EACH STATEMENT",
    },
];

/// Whether a trigger of this name and function on `verifyd.audit_entries` fires (`O`, `A`); NULL: there is none.
const AUDIT_TRIGGER: &str = "
    SELECT t.tgenabled::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN (pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid)
        ON t.tgrelid = c.oid AND t.tgname = $1 AND p.pronamespace = n.oid AND 'verifyd.' || p.proname || '()' = $2
    WHERE n.nspname = 'verifyd' AND c.relname = 'audit_entries'";

const RUNS_TABLE: &str = "
    SELECT c.oid::bigint AS oid, n.nspname::text AS home, quote_ident(pg_get_userbyid(c.relowner)) AS owner,
           format('%I.%I', n.nspname, c.relname) AS name, c.relkind = 'p' AS is_partitioned
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('operation_runs')";

const HAS_CHECK: &str = "
    SELECT convalidated FROM pg_constraint
    WHERE conrelid = $1::oid AND contype = 'c' AND conname IN ($2, $3)
      AND strpos(pg_get_constraintdef(oid), $4) > 0
    ORDER BY convalidated DESC LIMIT 1";

/// Whether the trigger exists. One that is disabled counts as missing.
const HAS_TRIGGER: &str = "
    SELECT EXISTS (SELECT FROM pg_trigger
        WHERE tgrelid = $1::oid AND tgname = $2 AND tgenabled IN ('O', 'A'))";

/// Reading a large table takes its time; waiting for a lock must not.
pub(super) const NO_TIMEOUT: &str = "SET LOCAL statement_timeout = 0";

/// An existing constraint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Constraint {
    Missing,
    NotValidated,
    Validated,
}

/// `operation_runs`, whoever made it.
pub(super) struct RunsTable {
    pub oid: i64,
    /// Its schema, bare.
    pub home: String,
    /// Its owner, quoted.
    pub owner: String,
    /// With its schema, quoted.
    pub name: String,
    pub is_partitioned: bool,
}

#[async_trait]
impl GuardStore for PostgresStore {
    async fn guards(&self) -> Result<Guards, StoreError> {
        self.transaction(async |tx| {
            let mut guards = Guards::default();
            let table = self.runs_table(tx).await?;
            for check in &CHECKS {
                let there = match &table {
                    Some(table) => self.constraint(tx, table, check).await?,
                    None => Constraint::Missing,
                };
                match there {
                    Constraint::Validated => &mut guards.in_place,
                    _ => &mut guards.missing,
                }
                .push(check.name.to_owned());
            }
            for trigger in &TRIGGERS {
                let there = match &table {
                    Some(table) => self.has_trigger(tx, table, trigger).await?,
                    None => false,
                };
                match there {
                    true => &mut guards.in_place,
                    false => &mut guards.missing,
                }
                .push(trigger.name.to_owned());
            }
            guards.lost = self.lost_guards(tx).await?;
            Ok(guards)
        })
        .await
    }

    async fn enforce(&self) -> Result<Enforced, StoreError> {
        let table = self
            .transaction(async |tx| self.runs_table(tx).await)
            .await?
            .ok_or_else(|| {
                StoreError::Schema("operation_runs is not there to be guarded".into())
            })?;
        let mut enforced = Enforced::default();
        for trigger in &TRIGGERS {
            let added = again(|| self.add_trigger(&table, trigger)).await?;
            note(&mut enforced, trigger.name, added);
        }
        for check in &CHECKS {
            self.enforce_check(&table, check, &mut enforced).await?;
        }
        // Not CONCURRENTLY they would block writers; `inspect` proposes the statements.
        let indexes = indexes::ALL.into_iter().filter(|_| !table.is_partitioned);
        for index in indexes {
            let added = again(|| self.add_index(&table, index)).await?;
            note(&mut enforced, index.name, added);
        }
        Ok(enforced)
    }
}

impl PostgresStore {
    async fn enforce_check(
        &self,
        table: &RunsTable,
        check: &Check,
        enforced: &mut Enforced,
    ) -> Result<(), StoreError> {
        let there = self
            .transaction(async |tx| self.constraint(tx, table, check).await)
            .await?;
        if there == Constraint::Validated {
            note(enforced, check.name, false);
            return Ok(());
        }
        // Not even NOT VALID where rows break it: these could then not be changed any more, by
        // their own application.
        if let Some(refused) = self.who_breaks(table, check).await? {
            enforced.refused.push(refused);
            return Ok(());
        }
        again(|| self.add_check(table, check)).await?;
        match again(|| self.validate(table, check)).await {
            Ok(()) => note(enforced, check.name, true),
            // Somebody was faster: such a row came in between the look and the constraint.
            Err(error) => match self.who_breaks(table, check).await? {
                Some(refused) => enforced.refused.push(refused),
                None => return Err(error),
            },
        }
        Ok(())
    }

    /// Returns the guards of the audit trail that are missing or disabled. Without its table there are none.
    async fn lost_guards(&self, tx: &mut PgConnection) -> Result<Vec<LostGuard>, StoreError> {
        const TABLE: &str = "verifyd.audit_entries";
        let mut lost = Vec::new();
        for trigger in &AUDIT_TRIGGERS {
            let found: Option<Option<String>> = self
                .scalar(AUDIT_TRIGGER)
                .bind(trigger.name)
                .bind(trigger.function)
                .fetch_optional(&mut *tx)
                .await?;
            let Trigger {
                name,
                function,
                event,
                scope,
            } = trigger;
            let statement = match found.as_ref().map(Option::as_deref) {
                None | Some(Some("O" | "A")) => continue,
                Some(Some(_)) => format!("ALTER TABLE {TABLE} ENABLE TRIGGER {name}"),
                Some(None) => format!(
                    "CREATE OR REPLACE TRIGGER {name} {event} ON {TABLE} {scope} EXECUTE FUNCTION {function}"
                ),
            };
            lost.push(LostGuard {
                name: (*name).to_owned(),
                table: TABLE.to_owned(),
                remedy: format!("as the table's owner: {statement};"),
            });
        }
        Ok(lost)
    }

    pub(super) async fn runs_table(
        &self,
        tx: &mut PgConnection,
    ) -> Result<Option<RunsTable>, StoreError> {
        let found = self.sql(RUNS_TABLE).fetch_optional(&mut *tx).await?;
        let Some(row) = found else { return Ok(None) };
        Ok(Some(RunsTable {
            oid: row.try_get("oid")?,
            home: row.try_get("home")?,
            owner: row.try_get("owner")?,
            name: row.try_get("name")?,
            is_partitioned: row.try_get("is_partitioned")?,
        }))
    }

    async fn constraint(
        &self,
        tx: &mut PgConnection,
        table: &RunsTable,
        check: &Check,
    ) -> Result<Constraint, StoreError> {
        let validated: Option<bool> = self
            .scalar(HAS_CHECK)
            .bind(table.oid)
            .bind(check.name)
            .bind(check.own)
            .bind(check.mark)
            .fetch_optional(&mut *tx)
            .await?;
        Ok(match validated {
            None => Constraint::Missing,
            Some(false) => Constraint::NotValidated,
            Some(true) => Constraint::Validated,
        })
    }

    pub(super) async fn has_trigger(
        &self,
        tx: &mut PgConnection,
        table: &RunsTable,
        trigger: &Trigger,
    ) -> Result<bool, StoreError> {
        Ok(self
            .scalar(HAS_TRIGGER)
            .bind(table.oid)
            .bind(trigger.name)
            .fetch_one(&mut *tx)
            .await?)
    }

    /// Runs one step in a transaction; concurrent callers are serialised.
    pub(super) async fn step<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.untimed_transaction(async |tx| {
            let limit = format!("SET LOCAL lock_timeout = {}", LOCK_WAIT.as_millis());
            run(tx, limit).await?;
            self.sql("SELECT pg_advisory_xact_lock($1, $2)")
                .bind(ADVISORY_SPACE)
                .bind(ADVISORY_MIGRATE)
                .execute(&mut *tx)
                .await?;
            work(tx).await
        })
        .await
    }

    /// False: it was there.
    async fn add_trigger(&self, table: &RunsTable, trigger: &Trigger) -> Result<bool, StoreError> {
        self.step(async |tx| {
            if self.has_trigger(tx, table, trigger).await? {
                return Ok(false);
            }
            let sql = format!(
                "DROP TRIGGER IF EXISTS {} ON {}; {}",
                trigger.name,
                table.name,
                trigger.create_on(&table.name)
            );
            run(tx, sql).await?;
            Ok(true)
        })
        .await
    }

    async fn add_check(&self, table: &RunsTable, check: &Check) -> Result<(), StoreError> {
        self.step(async |tx| {
            if self.constraint(tx, table, check).await? != Constraint::Missing {
                return Ok(());
            }
            let sql = format!(
                "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {name}, \
                 DROP CONSTRAINT IF EXISTS {}, ADD CONSTRAINT {name} CHECK ({}) NOT VALID",
                table.name,
                check.own,
                check.holds,
                name = check.name,
            );
            run(tx, sql).await
        })
        .await
    }

    async fn validate(&self, table: &RunsTable, check: &Check) -> Result<(), StoreError> {
        let sql = format!(
            "{NO_TIMEOUT}; ALTER TABLE {} VALIDATE CONSTRAINT {}",
            table.name, check.name
        );
        self.step(async |tx| run(tx, sql).await).await
    }

    async fn who_breaks(
        &self,
        table: &RunsTable,
        check: &Check,
    ) -> Result<Option<RefusedGuard>, StoreError> {
        self.untimed_transaction(async |tx| {
            run(tx, NO_TIMEOUT.to_owned()).await?;
            let sql = format!(
                "SELECT count(*), max(id) FROM {} WHERE NOT ({})",
                table.name, check.holds
            );
            let (rows, example): (i64, Option<i64>) = sqlx::query_as(AssertSqlSafe(sql))
                .persistent(self.named)
                .fetch_one(&mut *tx)
                .await?;
            Ok(example.map(|id| RefusedGuard {
                guard: check.name.to_owned(),
                demands: check.demands.to_owned(),
                rows: rows.unsigned_abs(),
                example: RunId(id),
            }))
        })
        .await
    }

    /// `CONCURRENTLY` cannot be part of a transaction, so this statement has the limits of the role. An
    /// interrupted one leaves an invalid index, which is dropped first.
    async fn add_index(&self, table: &RunsTable, index: &Index) -> Result<bool, StoreError> {
        let (there, broken): (bool, bool) = self
            .transaction(async |tx| {
                let there = self.scalar(index.there).bind(&table.name);
                let broken = self
                    .scalar(indexes::INVALID)
                    .bind(table.oid)
                    .bind(index.name);
                Ok::<_, StoreError>((
                    there.fetch_one(&mut *tx).await?,
                    broken.fetch_one(&mut *tx).await?,
                ))
            })
            .await?;
        if there {
            return Ok(false);
        }
        let mut connection = self.pooled().await.map_err(connecting)?;
        if broken {
            let home = table.home.replace('"', "\"\"");
            let drop = format!(
                "DROP INDEX CONCURRENTLY IF EXISTS \"{home}\".{}",
                index.name
            );
            run(&mut connection, drop).await?;
        }
        let create = format!(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS {} ON {} {}",
            index.name, table.name, index.on
        );
        run(&mut connection, create).await?;
        Ok(true)
    }
}

fn note(enforced: &mut Enforced, name: &str, added: bool) {
    match added {
        true => &mut enforced.added,
        false => &mut enforced.in_place,
    }
    .push(name.to_owned());
}

pub(super) async fn run(connection: &mut PgConnection, sql: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}

/// Retries a step while its lock is not available.
pub(super) async fn again<T, F: Future<Output = Result<T, StoreError>>>(
    mut step: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let mut tries = 1;
    loop {
        match step().await {
            Err(StoreError::Contended(_)) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}
