//! `verifyd enqueue`

use super::args::EnqueueArgs;
use super::{exit, output, render};
use crate::app::Services;
use crate::domain::access::Binding;
use crate::domain::run::{OperationRun, Outcome, RunStatus};
use crate::operations::start_check::{start_check, start_check_for_session};
use crate::ports::store::ForSession;
use crate::view::RunView;
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(100);

pub async fn run(services: &Services, args: &EnqueueArgs) -> anyhow::Result<ExitCode> {
    let (connection, _) = services
        .store
        .connection(args.connection)
        .await?
        .with_context(|| format!("--connection {}: no such connection", args.connection))?;
    if let (Some(module), Some(provider)) =
        (&args.module, services.providers.get(&connection.provider))
    {
        let modules = provider.modules();
        anyhow::ensure!(
            modules.contains(&module.as_str()),
            "--module {module:?}: not known, allowed: {}",
            modules.join(", ")
        );
    }
    let (store, queue) = (services.store.as_ref(), services.shared_queue());
    let (providers, module) = (&services.providers, args.module.as_deref());
    let started = match args.onboarding_session {
        Some(id) => {
            let reach = Binding::EVERYTHING;
            let session = ForSession { id, reach };
            start_check_for_session(store, queue, providers, &connection, module, session)
                .await
                .context("--onboarding-session")?
        }
        None => start_check(store, queue, providers, &connection, module).await?,
    };
    if let Err(error) = &started.hint {
        output::note(format!(
            "The run is recorded; its hint could not be sent ({error}), so a worker's sweep will \
             find it."
        ));
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

    let run = wait(services, id, Duration::from_secs(seconds)).await?;
    if args.json.json {
        let mut row = serde_json::to_value(&run)?;
        row["operation_run_id"] = json!(id);
        output::json(&row)?;
    } else {
        let acknowledgements = services.store.acknowledgements_of(id).await?;
        let view = RunView::of(&run, &acknowledgements, services.clock.now());
        output::line(render::run(&view).trim_end());
    }
    Ok(match (run.status, run.outcome) {
        (RunStatus::Completed, Some(Outcome::Succeeded)) => ExitCode::SUCCESS,
        (RunStatus::Completed, Some(Outcome::Blocked)) => ExitCode::from(exit::BLOCKED),
        (RunStatus::Completed, _) => ExitCode::from(exit::FAILED),
        _ => ExitCode::from(exit::NOT_IN_TIME),
    })
}

/// The run as it is when it is completed, or when the time is up.
async fn wait(
    services: &Services,
    id: crate::domain::RunId,
    timeout: Duration,
) -> anyhow::Result<OperationRun> {
    let until = Instant::now() + timeout;
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} run {prefix}: {msg} ({elapsed})",
    )?);
    progress.set_prefix(id.to_string());
    loop {
        let run = services
            .store
            .run(id)
            .await?
            .with_context(|| format!("run {id} is gone"))?;
        if run.status == RunStatus::Completed || Instant::now() >= until {
            progress.finish_and_clear();
            return Ok(run);
        }
        progress.set_message(run.status.as_str());
        progress.tick();
        tokio::time::sleep(POLL).await;
    }
}
