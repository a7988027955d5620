//! `verifyd runs`

use super::args::{RunArgs, RunsCommand, RunsListArgs};
use super::{output, render};
use crate::app::Services;
use crate::domain::report::{Report, diff};
use crate::domain::run::OperationRun;
use crate::domain::{RunId, report::schema};
use crate::ports::store::RunFilter;
use crate::view::RunView;
use crate::view::report::ReportState;
use anyhow::Context as _;
use serde_json::json;
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
        status: args.status,
        outcome: args.outcome,
        connection: args.connection,
        tenant: args.tenant,
        before: args.before,
        limit: args.limit,
    };
    let runs = services.store.runs(&filter).await?;
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
            run.id.to_string(),
            run.request()
                .provider_connection_id
                .map_or_else(|| "–".to_owned(), |id| id.to_string()),
            run.tenant_id
                .map_or_else(|| "–".to_owned(), |id| id.to_string()),
            render::outcome(run.status, run.outcome),
            render::overall(&overall),
            wrong,
            run.created_at.map_or_else(
                || "–".to_owned(),
                |at| format!("{} ago", output::age(now, at)),
            ),
        ]);
    }
    output::line(table);
    if runs.len() == args.limit as usize
        && let Some(last) = runs.last()
    {
        output::note(format!("More: --before {}", last.id));
    }
    Ok(())
}

/// Overall and the main reason, for a line of a table.
pub fn summary(run: &OperationRun) -> (String, String) {
    match RunView::of(run).report {
        ReportState::Readable { report } => {
            let wrong = report
                .main_problem()
                .and_then(|c| c.reason_code)
                .map(|reason| match report.problems.len() {
                    1 => reason.to_string(),
                    n => format!("{reason} (+{})", n - 1),
                })
                .unwrap_or_default();
            (report.overall.to_string(), wrong)
        }
        ReportState::Pending => (String::new(), String::new()),
        ReportState::Missing => (String::new(), "no report".to_owned()),
        ReportState::Unreadable { .. } => (String::new(), "report unreadable".to_owned()),
    }
}

async fn find(services: &Services, id: RunId) -> anyhow::Result<OperationRun> {
    services.store.run(id).await?.with_context(|| {
        format!(
            "run {id}: no such run of type {}",
            crate::domain::run::RUN_TYPE
        )
    })
}

async fn show(services: &Services, args: &RunArgs) -> anyhow::Result<()> {
    let run = find(services, args.id).await?;
    let attempts = services.store.attempts(args.id).await?;
    if args.json.json {
        let mut row = serde_json::to_value(&run)?;
        row["attempts"] = serde_json::to_value(&attempts)?;
        return output::json(&row);
    }
    output::line(render::run(&RunView::of(&run)).trim_end());
    for attempt in attempts {
        let end = match (attempt.ended_at, attempt.end_reason) {
            (Some(at), Some(why)) => format!(
                "{why} after {} ms",
                (at - attempt.claimed_at).num_milliseconds()
            ),
            _ => "in work".to_owned(),
        };
        let counted = if attempt.counted {
            ""
        } else {
            " (not counted)"
        };
        output::line(format!(
            "attempt {}{counted} by {}: {end}",
            attempt.attempt,
            render::clean(&attempt.worker_id)
        ));
    }
    Ok(())
}

fn report_of(run: &OperationRun) -> anyhow::Result<Report> {
    let id = run.id;
    let document = run
        .report()
        .with_context(|| format!("run {id} has no report yet"))?;
    schema::validate(document)
        .map_err(|problems| anyhow::anyhow!("the report of run {id}: {}", problems.join("; ")))?;
    Ok(serde_json::from_value(document.clone())?)
}

async fn compare(services: &Services, args: &RunArgs) -> anyhow::Result<()> {
    let run = find(services, args.id).await?;
    let now = report_of(&run)?;
    let Some(previous_id) = now.previous_report_id else {
        if args.json.json {
            return output::json(&json!({
                "operation_run_id": run.id,
                "previous_report_id": null,
                "unchanged": false,
                "checks": [],
            }));
        }
        output::line("This is the first report of the connection: nothing to compare with.");
        return Ok(());
    };
    let before = report_of(&find(services, previous_id).await?)?;
    let rows = diff::diff(&before, &now);
    let unchanged = before.fingerprint == now.fingerprint;
    if args.json.json {
        return output::json(&json!({
            "operation_run_id": run.id,
            "previous_report_id": previous_id,
            "unchanged": unchanged,
            "checks": rows,
        }));
    }
    output::line(format!(
        "run {} against run {previous_id}: {} → {}",
        run.id,
        render::overall(before.summary.overall.as_str()),
        render::overall(now.summary.overall.as_str()),
    ));
    output::line(render::diff(&rows).trim_end());
    Ok(())
}
