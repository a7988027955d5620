//! On SQLite, where whoever may write the file may write anything, past the table's own rules too.

use crate::hostile_producer::scene::{MEMORY_KIB, READERS, SETTINGS};
use crate::hostile_producer::shapes::{self, Database, Mistake, Target};
use crate::hostile_producer::surfaces::{self, Visitor};
use crate::hostile_producer::{Draw, rounds};
use proptest::prelude::*;
use proptest::sample::select;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use test_support::bench::{Bench, PATIENCE};
use test_support::memory::peak_kib;
use verifyd::domain::report::schema;
use verifyd_simulator::SimulatorOptions;

/// What SQLite takes besides, as it is a part of the process here: it reads and writes whole rows. To complete a run
/// with a context of 50 MB it holds the row as it was, and as it becomes.
const SQLITE_KIB: u64 = 128 * 1024;

/// Most memory that many readers take beyond what the process took before: each connection has a cache, too.
const READERS_KIB: u64 = 96 * 1024;

const ROWS: usize = 60;
const RIGHT: usize = 9;

/// What says of itself that it may be claimed. The rest is nobody's to complete.
const OPEN: &str = "type = 'provider.connection.check' AND status IN ('queued', 'running')
    AND outcome IS NULL AND completed_at IS NULL";

/// What must be completed. The table's own rules hold for what verifyd writes, too: whether a row that
/// breaks them already can be changed is not asked here, nor is that of an id that no hint can name.
const CLAIMABLE: &str = "id > 0 AND json_valid(context)
    AND (failure_summary IS NULL OR json_valid(failure_summary))";

/// What the table's rules forbid.
fn forbidden() -> impl Strategy<Value = Mistake> {
    let text = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<String>>();
    let times = || {
        let mut times = Database::Sqlite.times();
        times.push("NULL".into());
        select(times)
    };
    prop_oneof![
        select(text(&["'pending'", "'failed'", "'succeeded'", "''", "12"]))
            .prop_map(|o| Mistake::Column("outcome", o)),
        select(text(&["'completed'", "'pending'", "''", "12"]))
            .prop_map(|s| Mistake::Column("status", s)),
        times().prop_map(|t| Mistake::Column("started_at", t)),
        times().prop_map(|t| Mistake::Column("completed_at", t)),
        // What the functions of SQLite read as JSON, and nobody else does.
        Just(Mistake::Column(
            "context",
            "'{provider: ''microsoft'', a: +1, b: .5,}'".into()
        )),
        select(text(&[
            "'{}'",
            "'12'",
            "'[null, 1, {}]'",
            "'[1e400]'",
            "'no JSON'"
        ]))
        .prop_map(|s| Mistake::Column("failure_summary", s)),
        select(text(&[
            "9223372036854775807",
            "-9223372036854775808",
            "0",
            "-1"
        ]))
        .prop_map(|id| Mistake::Column("id", id)),
        select(text(&["x'00ff'", "1.5", "'abc'"])).prop_map(|id| Mistake::Column("tenant_id", id)),
    ]
}

struct File {
    bench: Bench,
    sql: SqliteConnection,
    targets: Vec<Target>,
    healthy: Vec<i64>,
    left_alone: BTreeMap<i64, String>,
    /// All rows of earlier rounds.
    known: BTreeSet<i64>,
    _folder: tempfile::TempDir,
}

/// A row as one text.
const ROW: &str = "json_array(workspace_id, tenant_id, type, status, outcome, hex(context),
    hex(failure_summary), created_at, started_at, completed_at)";

impl File {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("verifyd.db");
        let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
        bench.environment.remove("REDIS_URL");
        bench.set("DATABASE_URL", format!("sqlite:{}", file.display()));
        for (key, value) in SETTINGS.iter().chain(READERS) {
            bench.set(key, *value);
        }
        bench.success(&["migrate"]);
        let targets = (1..=3).map(|tenant| Target::of(&bench, tenant)).collect();
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .busy_timeout(PATIENCE);
        let mut sql = SqliteConnection::connect_with(&options).await.unwrap();
        for never in [
            "UPDATE provider_credentials SET expires_at = 'infinity' WHERE provider_connection_id = 1",
            "UPDATE provider_connections SET created_at = 'never', updated_at = '' WHERE id = 2",
        ] {
            sql.execute(never).await.unwrap();
        }
        let sessions = AssertSqlSafe(surfaces::sessions());
        sql.execute(sessions).await.unwrap();
        Self {
            bench,
            sql,
            targets,
            healthy: Vec::new(),
            left_alone: BTreeMap::new(),
            known: BTreeSet::new(),
            _folder: folder,
        }
    }

    async fn write(&mut self, number: usize, mistakes: &[Mistake]) -> Option<i64> {
        let target = &self.targets[number % self.targets.len()];
        let row = shapes::row(Database::Sqlite, target, mistakes);
        let insert = AssertSqlSafe(shapes::insert(&row));
        match sqlx::query_scalar(insert).fetch_one(&mut self.sql).await {
            Ok(id) => Some(id),
            Err(sqlx::Error::Database(_)) if !mistakes.is_empty() => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn ids(&mut self, statement: &str) -> Vec<i64> {
        sqlx::query_scalar(AssertSqlSafe(statement.to_owned()))
            .fetch_all(&mut self.sql)
            .await
            .unwrap()
    }

    async fn round(&mut self, mistakes: &[Vec<Mistake>], visitor: &mut Visitor, pid: u32) {
        for (number, mistakes) in mistakes.iter().enumerate() {
            self.write(number, mistakes).await;
        }
        let not_claimable =
            format!("SELECT id, {ROW} FROM operation_runs WHERE NOT coalesce({OPEN}, 0)");
        let found: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(not_claimable))
            .fetch_all(&mut self.sql)
            .await
            .unwrap();
        // What was open in an earlier round has been completed since.
        let earlier = &self.known;
        self.left_alone
            .extend(found.into_iter().filter(|(id, _)| !earlier.contains(id)));
        for number in 0..RIGHT {
            let id = self.write(number, &[]).await;
            self.healthy.push(id.expect("a right row is taken"));
        }
        self.completed().await;
        self.all_is_well().await;
        let runs = self.ids("SELECT id FROM operation_runs ORDER BY id").await;
        self.known.extend(&runs);
        let connections: Vec<i64> = self.targets.iter().map(|t| t.connection).collect();
        visitor.everything(&runs, &connections).await;
        visitor.commands(&self.bench, &runs);
        let doctor = self.bench.run(&["doctor"]);
        assert!(matches!(doctor.status.code(), Some(0 | 1)), "{doctor:?}");
        if let Some(peak) = peak_kib(pid) {
            assert!(
                peak < MEMORY_KIB + SQLITE_KIB,
                "the process took {peak} KiB"
            );
        }
    }

    /// Waits until nothing is left that can be claimed, as long as there is less and less.
    async fn completed(&mut self) {
        let open = format!("SELECT count(*) FROM operation_runs WHERE {OPEN} AND {CLAIMABLE}");
        let mut moved = (Instant::now(), i64::MAX);
        loop {
            let left = self.ids(&open).await[0];
            if left == 0 {
                return;
            }
            if left != moved.1 {
                moved = (Instant::now(), left);
            }
            if moved.0.elapsed() > PATIENCE {
                let which = format!(
                    "SELECT substr(id || ': ' || {ROW}, 1, 500) FROM operation_runs
                     WHERE {OPEN} AND {CLAIMABLE}"
                );
                let which: Vec<String> = sqlx::query_scalar(AssertSqlSafe(which))
                    .fetch_all(&mut self.sql)
                    .await
                    .unwrap();
                panic!("{left} runs are left: {which:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn all_is_well(&mut self) {
        let rows: Vec<(i64, String, Option<String>)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT id, {ROW}, CAST(json_extract(context, '$.verification_report') AS TEXT)
             FROM operation_runs WHERE id NOT IN (
                SELECT id FROM operation_runs WHERE NOT json_valid(context))"
        )))
        .fetch_all(&mut self.sql)
        .await
        .unwrap();
        for (id, row, report) in rows {
            if let Some(before) = self.left_alone.get(&id) {
                assert_eq!(before, &row, "verifyd changed what it can never claim");
                continue;
            }
            let parts: serde_json::Value = serde_json::from_str(&row).unwrap();
            // All that must be completed is: this one could not be.
            if parts[3] != "completed" {
                assert!(!self.healthy.contains(&id), "{row}");
                continue;
            }
            let report = serde_json::from_str(&report.expect("a report")).unwrap();
            assert_eq!(schema::validate(&report), Ok(()), "{row}");
            if self.healthy.contains(&id) {
                assert_eq!(parts[4], "succeeded", "{row}");
            }
        }
        // Lists find a run by the text of its connection's id: of the first one, where there are two.
        let other = "SELECT id FROM (SELECT r.id, group_concat(m.value) AS named
                FROM operation_runs r, json_each(r.context) m
                WHERE r.outcome = 'succeeded' AND json_valid(r.context)
                    AND m.key = 'provider_connection_id' AND EXISTS (
                        SELECT 1 FROM verifyd_run_attempts a
                        WHERE a.run_id = r.id AND a.end_reason = 'completed') GROUP BY r.id)
            WHERE named <> CAST(CAST(named AS INTEGER) AS TEXT)";
        let other = self.ids(other).await;
        assert!(other.is_empty(), "checked another connection: {other:?}");
        let many = "SELECT run_id FROM verifyd_run_attempts WHERE counted GROUP BY run_id
            HAVING count(*) > 3";
        let many = self.ids(many).await;
        assert!(many.is_empty(), "more attempts than allowed: {many:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_written_into_the_file_of_the_embedded_database() {
    let mut draw = Draw::new("hostile producer, embedded");
    let mut file = File::new().await;
    let token = file.bench.token(surfaces::SCOPES);
    let mut daemon = file.bench.serve(&[]);
    let mut visitor = Visitor::new(&daemon.listening, &token).await;
    let catalogue = shapes::catalogue(Database::Sqlite);
    file.round(&catalogue, &mut visitor, daemon.pid()).await;
    let mut small = Vec::new();
    for (number, mistakes) in shapes::many_small_values(Database::Sqlite, 262_144).enumerate() {
        let run = file.write(number, &mistakes).await;
        small.push(run.expect("the row is taken"));
    }
    let other = file.bench.token(surfaces::SCOPES);
    let other = Visitor::new(&daemon.listening, &other).await;
    let before = peak_kib(daemon.pid());
    Visitor::read_at_once(&[&visitor, &other], &small).await;
    if let (Some(before), Some(after)) = (before, peak_kib(daemon.pid())) {
        let more = after.saturating_sub(before);
        assert!(more < READERS_KIB, "the readers took {more} KiB");
    }
    // From here on past the table's own rules.
    file.sql
        .execute("PRAGMA ignore_check_constraints = ON")
        .await
        .unwrap();
    for _ in 0..rounds() {
        let mut drawn = draw.some(ROWS / 2, &shapes::mistakes(Database::Sqlite));
        drawn.extend(draw.some(ROWS / 2, &prop::collection::vec(forbidden(), 1..3)));
        // A context of 50 MB, as long as the file takes it.
        let large = "json_object('provider', 'microsoft', 'padding',
            replace(hex(zeroblob(25 * 1024 * 1024)), '0', 'x'))";
        drawn.push(vec![Mistake::Column("context", large.into())]);
        file.round(&drawn, &mut visitor, daemon.pid()).await;
    }
    assert!(!visitor.acknowledgements.is_empty());
    daemon.terminate();
    let printed = file.bench.printed.lock().unwrap();
    assert!(!printed.contains("panicked"), "{printed}");
}
