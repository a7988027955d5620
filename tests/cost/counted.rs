//! Counts what the servers did between two moments.

use sqlx::{Connection as _, Executor as _, PgConnection};
use test_support::bench::{Bench, record};
use test_support::postgres::TestDatabase;
use test_support::private_postgres::PrivatePostgres;
use test_support::redis_server::{self, PrivateRedis};
use verifyd_simulator::{Scenario, SimulatorOptions};

/// The statements that are made for runs, by a part of their text: not the heartbeat, not the sweep,
/// whose number is a matter of time.
const FOR_RUNS: &str = "
    SELECT calls, query FROM pg_stat_statements
    WHERE query ~ 'run_attempts|provider_credentials|tenant_inventory|INTO tenant_permissions|latest_reports AS l'
      AND query !~ 'worker_dead|w.beat_at'
      AND query !~ '^SELECT run_id, token|coalesce.r.started_at::timestamptz' ORDER BY query";

/// Each batch, and each call that is sent separately, begins with its limits.
const TRANSACTIONS: &str = "
    SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query ~ 'SET LOCAL enable_seqscan'";

const BLOCKS: &str = "
    SELECT sum(shared_blks_hit + shared_blks_read)::float8 / sum(rows)::float8, sum(rows)::bigint
    FROM pg_stat_statements WHERE query ~ $1";

const DELIVERED: &str =
    "INSERT INTO verifyd.run_deliveries (run_id, delivered_at) SELECT unnest($1), now()";

/// As runs are that the provider has throttled.
const NOT_YET: &str = "
    WITH started AS (UPDATE operation_runs SET started_at = now() WHERE id = ANY($1) RETURNING id),
    attempts AS (INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at,
            deadline_at, ended_at, end_reason)
        SELECT id, 1, gen_random_uuid(), 'gone', false, now(), now(), now(), 'throttled' FROM started)
    INSERT INTO verifyd.run_deliveries (run_id, delivered_at, not_before)
    SELECT unnest($1), now(), now() + interval '1 hour'";

/// What runs cost, each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub statements: f64,
    /// Transactions of batches.
    pub transactions: f64,
    pub wal_bytes: f64,
    /// Scripts and other commands that clients send.
    pub redis_commands: f64,
    /// Both directions.
    pub redis_bytes: f64,
}

impl Cost {
    pub fn at_most(&self, bound: &Self) {
        each_at_most(&[
            ("statements", self.statements, bound.statements),
            ("transactions", self.transactions, bound.transactions),
            ("wal_bytes", self.wal_bytes, bound.wal_bytes),
            ("redis_commands", self.redis_commands, bound.redis_commands),
            ("redis_bytes", self.redis_bytes, bound.redis_bytes),
        ]);
    }
}

/// Asserts that each of these was counted, and is within its bound.
pub fn each_at_most(costs: &[(&str, f64, f64)]) {
    for (what, is, most) in costs {
        assert!(*is > 0.0, "nothing was counted: {what}");
        assert!(is <= most, "{what} for each run: {is}, bound: {most}");
    }
}

/// Servers that count.
pub struct Counting {
    postgres: PrivatePostgres,
    redis: PrivateRedis,
}

#[derive(Clone, Copy)]
struct Counts {
    statements: i64,
    transactions: i64,
    wal_bytes: i64,
    redis_commands: i64,
    redis_bytes: i64,
}

impl Counting {
    pub async fn start() -> Self {
        let mut postgres = PrivatePostgres::start();
        let mut admin = PgConnection::connect(&postgres.url()).await.unwrap();
        for setting in [
            "shared_preload_libraries = 'pg_stat_statements'",
            // A page that is written whole after a checkpoint would be a matter of time.
            "full_page_writes = off",
            "autovacuum = off",
        ] {
            let setting = sqlx::AssertSqlSafe(format!("ALTER SYSTEM SET {setting}"));
            admin.execute(setting).await.unwrap();
        }
        drop(admin);
        postgres.resume();
        Self {
            postgres,
            redis: PrivateRedis::start(),
        }
    }

    /// So many connections, each of a tenant of its own.
    pub async fn bench(&self, number: u32) -> (Bench, Vec<i64>) {
        let database = TestDatabase::create_on(&self.postgres.url()).await;
        let mut bench = Bench::on(database, SimulatorOptions::default()).await;
        bench.redis_url = self.redis.url();
        bench
            .environment
            .insert("REDIS_URL".to_owned(), self.redis.url());
        let mut sql = bench.sql().await;
        sql.execute("CREATE EXTENSION pg_stat_statements")
            .await
            .unwrap();
        let connections = (1..=number)
            .map(|n| {
                let tenant = Scenario::Healthy.tenant_id(n);
                bench.connection(i64::from(n), &tenant, "health_check")
            })
            .collect();
        (bench, connections)
    }

    /// Records so many runs of each connection with their hints, and waits for their end.
    pub async fn complete(&self, bench: &Bench, connections: &[i64], of_each: i64) -> usize {
        let runs = self.send(bench, connections, of_each).await;
        bench.all_completed().await;
        runs
    }

    /// Records so many runs of each connection, and sends their hints.
    pub async fn send(&self, bench: &Bench, connections: &[i64], of_each: i64) -> usize {
        let runs = recorded(bench, connections, of_each, DELIVERED).await;
        redis_server::hint(&self.redis.url(), &bench.queue, &runs).await;
        runs.len()
    }

    /// Records so many runs of each connection that nobody delivers for an hour.
    pub async fn leave_waiting(&self, bench: &Bench, connections: &[i64], of_each: i64) {
        recorded(bench, connections, of_each, NOT_YET).await;
    }

    /// Has the server learn how much there is, which it does by itself only now and then. Pages that are empty stay, as
    /// they do where anybody looks at the table meanwhile: then the planner believes that the table stays empty.
    pub async fn analyze(&self, bench: &Bench) {
        let vacuum = "VACUUM (ANALYZE, TRUNCATE false)";
        bench.sql().await.execute(vacuum).await.unwrap();
    }

    /// Blocks that the statements whose text matches have looked at for each row, and their rows.
    pub async fn blocks_for_each(&self, bench: &Bench, matching: &str) -> (f64, i64) {
        sqlx::query_as(BLOCKS)
            .bind(matching)
            .fetch_one(&mut bench.sql().await)
            .await
            .unwrap()
    }

    /// Forgets what was counted of statements.
    pub async fn forget(&self, bench: &Bench) {
        let mut sql = bench.sql().await;
        sql.execute("SELECT pg_stat_statements_reset()")
            .await
            .unwrap();
    }

    /// What each of so many runs costs, from its hint to its end. Recording them is not counted.
    pub async fn cost_of(&self, bench: &Bench, connections: &[i64], of_each: i64) -> Cost {
        let mut sql = bench.sql().await;
        let before = self.counts(&mut sql).await;
        let wal: i64 = {
            // The rows' own: so many are recorded, and not counted below.
            let start: i64 = wal(&mut sql).await;
            let mut tx = sql.begin().await.unwrap();
            record(&mut tx, connections, of_each).await.unwrap();
            tx.rollback().await.unwrap();
            wal(&mut sql).await - start
        };
        let runs = self.complete(bench, connections, of_each).await;
        let after = self.counts(&mut sql).await;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let each = |a: i64, b: i64| (b - a) as f64 / runs as f64;
        Cost {
            statements: each(before.statements, after.statements),
            transactions: each(before.transactions, after.transactions),
            wal_bytes: each(before.wal_bytes + 2 * wal, after.wal_bytes),
            redis_commands: each(before.redis_commands, after.redis_commands),
            redis_bytes: each(before.redis_bytes, after.redis_bytes),
        }
    }

    async fn counts(&self, sql: &mut PgConnection) -> Counts {
        let mut number = async |statement: &'static str| {
            sqlx::query_scalar::<_, i64>(statement)
                .fetch_one(&mut *sql)
                .await
                .unwrap()
        };
        let transactions = number(TRANSACTIONS).await;
        let for_runs: Vec<(i64, String)> =
            sqlx::query_as(FOR_RUNS).fetch_all(&mut *sql).await.unwrap();
        // Shown where a bound is exceeded.
        for (calls, query) in &for_runs {
            println!("{calls} x {query:.200}");
        }
        let statements = for_runs.iter().map(|(calls, _)| calls).sum();
        let wal_bytes = wal(sql).await;
        let mut redis = redis_server::connection(&self.redis.url()).await;
        let info: String = redis::cmd("INFO")
            .arg("all")
            .query_async(&mut redis)
            .await
            .unwrap();
        let of = |name: &str| -> i64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse().ok()).unwrap()
        };
        let scripts = info
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="))
            .and_then(|line| line.split(',').next()?.parse().ok())
            .unwrap_or(0);
        Counts {
            statements,
            transactions,
            wal_bytes,
            redis_commands: scripts,
            redis_bytes: of("total_net_input_bytes:") + of("total_net_output_bytes:"),
        }
    }
}

/// Rows of runs with those that say what is known of their hints; nothing but hints wakes the worker.
async fn recorded(
    bench: &Bench,
    connections: &[i64],
    of_each: i64,
    deliveries: &'static str,
) -> Vec<i64> {
    let mut sql = bench.sql().await;
    let mut tx = sql.begin().await.unwrap();
    let runs = record(&mut tx, connections, of_each).await.unwrap();
    sqlx::query(deliveries)
        .bind(&runs)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    runs
}

async fn wal(sql: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        .fetch_one(sql)
        .await
        .unwrap()
}
