//! `verifyd migrate`

use super::args::MigrateArgs;
use super::doctor::writing;
use super::{exit, output, remedy};
use crate::app;
use crate::config::Settings;
use crate::ports::store::{
    Enforced, Migrated, MonthLeft, Months, PartitionPlan, PendingMigration, SchemaFinding, Store,
    StoreError,
};
use crate::store::{self, SchemaPlan};
use crate::view::words::counted;
use anyhow::Context as _;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Done<'a> {
    #[serde(flatten)]
    migrated: &'a Migrated,
    /// Advice.
    findings: &'a [SchemaFinding],
    /// Months that were added to `operation_runs`.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    partitions: &'a [String],
    /// Months that have no partition, and why.
    #[serde(skip_serializing_if = "<[MonthLeft]>::is_empty")]
    partitions_left: &'a [MonthLeft],
    #[serde(skip_serializing_if = "Option::is_none")]
    guards: Option<&'a Enforced>,
}

/// What `migrate` would do, as JSON.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    /// `postgres` or `sqlite`.
    database: &'static str,
    /// `null`: no migration is applied.
    version: Option<i64>,
    pending: &'a [PendingMigration],
    #[serde(skip_serializing_if = "Option::is_none")]
    partitioning: Option<&'a PartitionPlan>,
}

pub async fn run(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    if args.plan {
        return plan(settings, args).await;
    }
    let store = wait_for(settings, args.wait_for).await?;
    let migrated = store.migrate().await?;
    if let Some(unfit) = remedy::unfit(findings(store.as_ref()).await?.iter()) {
        if !args.json.json {
            let mark = "✗".red().to_string();
            print_migrated(store.as_ref(), &migrated, args.enforce, &mark);
        }
        anyhow::bail!(unfit);
    }
    if args.partition_by_month {
        let partitioned = store.partition_by_month().await;
        partitioned.context("operation_runs stays as it is")?;
    }
    let months = store.add_months().await;
    let months = months.context("the next months of operation_runs have no partitions")?;
    let mut enforced = None;
    if args.enforce {
        enforced = Some(store.enforce().await.context(remedy::NOT_ALL_GUARDS)?);
    }
    let mut findings = findings(store.as_ref()).await?;
    // Last: what it refuses may be accepted of the role of `serve`, and keeps nothing else from being added.
    let mut refusal = writing::refusal(store.as_ref()).await;
    if let Some(untried) = refusal.take_if(|refusal| !refusal.is_of_rule) {
        let user = match store.kind() {
            "sqlite" => "user",
            _ => "role",
        };
        findings.push(SchemaFinding::advice(
            "writing",
            format!("not tried to the end by this command: {}", untried.found),
            format!("`serve` tries it when it starts, and `doctor` as the {user} of `serve`"),
        ));
    }
    if let Some(warning) = refusal.take_if(|refusal| !refusal.is_of_every_role) {
        findings.push(SchemaFinding::advice(
            "writing, tried as the role of this command",
            warning.found,
            warning.remedy,
        ));
    }
    if args.json.json {
        output::json(&Done {
            migrated: &migrated,
            findings: &findings,
            partitions: &months.added,
            partitions_left: &months.left,
            guards: enforced.as_ref(),
        })?;
    } else {
        let mark = match refusal {
            None => "✓".green().to_string(),
            Some(_) => "✗".red().to_string(),
        };
        print_migrated(store.as_ref(), &migrated, args.enforce, &mark);
        print_findings(&findings);
        print_months(&months);
        if let Some(enforced) = &enforced {
            print_enforced(enforced);
        }
    }
    store.close().await;
    if let Some(refusal) = refusal {
        anyhow::bail!("{refusal}");
    }
    let refused = enforced.is_some_and(|e| !e.refused.is_empty());
    let refuses_rows = months.left.iter().any(|month| month.refuses_rows);
    Ok(exit::passed(!refused && !refuses_rows))
}

/// Lists what would be applied. Changes nothing, and creates no file.
async fn plan(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let of_file = async || {
        let plan = store::plan_of_file(&settings.database).await;
        plan.context("cannot open the database")
    };
    let mut partitioning = args
        .partition_by_month
        .then(PartitionPlan::without_partitions);
    let (database, plan) = match retried(args.wait_for, of_file).await? {
        Some(plan) => ("sqlite", plan),
        None => {
            let store = wait_for(settings, args.wait_for).await?;
            let plan = SchemaPlan {
                version: store.schema_version().await?,
                wanted: store.wanted_schema_version(),
                pending: store.pending_migrations().await?,
            };
            if args.partition_by_month {
                partitioning = Some(store.partition_plan().await?);
            }
            store.close().await;
            (store.kind(), plan)
        }
    };
    let SchemaPlan {
        version,
        wanted,
        pending,
    } = plan;
    if version.is_some_and(|version| version > wanted) {
        output::note(format!(
            "The schema is newer than this build, which knows version {wanted}: `verifyd migrate` refuses it."
        ));
    }
    if args.json.json {
        output::json(&Plan {
            database,
            version,
            pending: &pending,
            partitioning: partitioning.as_ref(),
        })?;
    } else {
        print_plan(database, version, &pending);
        if let Some(partitioning) = &partitioning {
            print_partitioning(partitioning);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_plan(database: &str, version: Option<i64>, pending: &[PendingMigration]) {
    let version = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
    let count = u64::try_from(pending.len()).unwrap_or(u64::MAX);
    output::line(format!(
        "schema version {version} ({database}), {} to apply",
        counted(count, "migration")
    ));
    for migration in pending {
        output::line(format!("  {}: {}", migration.name, migration.title));
        for lock in &migration.locks {
            output::line(format!(
                "      {} on {}, {}: {}",
                lock.mode,
                lock.table,
                held_up(&lock.mode),
                lock.statement
            ));
        }
    }
    match (pending.is_empty(), database) {
        (true, _) => {}
        (false, "postgres") => output::note(
            "All are applied in one transaction, which keeps its locks until the end. Tables that are not there yet \
             are not listed.",
        ),
        (false, _) => output::note(
            "All are applied in one transaction, during which nobody else writes into the file.",
        ),
    }
}

fn print_partitioning(plan: &PartitionPlan) {
    if !plan.obstacles.is_empty() {
        let obstacles = plan.obstacles.join(", ");
        return output::line(format!("operation_runs cannot be partitioned: {obstacles}"));
    }
    if let Some(first) = plan.first {
        let rows = first
            .rows
            .map_or_else(String::new, |rows| format!(" with about {rows} rows"));
        let mode = "ACCESS EXCLUSIVE";
        output::line(format!(
            "operation_runs, {} MiB{rows}, becomes the partition operation_runs_earlier of a table that is partitioned \
             by month",
            first.bytes >> 20
        ));
        output::line(format!(
            "      {mode} on operation_runs, {}, while its rows are read and their primary key is built",
            held_up(mode)
        ));
    }
    let months = match plan.months.as_slice() {
        [] => "none".to_owned(),
        months => months.join(", "),
    };
    output::line(format!("partitions to add: {months}"));
}

/// Whom a lock of PostgreSQL holds up, of those who read and write rows.
fn held_up(mode: &str) -> &'static str {
    match mode {
        "ACCESS EXCLUSIVE" => "holds up readers and writers",
        "SHARE" | "SHARE ROW EXCLUSIVE" | "EXCLUSIVE" => "holds up writers",
        _ => "holds up nobody who reads or writes rows",
    }
}

/// Returns findings about the schema. The privileges of the user who runs `serve` are tested by `doctor`.
async fn findings(store: &dyn Store) -> Result<Vec<SchemaFinding>, StoreError> {
    let mut findings = store.inspect().await?;
    findings.retain(|finding| !finding.privilege);
    Ok(findings)
}

fn print_migrated(store: &dyn Store, migrated: &Migrated, enforced: bool, mark: &str) {
    let done = match migrated.applied.len() {
        0 => "nothing to do".to_owned(),
        n => format!("{n} applied"),
    };
    output::line(format!(
        "{mark} schema version {} ({}), {done}",
        migrated.version,
        store.kind()
    ));
    if !migrated.foreign.is_empty() {
        output::line(format!(
            "  {}another application's: {}",
            if enforced { "" } else { "left as they were, " },
            migrated.foreign.join(", ")
        ));
    }
}

/// Prints advice. Fatal findings are the command's error.
fn print_findings(findings: &[SchemaFinding]) {
    for finding in findings.iter().filter(|finding| !finding.fatal) {
        output::line(format!(
            "  {} {}: {}. {}",
            "!".yellow(),
            finding.subject,
            finding.problem,
            finding.remedy
        ));
    }
}

/// Prints which partitions were added, and which were not.
fn print_months(months: &Months) {
    if !months.added.is_empty() {
        let added = months.added.join(", ");
        let mark = "✓".green();
        output::line(format!("{mark} partitions added: {added}"));
    }
    for month in &months.left {
        let mark = match month.refuses_rows {
            true => "✗".red().to_string(),
            false => "!".yellow().to_string(),
        };
        output::line(format!(
            "{mark} partition {} not added: {}. {}",
            month.partition, month.problem, month.remedy
        ));
    }
}

fn print_enforced(enforced: &Enforced) {
    if !enforced.in_place.is_empty() {
        let there = enforced.in_place.join(", ");
        output::line(format!("{} in place: {there}", "✓".green()));
    }
    if !enforced.added.is_empty() {
        let added = enforced.added.join(", ");
        output::line(format!("{} added: {added}", "✓".green()));
    }
    for refused in &enforced.refused {
        output::line(format!(
            "{} not added: {}. It demands that {}; {} runs break that, such as run {}. Correct or \
             remove them, then repeat `verifyd migrate --enforce`",
            "✗".red(),
            refused.guard,
            refused.demands,
            refused.rows,
            refused.example
        ));
    }
}

/// Connects, and retries until `timeout`.
async fn wait_for(settings: &Settings, timeout: Duration) -> anyhow::Result<Arc<dyn Store>> {
    let connect = async || {
        let store = app::open_store_to_migrate(settings).await?;
        store.ping().await?;
        anyhow::Ok(store)
    };
    retried(timeout, connect).await
}

/// Repeats a call until `timeout`, while it may succeed later.
async fn retried<T>(
    timeout: Duration,
    call: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + timeout;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let transient = error
            .downcast_ref::<StoreError>()
            .is_some_and(StoreError::is_transient);
        if !transient || Instant::now() >= until {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
