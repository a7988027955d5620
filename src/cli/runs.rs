//! `verifyd runs`

use super::args::{RunArgs, RunsCommand, RunsListArgs};
use super::doctor::invalid_runs;
use super::{output, render};
use crate::app::Services;
use crate::domain::RunId;
use crate::domain::access::Binding;
use crate::domain::run::ReportPresence;
use crate::domain::run_record::RunRecord;
use crate::operations::{OperationError, read_run};
use crate::ports::store::RunFilter;
use crate::view::diff::DiffState;
use crate::view::{DiffView, RunDetail, RunItem, words};
use serde_json::Value;
use std::process::ExitCode;

pub async fn run(services: &Services, command: &RunsCommand) -> anyhow::Result<ExitCode> {
    match command {
        RunsCommand::List(args) => list(services, args).await?,
        RunsCommand::Show(args) => show(services, args).await?,
        RunsCommand::Diff(args) => compare(services, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(services: &Services, args: &RunsListArgs) -> anyhow::Result<()> {
    let filter = RunFilter {
        binding: Binding::EVERYTHING,
        status: args.status,
        outcome: args.outcome,
        connection: args.connection,
        tenant: args.tenant,
        before: args.before,
        limit: args.limit,
    };
    let runs = services.store.runs(&filter).await?;
    let runs: Vec<RunItem> = runs.into_iter().map(RunItem::from).collect();
    if args.json.json {
        return output::json(&runs);
    }
    if runs.is_empty() {
        output::note("No runs.");
        return Ok(());
    }
    let now = services.clock.now();
    let mut table = output::table([
        "Run",
        "Connection",
        "Tenant",
        "Outcome",
        "Overall",
        "What is wrong",
        "Recorded",
    ]);
    for run in &runs {
        let (overall, wrong) = summary(run);
        table.add_row([
            run.operation_run_id.to_string(),
            output::or_dash(run.provider_connection_id),
            output::or_dash(run.tenant_id),
            render::outcome(run.status, run.outcome),
            render::overall(&overall),
            wrong,
            output::or_dash(run.recorded_at.map(|at| words::ago(at, now))),
        ]);
    }
    output::line(table);
    if runs.len() == args.limit as usize
        && let Some(last) = runs.last()
    {
        output::note(format!("More: --before {}", last.operation_run_id));
    }
    Ok(())
}

/// Overall and the main reason, for a line of a table.
fn summary(run: &RunItem) -> (String, String) {
    let overall = run.overall.map(|overall| overall.to_string());
    let wrong = match run.report {
        ReportPresence::Readable => match (&run.main_reason, run.problems) {
            (None, _) => String::new(),
            (Some(reason), 0 | 1) => render::clean(reason),
            (Some(reason), n) => format!("{} (+{})", render::clean(reason), n - 1),
        },
        ReportPresence::Pending if run.shares_id => "other runs have its id".to_owned(),
        ReportPresence::Pending => String::new(),
        ReportPresence::Missing => "no report".to_owned(),
        ReportPresence::OtherVersion => "report of another version".to_owned(),
        ReportPresence::Unreadable => "report unreadable".to_owned(),
    };
    (overall.unwrap_or_default(), wrong)
}

/// Reads the run. Of an invalid row, which is shown as none, says what `doctor` does.
async fn read(services: &Services, id: RunId) -> anyhow::Result<RunRecord> {
    let store = services.store.as_ref();
    let missing = match read_run(store, &Binding::EVERYTHING, id).await {
        Err(missing @ OperationError::NotFound { .. }) => missing,
        read => return Ok(read?),
    };
    Err(match invalid_runs::of(store, id).await {
        Some(problem) => anyhow::anyhow!("run {id} is invalid: {problem}"),
        None => missing.into(),
    })
}

async fn show(services: &Services, args: &RunArgs) -> anyhow::Result<()> {
    let record = read(services, args.id).await?;
    let view = RunDetail::of(&record, services.clock.now());
    if args.json.json {
        return output::json(&row(&record, &view)?);
    }
    output::line(render::run(&view.run).trim_end());
    output::line(render::timeline(&view.timeline).trim_end());
    Ok(())
}

/// Returns the row of the database, its attempts and acknowledgements, and the view.
pub fn row(record: &RunRecord, view: &RunDetail) -> anyhow::Result<Value> {
    let mut row = record.run.parsed()?;
    row["attempts"] = serde_json::to_value(&record.attempts)?;
    row["acknowledgements"] = serde_json::to_value(&record.acknowledgements)?;
    row["view"] = serde_json::to_value(view)?;
    Ok(row)
}

async fn compare(services: &Services, args: &RunArgs) -> anyhow::Result<()> {
    let record = read(services, args.id).await?;
    let diff = DiffView::of(&record.run, record.previous.as_ref());
    if !matches!(diff.state, DiffState::Compared | DiffState::First) {
        let previous = diff
            .previous_report_id
            .map(|id| format!(" (previous report: run {id})"))
            .unwrap_or_default();
        anyhow::bail!("run {}{previous}: {}", args.id, diff.state.sentence());
    }
    if args.json.json {
        return output::json(&diff);
    }
    if let (Some(before), Some(now), Some(previous)) = (
        diff.overall_before,
        diff.overall_now,
        diff.previous_report_id,
    ) {
        output::line(format!(
            "run {} against run {previous}: {} → {}",
            args.id,
            render::overall(before.as_str()),
            render::overall(now.as_str()),
        ));
    }
    output::line(render::diff(&diff).trim_end());
    Ok(())
}
