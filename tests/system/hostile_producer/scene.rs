//! verifyd under the roles of `deploy/`, a producer with the producer's rights, and an owner who looks.

use crate::hostile_producer::shapes::{self, Database, Mistake, Target};
use crate::hostile_producer::surfaces::{self, Visitor};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use std::collections::BTreeMap;
use test_support::bench::{Bench, Daemon};
use test_support::memory::peak_kib;
use test_support::oracle;
use test_support::redis_server::{self, PrivateRedis};
use verifyd_simulator::SimulatorOptions;

/// Most memory that a worker takes, whatever a producer writes.
pub const MEMORY_KIB: u64 = 128 * 1024;

/// What the kernel gives to the worker. A context of 200 MiB and a copy of it do not fit. More than `MEMORY_KIB`,
/// because the stacks of threads and what the allocator has not touched yet count, too.
const MAPPED_BYTES: u64 = 3 * MEMORY_KIB * 1024;

/// Healthy runs with nothing else beside them. What the slowest of them takes is what later ones are compared with.
const CALM_RUNS: usize = 60;

/// A healthy run beside hostile ones takes at most so many times as long as without them, from its INSERT to its end.
const CALM_TIMES: i64 = 5;

/// And besides so many seconds, however fast the machine is: three leases, which a worker may lose on a busy one.
const LEASES_SECONDS: i64 = 30;

/// The queue that `deploy/redis.acl` is for.
pub const QUEUE: &str = "verifyd";

const MAX_ATTEMPTS: i64 = 3;

/// Leases are short, so that runs which say that they are being worked on are soon taken back. The
/// limits of the API are not what is tried here.
pub const SETTINGS: &[(&str, &str)] = &[
    ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "500ms"),
    ("VERIFYD__WORKER__DEAD_AFTER", "8s"),
    ("VERIFYD__RECONCILER__INTERVAL", "200ms"),
    ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
    // A page that gets no connection, or no turn to write, within this answers 503, also on a busy machine.
    ("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "60s"),
    ("VERIFYD__HTTP__API__REQUESTS_PER_MINUTE", "1000000"),
    (
        "VERIFYD__HTTP__API__ANONYMOUS_REQUESTS_PER_MINUTE",
        "1000000",
    ),
];

/// For twelve requests in progress at a time, six of each token, and a thread for most of them.
pub const READERS: &[(&str, &str)] = &[
    ("VERIFYD__DATABASE__MAX_CONNECTIONS", "20"),
    ("TOKIO_WORKER_THREADS", "8"),
];

/// A table of another application's: nothing is forbidden, nothing is required, and times have no
/// time zone.
const OTHER_APPLICATION: &str = "
    CREATE TABLE operation_runs (
        id bigserial PRIMARY KEY, workspace_id bigint, tenant_id bigint, type varchar(255),
        status varchar(255) DEFAULT 'queued', outcome varchar(255), context jsonb,
        failure_summary jsonb, created_at timestamp, started_at timestamp, completed_at timestamp)";

/// What the producer wrote. Nobody but verifyd changes it afterwards, and verifyd must not, up to the
/// default of `limits.context_bytes`: what is larger may be replaced, as it can hardly be copied.
const REMEMBER: &str = "
    CREATE TABLE audit.originals (run_id bigint PRIMARY KEY, context jsonb);
    CREATE FUNCTION audit.remember() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        -- Not even the test looks at what is as large as that.
        IF pg_column_size(NEW.context) < 300000 THEN
            IF octet_length(NEW.context::text) < 262144 THEN
                INSERT INTO audit.originals VALUES (NEW.id, NEW.context);
            END IF;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER remember AFTER INSERT ON operation_runs
        FOR EACH ROW EXECUTE FUNCTION audit.remember();
    GRANT USAGE ON SCHEMA audit TO verifyd_serve, verifyd_operator;
    GRANT INSERT ON ALL TABLES IN SCHEMA audit TO verifyd_serve, verifyd_operator;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA audit TO verifyd_serve, verifyd_operator;";

/// Completed runs of which something is missing that the producer wrote.
const LOST: &str = "
    SELECT r.id FROM operation_runs r JOIN audit.originals o ON o.run_id = r.id
    WHERE r.type = 'provider.connection.check' AND r.status = 'completed'
    AND r.context IS DISTINCT FROM o.context
    AND CASE WHEN jsonb_typeof(o.context) = 'object'
        THEN EXISTS (SELECT FROM jsonb_each(o.context) m
            WHERE m.key NOT IN ('verification_report', 'reason_code', 'next_steps', 'producer_context_dropped')
            AND r.context -> m.key IS DISTINCT FROM m.value
            -- What is null or blank counts as left out, and is added.
            AND NOT (m.key IN ('provider', 'module')
                AND (m.value = 'null' OR m.value @? '$ ? (@ like_regex \"^[ \\t\\n\\r\\f\\v]*$\")'))
            -- The completion adds the directory's name where there is none.
            AND (m.key <> 'target_scope' OR jsonb_typeof(m.value) <> 'object'
                OR m.value ? 'entra_tenant_name'
                OR (r.context -> m.key) - 'entra_tenant_name' IS DISTINCT FROM m.value))
        ELSE NOT EXISTS (SELECT FROM jsonb_each(
                CASE WHEN jsonb_typeof(r.context) = 'object' THEN r.context ELSE '{}' END) m
            WHERE m.value IN (o.context, to_jsonb(o.context::text)))
        END";

/// What may be claimed, or taken back and claimed. The rest is nobody's to complete. Of those whose id is
/// not above 0, which no hint can name, neither is asked: they may wait, and they may be completed.
const CLAIMABLE: &str = "type = 'provider.connection.check' AND status IN ('queued', 'running')
    AND outcome IS NULL AND completed_at IS NULL";

/// A run that says that it runs, and that nobody works on, is put back without an attempt that ends.
const FORGIVE: &str = "
    DELETE FROM audit.runs c WHERE c.was = 'running' AND c.became = 'queued' AND NOT EXISTS (
        SELECT FROM audit.attempts e WHERE e.run_id = c.run_id AND e.moment < c.moment)";

pub struct Scene {
    pub bench: Bench,
    pub redis: PrivateRedis,
    pub daemon: Daemon,
    /// With the rights of whoever records runs: of the role of producers, or of the table's owner.
    producer: PgConnection,
    owner: PgConnection,
    pub targets: Vec<Target>,
    pub visitor: Visitor,
    healthy: Vec<i64>,
    /// What the slowest of the healthy runs took that had nothing else beside them.
    calm_seconds: i64,
    /// Rows that nobody may touch, as they were written.
    left_alone: BTreeMap<i64, String>,
    pub refused: usize,
    /// Earlier runs have been shown before. Lists have them all.
    seen: i64,
    /// Most memory that the worker may have taken.
    pub memory_kib: u64,
}

impl Scene {
    /// On verifyd's own tables.
    pub async fn own_tables() -> Self {
        Self::set(false, &[]).await
    }

    /// On the table of another application, which writes every column of it.
    pub async fn beside_another_application() -> Self {
        Self::set(true, &[]).await
    }

    /// The same for many readers, with contexts of up to so many bytes.
    pub async fn for_readers_of(context_bytes: usize) -> Self {
        let context_bytes = context_bytes.to_string();
        let limit = ("VERIFYD__LIMITS__CONTEXT_BYTES", context_bytes.as_str());
        Self::set(true, &[READERS, &[limit]].concat()).await
    }

    async fn set(other: bool, settings: &[(&str, &str)]) -> Self {
        let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
        let mut owner = bench.sql().await;
        if other {
            owner.execute(OTHER_APPLICATION).await.unwrap();
        }
        bench.grant().await;
        bench.become_role("verifyd_migrate");
        bench.success(&["migrate"]);
        bench.grant().await;

        let redis = PrivateRedis::with_users();
        bench.set("VERIFYD__REDIS__QUEUE", QUEUE);
        bench.use_redis(redis.url_of("verifyd_serve"));
        for (key, value) in SETTINGS.iter().chain(settings) {
            bench.set(key, *value);
        }

        bench.become_role("verifyd_operator");
        let targets: Vec<Target> = (1..=3).map(|tenant| Target::of(&bench, tenant)).collect();
        // What "never" often looks like, in columns that the application writes.
        for never in [
            "UPDATE provider_credentials SET expires_at = 'infinity' WHERE provider_connection_id = 1",
            "UPDATE provider_connections SET created_at = '-infinity', updated_at = 'infinity' WHERE id = 2",
        ] {
            owner.execute(never).await.unwrap();
        }
        let sessions = AssertSqlSafe(surfaces::sessions());
        owner.execute(sessions).await.unwrap();
        oracle::watch(&bench).await;
        owner.execute(REMEMBER).await.unwrap();
        let mut producer = if other {
            bench.sql().await
        } else {
            PgConnection::connect(&bench.url_of("verifyd_producer"))
                .await
                .unwrap()
        };
        // Times without a time zone are in UTC, wherever the test's server is.
        producer.execute("SET TIME ZONE 'UTC'").await.unwrap();
        let token = bench.token(surfaces::SCOPES);
        bench.become_role("verifyd_serve");
        let daemon = bench.serve_within(MAPPED_BYTES);
        let visitor = Visitor::new(&daemon.listening, &token).await;
        let mut scene = Self {
            bench,
            redis,
            daemon,
            producer,
            owner,
            targets,
            visitor,
            healthy: Vec::new(),
            calm_seconds: 0,
            left_alone: BTreeMap::new(),
            refused: 0,
            seen: 0,
            memory_kib: MEMORY_KIB,
        };
        scene.healthy_runs_alone().await;
        scene
    }

    async fn healthy_runs_alone(&mut self) {
        self.right(CALM_RUNS).await;
        self.all_is_completed().await;
        let slowest = "SELECT ceil(extract(epoch FROM max(completed_at - created_at)))::bigint
            FROM operation_runs WHERE type = 'provider.connection.check'";
        self.calm_seconds = self.ids(slowest).await[0];
        self.seen = self.healthy.last().copied().unwrap_or_default();
    }

    /// Somebody with a token of their own.
    pub async fn another_visitor(&mut self) -> Visitor {
        self.bench.become_role("verifyd_operator");
        let token = self.bench.token(surfaces::SCOPES);
        self.bench.become_role("verifyd_serve");
        Visitor::new(&self.daemon.listening, &token).await
    }

    /// What the producer writes. `None` when the database refuses it, which is as good as any end.
    pub async fn write(&mut self, statement: &str) -> Option<i64> {
        let statement = AssertSqlSafe(statement.to_owned());
        let written = sqlx::query_scalar(statement).fetch_one(&mut self.producer);
        match written.await {
            Ok(id) => Some(id),
            Err(sqlx::Error::Database(_)) => {
                self.refused += 1;
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Writes a row for one of the connections with these mistakes.
    pub async fn hostile(&mut self, number: usize, mistakes: &[Mistake]) -> Option<i64> {
        let target = &self.targets[number % self.targets.len()];
        let row = shapes::row(Database::Postgres, target, mistakes);
        self.write(&shapes::insert(&row)).await
    }

    /// Writes so many right rows.
    pub async fn right(&mut self, number: usize) -> Vec<i64> {
        let mut runs = Vec::new();
        for n in 0..number {
            runs.push(self.hostile(n, &[]).await.expect("a right row is taken"));
        }
        self.healthy.extend(&runs);
        runs
    }

    /// Writes a right row with a further member in its context.
    pub async fn right_with(&mut self, number: usize, extra: &str) -> i64 {
        let extra = Mistake::Member("extra", Some(extra.to_owned()));
        let run = self.hostile(number, &[extra]).await;
        let run = run.expect("a right row is taken");
        self.healthy.push(run);
        run
    }

    async fn texts(&mut self, statement: &str) -> Vec<(i64, String)> {
        sqlx::query_as(AssertSqlSafe(statement.to_owned()))
            .fetch_all(&mut self.owner)
            .await
            .unwrap()
    }

    async fn ids(&mut self, statement: &str) -> Vec<i64> {
        sqlx::query_scalar(AssertSqlSafe(statement.to_owned()))
            .fetch_all(&mut self.owner)
            .await
            .unwrap()
    }

    /// Notes what nobody may touch. Before verifyd has had time to: no worker looks at such rows.
    pub async fn note_what_is_left_alone(&mut self) {
        let not_claimable = format!(
            "SELECT id, md5(r::text) FROM operation_runs r WHERE NOT coalesce({CLAIMABLE}, false)
             AND NOT (type = 'provider.connection.check' AND status = 'completed'
                      AND id IN (SELECT run_id FROM audit.runs))"
        );
        for (id, row) in self.texts(&not_claimable).await {
            self.left_alone.entry(id).or_insert(row);
        }
    }

    /// Waits until everything that can be claimed is completed.
    async fn all_is_completed(&self) {
        let open = format!("SELECT count(*) FROM operation_runs WHERE {CLAIMABLE} AND id > 0");
        self.bench.until(&open, |n| n == 0).await;
    }

    /// The same, and looks at all of it.
    pub async fn round_ends_well(&mut self) {
        self.all_is_completed().await;
        self.healthy_runs_were_not_held_up().await;
        self.checked_what_is_listed().await;
        self.nothing_was_spent_on_what_is_left_alone().await;
        self.everything_is_shown().await;
        self.nothing_was_overwritten().await;
        if let Some(peak) = peak_kib(self.daemon.pid()) {
            assert!(peak < self.memory_kib, "the worker took {peak} KiB");
        }
        self.nothing_has_panicked();
    }

    async fn healthy_runs_were_not_held_up(&mut self) {
        let ids: Vec<String> = self.healthy.iter().map(i64::to_string).collect();
        let most = CALM_TIMES * self.calm_seconds + LEASES_SECONDS;
        let wrong = format!(
            "SELECT id, format('%s after %s, allowed: {most} s', coalesce(outcome, status),
                 completed_at - created_at)
             FROM operation_runs r WHERE id IN ({})
             AND (outcome = 'succeeded'
                  AND completed_at - created_at < interval '{most} seconds') IS NOT TRUE",
            ids.join(",")
        );
        let wrong = self.texts(&wrong).await;
        assert!(wrong.is_empty(), "healthy runs: {wrong:?}");
        let disturbed = format!(
            "SELECT run_id, end_reason FROM verifyd.run_attempts
             WHERE run_id IN ({}) AND end_reason NOT IN ('completed', 'worker_lost')",
            ids.join(",")
        );
        let disturbed = self.texts(&disturbed).await;
        assert!(disturbed.is_empty(), "healthy runs: {disturbed:?}");
    }

    /// Lists find a run by the text of its connection's id, so no other text may lead to a check.
    async fn checked_what_is_listed(&mut self) {
        let wrong = "SELECT id, left(context ->> 'provider_connection_id', 60) FROM operation_runs
             WHERE type = 'provider.connection.check' AND outcome = 'succeeded'
             AND id IN (SELECT run_id FROM audit.runs)
             AND context ->> 'provider_connection_id' !~ '^[1-9][0-9]*$'";
        let wrong = self.texts(wrong).await;
        assert!(wrong.is_empty(), "checked: {wrong:?}");
    }

    /// No sweep sends a hint for what can never be claimed, and nobody tries to claim it. Else healthy runs wait behind
    /// it: behind 200 such rows ten took 81 seconds.
    async fn nothing_was_spent_on_what_is_left_alone(&mut self) {
        let ids: Vec<String> = self.left_alone.keys().map(i64::to_string).collect();
        let ids = ids.join(",");
        let spent = format!(
            "SELECT run_id FROM verifyd.run_deliveries WHERE run_id = ANY('{{{ids}}}')
             UNION SELECT run_id FROM verifyd.run_attempts WHERE run_id = ANY('{{{ids}}}')"
        );
        let spent = self.ids(&spent).await;
        assert!(spent.is_empty(), "can never be claimed: {spent:?}");
    }

    async fn everything_is_shown(&mut self) {
        let newest = format!(
            "SELECT id FROM operation_runs WHERE id > {} OR id <= 0 ORDER BY id",
            self.seen
        );
        let runs = self.ids(&newest).await;
        self.seen = self.healthy.last().copied().unwrap_or_default();
        let connections: Vec<i64> = self.targets.iter().map(|t| t.connection).collect();
        self.visitor.everything(&runs, &connections).await;
        self.bench.become_role("verifyd_operator");
        self.visitor.commands(&self.bench, &runs);
        self.bench.become_role("verifyd_serve");
        for arguments in [&["doctor"][..], &["doctor", "--json"]] {
            let output = self.bench.run(arguments);
            assert!(
                matches!(output.status.code(), Some(0 | 1)),
                "{arguments:?}: {output:?}"
            );
        }
    }

    async fn nothing_was_overwritten(&mut self) {
        let now: BTreeMap<i64, String> = self
            .texts("SELECT id, md5(r::text) FROM operation_runs r")
            .await
            .into_iter()
            .collect();
        let touched: Vec<i64> = self
            .left_alone
            .iter()
            .filter(|(id, row)| now.get(id) != Some(row))
            .map(|(id, _)| *id)
            .collect();
        let ids: Vec<String> = touched.iter().map(i64::to_string).collect();
        let shown = match ids.is_empty() {
            true => Vec::new(),
            false => {
                self.texts(&format!(
                    "SELECT id, left(r::text, 300) || (SELECT coalesce(string_agg(format(' %s>%s', was, became), '' ORDER BY moment), '')
                         FROM audit.runs WHERE run_id = r.id)
                     FROM operation_runs r WHERE id IN ({})",
                    ids.join(",")
                ))
                .await
            }
        };
        assert!(
            shown.is_empty(),
            "verifyd changed what is not its own: {shown:#?}"
        );
        let lost = self.ids(LOST).await;
        let what = self
            .texts(&format!(
                "SELECT run_id, left(context::text, 200) FROM audit.originals
                 WHERE run_id = ANY('{{{}}}')",
                lost.iter()
                    .map(i64::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            ))
            .await;
        assert!(
            what.is_empty(),
            "what the producer wrote is lost: {what:#?}"
        );
    }

    fn nothing_has_panicked(&mut self) {
        assert!(!self.daemon.has_ended(), "the worker has ended");
        let printed = self.bench.printed.lock().unwrap().clone();
        let panics: Vec<&str> = printed
            .lines()
            .filter(|line| line.contains("panicked"))
            .collect();
        assert!(panics.is_empty(), "{panics:#?}");
    }

    /// The oracle over all that could be claimed, and a clean end.
    pub async fn ends(mut self) {
        let ids: Vec<String> = self.left_alone.keys().map(i64::to_string).collect();
        // Those of other types stay: that they were not touched is one of its rules.
        let remove = format!(
            "DELETE FROM operation_runs WHERE type = 'provider.connection.check'
             AND (id <= 0 OR id = ANY('{{{}}}'))",
            ids.join(",")
        );
        let remove = AssertSqlSafe(remove);
        self.owner.execute(remove).await.unwrap();
        self.owner.execute(FORGIVE).await.unwrap();
        oracle::examine(&self.bench, MAX_ATTEMPTS).await;
        self.daemon.terminate();
        self.nothing_has_panicked_at_all();
    }

    fn nothing_has_panicked_at_all(&self) {
        let printed = self.bench.printed.lock().unwrap();
        assert!(!printed.contains("panicked"), "a panic while it ended");
    }
}

/// Who may look at all keys.
pub async fn admin(redis: &PrivateRedis) -> redis::aio::MultiplexedConnection {
    redis_server::connection(&redis.url_of("admin")).await
}
