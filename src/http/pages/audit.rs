//! `GET /audit`: the audit trail, newest first.

use super::error::{PageError, render};
use super::format::{Moment, parse};
use super::input::Query;
use super::layout::{Choice, Layout};
use super::session::Visitor;
use super::{Pages, ROWS};
use crate::domain::access::Scope;
use crate::domain::audit::{AuditAction, AuditObject};
use crate::domain::{AuditEntryId, ConnectionId};
use crate::http::list::List;
use crate::ports::audit::AuditFilter;
use crate::view::{AuditEntryView, words};
use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;

/// What the list is narrowed to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    action: String,
    actor: String,
    connection: String,
    before: String,
}

/// One entry of the list.
struct Line {
    at: Moment,
    what: String,
    subject: String,
    who: String,
    surface: String,
    changes: Vec<String>,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    page: Layout,
    lines: Vec<Line>,
    filter: Filter,
    choices: Vec<Choice>,
    filtered: bool,
    first: Option<String>,
    next: Option<String>,
}

/// `GET /audit`
pub async fn page(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Result<Response, PageError> {
    visitor.needs(Scope::Audit)?;
    let connection: Option<ConnectionId> = parse(&filter.connection, "connection")?;
    let before: Option<AuditEntryId> = parse(&filter.before, "before")?;
    let action: Option<AuditAction> = match filter.action.as_str() {
        "" => None,
        name => {
            let unknown = "The audit trail has no action of this name.";
            let action: Result<AuditAction, _> = name.parse();
            Some(action.map_err(|_| PageError::Refused(unknown.to_owned()))?)
        }
    };
    let actor = Some(filter.actor.trim()).filter(|actor| !actor.is_empty());
    if actor.is_some_and(|actor| actor.chars().any(char::is_control)) {
        let problem = "The name of an actor has no control character.";
        return Err(PageError::Refused(problem.to_owned()));
    }
    let list = List::new("/audit", "before", ROWS)
        .with("action", action)
        .with("actor", actor)
        .with("connection", connection);
    let found = visitor
        .reads(&pages)
        .audit_entries(&AuditFilter {
            binding: visitor.binding,
            action,
            object: connection.map(|_| AuditObject::Connection),
            object_id: connection.map(|id| id.0),
            actor: actor.map(str::to_owned),
            before,
            limit: list.rows(),
            ..AuditFilter::default()
        })
        .await?;
    let found = list.page(found, |last| last.id);
    let entries = found.items.into_iter().map(AuditEntryView::from);
    let now = pages.clock.now();
    let lines = entries.map(|entry| Line {
        at: Moment::of(entry.at, now),
        what: entry.words(),
        subject: entry.subject(),
        who: entry.who(),
        changes: entry.changes(),
        surface: entry.surface,
    });
    let choices = AuditAction::ALL.iter().map(|one| Choice {
        value: one.as_str(),
        words: words::audit_action(*one),
        chosen: action == Some(*one),
    });
    Ok(render(&AuditPage {
        page: Layout::of(&visitor, "audit", "Audit"),
        lines: lines.collect(),
        choices: choices.collect(),
        filtered: action.is_some() || actor.is_some() || connection.is_some(),
        first: before.map(|_| list.first()),
        next: found.next,
        filter,
    }))
}
