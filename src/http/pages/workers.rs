//! `GET /workers`: replicas with their load, and what producers got wrong.

use super::Pages;
use super::error::{PageError, render};
use super::layout::Layout;
use super::session::Visitor;
use super::shown::Moment;
use crate::domain::access::Scope;
use askama::Template;
use axum::extract::State;
use axum::response::Response;
use std::sync::Arc;

struct Row {
    name: String,
    version: String,
    in_flight: u32,
    concurrency: u32,
    /// 0 to 100.
    load: u32,
    started: Moment,
    beat: Moment,
    beating: bool,
}

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersPage {
    page: Layout,
    rows: Vec<Row>,
    beating: usize,
    in_flight: u32,
    concurrency: u32,
    queued: u64,
    running: u64,
    versions: usize,
    /// What producers got wrong, so that nobody will ever work on it.
    mistakes: Vec<Mistake>,
    /// Payloads in the queue that are no hints.
    rejected: u64,
}

struct Mistake {
    place: String,
    problem: String,
}

/// Rows that are looked through for mistakes, and mistakes that are shown.
const LATEST_ROWS: u32 = 10_000;
const SHOWN: u32 = 20;

/// A queue that does not answer within this is left out.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Invalid rows of the table of runs, and payloads that were put aside.
async fn mistakes(pages: &Pages) -> Result<(Vec<Mistake>, u64), PageError> {
    let invalid = pages.store.invalid_runs(LATEST_ROWS, SHOWN).await?;
    let mut mistakes: Vec<Mistake> = invalid
        .into_iter()
        .map(|run| Mistake {
            place: format!(
                "operation_runs.{} of run {}",
                run.column, run.operation_run_id
            ),
            problem: run.problem,
        })
        .collect();
    let Some(queue) = &pages.queue else {
        return Ok((mistakes, 0));
    };
    let looked = tokio::time::timeout(PATIENCE, queue.rejected(SHOWN)).await;
    let Ok(Ok((rejected, sample))) = looked else {
        return Ok((mistakes, 0));
    };
    mistakes.extend(sample.into_iter().map(|hint| Mistake {
        place: format!("delivery {}", hint.task_id),
        problem: hint.reason,
    }));
    Ok((mistakes, rejected))
}

/// `GET /workers`
pub async fn page(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
) -> Result<Response, PageError> {
    visitor.needs(Scope::Admin)?;
    if !visitor.sees_workers() {
        return Err(PageError::NotFound);
    }
    let workers = pages.store.workers().await?;
    let counts = pages.store.counts().await?;
    let (mistakes, rejected) = mistakes(&pages).await?;
    let now = pages.clock.now();
    let rows: Vec<Row> = workers
        .into_iter()
        .map(|w| Row {
            load: (u64::from(w.in_flight) * 100 / u64::from(w.concurrency.max(1))).min(100) as u32,
            in_flight: w.in_flight,
            concurrency: w.concurrency,
            started: Moment::of(w.started_at, now),
            beat: Moment::of(w.beat_at, now),
            beating: (now - w.beat_at)
                .to_std()
                .map_or(true, |age| age <= pages.dead_after),
            name: w.worker_id,
            version: w.version,
        })
        .collect();
    let alive = || rows.iter().filter(|r| r.beating);
    let mut versions: Vec<&str> = alive().map(|r| r.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    Ok(render(&WorkersPage {
        page: Layout::of(&visitor, "workers", "Workers").live("/live"),
        beating: alive().count(),
        in_flight: alive().map(|r| r.in_flight).sum(),
        concurrency: alive().map(|r| r.concurrency).sum(),
        versions: versions.len(),
        mistakes,
        rejected,
        queued: counts.queued,
        running: counts.running,
        rows,
    }))
}
