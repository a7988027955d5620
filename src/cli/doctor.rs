//! `verifyd doctor`: a line for each part, and what to do where it fails.

use super::args::JsonArg;
use super::output;
use crate::app;
use crate::config::Settings;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::queue::{QueueError, RejectedHint};
use crate::ports::store::Store;
use crate::ports::wake::Listening;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A part that answers no sooner counts as away.
const PATIENCE: Duration = Duration::from_secs(8);

/// Rows of `operation_runs` that are looked through, and invalid runs that are shown.
const LATEST_ROWS: u32 = 10_000;
const SHOWN: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Line {
    part: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn ok(part: &'static str, found: impl Into<String>) -> Line {
    Line {
        part,
        state: State::Ok,
        found: found.into(),
        remedy: None,
    }
}

fn bad(
    part: &'static str,
    state: State,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Line {
    Line {
        part,
        state,
        found: found.into(),
        remedy: Some(remedy.into()),
    }
}

pub async fn run(settings: &Settings, args: &JsonArg) -> anyhow::Result<ExitCode> {
    let mut lines = vec![ok("config", settings.summary())];
    let store = tokio::time::timeout(PATIENCE, database(settings, &mut lines)).await;
    match store {
        Ok(Some(store)) => {
            if tokio::time::timeout(PATIENCE, schema(store.as_ref(), &mut lines))
                .await
                .is_err()
            {
                lines.push(bad(
                    "schema",
                    State::Failed,
                    "no answer in time",
                    "look at locks in the database",
                ));
            }
            store.close().await;
        }
        Ok(None) => {}
        Err(_) => lines.push(bad(
            "database",
            State::Failed,
            "no answer in time",
            "check database.url and that the server accepts connections",
        )),
    }
    queue(settings, &mut lines).await;
    keys(settings, &mut lines);

    let failed = lines.iter().any(|l| l.state == State::Failed);
    if args.json {
        output::json(&serde_json::json!({ "ok": !failed, "parts": lines }))?;
    } else {
        for line in &lines {
            let mark = match line.state {
                State::Ok => "✓".green().to_string(),
                State::Warning => "!".yellow().to_string(),
                State::Failed => "✗".red().to_string(),
            };
            output::line(format!("{mark} {:<9} {}", line.part, line.found));
            if let Some(remedy) = &line.remedy {
                output::line(format!("            {} {remedy}", "→".cyan()));
            }
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn database(settings: &Settings, lines: &mut Vec<Line>) -> Option<Arc<dyn Store>> {
    const REMEDY: &str =
        "check database.url (DATABASE_URL), that the server runs and that the user may connect";
    let store = match app::open_store(settings).await {
        Ok(store) => store,
        Err(error) => {
            lines.push(bad("database", State::Failed, format!("{error:#}"), REMEDY));
            return None;
        }
    };
    match store.ping().await {
        Ok(version) => {
            lines.push(ok("database", format!("{} {version}", store.kind())));
            Some(store)
        }
        Err(error) => {
            lines.push(bad("database", State::Failed, error.to_string(), REMEDY));
            None
        }
    }
}

async fn schema(store: &dyn Store, lines: &mut Vec<Line>) {
    let wanted = store.wanted_schema_version();
    match store.schema_version().await {
        Ok(Some(version)) if version >= wanted => {
            lines.push(ok("schema", format!("version {version}")));
        }
        Ok(version) => {
            lines.push(bad(
                "schema",
                State::Failed,
                format!(
                    "version {}, this build needs {wanted}",
                    version.map_or_else(|| "none".to_owned(), |v| v.to_string())
                ),
                "run `verifyd migrate`",
            ));
            return;
        }
        Err(error) => {
            lines.push(bad(
                "schema",
                State::Failed,
                error.to_string(),
                "run `verifyd migrate`",
            ));
            return;
        }
    }
    match store.inspect().await {
        Ok(findings) => lines.extend(findings.into_iter().map(|finding| {
            let state = if finding.fatal {
                State::Failed
            } else {
                State::Warning
            };
            bad(
                "schema",
                state,
                format!("{}: {}", finding.subject, finding.problem),
                finding.remedy,
            )
        })),
        Err(error) => lines.push(bad(
            "schema",
            State::Failed,
            error.to_string(),
            "let the user of database.url read the catalogue",
        )),
    }
    guards(store, lines).await;
    listening(store, lines).await;
    activity(store, lines).await;
    invalid_runs(store, lines).await;
}

/// Rows that a producer got wrong.
async fn invalid_runs(store: &dyn Store, lines: &mut Vec<Line>) {
    match store.invalid_runs(LATEST_ROWS, SHOWN).await {
        Ok(invalid) => lines.extend(invalid.into_iter().map(|run| {
            bad(
                "invalid runs",
                State::Warning,
                format!(
                    "operation_runs.{} of run {}: {}",
                    run.column, run.operation_run_id, run.problem
                ),
                "correct whoever wrote it (docs/enqueue.md says what a row must hold)",
            )
        })),
        Err(error) => lines.push(bad(
            "runs",
            State::Failed,
            error.to_string(),
            "let the user of database.url read operation_runs",
        )),
    }
}

/// What the database itself refuses or puts back, whoever writes.
async fn guards(store: &dyn Store, lines: &mut Vec<Line>) {
    lines.push(match store.guards().await {
        Ok(guards) if guards.missing.is_empty() => {
            ok("guards", "in place: operation_runs keeps what is completed")
        }
        Ok(guards) => bad(
            "guards",
            State::Warning,
            format!("not on operation_runs: {}", guards.missing.join(", ")),
            "run `verifyd migrate --enforce` as the table's owner",
        ),
        Err(error) => bad(
            "guards",
            State::Failed,
            error.to_string(),
            "let the user of database.url read the catalogue",
        ),
    });
}

/// Whether a bare INSERT wakes a worker.
async fn listening(store: &dyn Store, lines: &mut Vec<Line>) {
    let part = "listening";
    lines.push(match store.try_listening().await {
        Ok(Listening::Heard) => ok(part, "notifications arrive: a bare INSERT wakes a worker"),
        Ok(Listening::Off) => ok(part, "off: bare INSERTs are found by the sweep"),
        Ok(Listening::Deaf) => bad(
            part,
            State::Warning,
            "notifications do not arrive, so that bare INSERTs are found by the sweep only",
            "set database.listen_url to a connection without a pooler in transaction mode",
        ),
        Err(error) => bad(
            part,
            State::Warning,
            format!("bare INSERTs are found by the sweep only: {error}"),
            "check database.listen_url and that the user may connect once more",
        ),
    });
    match store.delivery_counts().await {
        Ok(counts) if counts.failed > 0 => lines.push(bad(
            "webhooks",
            State::Warning,
            format!("{} pending, {} given up", counts.pending, counts.failed),
            "see `verifyd webhooks deliveries --state failed`, then `verifyd webhooks replay`",
        )),
        Ok(counts) => lines.push(ok(
            "webhooks",
            format!("{} pending, none given up", counts.pending),
        )),
        Err(error) => lines.push(bad(
            "webhooks",
            State::Failed,
            error.to_string(),
            "run `verifyd migrate`",
        )),
    }
}

/// What is waiting, and who works.
async fn activity(store: &dyn Store, lines: &mut Vec<Line>) {
    let now = SystemClock.now();
    let (counts, workers) = match (store.counts().await, store.workers().await) {
        (Ok(counts), Ok(workers)) => (counts, workers),
        (Err(error), _) | (_, Err(error)) => {
            lines.push(bad(
                "runs",
                State::Failed,
                error.to_string(),
                "run `verifyd migrate`",
            ));
            return;
        }
    };
    let beating = workers
        .iter()
        .filter(|w| (now - w.beat_at).num_seconds() < 60)
        .count();
    let found = format!(
        "{} queued, {} running, {beating} workers beating",
        counts.queued, counts.running
    );
    let waiting_long = counts.oldest_queued_seconds.is_some_and(|s| s > 60.0);
    lines.push(if beating == 0 && counts.queued > 0 {
        bad("runs", State::Warning, found, "start `verifyd serve`")
    } else if waiting_long {
        bad(
            "runs",
            State::Warning,
            format!(
                "{found}; the oldest has waited for {:.0} s",
                counts.oldest_queued_seconds.unwrap_or_default()
            ),
            "add replicas, or look at the workers' logs",
        )
    } else {
        ok("runs", found)
    });
}

async fn queue(settings: &Settings, lines: &mut Vec<Line>) {
    let queue = match app::open_queue(settings) {
        Ok(queue) => queue,
        Err(error) => {
            lines.push(bad(
                "queue",
                State::Failed,
                format!("{error:#}"),
                "check redis.url (REDIS_URL)",
            ));
            return;
        }
    };
    if queue.kind() == "in_process" {
        lines.push(if !settings.is_embedded() {
            bad(
                "queue",
                State::Warning,
                "in process: other applications' hints cannot reach a worker",
                "set REDIS_URL when replicas are running or others enqueue",
            )
        } else {
            ok("queue", "in process")
        });
        return;
    }
    let answer = tokio::time::timeout(PATIENCE, async {
        queue.ping().await?;
        Ok((queue.depth().await?, queue.rejected(SHOWN).await?))
    })
    .await;
    const REMEDY: &str = "check redis.url (REDIS_URL); until then workers poll the database";
    match answer {
        Ok(Ok((depth, (count, sample)))) => {
            lines.push(ok(
                "queue",
                format!("{}, {depth} hints waiting", queue.kind()),
            ));
            lines.extend(rejected(count, &sample));
        }
        Ok(Err(error)) => lines.push(bad(
            "queue",
            State::Failed,
            QueueError::to_string(&error),
            REMEDY,
        )),
        Err(_) => lines.push(bad("queue", State::Failed, "no answer in time", REMEDY)),
    }
}

/// Payloads that a producer got wrong.
fn rejected(count: u64, sample: &[RejectedHint]) -> Option<Line> {
    let example = sample.first()?;
    Some(bad(
        "hints",
        State::Warning,
        format!(
            "{count} put aside as no hints; {}: {}",
            example.task_id, example.reason
        ),
        "correct whoever sends them (docs/enqueue.md); the runs themselves are found by the sweep",
    ))
}

fn keys(settings: &Settings, lines: &mut Vec<Line>) {
    lines.push(match app::open_vault(settings) {
        Ok(vault) => match vault.key_ids().as_slice() {
            [] => bad(
                "keys",
                State::Failed,
                "none: credentials can neither be stored nor read",
                "set credentials.keys or credentials.keys_file",
            ),
            [writing] => ok("keys", format!("{writing} writes and reads")),
            [writing, reading @ ..] => ok(
                "keys",
                format!("{writing} writes, {} read too", reading.join(", ")),
            ),
        },
        Err(error) => bad(
            "keys",
            State::Failed,
            format!("{error:#}"),
            "set credentials.keys or credentials.keys_file",
        ),
    });
}
