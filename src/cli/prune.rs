//! `verifyd prune`

use super::args::PruneArgs;
use super::output;
use crate::app;
use crate::config::Settings;
use crate::ports::store::{PrunePolicy, Pruned, Store};
use owo_colors::OwoColorize as _;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// Runs, or attempts without a run, that one transaction deletes: few enough to delay no other transaction.
const BATCH: u32 = 500;

pub async fn run(settings: &Settings, args: &PruneArgs) -> anyhow::Result<ExitCode> {
    let store = app::open_store(settings).await?;
    if args.dry_run {
        let runs = store.prunable(args.older_than).await?;
        let entries = match args.audit_older_than {
            Some(age) => Some(store.prunable_audit_entries(age).await?),
            None => None,
        };
        if args.json.json {
            let mut shown = json!({ "dry_run": true, "runs": runs });
            if let Some(entries) = entries {
                shown["audit_entries"] = json!(entries);
            }
            output::json(&shown)?;
        } else {
            output::line(format!("{runs} runs would be deleted"));
            if let Some(entries) = entries {
                output::line(format!(
                    "{entries} entries of the audit trail would be deleted"
                ));
            }
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
    let entries = match args.audit_older_than {
        Some(age) => Some(prune_audit(store.as_ref(), age).await?),
        None => None,
    };
    if args.json.json {
        let mut shown = serde_json::to_value(all)?;
        if let Some(entries) = entries {
            shown["audit_entries"] = json!(entries);
        }
        output::json(&shown)?;
    } else {
        output::line(format!(
            "{} deleted: {} runs, {} attempts, {} acknowledgements",
            "✓".green(),
            all.runs,
            all.attempts,
            all.acknowledgements
        ));
        if let Some(entries) = entries {
            output::line(format!("  and {entries} entries of the audit trail"));
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Deletes entries of the audit trail of this age, a batch at a time. Returns how many.
async fn prune_audit(store: &dyn Store, age: Duration) -> anyhow::Result<u64> {
    let mut all = 0;
    loop {
        let deleted = store.prune_audit_entries(age, BATCH).await?;
        all += deleted;
        if deleted < u64::from(BATCH) {
            return Ok(all);
        }
    }
}
