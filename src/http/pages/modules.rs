//! `GET /modules`, and what one of them would mean for the connections within reach.

use super::error::{PageError, render};
use super::format::{Moment, parse, safe_link};
use super::input::{Path, Query};
use super::layout::Layout;
use super::session::Visitor;
use super::{Pages, ROWS};
use crate::domain::ConnectionId;
use crate::domain::module::Module;
use crate::domain::plan::{PlanCounts, PlanLine, Verdict};
use crate::http::query::QueryText;
use crate::operations::plan::Planner;
use crate::view::ModuleView;
use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::sync::Arc;

/// Connections that are counted for one page; beyond them the command tells.
const COUNTED: u32 = 2_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Paging {
    after: String,
    /// Only connections with this verdict.
    verdict: String,
}

#[derive(Template)]
#[template(path = "modules.html")]
struct ModulesPage {
    page: Layout,
    modules: Vec<ModuleView>,
}

/// One connection of the plan.
struct Row {
    line: PlanLine,
    name: String,
    /// Of the badge.
    class: &'static str,
    words: &'static str,
    unknown: Option<&'static str>,
    read: Option<Moment>,
    registration: Option<String>,
    consent: Option<String>,
}

#[derive(Template)]
#[template(path = "plan.html")]
struct PlanPage {
    page: Layout,
    module: ModuleView,
    counts: PlanCounts,
    /// There are more connections than were counted.
    cut: bool,
    rows: Vec<Row>,
    address: String,
    /// What the list is narrowed to; empty for all.
    verdict: &'static str,
    first: Option<String>,
    next: Option<String>,
    /// What a person types for the same.
    command: String,
}

/// Without the path of its file, which is about the machine.
fn view(provider: &str, module: &Module) -> ModuleView {
    let mut view = ModuleView::of(provider, module);
    view.file = view.file.map(|_| "a file".to_owned());
    view
}

/// `GET /modules`
pub async fn list(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
) -> Result<Response, PageError> {
    let modules = pages.providers.all_modules();
    Ok(render(&ModulesPage {
        page: Layout::of(&visitor, "modules", "Modules"),
        modules: modules.iter().map(|(p, m)| view(p, m)).collect(),
    }))
}

/// `GET /modules/{key}/plan`
pub async fn plan(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    Path(key): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Response, PageError> {
    let modules = pages.providers.all_modules();
    let (provider_key, module) = modules
        .iter()
        .find(|(_, module)| module.key == key)
        .ok_or(PageError::NotFound)?;
    let provider = pages
        .providers
        .get(provider_key)
        .ok_or(PageError::NotFound)?;
    let after: Option<ConnectionId> = parse(&paging.after, "after")?;
    let planner = Planner {
        store: visitor.reads(&pages),
        provider: provider.as_ref(),
        links: &pages.links,
        module,
        binding: visitor.binding,
    };
    let (counts, complete) = planner.counts(COUNTED).await?;
    let verdict: Option<Verdict> = paging.verdict.parse().ok();
    let found = match verdict {
        Some(verdict) => planner.page_of(verdict, after, ROWS, COUNTED).await?,
        None => planner.page(after, ROWS).await?,
    };
    let now = pages.clock.now();
    let address = format!("/modules/{key}/plan");
    let query = QueryText::default().with("verdict", verdict.map(Verdict::as_str));
    let first = format!("{address}{query}");
    let next = found
        .next
        .map(|id| format!("{address}{}", query.with("after", Some(id))));
    Ok(render(&PlanPage {
        page: Layout::of(&visitor, "modules", format!("Plan: {}", module.title)),
        module: view(provider_key, module),
        counts,
        cut: !complete,
        rows: found.lines.into_iter().map(|line| row(line, now)).collect(),
        first: after.map(|_| first),
        address,
        verdict: verdict.map_or("", Verdict::as_str),
        next,
        command: format!("verifyd plan --module {key}"),
    }))
}

fn row(line: PlanLine, now: DateTime<Utc>) -> Row {
    let (class, words) = match (line.verdict, line.missing.iter().any(|m| m.blocking)) {
        (Verdict::Works, _) => ("ready", "Works"),
        (Verdict::Breaks, true) => ("blocked", "Breaks"),
        (Verdict::Breaks, false) => ("needs_attention", "Breaks in part"),
        (Verdict::Unknown, _) => ("never", "Unknown"),
    };
    let name = match line.name() {
        Some(name) => name.to_owned(),
        None => format!("Connection {}", line.connection_id),
    };
    let link = |url: &Option<String>| url.as_deref().and_then(safe_link).map(ToOwned::to_owned);
    Row {
        name,
        class,
        words,
        unknown: line.unknown.map(|unknown| unknown.words()),
        read: Moment::maybe(line.inventory_read_at, now),
        registration: link(&line.registration_url),
        consent: link(&line.consent_url),
        line,
    }
}
