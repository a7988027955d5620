//! `verifyd doctor`: a line for each part, and what to do where it fails.
//!
//! [`State::Failed`], and with it the exit code 1, means that `serve` could not work; everything else that needs
//! attention is a warning.

mod connections;
mod groups;
mod host;
mod http;
pub(super) mod invalid_runs;
mod modules;
mod oidc;
mod outbound;
mod partitions;
mod print;
mod queue;
mod refused_runs;
mod replica;
mod sessions;
mod throttling;
mod webhooks;
pub(super) mod writing;

use super::args::JsonArg;
use super::{exit, output, remedy};
use crate::app;
use crate::config::Settings;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::probe::Pooling;
use crate::ports::runs::RunCounts;
use crate::ports::store::{SchemaFinding, Store, StoreError};
use crate::ports::workers::WorkerRecord;
use crate::telemetry::build_info::{BUILD, BuildInfo};
use serde::Serialize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Timeout after which a part counts as unavailable.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Sweeps after which a run is no longer left to the workers: its claim is tried.
const WAITED_SWEEPS: u32 = 3;

/// A run that has waited for longer is worth a line.
const LONG_WAIT_SECONDS: f64 = 60.0;

/// Rows of a table that are looked through, and invalid ones that are shown.
const LATEST_ROWS: u32 = 10_000;
const SHOWN: u32 = 5;

/// How the numbers of runs, and runs that wait, are named.
const RUNS: &str = "runs";

const START: &str = "start `verifyd serve`";
const MEND_WRITING: &str = "first do what `writing` says: heartbeats cannot be written either, so that no worker seems alive, \
     though `verifyd serve` may run; otherwise start it";

/// Time for a write that was refused, or waited for a lock, a moment ago.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warning,
    Failed,
}

/// What was found of a part.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    part: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// Whether `found` may quote a row or a hint, which may be a tenant's.
    #[serde(skip)]
    quotes: bool,
}

/// What stands in place of a text that may quote a row.
pub(super) const LEFT_OUT: &str = "left out: it may quote rows";

impl Line {
    fn quoting(self) -> Self {
        Self {
            quotes: true,
            ..self
        }
    }

    /// The same without what may be a tenant's.
    pub(super) fn without_quotes(mut self) -> Self {
        if self.quotes {
            LEFT_OUT.clone_into(&mut self.found);
        }
        self
    }
}

/// Whether the text of this error may quote a value of a row: a trigger chooses what the server says, and the SQLSTATE.
pub(super) fn may_quote(error: &StoreError) -> bool {
    matches!(error, StoreError::Corrupt { .. } | StoreError::Refused(_))
        || error.sqlstate().is_some()
}

fn ok(part: &'static str, found: impl Into<String>) -> Line {
    Line {
        part,
        state: State::Ok,
        found: found.into(),
        remedy: None,
        quotes: false,
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
        quotes: false,
    }
}

/// A call that failed, with a remedy only where it is certain.
fn error(part: &'static str, error: &StoreError) -> Line {
    Line {
        part,
        state: State::Failed,
        found: error.to_string(),
        remedy: remedy::of_store(error).map(str::to_owned),
        quotes: may_quote(error),
    }
}

/// A part that has not answered within its time.
fn late(part: &'static str, state: State, remedy: &str) -> Line {
    let found = format!("no answer within {} s", TIMEOUT.as_secs());
    bad(part, state, found, remedy)
}

/// Within the time that a part has. The lines that it has found by then stay. All parts use one session, which the part
/// before may not have left in time.
async fn in_time(
    part: &'static str,
    store: &dyn Store,
    lines: &mut Vec<Line>,
    looks: impl AsyncFnOnce(&dyn Store, &mut Vec<Line>),
) {
    match tokio::time::timeout(TIMEOUT, store.ping()).await {
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => return lines.push(error(part, &failure)),
        Err(_) => {
            let seconds = TIMEOUT.as_secs();
            let found = format!("{} session within {seconds} s", remedy::GAVE_NO);
            return lines.push(bad(part, State::Failed, found, remedy::NO_SESSION));
        }
    }
    let before = lines.len();
    let looked = tokio::time::timeout(TIMEOUT, looks(store, lines)).await;
    if looked.is_err() {
        let remedy = "look at locks and load in the database";
        let mut line = late(part, State::Failed, remedy);
        // What takes long is not refused; but without the schema's version `serve` does not start.
        if part != "schema" || lines.len() > before {
            line.state = State::Warning;
            line.found.insert_str(0, "not tried to the end: ");
        }
        lines.push(line);
    }
}

/// Tries everything that `serve` needs.
pub(super) async fn examine(settings: &Settings) -> Vec<Line> {
    let mut lines = vec![ok("version", version()), ok("config", settings.summary())];
    let mut workers = Vec::new();
    let store = tokio::time::timeout(TIMEOUT, database(settings, &mut lines)).await;
    match store {
        Ok(Some(store)) => {
            let store = store.as_ref();
            in_time("schema", store, &mut lines, schema).await;
            // The other tests need the schema.
            let schema_is =
                |state: State| lines.iter().any(|l| l.part == "schema" && l.state == state);
            if schema_is(State::Ok) && !schema_is(State::Failed) {
                let mut notifies = None;
                in_time("writing", store, &mut lines, async |store, lines| {
                    notifies = writing::check(store, lines).await;
                })
                .await;
                in_time("listening", store, &mut lines, async |store, lines| {
                    lines.push(sessions::listening(store, settings, notifies).await);
                })
                .await;
                in_time("connections", store, &mut lines, async |store, lines| {
                    connections::check(store, settings, lines).await;
                })
                .await;
                in_time(RUNS, store, &mut lines, async |store, lines| {
                    workers = runs(store, settings, lines).await;
                })
                .await;
            }
            in_time("clock", store, &mut lines, host::clock).await;
            host::disk(store, &mut lines);
            store.close().await;
        }
        Ok(None) => {}
        Err(_) => lines.push(late(
            "database",
            State::Failed,
            remedy::of_opening(settings.is_embedded()),
        )),
    }
    lines.extend(replica::check(settings, &workers).await);
    queue::check(settings, &mut lines).await;
    keys(settings, &mut lines);
    lines.push(modules::check(settings));
    lines.push(http::check(settings).await);
    outbound::check(settings, &mut lines).await;
    lines.extend(oidc::check(settings).await);
    lines
}

pub async fn run(settings: &Settings, args: &JsonArg) -> anyhow::Result<ExitCode> {
    let lines = examine(settings).await;
    let failed = lines.iter().any(|l| l.state == State::Failed);
    if args.json {
        output::json(&serde_json::json!({ "ok": !failed, "parts": lines }))?;
    } else {
        print::lines(&lines);
    }
    Ok(exit::passed(!failed))
}

fn version() -> String {
    let BuildInfo {
        version,
        commit,
        rustc,
        ..
    } = BUILD;
    format!("{version}, commit {commit}, rustc {rustc}")
}

/// The settings with one connection to a server: a pool that may have more opens another one while the server has not
/// answered yet for one that was returned.
fn with_one_session(settings: &Settings) -> Settings {
    let mut own = settings.clone();
    if !settings.is_embedded() {
        own.database.max_connections = 1;
    }
    own
}

async fn database(settings: &Settings, lines: &mut Vec<Line>) -> Option<Arc<dyn Store>> {
    let opened = match app::missing_database(settings) {
        Ok(None) => app::open_store(&with_one_session(settings)).await,
        // Its owner would be who runs `doctor`, and not who runs `serve`.
        Ok(Some(file)) => {
            let found = format!("sqlite: {} is not there yet", file.display());
            let remedy = "run `verifyd migrate`; otherwise `serve` creates the file when it starts";
            lines.push(bad("database", State::Warning, found, remedy));
            return None;
        }
        Err(error) => Err(error),
    };
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            let found = format!("{error:#}");
            let remedy = sessions::of_limit(error.downcast_ref(), settings).unwrap_or_else(|| {
                let remedy = remedy::of(&error);
                let remedy = remedy.unwrap_or_else(|| remedy::of_opening(settings.is_embedded()));
                remedy.to_owned()
            });
            lines.push(bad("database", State::Failed, found, remedy));
            return None;
        }
    };
    // Everything else uses statements that a pooler may lose.
    let mut limit = None;
    match store.try_pooling().await {
        Ok(Pooling::None) => {
            limit = sessions::limit(store.as_ref(), settings).await;
            // With so low a limit everything else would fail or not, as connections happen to be free.
            if limit
                .as_ref()
                .is_some_and(|line| line.state == State::Failed)
            {
                lines.extend(limit);
                return None;
            }
        }
        Ok(Pooling::Transaction) => lines.push(ok(
            "pooler",
            "in transaction mode, and statements get through",
        )),
        Ok(Pooling::TransactionWithLostStatements) => {
            lines.push(bad(
                "pooler",
                State::Failed,
                "in transaction mode: a statement that was prepared in one session is executed in another, \
                 where it is not known",
                "add statement-cache-capacity=0 to the parameters of database.url (DATABASE_URL), and set \
                 database.listen_url to an address without the pooler",
            ));
            return None;
        }
        Err(failure) => {
            lines.push(sessions::refused(&failure, settings));
            return None;
        }
    }
    match store.ping().await {
        Ok(version) => {
            lines.push(ok("database", format!("{} {version}", store.kind())));
            lines.extend(limit);
            sessions::hosts(store.as_ref(), lines).await;
            Some(store)
        }
        Err(failure) => {
            lines.push(sessions::refused(&failure, settings));
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
            let version = version.map_or_else(|| "none".to_owned(), |v| v.to_string());
            let found = format!("version {version}, this build needs {wanted}");
            lines.push(match store.kind() {
                // As `app::open_ready_store` does.
                "sqlite" => bad(
                    "schema",
                    State::Warning,
                    found,
                    "run `verifyd migrate`; otherwise `serve` brings it up to date when it starts",
                ),
                _ => bad("schema", State::Failed, found, "run `verifyd migrate`"),
            });
            return;
        }
        Err(failure) => {
            // Where a privilege is missing, there is a statement that grants it.
            let mut findings = store.inspect().await.unwrap_or_default();
            findings.retain(|finding| finding.privilege);
            match findings.iter().any(|finding| finding.fatal) {
                true => lines.extend(findings.into_iter().map(finding)),
                false => lines.push(error("schema", &failure)),
            }
            return;
        }
    }
    match store.inspect().await {
        Ok(findings) => lines.extend(findings.into_iter().map(finding)),
        Err(failure) => lines.push(error("schema", &failure)),
    }
}

fn finding(finding: SchemaFinding) -> Line {
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
}

/// What is to be said of runs, and of what follows from them. Returns the workers.
async fn runs(store: &dyn Store, settings: &Settings, lines: &mut Vec<Line>) -> Vec<WorkerRecord> {
    guards(store, lines).await;
    lines.extend(partitions::check(store).await);
    lines.push(webhooks::check(store).await);
    throttling::check(store, lines).await;
    let workers = activity(store, settings, lines).await;
    if let Some(workers) = &workers {
        groups::check(store, &settings.worker, workers, lines).await;
    }
    invalid_runs::check(store, lines).await;
    refused_runs::check(store, lines).await;
    workers.unwrap_or_default()
}

/// Says how many more there are than [`SHOWN`].
fn more(part: &'static str, found: u64, remedy: &str) -> Option<Line> {
    let more = found.saturating_sub(SHOWN.into());
    (more > 0).then(|| bad(part, State::Warning, format!("and {more} more"), remedy))
}

/// Lists the guards: what the database itself refuses or repairs.
async fn guards(store: &dyn Store, lines: &mut Vec<Line>) {
    let guards = match store.guards().await {
        Ok(guards) => guards,
        Err(failure) => {
            lines.push(error("guards", &failure));
            return;
        }
    };
    lines.push(match guards.missing.is_empty() {
        true => ok("guards", "in place: operation_runs keeps what is completed"),
        false => bad(
            "guards",
            State::Warning,
            format!("not on operation_runs: {}", guards.missing.join(", ")),
            "run `verifyd migrate --enforce` as the table's owner",
        ),
    });
    lines.extend(guards.lost.into_iter().map(|guard| {
        let found = format!(
            "the audit trail can be changed: the trigger {} on {} is missing or disabled",
            guard.name, guard.table
        );
        bad("guards", State::Warning, found, guard.remedy)
    }));
}

/// A line for runs and the workers alive. `unserved`: the remedy where nobody works on them; `slow`: where they have been
/// due for long.
fn of_counts(
    part: &'static str,
    counts: &RunCounts,
    alive: usize,
    unserved: Option<String>,
    slow: &str,
) -> Line {
    let plural = if alive == 1 { "" } else { "s" };
    let not_due = match counts.not_due {
        0 => String::new(),
        n => format!(" ({n} not due yet)"),
    };
    let found = format!(
        "{} queued{not_due}, {} running, {alive} worker{plural} alive",
        counts.queued, counts.running
    );
    let due = counts.oldest_queued_seconds;
    if unserved.is_none() && due.is_none_or(|s| s <= LONG_WAIT_SECONDS) {
        return ok(part, found);
    }
    let due = due.map(|s| format!("; the oldest has been due for {s:.0} s"));
    let remedy = unserved.unwrap_or_else(|| slow.to_owned());
    bad(
        part,
        State::Warning,
        found + &due.unwrap_or_default(),
        remedy,
    )
}

/// Shows queued runs and workers. Returns the workers, if they are known.
async fn activity(
    store: &dyn Store,
    settings: &Settings,
    lines: &mut Vec<Line>,
) -> Option<Vec<WorkerRecord>> {
    let now = SystemClock.now();
    let (counts, workers) = match (store.counts().await, store.workers().await) {
        (Ok(counts), Ok(workers)) => (counts, workers),
        (Err(failure), _) | (_, Err(failure)) => {
            lines.push(error(RUNS, &failure));
            return None;
        }
    };
    let alive = workers
        .iter()
        .filter(|worker| worker.is_alive(now, settings.worker.dead_after))
        .count();
    let mut unserved = None;
    if alive == 0 && counts.queued > 0 {
        unserved = Some(unserved_remedy(store, lines).await.to_owned());
    }
    let slow = "add replicas, or look at the workers' logs";
    lines.push(of_counts(RUNS, &counts, alive, unserved, slow));
    let is_refused = |line: &Line| line.part == "writing" && line.state == State::Failed;
    if alive > 0 && counts.queued > 0 && !lines.iter().any(is_refused) {
        let waited = settings.reconciler.interval * WAITED_SWEEPS;
        writing::check_waiting(store, waited, lines).await;
    }
    Some(workers)
}

/// What to do where no worker is alive. One whose heartbeats cannot be written seems not to be.
async fn unserved_remedy(store: &dyn Store, lines: &[Line]) -> &'static str {
    let is_bad = |line: &Line| line.part == "writing" && line.state != State::Ok;
    if !lines.iter().any(is_bad) {
        return START;
    }
    match tokio::time::timeout(WRITE_TIMEOUT, store.check_writable()).await {
        Ok(Ok(())) => START,
        _ => MEND_WRITING,
    }
}

fn keys(settings: &Settings, lines: &mut Vec<Line>) {
    let is_missing = |line: &Line| line.part == "keys" && line.state == State::Failed;
    lines.push(match app::open_existing_vault(settings) {
        Ok(vault) => match vault.key_ids().as_slice() {
            // Another line about keys: there are credentials that none of them opens.
            [] if settings.is_embedded() && lines.iter().any(is_missing) => bad(
                "keys",
                State::Failed,
                "none",
                "restore the key file: `serve` creates another, which opens nothing that is stored",
            ),
            [] if settings.is_embedded() => {
                ok("keys", "none yet: `serve` creates the file when it starts")
            }
            [] => {
                let found = match settings.credentials.laravel_keys.as_slice() {
                    [] => "none: credentials can neither be stored nor read",
                    _ => "only of a Laravel application: credentials can be read and not stored",
                };
                let remedy = "set credentials.keys or credentials.keys_file";
                bad("keys", State::Warning, found, remedy)
            }
            [writing] => ok("keys", format!("{writing} writes and reads")),
            [writing, reading @ ..] => ok(
                "keys",
                format!("{writing} writes, {} read too", reading.join(", ")),
            ),
        },
        Err(error) => {
            let said = format!("{error:#}");
            let remedy = remedy::of_keys(&said);
            bad("keys", State::Failed, said, remedy)
        }
    });
}
