//! `verifyd migrate`

use super::args::MigrateArgs;
use super::output;
use crate::app;
use crate::config::Settings;
use crate::ports::store::{Store, StoreError};
use owo_colors::OwoColorize as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub async fn run(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let store = wait_for(settings, args.wait_for).await?;
    let migrated = store.migrate().await?;
    if args.json.json {
        output::json(&migrated)?;
    } else {
        let done = match migrated.applied.len() {
            0 => "nothing to do".to_owned(),
            n => format!("{n} applied"),
        };
        output::line(format!(
            "{} schema version {} ({}), {done}",
            "✓".green(),
            migrated.version,
            store.kind()
        ));
        if !migrated.foreign.is_empty() {
            output::line(format!(
                "  left as they were, another application's: {}",
                migrated.foreign.join(", ")
            ));
            for finding in store.inspect().await? {
                let mark = if finding.fatal {
                    "✗".red().to_string()
                } else {
                    "!".yellow().to_string()
                };
                output::line(format!(
                    "  {mark} {}: {}. {}",
                    finding.subject, finding.problem, finding.remedy
                ));
            }
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Connects, trying again for as long as asked.
async fn wait_for(settings: &Settings, patience: Duration) -> anyhow::Result<Arc<dyn Store>> {
    let until = Instant::now() + patience;
    loop {
        let error = match app::open_store(settings).await {
            Ok(store) => match store.ping().await {
                Ok(_) => return Ok(store),
                Err(error) => anyhow::Error::new(error),
            },
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
