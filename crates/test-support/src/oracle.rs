//! The oracle: looks at the whole database and says whether the protocol's invariants held.
//!
//! What a row is in the end does not tell how it came to that. So triggers of the test's own, in a
//! schema of their own, note every change of a run and of an attempt with its transaction.

use crate::bench::{Bench, KEY};
use futures::TryStreamExt as _;
use serde_json::Value;
use sqlx::{Executor as _, PgConnection, Row as _};
use verifyd::domain::report::schema;
use verifyd_simulator::SIMULATED_SECRET;

/// The application name with which verifyd connects tells its changes from those of others.
const WATCH: &str = "
    CREATE SCHEMA audit;
    CREATE SEQUENCE audit.moments;
    CREATE TABLE audit.runs (
        moment bigint PRIMARY KEY DEFAULT nextval('audit.moments'),
        tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
        who text NOT NULL DEFAULT current_setting('application_name'),
        run_id bigint, type text, was text, became text, result_changed boolean);
    CREATE TABLE audit.attempts (
        moment bigint PRIMARY KEY DEFAULT nextval('audit.moments'),
        tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
        run_id bigint, attempt integer, token uuid, end_reason text);
    CREATE INDEX ON audit.runs (run_id);
    CREATE INDEX ON audit.attempts (run_id);
    CREATE FUNCTION audit.note_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit.runs (run_id, type, was, became, result_changed)
        VALUES (NEW.id, NEW.type, OLD.status, NEW.status,
                (OLD.outcome, OLD.completed_at, OLD.failure_summary, OLD.context)
                IS DISTINCT FROM
                (NEW.outcome, NEW.completed_at, NEW.failure_summary, NEW.context));
        RETURN NULL;
    END $$;
    CREATE FUNCTION audit.note_attempt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit.attempts (run_id, attempt, token, end_reason)
        VALUES (NEW.run_id, NEW.attempt, NEW.token, NEW.end_reason);
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit AFTER UPDATE ON operation_runs
        FOR EACH ROW EXECUTE FUNCTION audit.note_run();
    CREATE TRIGGER audit AFTER INSERT OR UPDATE ON verifyd.run_attempts
        FOR EACH ROW EXECUTE FUNCTION audit.note_attempt();
    -- A run of another type, which must stay as it is.
    INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
    VALUES (1, 1, 'inventory.sync', 'queued', '{\"own\": true}', now());";

/// Each statement returns what breaks the rule, as text. `$1` is the number of attempts allowed.
const RULES: &[(&str, &str)] = &[
    (
        "I1: a run is completed exactly once",
        "SELECT format('run %s: %s times', r.id, count(a.moment)) FROM operation_runs r
         LEFT JOIN audit.runs a ON a.run_id = r.id AND a.became = 'completed'
                                AND a.was <> 'completed'
         WHERE r.type = 'provider.connection.check' AND $1 > 0
         GROUP BY r.id HAVING count(a.moment) <> 1",
    ),
    (
        "I2: verifyd changes nothing of a completed run",
        "SELECT format('run %s: became %s, result changed: %s', run_id, became, result_changed)
         FROM audit.runs WHERE was = 'completed' AND who = 'verifyd' AND $1 > 0
         AND (became <> 'completed' OR result_changed)",
    ),
    (
        "I3: a run is completed by its last attempt, in that attempt's own transaction",
        "SELECT format('run %s in transaction %s', c.run_id, c.tx) FROM audit.runs c
         WHERE c.became = 'completed' AND c.was = 'running' AND c.who = 'verifyd' AND $1 > 0
         AND NOT EXISTS (
             SELECT FROM audit.attempts e WHERE e.run_id = c.run_id AND e.tx = c.tx
             AND e.end_reason = 'completed'
             AND e.attempt = (SELECT max(attempt) FROM audit.attempts WHERE run_id = c.run_id))",
    ),
    (
        "I3: verifyd completes only what runs",
        "SELECT format('run %s was %s', run_id, was) FROM audit.runs
         WHERE became = 'completed' AND was <> 'running' AND who = 'verifyd' AND $1 > 0",
    ),
    (
        "I3: every claim opens an attempt, every return to the queue ends one",
        "SELECT format('run %s from %s to %s', c.run_id, c.was, c.became) FROM audit.runs c
         WHERE c.was <> c.became AND c.became IN ('running', 'queued') AND c.who = 'verifyd'
         AND $1 > 0 AND NOT EXISTS (
             SELECT FROM audit.attempts e WHERE e.run_id = c.run_id AND e.tx = c.tx
             AND (e.end_reason IS NULL) = (c.became = 'running'))",
    ),
    (
        "I3: an attempt ends once",
        "SELECT format('run %s attempt %s: %s', run_id, attempt, string_agg(end_reason, ', '))
         FROM audit.attempts WHERE end_reason IS NOT NULL AND $1 > 0
         GROUP BY run_id, attempt HAVING count(*) <> 1",
    ),
    (
        "I4: every run is completed, and no attempt is left open",
        "SELECT format('run %s is %s', id, status) FROM operation_runs
         WHERE type = 'provider.connection.check' AND status <> 'completed' AND $1 > 0
         UNION ALL
         SELECT format('run %s: attempt %s is open', run_id, attempt) FROM verifyd.run_attempts
         WHERE ended_at IS NULL",
    ),
    (
        "I5: no more attempts than allowed",
        "SELECT format('run %s: %s', run_id, count(*)) FROM verifyd.run_attempts
         WHERE counted GROUP BY run_id HAVING count(*) > $1",
    ),
    (
        "I6: a completed run has outcome, time and report; a blocked one its reason and next steps",
        "SELECT format('run %s is %s', id, outcome) FROM operation_runs
         WHERE type = 'provider.connection.check' AND status = 'completed' AND $1 > 0
         AND (outcome IN ('succeeded', 'failed', 'blocked') AND completed_at IS NOT NULL
              AND jsonb_typeof(context -> 'verification_report') = 'object'
              AND (outcome <> 'blocked' OR (jsonb_typeof(context -> 'reason_code') = 'string'
                   AND jsonb_array_length(context -> 'next_steps') > 0))) IS NOT TRUE",
    ),
    (
        "I7: a report is about its own run's connection",
        "SELECT format('run %s', id) FROM operation_runs
         WHERE type = 'provider.connection.check' AND $1 > 0
         AND context #>> '{verification_report,identity,provider_connection_id}'
             <> context ->> 'provider_connection_id'
         UNION ALL
         SELECT format('latest report of connection %s', l.connection_id)
         FROM verifyd.latest_reports l LEFT JOIN operation_runs r ON r.id = l.operation_run_id
         WHERE (r.context ->> 'provider_connection_id' = l.connection_id::text
                AND r.status = 'completed') IS NOT TRUE",
    ),
    (
        "rows of another type are never touched",
        "SELECT format('run %s', run_id) FROM audit.runs
         WHERE type <> 'provider.connection.check' AND who = 'verifyd' AND $1 > 0",
    ),
];

/// Begins to watch. Before any worker starts.
pub async fn watch(bench: &Bench) {
    bench.sql().await.execute(WATCH).await.unwrap();
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub run: i64,
    pub connection: i64,
    pub outcome: String,
    /// Reason codes of the failure summary.
    pub failures: Vec<String>,
    /// How its attempts ended, in their order.
    pub attempts: Vec<String>,
}

impl Ended {
    /// Whether one attempt was enough. A worker that the test's machine held up past its lease is
    /// not the run's fault.
    pub fn at_once(&self) -> bool {
        let mut ends = self.attempts.iter().filter(|end| *end != "worker_lost");
        ends.next().is_some_and(|end| end == "completed") && ends.next().is_none()
    }
}

/// Of what was printed, so many bytes are shown when something is wrong.
const MOST_SHOWN: usize = 1024 * 1024;

/// Looks at everything. Fails with all that it finds.
pub async fn examine(bench: &Bench, max_attempts: i64) -> Vec<Ended> {
    let mut sql = bench.sql().await;
    let mut found = Vec::new();
    for (rule, statement) in RULES {
        let broken: Vec<String> = sqlx::query_scalar(*statement)
            .bind(max_attempts)
            .fetch_all(&mut sql)
            .await
            .unwrap_or_else(|error| panic!("{rule}: {error}"));
        found.extend(broken.iter().take(10).map(|what| format!("{rule}: {what}")));
    }
    let ended = read(&mut sql, &mut found).await;
    let printed = bench.printed.lock().unwrap().clone();
    for secret in [SIMULATED_SECRET, KEY] {
        if printed.contains(secret) {
            found.push("I8: a secret was printed".to_owned());
        }
    }
    // Of a long test the end will do.
    let from = printed.len().saturating_sub(MOST_SHOWN);
    let shown = String::from_utf8_lossy(&printed.as_bytes()[from..]);
    assert!(found.is_empty(), "{}\n{shown}", found.join("\n"));
    ended
}

/// All runs, and what no statement can tell: whether their reports fit the schema.
async fn read(sql: &mut PgConnection, found: &mut Vec<String>) -> Vec<Ended> {
    let mut rows = sqlx::query(
        "SELECT r.id, r.outcome, r.failure_summary,
                r.context -> 'verification_report' AS report,
                r.context ->> 'provider_connection_id' AS connection,
                ARRAY(SELECT coalesce(a.end_reason, 'open') FROM verifyd.run_attempts a
                      WHERE a.run_id = r.id ORDER BY a.attempt) AS attempts
         FROM operation_runs r WHERE r.type = 'provider.connection.check' ORDER BY r.id",
    )
    .fetch(sql);
    let mut ended = Vec::new();
    while let Some(row) = rows.try_next().await.unwrap() {
        let run: i64 = row.get("id");
        // Of the context no more: a producer's part of it may be nothing that Rust can read.
        let report = row.get::<Option<Value>, _>("report").unwrap_or_default();
        if let Err(why) = schema::validate(&report) {
            found.push(format!("I6: run {run} has an invalid report: {why:?}"));
        }
        let failures: Value = row
            .get::<Option<Value>, _>("failure_summary")
            .unwrap_or_default();
        ended.push(Ended {
            run,
            connection: row
                .get::<Option<String>, _>("connection")
                .and_then(|id| id.parse().ok())
                .unwrap_or(0),
            outcome: row.get::<Option<String>, _>("outcome").unwrap_or_default(),
            failures: failures
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|f| f["reason_code"].as_str().map(ToOwned::to_owned))
                .collect(),
            attempts: row.get("attempts"),
        });
    }
    ended
}
