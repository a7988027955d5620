//! `verifyd support-bundle`: what explains a failure, in one archive that may be handed on.

use super::args::SupportBundleArgs;
use super::doctor::Line;
use super::{debug, doctor, healthcheck, output};
use crate::app;
use crate::config::Settings;
use crate::debug::Request;
use crate::domain::{Outcome, Reason};
use crate::engine::reconciler::invalid_runs::{COUNTED, LATEST_ROWS};
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::store::{RunFilter, Store, StoreError};
use crate::telemetry::build_info::BUILD;
use crate::view::RunItem;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The folder in the archive.
const FOLDER: &str = "verifyd-support";

/// The outcomes that need an explanation.
const FAILURES: [Outcome; 2] = [Outcome::Failed, Outcome::Blocked];

/// Latest runs of each outcome whose reasons are counted.
const COUNTED_RUNS: u32 = 1000;

/// Latest runs of each outcome that are listed, with tenant data.
const LISTED_RUNS: u32 = 50;

/// Timeout of each part.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A file of the archive.
struct File {
    name: &'static str,
    about: &'static str,
    content: Vec<u8>,
}

impl File {
    fn json(name: &'static str, about: &'static str, content: &Value) -> Self {
        Self {
            name,
            about,
            content: format!("{content:#}\n").into_bytes(),
        }
    }
}

/// Without settings the bundle says why there are none: nothing else could be asked.
pub async fn run(
    settings: anyhow::Result<Settings>,
    args: &SupportBundleArgs,
) -> anyhow::Result<ExitCode> {
    let to_stdout = args.output == Path::new("-");
    anyhow::ensure!(
        !(to_stdout && std::io::stdout().is_terminal()),
        "standard output is a terminal: redirect it to a file, or name one with --output"
    );
    let now = SystemClock.now();
    let mut files = match settings {
        Ok(settings) => gather(&settings, args.with_tenant_data).await,
        Err(error) => vec![File {
            name: "config_error.txt",
            about: "why the configuration cannot be used",
            content: format!("{error:#}\n").into_bytes(),
        }],
    };
    let manifest = manifest(&files, args.with_tenant_data, now);
    files.insert(0, File::json("manifest.json", "this list", &manifest));
    let place = match to_stdout {
        true => "standard output".to_owned(),
        false => args.output.display().to_string(),
    };
    let written = archive(&files, now).and_then(|archive| match to_stdout {
        true => write_stdout(&archive),
        false => write_new(&args.output, &archive),
    });
    written.with_context(|| format!("cannot write {place}"))?;
    for file in &files {
        output::note(format!("  {:<16} {}", file.name, file.about));
    }
    output::note(format!("{} {place}", "✓".green()));
    Ok(ExitCode::SUCCESS)
}

/// Every part is there, with its error where it could not be had.
async fn gather(settings: &Settings, with_tenant_data: bool) -> Vec<File> {
    let mut found = doctor::examine(settings).await;
    if !with_tenant_data {
        found = found.into_iter().map(Line::without_quotes).collect();
    }
    let state = answer_or_error(debug::ask(settings, &Request::State), with_tenant_data).await;
    let queue = answer_or_error(queue(settings), with_tenant_data).await;
    let metrics = match healthcheck::ask(settings.http.listen, "/metrics").await {
        Ok((_, text)) => text,
        Err(error) => format!("# {error:#}\n"),
    };
    let mut files = vec![
        File {
            name: "config.toml",
            about: "the configuration, secrets masked",
            content: settings.print().into_bytes(),
        },
        File::json("doctor.json", "what doctor finds", &json!(found)),
        File::json(
            "state.json",
            "what the process at debug.socket does",
            &state,
        ),
        File {
            name: "metrics.txt",
            about: "the metrics of the process at http.listen",
            content: metrics.into_bytes(),
        },
        File::json("queue.json", "its version", &queue),
    ];
    let store = match app::missing_database(settings) {
        Ok(None) => app::open_store(settings).await,
        Ok(Some(file)) => Err(anyhow::anyhow!("{} is not there yet", file.display())),
        Err(error) => Err(error),
    };
    let store = store.map_err(|error| format!("{error:#}"));
    let open = || match &store {
        Ok(store) => Ok(store.as_ref()),
        Err(why) => Err(anyhow::anyhow!(why.clone())),
    };
    let database = answer_or_error(async { database(open()?).await }, with_tenant_data).await;
    let about = "its version, migrations, sizes of tables";
    files.push(File::json("database.json", about, &database));
    let failures = answer_or_error(async { failures(open()?).await }, with_tenant_data).await;
    let about = "reasons of the latest failed and blocked runs; invalid runs";
    files.push(File::json("failures.json", about, &failures));
    if with_tenant_data {
        let runs = answer_or_error(async { failed_runs(open()?).await }, with_tenant_data).await;
        let about = "the latest failed and blocked runs";
        files.push(File::json("runs.json", about, &runs));
    }
    if let Ok(store) = &store {
        store.close().await;
    }
    files
}

/// The answer, or the error in its place; one that may quote a row in full only with tenant data.
async fn answer_or_error<T: Serialize>(
    call: impl Future<Output = anyhow::Result<T>>,
    with_tenant_data: bool,
) -> Value {
    let answer = tokio::time::timeout(TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs())));
    match answer.and_then(|answer| Ok(serde_json::to_value(answer)?)) {
        Ok(value) => value,
        Err(error) => {
            let quotes = error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<StoreError>())
                .any(doctor::may_quote);
            let said = match quotes && !with_tenant_data {
                true => doctor::LEFT_OUT.to_owned(),
                false => format!("{error:#}"),
            };
            json!({ "error": said })
        }
    }
}

async fn queue(settings: &Settings) -> anyhow::Result<Value> {
    let queue = app::open_queue(settings)?;
    let version = queue.server_version().await?;
    Ok(json!({ "kind": queue.kind(), "version": version }))
}

async fn database(store: &dyn Store) -> anyhow::Result<Value> {
    let version = store.ping().await?;
    let applied = store.applied_migrations().await?;
    let tables = store.table_sizes().await?;
    Ok(json!({
        "kind": store.kind(),
        "version": version,
        "wanted_schema_version": store.wanted_schema_version(),
        "applied_migrations": applied,
        "tables": tables,
    }))
}

/// How many of the latest runs have a reason, and when the last of them ended.
#[derive(Debug, Default, Serialize)]
struct Count {
    runs: u64,
    latest: Option<DateTime<Utc>>,
}

/// Counts by reason, not by what other writers may have put in its place.
async fn failures(store: &dyn Store) -> anyhow::Result<Value> {
    let mut by_outcome = BTreeMap::new();
    for outcome in FAILURES {
        let mut reasons: BTreeMap<&str, Count> = BTreeMap::new();
        for run in store.runs(&latest(outcome, COUNTED_RUNS)).await? {
            let reason: Option<Reason> = run.reason_code.and_then(|code| code.parse().ok());
            let count = reasons.entry(reason.map_or("unknown", |reason| reason.code()));
            let count = count.or_default();
            count.runs += 1;
            count.latest = count.latest.max(run.completed_at);
        }
        by_outcome.insert(outcome.as_str(), reasons);
    }
    let mut invalid_runs: BTreeMap<&str, u64> = BTreeMap::new();
    for run in store.invalid_runs(LATEST_ROWS, COUNTED).await? {
        *invalid_runs.entry(run.column).or_default() += 1;
    }
    Ok(json!({ "reasons": by_outcome, "invalid_runs": invalid_runs }))
}

async fn failed_runs(store: &dyn Store) -> anyhow::Result<Vec<RunItem>> {
    let mut runs = Vec::new();
    for outcome in FAILURES {
        let of_outcome = store.runs(&latest(outcome, LISTED_RUNS)).await?;
        runs.extend(of_outcome.into_iter().map(RunItem::from));
    }
    Ok(runs)
}

fn latest(outcome: Outcome, limit: u32) -> RunFilter {
    RunFilter {
        outcome: Some(outcome),
        limit,
        ..RunFilter::default()
    }
}

fn manifest(files: &[File], with_tenant_data: bool, now: DateTime<Utc>) -> Value {
    let files = files
        .iter()
        .map(|file| json!({ "name": file.name, "bytes": file.content.len(), "about": file.about }));
    json!({
        "verifyd": BUILD,
        "made_at": now,
        "with_tenant_data": with_tenant_data,
        "files": files.collect::<Vec<_>>(),
    })
}

fn archive(files: &[File], now: DateTime<Utc>) -> std::io::Result<Vec<u8>> {
    let compressed = GzEncoder::new(Vec::new(), Compression::default());
    let mut archive = tar::Builder::new(compressed);
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.timestamp().unsigned_abs());
        let path = format!("{FOLDER}/{}", file.name);
        archive.append_data(&mut header, path, file.content.as_slice())?;
    }
    archive.into_inner()?.finish()
}

fn write_stdout(content: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(content)?;
    stdout.flush()
}

/// Writes a file that only its owner may read. One that exists stays as it is.
fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)?.write_all(content)
}
