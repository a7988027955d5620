//! `operation_runs` partitioned by month of `created_at`, where verifyd made it.
//!
//! A unique key contains the partition key. So ids are unique as far as the sequence makes them so (`repeated_ids`: where
//! they are not), and a run is looked for by its id in every partition. Another application's table is partitioned by that
//! application.

use super::PostgresStore;
use super::guards::{NO_TIMEOUT, PAUSE, RunsTable, TRIES, TRIGGERS, Trigger, again, run};
use crate::ports::partitions::{
    FirstPartition, MonthLeft, Months, PartitionPlan, PartitionStore, PartitionsEnd,
};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::PgConnection;
use std::collections::VecDeque;

/// Months after this one for which there are partitions.
const MONTHS_AHEAD: i32 = 12;

/// Makes the table the first partition of a new one.
const PARTITION: &str = include_str!("partition_by_month.sql");

/// `runs`: the table, if it is partitioned by ranges of `created_at` alone. `part`: its partitions but the default one,
/// with their bounds, NULL where there is none. A bound without a time zone is one of UTC.
macro_rules! parts {
    () => {
        r"WITH runs AS (
            SELECT c.oid, p.partdefid, a.atttypid = 'timestamp'::regtype AS is_bare FROM pg_class c
            JOIN pg_partitioned_table p ON p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND a.attname = 'created_at'
            WHERE c.oid = to_regclass('operation_runs')
        ), part AS (
            SELECT c.relname,
                CASE WHEN runs.is_bare THEN l.text::timestamp AT TIME ZONE 'UTC' ELSE l.text::timestamptz END AS lower,
                CASE WHEN runs.is_bare THEN u.text::timestamp AT TIME ZONE 'UTC' ELSE u.text::timestamptz END AS upper
            FROM runs JOIN pg_inherits i ON i.inhparent = runs.oid JOIN pg_class c ON c.oid = i.inhrelid
            CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS text) b
            CROSS JOIN LATERAL (SELECT substring(b.text FROM 'FROM \(''([^'']+)''\)') AS text) l
            CROSS JOIN LATERAL (SELECT substring(b.text FROM 'TO \(''([^'']+)''\)') AS text) u
            WHERE c.oid <> runs.partdefid
        ) "
    };
}

const END: &str = sql!(
    parts!() "SELECT (extract(epoch FROM (SELECT coalesce(max(coalesce(upper, 'infinity')), now()) FROM part))
        - extract(epoch FROM now()))::float8, partdefid <> 0 FROM runs"
);

/// Whether a partition has the name of a month, or of the one that the table was before.
const IS_MONTHLY: &str = sql!(
    parts!() "SELECT EXISTS (SELECT FROM part WHERE relname ~ '^operation_runs_([0-9]{4}_[0-9]{2}|earlier)$')"
);

/// `$1`: months ahead. This month and the next ones that no partition has: names and bounds, and whether their rows will
/// soon be refused, as there is no default partition.
const MISSING_MONTHS: &str = sql!(
    parts!() ", month AS (
        SELECT 'operation_runs_' || to_char(m.at, 'YYYY_MM') AS name, to_char(m.at, 'YYYY-MM-DD') || ' 00:00:00+00' AS begins,
            to_char(m.at + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00' AS ends,
            m.at < now() AT TIME ZONE 'UTC' + interval '1 month' AND EXISTS (SELECT FROM runs WHERE partdefid = 0) AS is_needed
        FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
            now() AT TIME ZONE 'UTC' + make_interval(months => $1::integer), interval '1 month') AS m(at))
    SELECT name, begins, ends, is_needed FROM month WHERE NOT EXISTS (
        SELECT FROM part WHERE coalesce(lower, '-infinity') <= begins::timestamptz
                           AND coalesce(upper, 'infinity') > begins::timestamptz)
    ORDER BY begins"
);

/// Whether there are rows between two times. No partition but the default one has any.
const HAS_ROWS: &str = "
    SELECT EXISTS (SELECT FROM operation_runs
        WHERE created_at >= $1::text::timestamptz AND created_at < $2::text::timestamptz)";

/// What becomes of such rows.
const THEY_STAY: &str = "They stay there, and nothing needs to be done";

const OWNS_TABLES: &str = "SELECT to_regclass('verifyd.owned_tables') IS NOT NULL";

/// `$1`: the schema.
const IS_OWN: &str = "
    SELECT EXISTS (SELECT FROM verifyd.owned_tables
        WHERE table_schema = $1::text AND table_name = 'operation_runs')";

/// `$1`: the table. With its indexes.
const SIZE: &str = "
    SELECT pg_total_relation_size(oid), CASE WHEN reltuples >= 0 THEN reltuples::bigint END
    FROM pg_class WHERE oid = $1::oid";

/// What the new table would not have. `$1`: the table, `$2`: verifyd's triggers. A view would go on reading what is then
/// one partition. Rows of later months have no place in the first partition. A rule that was not validated, or that no
/// partition has, is refused before the table is read.
const OBSTACLES: &str = "
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid AND (
        d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass,
                      'pg_publication_rel'::regclass)
        OR k.contype IN ('f', 'u', 'x') OR k.contype = 'c' AND (NOT k.convalidated OR k.connoinherit)
        OR c.relkind IN ('r', 'p', 'f') OR i.indisunique AND NOT i.indisprimary
        OR NOT t.tgisinternal AND t.tgname::text <> ALL ($2::text[]))
    UNION ALL
    SELECT 'row security' FROM pg_class WHERE oid = $1::oid AND relrowsecurity
    UNION ALL
    SELECT 'the default of id' FROM pg_attribute
    WHERE attrelid = $1::oid AND attname = 'id' AND attidentity = ''
    UNION ALL
    SELECT 'runs whose created_at is not before next month' WHERE EXISTS (SELECT FROM operation_runs
        WHERE created_at >= (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC')
    ORDER BY 1";

#[async_trait]
impl PartitionStore for PostgresStore {
    async fn partitions_end(&self) -> Result<Option<PartitionsEnd>, StoreError> {
        let found: Option<(f64, bool)> = self
            .transaction(async |tx| Ok::<_, StoreError>(self.rows(END).fetch_optional(tx).await?))
            .await?;
        let ends = found.filter(|(seconds, _)| seconds.is_finite());
        Ok(ends.map(|(seconds, has_default)| PartitionsEnd {
            seconds,
            has_default,
        }))
    }

    async fn partition_plan(&self) -> Result<PartitionPlan, StoreError> {
        self.untimed_transaction(async |tx| {
            run(tx, NO_TIMEOUT.to_owned()).await?;
            let table = self.runs_table(tx).await?;
            let obstacles = self.obstacles(tx, table.as_ref()).await?;
            let first = match table.filter(|table| !table.is_partitioned) {
                Some(table) => Some(self.size(tx, &table).await?),
                None => None,
            };
            let months = self.missing_months(tx).await?.into_iter();
            // This one is part of the first partition.
            let months = months.skip(usize::from(first.is_some()));
            Ok(PartitionPlan {
                months: months.map(|month| month.name).collect(),
                first,
                obstacles,
            })
        })
        .await
    }

    async fn partition_by_month(&self) -> Result<(), StoreError> {
        again(|| self.partition_once()).await
    }

    async fn add_months(&self) -> Result<Months, StoreError> {
        let missing = self
            .transaction(async |tx| match self.monthly_table(tx).await? {
                Some(_) => self.missing_months(tx).await,
                None => Ok(Vec::new()),
            })
            .await?;
        let (mut missing, mut tries) = (VecDeque::from(missing), 1);
        let mut months = Months::default();
        while let Some(month) = missing.pop_front() {
            match self.add_month(&month).await {
                Ok(Some(problem)) => months.left.push(month.left(problem.to_owned(), THEY_STAY)),
                Ok(None) => months.added.push(month.name),
                // The others first. All share the tries, as all wait for the same table.
                Err(StoreError::Contended(_)) if tries < TRIES => {
                    tries += 1;
                    missing.push_back(month);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    let alike = match error {
                        StoreError::Contended(_) => std::mem::take(&mut missing),
                        _ => VecDeque::new(),
                    };
                    let left = std::iter::once(month).chain(alike);
                    let left = left.map(|month| month.left(error.to_string(), remedy(&error)));
                    months.left.extend(left);
                }
            }
        }
        months.added.sort_unstable();
        Ok(months)
    }
}

/// What to do about a month that could not be added.
fn remedy(error: &StoreError) -> &'static str {
    match (error, error.sqlstate()) {
        (StoreError::Contended(_), _) => {
            "Repeat `verifyd migrate` once no transaction holds operation_runs for long"
        }
        // duplicate_table, duplicate_object
        (_, Some("42P07" | "42710")) => {
            "Rename what has the name of the partition, then repeat `verifyd migrate`"
        }
        _ => "Correct that, then repeat `verifyd migrate`",
    }
}

/// A month, and the bounds of its partition.
struct Month {
    name: String,
    begins: String,
    ends: String,
    is_needed: bool,
}

impl Month {
    fn left(self, problem: String, remedy: &str) -> MonthLeft {
        MonthLeft {
            partition: self.name,
            problem,
            remedy: remedy.to_owned(),
            refuses_rows: self.is_needed,
        }
    }
}

impl PostgresStore {
    async fn partition_once(&self) -> Result<(), StoreError> {
        self.step(async |tx| {
            run(tx, NO_TIMEOUT.to_owned()).await?;
            let table = self.runs_table(tx).await?;
            let plain = table.as_ref().filter(|table| !table.is_partitioned);
            if let Some(table) = plain {
                let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.name);
                run(tx, lock).await?;
            }
            let obstacles = self.obstacles(tx, table.as_ref()).await?;
            let Some(table) = table.as_ref().filter(|_| obstacles.is_empty()) else {
                let why = format!("it cannot be partitioned: {}", obstacles.join(", "));
                return Err(StoreError::Refused(why.into()));
            };
            match plain.is_some() {
                true => self.partition(tx, table).await,
                false => Ok(()),
            }
        })
        .await
    }

    /// The table, where it is partitioned by month and verifyd made it.
    async fn monthly_table(&self, tx: &mut PgConnection) -> Result<Option<RunsTable>, StoreError> {
        let Some(table) = self.runs_table(tx).await? else {
            return Ok(None);
        };
        let is_monthly = self.is_own(tx, &table).await? && self.is_monthly(tx).await?;
        Ok(is_monthly.then_some(table))
    }

    /// Makes a plain table, which this transaction has locked, the first partition of a new one. Triggers do not go over
    /// to that: they are put on it.
    async fn partition(&self, tx: &mut PgConnection, table: &RunsTable) -> Result<(), StoreError> {
        let mut there: Vec<&Trigger> = Vec::new();
        for trigger in &TRIGGERS {
            if self.has_trigger(tx, table, trigger).await? {
                there.push(trigger);
            }
            let drop = format!("DROP TRIGGER IF EXISTS {} ON {}", trigger.name, table.name);
            run(tx, drop).await?;
        }
        run(tx, PARTITION.to_owned()).await?;
        for trigger in there {
            run(tx, trigger.create_on(&table.name)).await?;
        }
        Ok(())
    }

    /// Creates the partition of a month, unless another process just did. `Some`: why it is not to be.
    async fn add_month(&self, month: &Month) -> Result<Option<&'static str>, StoreError> {
        let Month {
            name, begins, ends, ..
        } = month;
        self.step(async |tx| {
            let table = self.monthly_table(tx).await?;
            let missing = self.missing_months(tx).await?;
            let Some(table) = table.filter(|_| missing.iter().any(|other| other.name == *name)) else {
                return Ok(None);
            };
            let has_rows = self.scalar::<bool>(HAS_ROWS).bind(begins).bind(ends);
            if has_rows.fetch_one(&mut *tx).await? {
                return Ok(Some("rows of this month are in the default partition"));
            }
            let home = format!("\"{}\"", table.home.replace('"', "\"\""));
            let create = format!(
                "CREATE TABLE {home}.{name} PARTITION OF {} FOR VALUES FROM ('{begins}') TO ('{ends}'); \
                 ALTER TABLE {home}.{name} OWNER TO {}",
                table.name, table.owner
            );
            run(tx, create).await?;
            Ok(None)
        })
        .await
    }

    async fn missing_months(&self, tx: &mut PgConnection) -> Result<Vec<Month>, StoreError> {
        let missing = self.rows(MISSING_MONTHS).bind(MONTHS_AHEAD);
        let missing: Vec<(String, String, String, bool)> = missing.fetch_all(tx).await?;
        let missing = missing.into_iter();
        Ok(missing
            .map(|(name, begins, ends, is_needed)| Month {
                name,
                begins,
                ends,
                is_needed,
            })
            .collect())
    }

    /// Returns why the table cannot be partitioned by month, or cannot get further months.
    async fn obstacles(
        &self,
        tx: &mut PgConnection,
        table: Option<&RunsTable>,
    ) -> Result<Vec<String>, StoreError> {
        let Some(table) = table else {
            return Ok(vec!["it is not there before `verifyd migrate`".to_owned()]);
        };
        if !self.is_own(tx, table).await? {
            return Ok(vec!["it is another application's".to_owned()]);
        }
        if table.is_partitioned {
            return Ok(match self.is_monthly(tx).await? {
                true => Vec::new(),
                false => vec!["it is partitioned already".to_owned()],
            });
        }
        let own: Vec<&str> = TRIGGERS.iter().map(|trigger| trigger.name).collect();
        let left = self.scalar(OBSTACLES).bind(table.oid).bind(own);
        let left: Vec<String> = left.fetch_all(tx).await?;
        Ok(match left.as_slice() {
            [] => Vec::new(),
            left => vec![format!(
                "it has what would not go over: {}",
                left.join(", ")
            )],
        })
    }

    async fn is_monthly(&self, tx: &mut PgConnection) -> Result<bool, StoreError> {
        Ok(self.scalar(IS_MONTHLY).fetch_one(tx).await?)
    }

    /// Whether verifyd made the table.
    async fn is_own(&self, tx: &mut PgConnection, table: &RunsTable) -> Result<bool, StoreError> {
        let owns_tables: bool = self.scalar(OWNS_TABLES).fetch_one(&mut *tx).await?;
        if !owns_tables {
            return Ok(false);
        }
        let is_own = self.scalar(IS_OWN).bind(&table.home);
        Ok(is_own.fetch_one(tx).await?)
    }

    async fn size(
        &self,
        tx: &mut PgConnection,
        table: &RunsTable,
    ) -> Result<FirstPartition, StoreError> {
        let size = self.rows(SIZE).bind(table.oid);
        let (bytes, rows): (i64, Option<i64>) = size.fetch_one(tx).await?;
        Ok(FirstPartition { bytes, rows })
    }
}
