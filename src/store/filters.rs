//! The conditions of lists, for both databases. A statement contains only the conditions that were asked for,
//! so that the planner can use an index.

use crate::domain::access::Binding;
use crate::domain::connection::ConnectionStatus;
use crate::ports::acknowledgements::AcknowledgementFilter;
use crate::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionSort};
use crate::ports::runs::RunFilter;
use crate::store::overview::anywhere;
use chrono::{DateTime, Utc};
use sqlx::{Database, Encode, QueryBuilder, Type};

/// A value that the database can be given.
pub(super) trait Bindable<D: Database>: for<'q> Encode<'q, D> + Type<D> {}
impl<D: Database, T: for<'q> Encode<'q, D> + Type<D>> Bindable<D> for T {}

/// Appends the condition and its value, if there is one.
fn push<D: Database, T: Bindable<D>>(
    query: &mut QueryBuilder<D>,
    condition: &str,
    value: Option<T>,
) {
    if let Some(value) = value {
        query.push(condition).push_bind(value);
    }
}

/// Limits a query to what is within reach. The columns are the same in all tables.
pub(super) fn push_binding<D: Database>(query: &mut QueryBuilder<D>, table: &str, binding: &Binding)
where
    i64: Bindable<D>,
{
    let workspace = binding.workspace_id.map(|id| id.0);
    push(query, &format!(" AND {table}.workspace_id = "), workspace);
    let tenant = binding.tenant_id.map(|id| id.0);
    push(query, &format!(" AND {table}.tenant_id = "), tenant);
}

/// Of `operation_runs r`, newest first. `$connection`: the id of the connection in the context.
pub(super) fn push_run_filter<D: Database>(
    query: &mut QueryBuilder<D>,
    filter: &RunFilter,
    connection: &str,
) where
    i64: Bindable<D>,
    String: Bindable<D>,
    &'static str: Bindable<D>,
{
    push_binding(query, "r", &filter.binding);
    push(query, " AND r.status = ", filter.status.map(|s| s.as_str()));
    push(
        query,
        " AND r.outcome = ",
        filter.outcome.map(|o| o.as_str()),
    );
    push(
        query,
        connection,
        filter.connection.map(|id| id.to_string()),
    );
    push(query, " AND r.tenant_id = ", filter.tenant.map(|id| id.0));
    push(query, " AND r.id < ", filter.before.map(|id| id.0));
    push(
        query,
        " ORDER BY r.id DESC LIMIT ",
        Some(i64::from(filter.limit)),
    );
}

/// Of `verification_check_acknowledgements a` and their `operation_runs r`, newest first.
pub(super) fn push_acknowledgement_filter<D: Database>(
    query: &mut QueryBuilder<D>,
    filter: &AcknowledgementFilter,
    connection: &str,
    is_active: &str,
) where
    i64: Bindable<D>,
    String: Bindable<D>,
{
    push_binding(query, "r", &filter.binding);
    push(
        query,
        " AND a.operation_run_id = ",
        filter.run.map(|id| id.0),
    );
    push(
        query,
        connection,
        filter.connection.map(|id| id.to_string()),
    );
    if filter.active_only {
        query.push(is_active);
    }
    push(query, " AND a.id < ", filter.before.map(|id| id.0));
    push(
        query,
        " ORDER BY a.id DESC LIMIT ",
        Some(i64::from(filter.limit)),
    );
}

/// The expressions for `provider_connections c` with its facts `f` and its latest report `l` that differ
/// between the databases.
pub(super) struct ConnectionSql {
    pub is_valid: &'static str,
    /// Compares names in any case.
    pub like: &'static str,
    /// When the credential expires: as a check has found it, else as it is recorded; after every date where it
    /// never does, or is unknown.
    pub expires: &'static str,
    /// The text around the date of a cursor, which may be NULL.
    pub cursor: (&'static str, &'static str),
}

pub(super) fn push_connection_filter<D: Database>(
    query: &mut QueryBuilder<D>,
    filter: &ConnectionFilter,
    sql: &ConnectionSql,
) where
    i64: Bindable<D>,
    String: Bindable<D>,
    &'static str: Bindable<D>,
    Option<DateTime<Utc>>: Bindable<D>,
{
    push(query, " AND c.tenant_id = ", filter.tenant.map(|id| id.0));
    match filter.status {
        None => {}
        Some(ConnectionStatus::Unusable) => {
            query.push(format_args!(" AND ({}) IS NOT TRUE", sql.is_valid));
        }
        Some(status) => {
            push(query, " AND c.status = ", Some(status.as_str()));
            query.push(format_args!(" AND {}", sql.is_valid));
        }
    }
    match filter.overall.as_deref() {
        Some("never") => {
            query.push(" AND l.connection_id IS NULL");
        }
        overall => push(query, " AND l.overall = ", overall.map(str::to_owned)),
    }
    if let Some(name) = &filter.name {
        let like = format!(" AND c.display_name {} ", sql.like);
        push(query, &like, Some(anywhere(name)));
        query.push(r" ESCAPE '\'");
    }
    push_page(query, filter, sql);
}

/// Appends the order and the start of the page. Credentials that never expire, or whose expiry is unknown,
/// come last.
fn push_page<D: Database>(
    query: &mut QueryBuilder<D>,
    filter: &ConnectionFilter,
    sql: &ConnectionSql,
) where
    i64: Bindable<D>,
    Option<DateTime<Utc>>: Bindable<D>,
{
    match filter.after {
        None => {}
        Some(ConnectionCursor::Id(after)) => push(query, " AND c.id > ", Some(after.0)),
        Some(ConnectionCursor::Expiry(expires_at, after)) => {
            let (begin, end) = sql.cursor;
            query.push(format_args!(" AND ({}, c.id) > ({begin}", sql.expires));
            query.push_bind(expires_at);
            push(query, &format!("{end}, "), Some(after.0));
            query.push(")");
        }
    }
    match filter.sort {
        ConnectionSort::Id => query.push(" ORDER BY c.id"),
        ConnectionSort::Expiry => query.push(format_args!(" ORDER BY {}, c.id", sql.expires)),
    };
    push(query, " LIMIT ", Some(i64::from(filter.limit)));
}
