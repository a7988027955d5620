//! `verifyd prune`

use super::args::PruneArgs;
use super::output;
use crate::app;
use crate::config::Settings;
use crate::ports::store::{PrunePolicy, Pruned};
use owo_colors::OwoColorize as _;
use serde_json::json;
use std::process::ExitCode;

/// Runs, or attempts without a run, that one transaction deletes: few enough to delay no other transaction.
const BATCH: u32 = 500;

pub async fn run(settings: &Settings, args: &PruneArgs) -> anyhow::Result<ExitCode> {
    let store = app::open_store(settings).await?;
    if args.dry_run {
        let runs = store.prunable(args.older_than).await?;
        if args.json.json {
            output::json(&json!({ "dry_run": true, "runs": runs }))?;
        } else {
            output::line(format!("{runs} runs would be deleted"));
        }
        store.close().await;
        return Ok(ExitCode::SUCCESS);
    }
    let policy = PrunePolicy {
        older_than: args.older_than,
        batch: BATCH,
    };
    let mut all = Pruned::default();
    let mut after = None;
    loop {
        let pruned = store.prune(&policy, after).await?;
        all.add(&pruned);
        after = pruned.last;
        if after.is_none() {
            break;
        }
    }
    loop {
        let pruned = store.prune_stray_attempts(BATCH, after).await?;
        all.add(&pruned);
        after = pruned.last;
        if after.is_none() {
            break;
        }
    }
    if args.json.json {
        output::json(&all)?;
    } else {
        output::line(format!(
            "{} deleted: {} runs, {} attempts, {} acknowledgements",
            "✓".green(),
            all.runs,
            all.attempts,
            all.acknowledgements
        ));
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}
