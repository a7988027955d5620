//! `verifyd acknowledgements`; `verifyd acknowledge` is its `add`.

use super::args::{
    AcknowledgeArgs, AcknowledgementsCommand, AcknowledgementsListArgs, Expiry, WithdrawArgs,
};
use super::origin::{terminal, user};
use super::{output, render};
use crate::app::Services;
use crate::domain::access::Binding;
use crate::operations::acknowledge::{Request, acknowledge, withdraw};
use crate::ports::acknowledgements::AcknowledgementFilter;
use crate::view::AcknowledgementView;
use crate::view::acknowledgement::Standing;
use chrono::{DateTime, Utc};
use owo_colors::OwoColorize as _;
use serde_json::json;
use std::process::ExitCode;

pub async fn add(services: &Services, args: &AcknowledgeArgs) -> anyhow::Result<ExitCode> {
    let now = services.clock.now();
    let made = acknowledge(
        services.store.as_ref(),
        &Request {
            run: args.run,
            reach: Binding::EVERYTHING,
            check_key: args.check.clone(),
            reason: args.reason.clone(),
            by: Some(person(args.by.as_deref())),
            through: terminal(),
            expires_at: args.expires.map(|expiry| expiry.at(now)),
        },
        now,
    )
    .await?;
    let view = AcknowledgementView::of(&made.acknowledgement, args.run, now);
    if args.json.json {
        output::json(&json!({ "created": made.created, "acknowledgement": view }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if made.created {
        output::line(format!(
            "acknowledgement {} of {} on run {}",
            view.id,
            render::clean(&view.check_key),
            view.operation_run_id
        ));
    } else {
        output::line(format!(
            "already {} (acknowledgement {}); withdraw it to change it",
            render::clean(&view.summary()),
            view.id
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn run(
    services: &Services,
    command: &AcknowledgementsCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        AcknowledgementsCommand::Add(args) => return add(services, args).await,
        AcknowledgementsCommand::List(args) => list(services, args).await?,
        AcknowledgementsCommand::Withdraw(args) => take_back(services, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(services: &Services, args: &AcknowledgementsListArgs) -> anyhow::Result<()> {
    let now = services.clock.now();
    let found = services
        .store
        .acknowledgements(&AcknowledgementFilter {
            binding: Binding::EVERYTHING,
            run: args.run,
            connection: args.connection,
            active_only: args.active,
            before: args.before,
            limit: args.limit,
        })
        .await?;
    let views: Vec<AcknowledgementView> = found
        .iter()
        .map(|a| AcknowledgementView::of(a, a.operation_run_id, now))
        .collect();
    if args.json.json {
        return output::json(&views);
    }
    if views.is_empty() {
        output::note("No acknowledgements.");
        return Ok(());
    }
    let mut table = output::table(["Id", "Run", "Check", "Reason code", "Standing", "Said"]);
    for view in &views {
        let standing = match view.standing {
            Standing::Active => view.standing.as_str().green().to_string(),
            _ => view.standing.as_str().dimmed().to_string(),
        };
        table.add_row([
            view.id.to_string(),
            view.operation_run_id.to_string(),
            render::clean(&view.check_key),
            output::or_dash(view.reason_code.as_deref().map(render::clean)),
            standing,
            render::clean(&format!("{}: {}", view.summary(), view.reason)),
        ]);
    }
    output::line(table);
    if views.len() == args.limit as usize
        && let Some(last) = views.last()
    {
        output::note(format!("More: --before {}", last.id));
    }
    Ok(())
}

async fn take_back(services: &Services, args: &WithdrawArgs) -> anyhow::Result<()> {
    let by = person(args.by.as_deref());
    let (store, reach) = (services.store.as_ref(), Binding::EVERYTHING);
    let withdrawn = withdraw(store, &reach, args.id, Some(&by), &terminal()).await?;
    let run = withdrawn.operation_run_id;
    let view = AcknowledgementView::of(&withdrawn, run, services.clock.now());
    if args.json.json {
        return output::json(&view);
    }
    output::line(format!(
        "acknowledgement {} of {} on run {run}: {}",
        view.id,
        render::clean(&view.check_key),
        render::clean(&view.summary())
    ));
    Ok(())
}

impl Expiry {
    /// The time that it means.
    pub fn at(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::After(time) => now + time,
        }
    }
}

/// Returns the name of the person, from the arguments or the terminal's user.
fn person(by: Option<&str>) -> String {
    by.map(str::to_owned)
        .or_else(user)
        .unwrap_or_else(|| "command line".to_owned())
}
