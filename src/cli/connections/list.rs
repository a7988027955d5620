//! `verifyd connections list`.

use crate::app::Services;
use crate::cli::args::ConnectionsListArgs;
use crate::cli::{output, render};
use crate::domain::connection_facts::ExpirySource;
use crate::domain::overview::ConnectionState;
use crate::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionSort};
use crate::view::{ConnectionView, words};
use anyhow::bail;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// Lists connections with their latest state.
pub(super) async fn list(services: &Services, args: &ConnectionsListArgs) -> anyhow::Result<()> {
    if args.after.is_some_and(|after| after.sort() != args.sort) {
        bail!(
            "--after is not where a page in the order --sort {} ended: start at the first page",
            args.sort
        );
    }
    let states = services
        .store
        .connection_states(&ConnectionFilter {
            tenant: args.tenant,
            sort: args.sort,
            after: args.after,
            limit: args.limit,
            ..ConnectionFilter::default()
        })
        .await?;
    let is_full = states.len() == args.limit as usize;
    let cursor = |state: &ConnectionState| ConnectionCursor::at(state, args.sort);
    let end = states.last().map(cursor);
    if args.json.json {
        let row = |state: ConnectionState| {
            let cursor = cursor(&state).to_string();
            let mut row = serde_json::to_value(ConnectionView::from(state))?;
            row["cursor"] = json!(cursor);
            Ok(row)
        };
        let rows: anyhow::Result<Vec<Value>> = states.into_iter().map(row).collect();
        return output::json(&rows?);
    }
    let rows: Vec<ConnectionView> = states.into_iter().map(ConnectionView::from).collect();
    if rows.is_empty() {
        output::note("No connections. How to add one: verifyd connections add --help");
        return Ok(());
    }
    let now = services.clock.now();
    let mut table = output::table([
        "Connection",
        "Name",
        "Tenant",
        "Provider",
        "Cloud",
        "Status",
        "Latest",
        "Checked",
        "Expires",
    ]);
    for connection in &rows {
        let latest = connection.latest_report.as_ref();
        table.add_row([
            connection.provider_connection_id.to_string(),
            connection.title.clone(),
            output::id_or_dash(connection.tenant_id),
            render::clean(&connection.provider),
            output::or_dash(connection.cloud.as_deref().map(render::clean)),
            connection.status.to_string(),
            output::or_dash(latest.map(|l| render::overall(&l.overall))),
            latest.map_or_else(|| "never".to_owned(), |l| words::ago(l.completed_at, now)),
            expires(
                connection.credential_expires_at,
                connection.credential_expiry_source,
            ),
        ]);
    }
    output::line(table);
    for connection in &rows {
        if let Some(problem) = &connection.problem {
            output::note(format!(
                "Connection {} cannot be used: {}",
                connection.provider_connection_id,
                render::clean(problem)
            ));
        }
    }
    if let Some(end) = end.filter(|_| is_full) {
        let sort = match args.sort {
            ConnectionSort::Id => String::new(),
            sort => format!("--sort {sort} "),
        };
        output::note(format!("More: {sort}--after {end}"));
    }
    Ok(())
}

/// The day on which a credential expires, in a word where there is none.
pub(super) fn expires(at: Option<DateTime<Utc>>, source: Option<ExpirySource>) -> String {
    at.map_or_else(|| words::expiry(at, source).to_owned(), output::day)
}
