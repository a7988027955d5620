//! `verifyd audit`

use super::args::{AuditCommand, AuditExportArgs, AuditFilterArgs, AuditListArgs};
use super::plan::harmless;
use super::{output, render};
use crate::app;
use crate::config::Settings;
use crate::domain::access::Binding;
use crate::domain::{AuditEntryId, ObjectId};
use crate::ports::audit::AuditFilter;
use crate::ports::store::Store;
use crate::view::AuditEntryView;
use serde_json::Value;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// Entries that an export reads at a time.
const PAGE: u32 = 1000;

/// The columns of an export as CSV: the members of an entry.
const COLUMNS: [&str; 14] = [
    "id",
    "at",
    "action",
    "object",
    "object_id",
    "workspace_id",
    "tenant_id",
    "surface",
    "token_id",
    "actor",
    "address",
    "request_id",
    "before",
    "after",
];

pub async fn run(settings: &Settings, command: &AuditCommand) -> anyhow::Result<ExitCode> {
    let store = app::open_ready_store(settings).await?;
    match command {
        AuditCommand::List(args) => list(store.as_ref(), args).await?,
        AuditCommand::Export(args) => export(store.as_ref(), args).await?,
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn list(store: &dyn Store, args: &AuditListArgs) -> anyhow::Result<()> {
    let filter = filter(&args.filter, args.before, args.limit);
    let views = entries(store, &filter).await?;
    if args.json.json {
        return output::json(&views);
    }
    if views.is_empty() {
        output::note("No entries.");
        return Ok(());
    }
    let mut table = output::table(["Id", "When", "Action", "Of", "Actor", "Surface", "Change"]);
    for view in &views {
        table.add_row([
            view.id.to_string(),
            output::second(view.at),
            view.words(),
            view.subject(),
            render::clean(&view.who()),
            render::clean(&view.surface),
            render::clean(&view.changes().join("; ")),
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

/// Prints page by page, so that its memory does not grow with the trail.
async fn export(store: &dyn Store, args: &AuditExportArgs) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    if args.csv {
        record(&mut out, &COLUMNS.map(str::to_owned))?;
    }
    let mut before = None;
    loop {
        let views = entries(store, &filter(&args.filter, before, PAGE)).await?;
        for view in &views {
            if args.csv {
                let members = serde_json::to_value(view)?;
                record(&mut out, &COLUMNS.map(|column| cell(&members[column])))?;
            } else {
                writeln!(out, "{}", serde_json::to_string(view)?)?;
            }
        }
        before = views.last().map(|last| AuditEntryId(last.id));
        if before.is_none() {
            break;
        }
    }
    out.flush()?;
    Ok(())
}

async fn entries(store: &dyn Store, filter: &AuditFilter) -> anyhow::Result<Vec<AuditEntryView>> {
    let found = store.audit_entries(filter).await?;
    Ok(found.into_iter().map(AuditEntryView::from).collect())
}

fn filter(args: &AuditFilterArgs, before: Option<AuditEntryId>, limit: u32) -> AuditFilter {
    AuditFilter {
        binding: Binding {
            workspace_id: args.workspace,
            tenant_id: args.tenant,
        },
        action: args.action,
        object: args.object,
        object_id: args.id.map(|ObjectId(id)| id),
        token: args.token,
        actor: args.actor.clone(),
        since: args.since,
        until: args.until,
        before,
        limit,
    }
}

fn record(out: &mut dyn Write, cells: &[String; 14]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(cells.iter().map(|cell| harmless(cell)))?;
    writer.flush()?;
    Ok(())
}

/// A member of an entry as CSV has it; null is empty.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
