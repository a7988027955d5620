//! `GET /workers`: replicas with their load, applications that Microsoft throttles, webhooks that wait, and what producers
//! got wrong.

use super::Pages;
use super::error::{PageError, render};
use super::format::Moment;
use super::layout::Layout;
use super::session::Visitor;
use crate::domain::access::Scope;
use crate::domain::{EndpointId, WorkspaceId};
use crate::engine::reconciler::invalid_runs::{COUNTED, LATEST_ROWS};
use crate::operations::list_workers;
use crate::ports::runs::RunCounts;
use crate::ports::workers::alive_in_group;
use crate::view::words::{counted, span};
use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use std::sync::Arc;

struct Row {
    name: String,
    version: String,
    in_flight: u32,
    concurrency: u32,
    /// 0 to 100.
    load: u32,
    started: Moment,
    last_heartbeat: Moment,
    is_alive: bool,
}

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersPage {
    page: Layout,
    rows: Vec<Row>,
    alive: usize,
    in_flight: u32,
    concurrency: u32,
    runs: RunCounts,
    versions: usize,
    /// Groups without a worker that is alive.
    unserved: Vec<String>,
    budgets: Vec<LimitedApplication>,
    /// Limited applications that are not among `budgets`.
    more_budgets: usize,
    webhooks: Webhooks,
    mistakes: Vec<Mistake>,
    /// The invalid runs that are not among `mistakes`, in words.
    more: Option<String>,
    dead_letters: Vec<Mistake>,
    /// Payloads in the queue that are no hints.
    rejected: u64,
}

/// An application that Microsoft throttles across its directories.
struct LimitedApplication {
    client_id: String,
    cloud: String,
    rate: String,
    throttled: Moment,
}

async fn budgets(
    pages: &Pages,
    now: DateTime<Utc>,
) -> Result<(Vec<LimitedApplication>, usize), PageError> {
    let budgets = pages.store.budgets().await?;
    let more = budgets.len().saturating_sub(SHOWN as usize);
    let shown = budgets.into_iter().take(SHOWN as usize);
    let shown = shown.map(|budget| LimitedApplication {
        client_id: budget.key.client_id.to_string(),
        cloud: budget.key.cloud,
        rate: counted(budget.per_minute.into(), "request"),
        throttled: Moment::of(budget.decreased_at, now),
    });
    Ok((shown.collect(), more))
}

/// What waits for webhooks.
struct Webhooks {
    pending: u64,
    given_up: u64,
    oldest: Option<String>,
    failing: Vec<FailingEndpoint>,
    more: usize,
}

/// An endpoint whose circuit is not closed. Its address may hold a secret, so it is not shown.
struct FailingEndpoint {
    id: EndpointId,
    workspace: WorkspaceId,
    failures: String,
    opened: Moment,
    probe: Moment,
    is_due: bool,
    is_pending: bool,
}

impl Webhooks {
    fn is_quiet(&self) -> bool {
        self.pending == 0 && self.given_up == 0 && self.failing.is_empty()
    }
}

async fn webhooks(pages: &Pages, now: DateTime<Utc>) -> Result<Webhooks, PageError> {
    let counts = pages.store.delivery_counts().await?;
    let mut failing = Vec::new();
    if counts.open_circuits > 0 {
        for endpoint in pages.store.endpoints(None).await? {
            if let (true, Some(opened), Some(probe)) = (
                endpoint.enabled,
                endpoint.circuit_opened_at,
                endpoint.circuit_probe_at,
            ) {
                failing.push(FailingEndpoint {
                    id: endpoint.id,
                    workspace: endpoint.workspace_id,
                    failures: counted(endpoint.failures.into(), "failure"),
                    opened: Moment::of(opened, now),
                    probe: Moment::of(probe, now),
                    is_due: probe <= now,
                    is_pending: endpoint.oldest_pending_since.is_some(),
                });
            }
        }
    }
    let more = failing.len().saturating_sub(SHOWN as usize);
    failing.truncate(SHOWN as usize);
    #[expect(clippy::cast_possible_truncation, reason = "it is rounded to be shown")]
    let oldest = counts
        .oldest_pending_seconds
        .map(|seconds| span((seconds * 1_000.0) as i64));
    Ok(Webhooks {
        pending: counts.pending,
        given_up: counts.failed,
        oldest,
        failing,
        more,
    })
}

/// What a producer got wrong.
struct Mistake {
    place: String,
    problem: String,
}

/// Applications, endpoints, invalid runs and dead letters that are shown, of each.
const SHOWN: u32 = 20;

/// A queue that does not answer within this is left out.
const QUEUE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// The newest invalid runs, and how many more there are.
async fn invalid_runs(pages: &Pages) -> Result<(Vec<Mistake>, Option<String>), PageError> {
    let invalid = pages.store.invalid_runs(LATEST_ROWS, COUNTED).await?;
    let more = more(invalid.len());
    let shown = invalid.into_iter().take(SHOWN as usize);
    let mistakes = shown.map(|run| Mistake {
        place: format!(
            "operation_runs.{} of run {}",
            run.column, run.operation_run_id
        ),
        problem: run.problem,
    });
    Ok((mistakes.collect(), more))
}

/// The runs beyond those that are shown. No more than `COUNTED` are looked for.
fn more(found: usize) -> Option<String> {
    let more = found.checked_sub(SHOWN as usize).filter(|more| *more > 0)?;
    let words = counted(more as u64, "more run");
    Some(if found < COUNTED as usize {
        words
    } else {
        format!("at least {words}")
    })
}

/// How many payloads in the queue are no hints, and the latest of them.
async fn dead_letters(pages: &Pages) -> (u64, Vec<Mistake>) {
    let Some(queue) = &pages.queue else {
        return (0, Vec::new());
    };
    let looked = tokio::time::timeout(QUEUE_TIMEOUT, queue.dead_letters(SHOWN)).await;
    let Ok(Ok((rejected, sample))) = looked else {
        return (0, Vec::new());
    };
    let letters = sample.into_iter().map(|hint| Mistake {
        place: format!("dead letter {}", hint.task_id),
        problem: hint.reason,
    });
    (rejected, letters.collect())
}

/// `GET /workers`
pub async fn page(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
) -> Result<Response, PageError> {
    visitor.needs(Scope::Admin)?;
    let workers = list_workers(&*pages.store, &visitor.binding).await?;
    let counts = pages.store.counts().await?;
    let (mistakes, more) = invalid_runs(&pages).await?;
    let (rejected, dead_letters) = dead_letters(&pages).await;
    let now = pages.clock.now();
    let webhooks = webhooks(&pages, now).await?;
    let (budgets, more_budgets) = budgets(&pages, now).await?;
    let groups = pages.groups.names().filter(|_| !pages.groups.is_empty());
    let unserved =
        groups.filter(|group| alive_in_group(&workers, group, now, pages.dead_after) == 0);
    let unserved: Vec<String> = unserved.map(ToOwned::to_owned).collect();
    let rows: Vec<Row> = workers
        .into_iter()
        .map(|w| Row {
            load: (u64::from(w.in_flight) * 100 / u64::from(w.concurrency.max(1))).min(100) as u32,
            in_flight: w.in_flight,
            concurrency: w.concurrency,
            started: Moment::of(w.started_at, now),
            last_heartbeat: Moment::of(w.last_heartbeat_at, now),
            is_alive: w.is_alive(now, pages.dead_after),
            name: w.worker_id,
            version: w.version,
        })
        .collect();
    let alive = || rows.iter().filter(|r| r.is_alive);
    let mut versions: Vec<&str> = alive().map(|r| r.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    Ok(render(&WorkersPage {
        page: Layout::of(&visitor, "workers", "Workers").live("/live"),
        alive: alive().count(),
        in_flight: alive().map(|r| r.in_flight).sum(),
        concurrency: alive().map(|r| r.concurrency).sum(),
        versions: versions.len(),
        unserved,
        budgets,
        more_budgets,
        webhooks,
        mistakes,
        more,
        dead_letters,
        rejected,
        runs: counts,
        rows,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_are_not_shown_are_counted_up_to_a_bound() {
        let words = [20, 21, 999, 1_000].map(more);
        let wanted = [
            None,
            Some("1 more run"),
            Some("979 more runs"),
            Some("at least 980 more runs"),
        ];
        assert_eq!(words.each_ref().map(Option::as_deref), wanted);
    }
}
