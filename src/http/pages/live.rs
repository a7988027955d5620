//! Live pages: the server sends an event after a change, and the page reloads.

use super::Pages;
use super::error::{PageError, id};
use super::input::Path;
use super::session::Visitor;
use super::streams::StreamSlot;
use crate::domain::access::Binding;
use crate::domain::attempt::AttemptRecord;
use crate::domain::run::RunState;
use crate::domain::{RunId, RunStatus};
use crate::http::panics;
use crate::ports::store::StoreError;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Lifetime of a stream, after which the browser opens another one: so an ended session, and a browser that
/// disappeared, hold none for longer.
const LIFETIME: Duration = Duration::from_secs(300);

/// Runs that are read for something new in a list.
const LATEST: u32 = 20;

/// What a stream watches.
#[derive(Clone, Copy, Debug)]
enum Watched {
    Run(RunId),
    Lists,
}

/// The state that was last seen, and whether it can still change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    mark: String,
    over: bool,
}

struct Watch {
    pages: Arc<Pages>,
    visitor: Visitor,
    watched: Watched,
    seen: Option<Seen>,
    until: Instant,
    done: bool,
    _slot: StreamSlot,
}

type Events = Sse<
    axum::response::sse::KeepAliveStream<stream::BoxStream<'static, Result<Event, Infallible>>>,
>;

/// `GET /live/runs/{id}`
pub async fn run(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    path: Path<String>,
) -> Result<Events, PageError> {
    let id: RunId = id(&path)?;
    let run = state(&pages, id, &visitor.binding).await?;
    run.ok_or(PageError::NotFound)?;
    open(pages, visitor, Watched::Run(id))
}

/// `GET /live`: something changed in any of the lists.
pub async fn lists(State(pages): State<Arc<Pages>>, visitor: Visitor) -> Result<Events, PageError> {
    open(pages, visitor, Watched::Lists)
}

fn open(pages: Arc<Pages>, visitor: Visitor, watched: Watched) -> Result<Events, PageError> {
    let slot = pages.streams.take(&visitor);
    let slot = slot.ok_or(PageError::TooManyStreams)?;
    let keep_alive = pages.settings.live.keep_alive;
    let stopping = pages.stopping.clone();
    let watch = Watch {
        pages,
        visitor,
        watched,
        seen: None,
        until: Instant::now() + LIFETIME,
        done: false,
        _slot: slot,
    };
    let events = stream::unfold(watch, |mut watch| async move {
        // A panic ends the stream, not its connection.
        let event = AssertUnwindSafe(watch.next()).catch_unwind().await;
        let event = event.unwrap_or_else(|_| {
            panics::count();
            None
        })?;
        Some((Ok(event), watch))
    })
    .take_until(stopping.cancelled_owned())
    .boxed();
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive)))
}

impl Watch {
    /// The next event. None: the stream ends.
    async fn next(&mut self) -> Option<Event> {
        while !self.done {
            if Instant::now() >= self.until {
                return None;
            }
            // A failed read is repeated after the pause.
            if let Ok(now) = self.read().await {
                let first = self.seen.is_none();
                if now.over {
                    self.done = true;
                    self.seen = Some(now);
                    return Some(Event::default().event("last").data("1"));
                }
                if self.seen.as_ref() != Some(&now) {
                    let mark = now.mark.clone();
                    self.seen = Some(now);
                    // The page knows by the mark whether it shows this state already.
                    let name = if first { "now" } else { "changed" };
                    return Some(Event::default().event(name).data(mark));
                }
            }
            tokio::time::sleep(self.pages.settings.live.poll_interval).await;
        }
        None
    }

    async fn read(&self) -> Result<Seen, StoreError> {
        let store = &self.pages.store;
        // A session that was logged out, or whose token was revoked, gets no further events.
        if store
            .session_by_hash(&self.visitor.session)
            .await?
            .is_none()
        {
            return Ok(Seen {
                mark: String::new(),
                over: true,
            });
        }
        match self.watched {
            Watched::Run(id) => run_mark(&self.pages, id, &self.visitor.binding).await,
            Watched::Lists => lists_mark(&self.pages, &self.visitor.binding).await,
        }
    }
}

/// The run, if it is within reach. Its id may be given to another one while a stream watches it.
async fn state(
    pages: &Pages,
    id: RunId,
    binding: &Binding,
) -> Result<Option<RunState>, StoreError> {
    let run = pages.store.run_state(id).await?;
    Ok(run.filter(|run| binding.admits(run.workspace_id, run.tenant_id)))
}

async fn run_mark(pages: &Pages, id: RunId, binding: &Binding) -> Result<Seen, StoreError> {
    let Some(run) = state(pages, id, binding).await? else {
        return Ok(Seen {
            mark: "gone".into(),
            over: true,
        });
    };
    let attempts = pages.store.attempts(id).await?;
    Ok(Seen {
        mark: mark(run.status, &attempts),
        over: run.status == RunStatus::Completed,
    })
}

/// Returns the mark of a run's progress.
pub fn mark(status: RunStatus, attempts: &[AttemptRecord]) -> String {
    let open = attempts.iter().filter(|a| a.ended_at.is_none()).count();
    let refused = attempts
        .iter()
        .flat_map(|a| [&a.result_refusal, &a.requeue_refusal]);
    let refused = refused.filter(|refusal| refusal.is_some()).count();
    format!("{status}-{}-{open}-{refused}", attempts.len())
}

async fn lists_mark(pages: &Pages, binding: &Binding) -> Result<Seen, StoreError> {
    let runs = pages.store.run_states(binding, LATEST).await?;
    let marks: Vec<String> = runs
        .iter()
        .map(|run| format!("{}{}", run.id, &run.status.as_str()[..1]))
        .collect();
    Ok(Seen {
        mark: marks.join("."),
        over: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    #[test]
    fn what_is_refused_of_an_attempt_changes_the_mark() {
        let mut attempt = AttemptRecord {
            attempt: 1,
            worker_id: "w1".into(),
            counted: true,
            claimed_at: DateTime::UNIX_EPOCH,
            ended_at: None,
            end_reason: None,
            result_refusal: None,
            requeue_refusal: None,
        };
        let mark =
            |attempt: &AttemptRecord| mark(RunStatus::Running, std::slice::from_ref(attempt));
        let before = mark(&attempt);
        attempt.result_refusal = Some("SQLSTATE P0001".into());
        let refused = mark(&attempt);
        attempt.requeue_refusal = Some("SQLSTATE P0001".into());
        let stuck = mark(&attempt);
        assert!(
            before != refused && refused != stuck,
            "{before} {refused} {stuck}"
        );
    }
}
