//! The tests of `doctor`. Statements of its own are sent without a name, so that they work behind every pooler.
//! Those of `serve` are tried once it is known that they get through.

mod steps;

use self::steps::Steps;
use super::PostgresStore;
use super::sessions::{self, PoolerSessions};
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::probe::{
    CLAIMING, ConnectionLimit, Host, LimitedBy, PasswordRead, Pooling, ProbeStore, RefusedClaim,
    TableSize, UnusableIds, WRITING_INVENTORY, Writing,
};
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::probe::{self, Keeper};
use crate::store::tables::{APPLICATION_TABLES, NUMBERED};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use std::time::Duration;
use uuid::Uuid;

/// Statements of the driver that the server knows by the driver's own names. A pooler that keeps track
/// gives them names of its own.
const OWN_NAMES: &str = r"SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'sqlx\_s\_%'";

/// Writes verifyd's own tables as `serve` does, which also tests the disk space of the server. `$1` is an id
/// that is not in use.
const WRITTEN: [&str; 3] = [
    "INSERT INTO verifyd.workers (worker_id, version, concurrency, in_flight, started_at, beat_at) \
     VALUES ($1, 'doctor', 0, 0, now(), now())",
    "UPDATE verifyd.workers SET beat_at = now() WHERE worker_id = $1",
    "DELETE FROM verifyd.workers WHERE worker_id = $1",
];

/// The other statements that need a right of their own. They change nothing but the first sweep's row, and are refused
/// as those of `serve` would be. Those of the application's tables have the step that they stand for.
const ALLOWED: [(Option<&str>, &str); 10] = [
    (
        None,
        "INSERT INTO verifyd.run_attempts SELECT * FROM verifyd.run_attempts WHERE false",
    ),
    (
        None,
        "UPDATE verifyd.run_attempts SET ended_at = ended_at, end_reason = end_reason WHERE false",
    ),
    (
        None,
        "INSERT INTO verifyd.run_deliveries SELECT * FROM verifyd.run_deliveries WHERE false \
         ON CONFLICT (run_id) DO UPDATE SET delivered_at = NULL",
    ),
    (None, "DELETE FROM verifyd.run_deliveries WHERE false"),
    (
        None,
        "INSERT INTO verifyd.latest_reports SELECT * FROM verifyd.latest_reports WHERE false \
         ON CONFLICT (connection_id) DO UPDATE SET fingerprint = excluded.fingerprint",
    ),
    (
        None,
        "INSERT INTO verifyd.tenant_inventory SELECT * FROM verifyd.tenant_inventory WHERE false \
         ON CONFLICT (tenant_id) DO UPDATE SET refreshed_at = excluded.refreshed_at",
    ),
    (
        Some(CLAIMING),
        "UPDATE operation_runs SET status = status, outcome = outcome, context = context, \
             failure_summary = failure_summary, started_at = started_at, completed_at = completed_at \
         WHERE false",
    ),
    (
        Some(WRITING_INVENTORY),
        "INSERT INTO tenant_permissions (tenant_id, permission_key, status, details, last_checked_at) \
         SELECT tenant_id, permission_key, status, details, last_checked_at FROM tenant_permissions \
         WHERE false ON CONFLICT (tenant_id, permission_key) DO UPDATE SET status = excluded.status",
    ),
    (
        Some(CLAIMING),
        "SELECT 1 FROM operation_runs WHERE false FOR NO KEY UPDATE",
    ),
    (
        None,
        "INSERT INTO verifyd.sweep_lock (id) VALUES (1) ON CONFLICT DO NOTHING",
    ),
];

/// Sizes with indexes, TOAST and partitions. `$1`: the application's tables.
const TABLE_SIZES: &str = "
    SELECT n.nspname || '.' || c.relname, s.bytes, s.rows
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(pg_total_relation_size(t.oid)), 0)::bigint AS bytes,
            CASE WHEN bool_or(t.reltuples >= 0) THEN sum(greatest(t.reltuples, 0))::bigint END AS rows
        FROM pg_class t WHERE t.relkind <> 'p'
            AND t.oid IN (SELECT c.oid UNION SELECT p.relid FROM pg_partition_tree(c.oid) AS p)) AS s
    WHERE c.relkind IN ('r', 'p') AND (n.nspname = 'verifyd'
        OR c.oid IN (SELECT to_regclass(t.name)::oid FROM unnest($1::text[]) AS t(name)))
    ORDER BY 2 DESC, 1";

/// The lowest limit of connections: of a role, a database or the server, which reserves some for certain roles, from
/// PostgreSQL 16 on also for `pg_use_reserved_connections`.
const CONNECTION_LIMIT: &str = "
    SELECT l.of_role, l.of_database, l.allowed FROM (
        SELECT quote_ident(r.rolname), NULL, r.rolconnlimit::bigint
        FROM pg_roles r WHERE r.rolname = session_user AND NOT r.rolsuper
        UNION ALL
        SELECT NULL, quote_ident(d.datname), d.datconnlimit::bigint
        FROM pg_database d JOIN pg_roles r ON r.rolname = session_user
        WHERE d.datname = current_database() AND NOT r.rolsuper
        UNION ALL
        SELECT NULL, NULL, current_setting('max_connections')::bigint
            - current_setting('superuser_reserved_connections')::bigint
            - CASE WHEN pg_has_role(session_user, to_regrole('pg_use_reserved_connections')::oid, 'USAGE') THEN 0
                ELSE coalesce(current_setting('reserved_connections', true)::bigint, 0) END
    ) AS l(of_role, of_database, allowed) WHERE l.allowed >= 0 ORDER BY l.allowed LIMIT 1";

/// Longest time for each statement of a sweep that is tried, in milliseconds: without an index it reads the whole table.
const SWEEPING_MS: u32 = 2_000;

/// The same for the other statements: a trigger may wait, and a lock may be held, for as long as a statement of `serve`
/// may take. That refuses nothing, and `serve` does not wait for it before it starts.
const LIMIT: &str = "SET LOCAL statement_timeout = 4000; SET LOCAL lock_timeout = 2000";

/// Connections of the pool without which a sweep and a claim wait for each other, and fail at `acquire_timeout`.
const LEAST_IN_POOL: u32 = 2;

/// `$1`: the name of a table whose ids the role may read. The sequence that the default of its ids names, else that of the
/// identity column, else the one that belongs to the column, as a default that was dropped leaves one behind; by how much
/// it counts up, its maximum, and whether the role may read it, which takes SELECT; with USAGE alone it may read the last
/// value. A name that the default has as a text is no dependency.
const SEQUENCE: &str = r"
    SELECT q.seqrelid::bigint, format('%I.%I', n.nspname, r.relname), q.seqincrement, q.seqmax,
        has_sequence_privilege(q.seqrelid, 'SELECT')
    FROM pg_attribute a
    LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    CROSS JOIN LATERAL (SELECT coalesce(
        (SELECT min(d.refobjid) FROM pg_depend d JOIN pg_sequence o ON o.seqrelid = d.refobjid
            WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass),
        to_regclass(replace(
            substring(pg_get_expr(f.adbin, f.adrelid) FROM $re$nextval\(\(?'((?:[^']|'')+)'$re$), '''''', ''''))::oid,
        (SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i' AND a.attidentity <> ''),
        to_regclass(pg_get_serial_sequence($1::text, a.attname::text))::oid)) AS s(oid)
    JOIN pg_sequence q ON q.seqrelid = s.oid
    JOIN pg_class r ON r.oid = q.seqrelid
    JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE a.attrelid = to_regclass($1::text) AND a.attname = 'id'
      AND has_column_privilege(a.attrelid, a.attnum, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
      AND has_sequence_privilege(q.seqrelid, 'SELECT, USAGE')";

/// Whether the server gets to see the driver's own names.
async fn loses_statements(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let mut tx = connection.begin().await?;
    let prepared: Result<i32, sqlx::Error> =
        sqlx::query_scalar("SELECT 1").fetch_one(&mut *tx).await;
    // Another client's statement of this name is there.
    if let Err(sqlx::Error::Database(error)) = &prepared
        && matches!(error.code().as_deref(), Some("42P05" | "26000"))
    {
        return Ok(true);
    }
    prepared?;
    let seen: i64 = sqlx::query_scalar(OWN_NAMES)
        .persistent(false)
        .fetch_one(&mut *tx)
        .await?;
    // No other client may find it.
    sqlx::raw_sql(super::schema::FORGET_NAMED_STATEMENTS)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(seen > 0)
}

/// Returns with how many connections `serve` works, and how many it opens: of the pool, one for the heartbeat, one to
/// look for the primary among several hosts, and those for listening.
fn connections_with(pool: u32, has_several_hosts: bool, listening: Option<u32>) -> (i64, i64) {
    let others = 1 + u32::from(has_several_hosts) + listening.unwrap_or(0);
    let least = pool.min(LEAST_IN_POOL) + others;
    (i64::from(least), i64::from(pool + others))
}

/// Returns the limit of a pooler in session mode. Where it may have enough sessions, of which others have some, those that
/// are free say whether it does, unless a worker has the others.
fn limit_of_pool(found: PoolerSessions, least: i64, needed: i64) -> Option<ConnectionLimit> {
    let PoolerSessions {
        free,
        at_most,
        has_worker,
    } = found;
    let wanted_free = if has_worker { least } else { needed };
    let (by, allowed) = match at_most.filter(|all| *all < needed) {
        Some(all) => (LimitedBy::Pool, all),
        None if free < wanted_free => (LimitedBy::FreeInPool, free),
        None => return None,
    };
    Some(ConnectionLimit {
        by,
        allowed,
        least,
        needed,
    })
}

impl PostgresStore {
    /// Tries a sweep. One that takes longer than [`SWEEPING_MS`] is not refused.
    async fn try_sweep(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let limit = format!("SET LOCAL statement_timeout = {SWEEPING_MS}");
        let mut inner = tx.begin().await?;
        sqlx::raw_sql(AssertSqlSafe(limit))
            .execute(&mut *inner)
            .await?;
        let tried = probe::try_sweep(&mut self.shared(&mut *inner)).await;
        // Limit and locks end with it.
        inner.rollback().await?;
        match tried {
            Err(error) if error.sqlstate() == Some("57014") => Ok(()),
            tried => tried,
        }
    }

    /// Returns the next id of the table's sequence, the largest id that is there, and the last that the sequence gives.
    /// `None`: it has no sequence, or the role may not read either.
    async fn ids(
        &self,
        tx: &mut PgConnection,
        table: &'static str,
    ) -> Result<Option<UnusableIds>, StoreError> {
        let sequence: Option<(i64, String, i64, i64, bool)> = self
            .rows(SEQUENCE)
            .persistent(false)
            .bind(table)
            .fetch_optional(&mut *tx)
            .await?;
        let Some((oid, sequence, increment, last, is_readable)) = sequence else {
            return Ok(None);
        };
        // Behind a larger one the sequence is at its end.
        let last_but_one = last.saturating_sub(increment);
        // Rows are read as they were when the statement began, the sequence as it is.
        let state = match is_readable {
            true => format!(
                "SELECT CASE WHEN NOT s.is_called THEN s.last_value \
                 WHEN s.last_value <= {last_but_one} THEN s.last_value + {increment} END, \
                 s.is_called AND s.last_value > {last_but_one}, \
                 (SELECT greatest(CAST(max(id) AS bigint), 0) FROM {table}) FROM {sequence} AS s"
            ),
            // Known once it has given an id.
            false => format!(
                "SELECT CASE WHEN v.given <= {last_but_one} THEN v.given + {increment} END, \
                 v.given > {last_but_one}, (SELECT greatest(CAST(max(id) AS bigint), 0) FROM {table}) \
                 FROM (SELECT pg_sequence_last_value({oid}::oid::regclass)) AS v(given)"
            ),
        };
        let state = format!(
            "SELECT q.*, (SELECT CAST(min(id) AS bigint) FROM {table} \
                 WHERE id >= q.next AND (id - q.next) % {increment} = 0) \
             FROM ({state}) AS q(next, is_at_end, largest)"
        );
        let (next, is_at_end, largest, taken): (Option<i64>, Option<bool>, i64, Option<i64>) =
            sqlx::query_as(AssertSqlSafe(state))
                .persistent(false)
                .fetch_one(&mut *tx)
                .await?;
        let is_known = next.is_some() || is_at_end == Some(true);
        Ok(is_known.then_some(UnusableIds {
            table,
            sequence,
            next,
            taken,
            increment,
            largest,
            last,
        }))
    }

    /// Whether listening goes through the same server or pooler as everything else.
    fn listens_here(&self) -> bool {
        self.listen.as_ref().is_some_and(|listen| {
            let (listen, options) = (listen.options(), self.connector.options());
            listen.get_host() == options.get_host()
                && listen.get_port() == options.get_port()
                && listen.get_socket() == options.get_socket()
        })
    }
}

#[async_trait]
impl ProbeStore for PostgresStore {
    async fn try_pooling(&self) -> Result<Pooling, StoreError> {
        self.with_timeout(async {
            let options = self.connector.options();
            let (mut first, mut second) = sessions::open_two(&options).await?;
            let shared = !sessions::keep_their_sessions(&mut first, &mut second).await?;
            if shared {
                // A pooler in statement mode refuses it.
                first.begin().await?.rollback().await?;
            }
            let pooling = match (shared, self.named) {
                (false, _) => Pooling::None,
                (true, false) => Pooling::Transaction,
                (true, true) if loses_statements(&mut first).await? => {
                    Pooling::TransactionWithLostStatements
                }
                (true, true) => Pooling::Transaction,
            };
            let _ = first.close().await;
            let _ = second.close().await;
            Ok(pooling)
        })
        .await
    }

    async fn try_writing(&self) -> Result<Writing, StoreError> {
        self.transaction_with_end(async |tx| {
            sqlx::raw_sql(LIMIT).execute(&mut *tx).await?;
            let nobody = format!("doctor-{}", Uuid::new_v4().simple());
            for statement in WRITTEN {
                sqlx::query(statement)
                    .persistent(false)
                    .bind(&nobody)
                    .execute(&mut *tx)
                    .await?;
            }
            let keeper = Keeper::of(&mut Steps { store: self, tx }).await?;
            for (step, statement) in ALLOWED {
                let executed = sqlx::query(statement).persistent(false).execute(&mut *tx);
                let refused = |error: sqlx::Error| keeper.refused_statement(step, error.into());
                executed.await.map_err(refused)?;
            }
            self.try_sweep(tx).await?;
            let writing = probe::try_run(&mut Steps { store: self, tx }, &keeper).await?;
            Ok(End::Rollback(writing))
        })
        .await
    }

    async fn refused_claims(
        &self,
        waited: Duration,
        report: &mut (dyn FnMut(RefusedClaim) + Send),
    ) -> Result<(), StoreError> {
        let mut has_ended = false;
        let tried = self.transaction_with_end(async |tx| {
            sqlx::raw_sql(LIMIT).execute(&mut *tx).await?;
            let steps = &mut Steps { store: self, tx };
            has_ended = probe::refused_claims(steps, waited, report).await?;
            Ok(End::Rollback(()))
        });
        let tried = tried.await;
        if has_ended { Ok(()) } else { tried }
    }

    async fn unusable_ids(&self) -> Result<Vec<UnusableIds>, StoreError> {
        self.transaction(async |tx| {
            let mut unusable = Vec::new();
            for (table, _) in NUMBERED {
                let ids = self.ids(tx, table).await?;
                let repeats = |ids: &UnusableIds| ids.next.is_none_or(|next| next <= ids.largest);
                unusable.extend(ids.filter(|ids| ids.increment < 0 || repeats(ids)));
            }
            Ok(unusable)
        })
        .await
    }

    async fn table_sizes(&self) -> Result<Vec<TableSize>, StoreError> {
        self.transaction(async |tx| {
            let sizes: Vec<(String, i64, Option<i64>)> = self
                .rows(TABLE_SIZES)
                .persistent(false)
                .bind(APPLICATION_TABLES)
                .fetch_all(&mut *tx)
                .await?;
            let sizes = sizes.into_iter();
            Ok(sizes
                .map(|(table, bytes, rows)| TableSize { table, bytes, rows })
                .collect())
        })
        .await
    }

    async fn connection_limit(&self, pool: u32) -> Result<Option<ConnectionLimit>, StoreError> {
        let options = self.connector.options();
        let has_several_hosts = self.connector.has_several_hosts();
        let with = |listening| connections_with(pool, has_several_hosts, listening);
        let is_direct = self.with_timeout(sessions::is_direct(&options)).await?;
        if !is_direct {
            // Listening begins with two.
            let listens_here = self.listens_here();
            let least = with(listens_here.then_some(1)).0;
            let needed = with(listens_here.then_some(2)).1;
            let counted = sessions::count(&options, needed, listens_here);
            let found = self.with_timeout(counted).await?;
            return Ok(limit_of_pool(found, least, needed));
        }
        let (least, needed) = with(self.listen.as_ref().map(|_| 1));
        self.transaction(async |tx| {
            let (role, database, allowed): (Option<String>, Option<String>, i64) = self
                .rows(CONNECTION_LIMIT)
                .persistent(false)
                .fetch_one(&mut *tx)
                .await?;
            let by = match (role, database) {
                (Some(role), _) => LimitedBy::Role(role),
                (None, Some(database)) => LimitedBy::Database(database),
                (None, None) => LimitedBy::Server,
            };
            let limit = ConnectionLimit {
                by,
                allowed,
                least,
                needed,
            };
            Ok((allowed < needed).then_some(limit))
        })
        .await
    }

    async fn hosts(&self) -> Vec<Host> {
        self.connector.roles().await
    }

    fn password_read(&self) -> Option<PasswordRead> {
        let file = self.connector.password.as_ref()?;
        Some(PasswordRead {
            path: file.path().to_owned(),
            at: file.read_at(),
        })
    }

    async fn clock_ahead(&self) -> Result<f64, StoreError> {
        self.transaction(async |tx| {
            let asked = SystemClock.now();
            let there: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
                .persistent(false)
                .fetch_one(&mut *tx)
                .await?;
            let answered = SystemClock.now();
            let here = asked + (answered - asked) / 2;
            Ok((there - here).as_seconds_f64())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_with_none_free_is_not_one_that_has_none() {
        for (free, at_most, has_worker, limited) in [
            (0, None, true, Some((LimitedBy::FreeInPool, 0))),
            (3, Some(14), true, Some((LimitedBy::FreeInPool, 3))),
            (3, Some(3), true, Some((LimitedBy::Pool, 3))),
            (5, Some(5), true, Some((LimitedBy::Pool, 5))),
            (5, Some(14), true, None),
            (5, Some(14), false, Some((LimitedBy::FreeInPool, 5))),
            (13, Some(14), false, None),
        ] {
            let found = PoolerSessions {
                free,
                at_most,
                has_worker,
            };
            let limit = limit_of_pool(found, 4, 13);
            let limit = limit.map(|limit| (limit.by, limit.allowed));
            assert_eq!(limit, limited, "{found:?}");
        }
    }
}
