//! What a run costs the disk of the embedded default, counted in SQLite's write-ahead log: each
//! transaction that has written ends with a page that says so, and was waited for.

use crate::counted::each_at_most;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use test_support::bench::{Bench, Daemon, PATIENCE};
use verifyd_simulator::{Scenario, SimulatorOptions};

/// Of the log, and of each page in it.
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// A bare row for each connection, `$1` times, as another program inserts it.
const INSERT: &str = "
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context)
    SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
           json_object('provider', 'microsoft', 'module', c.module, 'provider_connection_id', c.id,
                       'target_scope', json_object('entra_tenant_id', c.entra_tenant_id))
    FROM n, provider_connections c";

/// What runs cost, each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub transactions: f64,
    pub bytes: f64,
}

impl Cost {
    pub fn at_most(&self, bound: &Self) {
        each_at_most(&[
            ("transactions", self.transactions, bound.transactions),
            ("bytes", self.bytes, bound.bytes),
        ]);
    }
}

/// What is in SQLite's write-ahead log.
struct Log {
    /// Another one when the log has begun anew.
    salt: Vec<u8>,
    transactions: usize,
    bytes: usize,
}

/// A SQLite file, and processes of the real binary on it, without any server.
pub struct Embedded {
    bench: Bench,
    file: PathBuf,
    pool: SqlitePool,
    _folder: tempfile::TempDir,
}

impl Embedded {
    /// With so many connections, each of a tenant of its own.
    pub async fn new(connections: u32, provider_delay: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("verifyd.db");
        let mut bench = Bench::unmigrated(SimulatorOptions {
            latency: provider_delay,
            ..SimulatorOptions::default()
        })
        .await;
        let url = format!("sqlite:{}", file.display());
        bench.environment.remove("REDIS_URL");
        bench.environment.insert("DATABASE_URL".to_owned(), url);
        bench.success(&["migrate"]);
        for n in 1..=connections {
            let tenant = Scenario::Healthy.tenant_id(n);
            bench.connection(i64::from(n), &tenant, "health_check");
        }
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .busy_timeout(PATIENCE);
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(options)
            .await
            .unwrap();
        Self {
            bench,
            file,
            pool,
            _folder: folder,
        }
    }

    pub fn serve(&self, extra: &[(&str, &str)]) -> Daemon {
        self.bench.serve(extra)
    }

    /// Records so many runs of each connection, and waits for their end.
    pub async fn complete(&self, of_each: i64) -> u64 {
        let recorded = sqlx::query(INSERT)
            .bind(of_each)
            .execute(&self.pool)
            .await
            .unwrap()
            .rows_affected();
        let until = Instant::now() + PATIENCE;
        loop {
            let open: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM operation_runs WHERE status <> 'completed'",
            )
            .fetch_one(&self.pool)
            .await
            .unwrap();
            if open == 0 {
                return recorded;
            }
            assert!(
                Instant::now() < until,
                "{open} runs are not completed: {}",
                self.bench.printed.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What each of so many runs costs. A reader that keeps its view of the file keeps the log from
    /// beginning anew.
    pub async fn cost_of(&self, of_each: i64) -> Cost {
        let mut reader = self.pool.begin().await.unwrap();
        let _: i64 = sqlx::query_scalar("SELECT count(*) FROM operation_runs")
            .fetch_one(&mut *reader)
            .await
            .unwrap();
        let before = self.log();
        let runs = self.complete(of_each).await as f64;
        let after = self.log();
        reader.rollback().await.unwrap();
        let succeeded: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM operation_runs WHERE outcome IS NOT 'succeeded'",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        assert_eq!(succeeded, 0, "another work was counted");
        // It may have begun anew once, before the reader could see to that.
        let (transactions, bytes) = if after.salt == before.salt {
            (before.transactions, before.bytes)
        } else {
            (0, LOG_HEADER)
        };
        Cost {
            transactions: (after.transactions - transactions) as f64 / runs,
            bytes: (after.bytes - bytes) as f64 / runs,
        }
    }

    fn log(&self) -> Log {
        let mut path = self.file.clone().into_os_string();
        path.push("-wal");
        let log = std::fs::read(path).unwrap();
        let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
        let page = word(8) as usize;
        // Frames of the log's round before have other salts.
        let salt = &log[16..24];
        let mut transactions = 0;
        let mut at = LOG_HEADER;
        while at + FRAME_HEADER + page <= log.len() && &log[at + 8..at + 16] == salt {
            // How long the file is then: set in the last frame of a transaction.
            transactions += usize::from(word(at + 4) != 0);
            at += FRAME_HEADER + page;
        }
        Log {
            salt: salt.to_vec(),
            transactions,
            bytes: at,
        }
    }
}
