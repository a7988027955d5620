//! The conditions of lists. A statement contains only the conditions that were asked for, so that the planner
//! can use an index.

use super::bounds::{connection_of_context, is_listable, is_valid_connection};
use super::dialect::{each, run_type};
use super::overview::anywhere;
use super::sql::{both, sql_for};
use super::statement::{Sql, Statement, Value};
use crate::domain::access::Binding;
use crate::domain::connection::ConnectionStatus;
use crate::ports::acknowledgements::AcknowledgementFilter;
use crate::ports::audit::AuditFilter;
use crate::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionSort};
use crate::ports::runs::RunFilter;

/// Appends the condition and its value, if there is one.
fn push(query: &mut Statement, condition: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        query.push_text(condition).push_bind(value);
    }
}

/// Limits a query to what is within reach. The columns are the same in all tables.
pub(super) fn push_binding(query: &mut Statement, table: &str, binding: &Binding) {
    let workspace = binding.workspace_id.map(|id| id.0);
    push(query, &format!(" AND {table}.workspace_id = "), workspace);
    let tenant = binding.tenant_id.map(|id| id.0);
    push(query, &format!(" AND {table}.tenant_id = "), tenant);
}

/// The number of rows of a page of one connection. PostgreSQL has no statistics of the connections in contexts: for a
/// page it would read all runs of one and sort them. For a number that it does not know when it plans, it reads the
/// index from the end, until the page is full.
const UNKNOWN_LIMIT: [Sql; 2] = [
    both!(" ORDER BY r.id DESC LIMIT " each!("(SELECT ", "")),
    both!(each!("::bigint)", "")),
];

/// Of `operation_runs r`, newest first. `connection`: the condition on the connection in the context.
pub(super) fn push_run_filter(query: &mut Statement, filter: &RunFilter, connection: Sql) {
    push_binding(query, "r", &filter.binding);
    push(query, " AND r.status = ", filter.status.map(|s| s.as_str()));
    push(
        query,
        " AND r.outcome = ",
        filter.outcome.map(|o| o.as_str()),
    );
    if let Some(id) = filter.connection {
        query.push(connection).push_bind(id.to_string());
    }
    push(query, " AND r.tenant_id = ", filter.tenant.map(|id| id.0));
    push(query, " AND r.id < ", filter.before.map(|id| id.0));
    if filter.connection.is_some() {
        let [before, after] = UNKNOWN_LIMIT;
        query.push(before).push_bind(filter.limit).push(after);
    } else {
        push(query, " ORDER BY r.id DESC LIMIT ", Some(filter.limit));
    }
}

/// The condition on the connection of `verification_check_acknowledgements a` and their `operation_runs r`, before and
/// after its id. PostgreSQL tests one acknowledgement after the other, until the page is full: there are fewer than
/// runs. The range of ids leads to the index that has the connection, too, so that only contexts of this one are read.
const CONNECTION: [Sql; 2] = [
    Sql {
        postgres: sql_for!(
            postgres " AND EXISTS (SELECT FROM operation_runs c
                WHERE c.id BETWEEN a.operation_run_id AND a.operation_run_id AND c.type = " run_type!()
            " AND " connection_of_context!("c.context") " = "
        ),
        sqlite: sql_for!(
            sqlite " AND " is_listable!("r.context") " AND " connection_of_context!("r.context") " = "
        ),
    },
    both!(each!(" OFFSET 0)", "")),
];

/// Of `verification_check_acknowledgements a` and their `operation_runs r`, newest first.
pub(super) fn push_acknowledgement_filter(
    query: &mut Statement,
    filter: &AcknowledgementFilter,
    is_active: Sql,
) {
    push_binding(query, "r", &filter.binding);
    push(
        query,
        " AND a.operation_run_id = ",
        filter.run.map(|id| id.0),
    );
    if let Some(id) = filter.connection {
        let [before, after] = CONNECTION;
        query.push(before).push_bind(id.to_string()).push(after);
    }
    if filter.active_only {
        query.push(is_active);
    }
    push(query, " AND a.id < ", filter.before.map(|id| id.0));
    push(query, " ORDER BY a.id DESC LIMIT ", Some(filter.limit));
}

/// Of `audit_entries a`, newest first.
pub(super) fn push_audit_filter(query: &mut Statement, filter: &AuditFilter) {
    push_binding(query, "a", &filter.binding);
    push(
        query,
        " AND a.action = ",
        filter.action.map(|action| action.as_str()),
    );
    push(
        query,
        " AND a.object = ",
        filter.object.map(|object| object.as_str()),
    );
    push(query, " AND a.object_id = ", filter.object_id);
    push(query, " AND a.token_id = ", filter.token.map(|id| id.0));
    push(query, " AND a.actor = ", filter.actor.as_deref());
    push(query, " AND a.at >= ", filter.since);
    push(query, " AND a.at <= ", filter.until);
    push(query, " AND a.id < ", filter.before.map(|id| id.0));
    push(query, " ORDER BY a.id DESC LIMIT ", Some(filter.limit));
}

/// Searches names in any case. PostgreSQL searches no text whose collation is not deterministic, which the one of a database
/// always is.
const NAME_LIKE: Sql = both!(
    " AND c.display_name" each!("::text COLLATE \"default\" ILIKE ", " LIKE ")
);

const IS_VALID: Sql = both!(" AND " is_valid_connection!());

const IS_UNUSABLE: Sql = both!(" AND (" is_valid_connection!() ") IS NOT TRUE");

/// Of `provider_connections c` and their latest reports `l`. `expiry_key`: what the column of this name is computed by.
pub(super) fn push_connection_filter(
    query: &mut Statement,
    filter: &ConnectionFilter,
    expiry_key: Sql,
) {
    push(query, " AND c.tenant_id = ", filter.tenant.map(|id| id.0));
    match filter.status {
        None => {}
        Some(ConnectionStatus::Unusable) => {
            query.push(IS_UNUSABLE);
        }
        Some(status) => {
            push(query, " AND c.status = ", Some(status.as_str()));
            query.push(IS_VALID);
        }
    }
    match filter.overall.as_deref() {
        Some("never") => {
            query.push_text(" AND l.connection_id IS NULL");
        }
        overall => push(query, " AND l.overall = ", overall),
    }
    if let Some(name) = &filter.name {
        query.push(NAME_LIKE).push_bind(anywhere(name));
        query.push_text(r" ESCAPE '\'");
    }
    push_page(query, filter, expiry_key);
}

/// Appends the order and the start of the page.
fn push_page(query: &mut Statement, filter: &ConnectionFilter, expiry_key: Sql) {
    match filter.after {
        None => {}
        Some(ConnectionCursor::Id(after)) => push(query, " AND c.id > ", Some(after.0)),
        Some(ConnectionCursor::Expiry(key, after)) => {
            query.push_text(" AND (").push(expiry_key);
            query.push_text(", c.id) > (").push_bind(key.0);
            query.push_text(", ").push_bind(after.0).push_text(")");
        }
    }
    query.push_text(match filter.sort {
        ConnectionSort::Id => " ORDER BY c.id",
        ConnectionSort::Expiry => " ORDER BY expiry_key, c.id",
    });
    push(query, " LIMIT ", Some(filter.limit));
}
