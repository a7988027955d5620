//! `verifyd connections list`.

use crate::app::Services;
use crate::cli::args::ConnectionsListArgs;
use crate::cli::{output, render};
use crate::domain::overview::KnownFacts;
use crate::ports::overview::{ConnectionCursor, ConnectionFilter, ConnectionSort};
use anyhow::bail;
use serde_json::json;

/// Lists connections with their latest state.
pub(super) async fn list(services: &Services, args: &ConnectionsListArgs) -> anyhow::Result<()> {
    if args.after.is_some_and(|after| after.sort() != args.sort) {
        bail!(
            "--after is not where a page in the order --sort {} ended: start at the first page",
            args.sort
        );
    }
    let rows = services
        .store
        .connection_states(&ConnectionFilter {
            tenant: args.tenant,
            sort: args.sort,
            after: args.after,
            limit: args.limit,
            ..ConnectionFilter::default()
        })
        .await?;
    if args.json.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|state| {
                let mut row = json!({
                    "connection": state.connection,
                    "latest": state.latest_report,
                    "facts": state.facts,
                    "cursor": ConnectionCursor::at(state, args.sort).to_string(),
                });
                if let Some(problem) = &state.problem {
                    row["problem"] = json!(problem);
                }
                row
            })
            .collect();
        return output::json(&rows);
    }
    if rows.is_empty() {
        output::note("No connections. Add one with: verifyd connections add");
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
    for state in &rows {
        let (connection, latest) = (&state.connection, &state.latest_report);
        table.add_row([
            connection.id.to_string(),
            state.name().unwrap_or_else(|| "–".to_owned()),
            connection.tenant_id.to_string(),
            render::clean(&connection.provider),
            render::clean(connection.cloud.as_deref().unwrap_or("–")),
            connection.status.to_string(),
            latest
                .as_ref()
                .map_or_else(|| "–".to_owned(), |l| render::overall(&l.overall)),
            latest.as_ref().map_or_else(
                || "never".to_owned(),
                |l| format!("{} ago", output::age(now, l.completed_at)),
            ),
            expires(&state.facts),
        ]);
    }
    output::line(table);
    for state in &rows {
        if let Some(problem) = &state.problem {
            output::note(format!(
                "Connection {} cannot be used: {}",
                state.connection.id,
                render::clean(problem)
            ));
        }
    }
    if rows.len() == args.limit as usize
        && let Some(last) = rows.last()
    {
        let sort = match args.sort {
            ConnectionSort::Id => String::new(),
            sort => format!("--sort {sort} "),
        };
        let end = ConnectionCursor::at(last, args.sort);
        output::note(format!("More: {sort}--after {end}"));
    }
    Ok(())
}

/// The day on which a credential expires, in a word where there is none.
pub(super) fn expires(facts: &KnownFacts) -> String {
    match (facts.credential_expires_at, facts.credential_expiry_source) {
        (Some(at), _) => at.format("%Y-%m-%d").to_string(),
        (None, Some(_)) => "never".to_owned(),
        (None, None) => "unknown".to_owned(),
    }
}
