//! `verifyd enqueue`

use super::args::EnqueueArgs;
use super::{exit, output, remedy, render};
use crate::app::Services;
use crate::domain::access::Binding;
use crate::domain::run::{Outcome, RunStatus};
use crate::operations::{CheckRequest, read_run, start_check, wait_for_run};
use crate::view::RunDetail;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

pub async fn run(services: &Services, args: &EnqueueArgs) -> anyhow::Result<ExitCode> {
    let request = CheckRequest {
        module: args.module.clone(),
        onboarding_session: args.onboarding_session,
        ..CheckRequest::of(args.connection)
    };
    let (store, queue) = (services.store.as_ref(), services.shared_queue());
    let started = start_check(store, queue, &services.providers, &request).await?;
    if let Err(error) = &started.hint {
        output::note(format!(
            "The run is recorded; its hint could not be sent ({error}), so a worker's sweep will \
             find it."
        ));
        output::note(format!("→ {}", remedy::of_queue(&error.to_string())));
    }
    let id = started.recorded.run_id;
    let Some(seconds) = args.wait else {
        if args.json.json {
            output::json(&json!({ "operation_run_id": id }))?;
        } else {
            let how = if started.recorded.created {
                "recorded"
            } else {
                "already active"
            };
            output::line(id);
            output::note(format!(
                "run {id} {how}; see it with: verifyd runs show {id}"
            ));
        }
        return Ok(ExitCode::SUCCESS);
    };

    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} run {prefix}: {msg} ({elapsed})",
    )?);
    progress.set_prefix(id.to_string());
    let waited = wait_for_run(store, id, Duration::from_secs(seconds), |run| {
        progress.set_message(run.status.as_str());
        progress.tick();
    })
    .await;
    progress.finish_and_clear();
    waited?;
    let record = read_run(store, &Binding::EVERYTHING, id).await?;
    if args.json.json {
        let mut row = record.run.parsed()?;
        row["operation_run_id"] = json!(id);
        output::json(&row)?;
    } else {
        let view = RunDetail::of(&record, services.clock.now());
        output::line(render::run(&view.run).trim_end());
    }
    Ok(match (record.run.status, record.run.outcome) {
        (RunStatus::Completed, Some(Outcome::Succeeded)) => ExitCode::SUCCESS,
        (RunStatus::Completed, Some(Outcome::Blocked)) => ExitCode::from(exit::BLOCKED),
        (RunStatus::Completed, _) => ExitCode::from(exit::FAILED),
        _ => ExitCode::from(exit::NOT_IN_TIME),
    })
}
