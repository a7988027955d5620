//! `verifyd onboarding`

use super::args::{OnboardingArgs, OnboardingCommand};
use super::{output, render, runs};
use crate::app::Services;
use crate::domain::access::Binding;
use crate::operations::read_session;
use crate::view::OnboardingView;
use serde_json::Value;
use std::process::ExitCode;

pub async fn run(services: &Services, command: &OnboardingCommand) -> anyhow::Result<ExitCode> {
    match command {
        OnboardingCommand::Show(args) => show(services, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(services: &Services, args: &OnboardingArgs) -> anyhow::Result<()> {
    let store = services.store.as_ref();
    let record = read_session(store, &Binding::EVERYTHING, args.id).await?;
    let view = OnboardingView::of(&record, services.clock.now());
    if args.json.json {
        let mut row = record.session.parsed()?;
        row["verification_operation_run_id"] = serde_json::to_value(view.operation_run_id)?;
        row["provider_connection_id"] = serde_json::to_value(view.provider_connection_id)?;
        row["run"] = match (&record.run, &view.run) {
            (Some(record), Some(view)) => runs::row(record, view)?,
            _ => Value::Null,
        };
        row["verdict"] = view.verdict.into();
        return output::json(&row);
    }
    output::line(format!("onboarding session {}", args.id));
    match &view.run {
        Some(run) => {
            output::line(render::run(&run.run).trim_end());
            output::line(render::timeline(&run.timeline).trim_end());
        }
        None => output::line(&view.verdict),
    }
    Ok(())
}
