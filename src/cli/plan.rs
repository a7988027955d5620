//! `verifyd plan`: compares a module with the stored inventories of all connections, a page at a time.

use super::args::PlanArgs;
use super::{exit, output, print_error};
use crate::app;
use crate::config::Settings;
use crate::domain::ConnectionId;
use crate::domain::access::Binding;
use crate::domain::module::Module;
use crate::domain::plan::{PlanCounts, PlanLine, Verdict};
use crate::domain::report::redact;
use crate::operations::plan::{PAGE, Planner};
use crate::ports::provider::Providers;
use anyhow::Context as _;
use owo_colors::OwoColorize as _;
use serde_json::json;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Characters of a name in the table.
const NAME: usize = 40;

/// Exit code 1 means that some connections would break, so an error ends with 2.
pub async fn run(ready: impl FnOnce() -> anyhow::Result<Settings>, args: &PlanArgs) -> ExitCode {
    let planned = async { plan(&ready()?, args).await };
    match planned.await {
        Ok(counts) if counts.breaks > 0 => ExitCode::from(exit::BREAKS),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(exit::PLAN_FAILED)
        }
    }
}

async fn plan(settings: &Settings, args: &PlanArgs) -> anyhow::Result<PlanCounts> {
    let providers = app::providers_offline(settings)?;
    let (key, module) = find(&providers, &args.module)?;
    let provider = providers
        .get(key)
        .context("the provider no longer exists")?;
    let store = app::open_ready_store(settings).await?;
    let planner = Planner {
        store: store.as_ref(),
        provider: provider.as_ref(),
        links: &settings.links,
        module: &module,
        binding: Binding {
            workspace_id: args.workspace,
            tenant_id: args.tenant,
        },
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let form = match (args.json.json, args.csv) {
        (true, _) => Form::Json,
        (false, true) => Form::Csv,
        (false, false) => Form::Table,
    };
    let mut counts = PlanCounts::default();
    let mut after: Option<ConnectionId> = None;
    form.begin(&mut out, &module)?;
    loop {
        let page = planner.page(after, PAGE).await?;
        form.lines(&mut out, &page.lines, counts.connections == 0)?;
        page.add_to(&mut counts);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    form.end(&mut out, &module, &counts)?;
    out.flush()?;
    store.close().await;
    if counts.connections + counts.disabled == 0 {
        let named = [
            args.workspace.map(|id| format!("--workspace {id}")),
            args.tenant.map(|id| format!("--tenant {id}")),
        ];
        let named: Vec<String> = named.into_iter().flatten().collect();
        anyhow::ensure!(
            named.is_empty(),
            "{}: there is no connection to compare",
            named.join(" ")
        );
    }
    Ok(counts)
}

/// The module of a file, or one that is known by its key; with the key of its provider.
fn find(providers: &Providers, named: &str) -> anyhow::Result<(&'static str, Arc<Module>)> {
    let known = providers.all_modules();
    if let Some(found) = known.iter().find(|(_, module)| module.key == named) {
        return Ok(found.clone());
    }
    let path = Path::new(named);
    if !path.exists() {
        let keys: Vec<&str> = known.iter().map(|(_, m)| m.key.as_str()).collect();
        anyhow::bail!(
            "--module {named:?}: no such file, and no module of this name: {}",
            keys.join(", ")
        );
    }
    let mut problems = Vec::new();
    for key in providers.keys() {
        match providers
            .get(key)
            .map(|provider| provider.read_module(path))
        {
            Some(Ok(module)) => return Ok((key, Arc::new(module))),
            Some(Err(found)) => problems.extend(found),
            None => {}
        }
    }
    anyhow::bail!("--module {named}: {}", problems.join("\n"))
}

/// How a plan is printed, page by page.
#[derive(Clone, Copy)]
enum Form {
    /// One JSON document, a connection in each line.
    Json,
    Csv,
    /// A table for each page, and what to click.
    Table,
}

impl Form {
    fn begin(self, out: &mut dyn Write, module: &Module) -> anyhow::Result<()> {
        match self {
            Self::Json => write!(out, "{{\"module\":{},\"connections\":[", json!(module.key))?,
            Self::Csv => record(out, COLUMNS.map(str::to_owned))?,
            Self::Table => {
                let title = format!("Module {}: {}", module.key, module.title);
                writeln!(out, "{}", painted(title.bold()))?;
            }
        }
        Ok(())
    }

    /// `is_first`: no line was printed before.
    fn lines(
        self,
        out: &mut dyn Write,
        lines: &[PlanLine],
        mut is_first: bool,
    ) -> anyhow::Result<()> {
        match self {
            Self::Json => {
                for line in lines {
                    let comma = if is_first { "" } else { "," };
                    write!(out, "{comma}\n{}", serde_json::to_string(line)?)?;
                    is_first = false;
                }
            }
            Self::Csv => {
                for line in lines {
                    record(out, cells(line))?;
                }
            }
            Self::Table if lines.is_empty() => {}
            Self::Table => writeln!(out, "{}", table(lines))?,
        }
        Ok(())
    }

    fn end(self, out: &mut dyn Write, module: &Module, counts: &PlanCounts) -> anyhow::Result<()> {
        match self {
            Self::Json => writeln!(out, "\n],\"counts\":{}}}", serde_json::to_string(counts)?)?,
            Self::Csv => {}
            Self::Table => summary(out, module, counts)?,
        }
        Ok(())
    }
}

const COLUMNS: [&str; 16] = [
    "connection_id",
    "workspace_id",
    "tenant_id",
    "display_name",
    "entra_tenant_name",
    "entra_tenant_id",
    "client_id",
    "cloud",
    "verdict",
    "overall",
    "missing",
    "satisfied_by",
    "unknown",
    "inventory_read_at",
    "registration_url",
    "consent_url",
];

fn record(out: &mut dyn Write, cells: [String; 16]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(cells.iter().map(|cell| harmless(cell)))?;
    writer.flush()?;
    Ok(())
}

/// A cell that no spreadsheet takes for a formula: one that begins like it gets an apostrophe.
pub(super) fn harmless(cell: &str) -> String {
    let cleaned = redact::clean(cell, usize::MAX);
    let first = cleaned.trim_start().chars().next();
    let is_formula = first.is_some_and(|c| "=+-@|%＝＋－＠".contains(c));
    // A replaced control character at the start is no harmless sign.
    if is_formula || cleaned.starts_with('\u{FFFD}') {
        format!("'{cleaned}")
    } else {
        cleaned
    }
}

fn cells(line: &PlanLine) -> [String; 16] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let missing: Vec<&str> = line.missing.iter().map(|m| m.permission.as_str()).collect();
    let stand_ins = line.satisfied_by.iter();
    let stand_ins: Vec<String> = stand_ins
        .map(|s| format!("{}={}", s.permission, s.by))
        .collect();
    [
        line.connection_id.to_string(),
        line.workspace_id.to_string(),
        line.tenant_id.to_string(),
        text(&line.display_name),
        text(&line.entra_tenant_name),
        text(&line.entra_tenant_id),
        text(&line.client_id),
        text(&line.cloud),
        line.verdict.as_str().to_owned(),
        line.overall.map_or("", |o| o.as_str()).to_owned(),
        missing.join(" "),
        stand_ins.join(" "),
        line.unknown.map_or("", |u| u.words()).to_owned(),
        line.inventory_read_at
            .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
            .unwrap_or_default(),
        text(&line.registration_url),
        text(&line.consent_url),
    ]
}

fn table(lines: &[PlanLine]) -> comfy_table::Table {
    let mut table = output::table(["connection", "name", "tenant", "verdict", "why", "consent"]);
    for line in lines {
        table.add_row([
            line.connection_id.to_string(),
            redact::clean(line.name().unwrap_or("–"), NAME),
            line.tenant_id.to_string(),
            line.verdict.as_str().to_owned(),
            why(line),
            line.consent_url.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn summary(out: &mut dyn Write, module: &Module, counts: &PlanCounts) -> io::Result<()> {
    writeln!(
        out,
        "\n{} of {} connections would break with {}; {} would work, {} unknown{}",
        counts.breaks,
        counts.connections,
        module.key,
        counts.works,
        counts.unknown,
        match counts.disabled {
            0 => String::new(),
            disabled => format!("; {disabled} disabled, not compared"),
        }
    )?;
    if counts.breaks > 0 {
        writeln!(
            out,
            "Consent grants what the registration asks for: add what is missing there first \
             (--json and --csv have the links)."
        )?;
    }
    Ok(())
}

/// As a terminal shows it, or without colour.
fn painted(text: impl std::fmt::Display) -> String {
    let choice = anstream::AutoStream::choice(&io::stdout());
    if choice == anstream::ColorChoice::Never {
        anstream::adapter::strip_str(&text.to_string()).to_string()
    } else {
        text.to_string()
    }
}

fn why(line: &PlanLine) -> String {
    let mut why = Vec::new();
    for missing in &line.missing {
        let weight = if missing.blocking { " (blocking)" } else { "" };
        why.push(format!("missing {}{weight}", missing.permission));
    }
    for stand_in in &line.satisfied_by {
        why.push(format!("{} by {}", stand_in.permission, stand_in.by));
    }
    if let Some(unknown) = line.unknown {
        why.push(unknown.words().to_owned());
    }
    if why.is_empty() && line.verdict == Verdict::Works {
        why.push("all granted".to_owned());
    }
    why.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for bad in [
            "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "|x", "＝1", "%x",
        ] {
            assert!(harmless(bad).starts_with('\''), "{bad:?}");
        }
        for good in ["Contoso", "7", "a=b", "https://x/?a=b", "", "5c00-1"] {
            assert_eq!(harmless(good), good);
        }
    }
}
