//! `GET /`: what needs a person now, and how recent runs ended.

use super::Pages;
use super::chart::{self, Chart};
use super::error::{PageError, render};
use super::format::{Link as _, Moment};
use super::input::Query;
use super::layout::Layout;
use super::session::Visitor;
use crate::domain::RunId;
use crate::domain::access::Binding;
use crate::domain::connection::ConnectionStatus;
use crate::domain::overview::{ConnectionCounts, ConnectionState, History};
use crate::ports::overview::{ConnectionFilter, ConnectionSort};
use crate::ports::runs::RunCounts;
use crate::ports::store::StoreError;
use crate::view::connection::Standing;
use crate::view::overview::{AttentionView, headline};
use crate::view::words::span;
use crate::view::{ConnectionView, RunView};
use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Connections with problems that are shown, of each state; a link leads to the others.
const MAX_SHOWN: u32 = 12;

/// Periods to look back on: value in the address, words, length.
const HOUR: Period = Period("1h", "the last hour", Duration::from_secs(3_600));
const DAY: Period = Period("24h", "the last 24 hours", Duration::from_secs(24 * 3_600));
const WEEK: Period = Period("7d", "the last 7 days", Duration::from_secs(7 * 24 * 3_600));
const SLICES: u32 = 24;
/// Largest number of runs that the picture is made of.
const MAX_RUNS: u32 = 5_000;
/// A run that waits longer than this is worth a remark.
const LONG_WAIT_SECONDS: f64 = 60.0;

#[derive(Clone, Copy)]
struct Period(&'static str, &'static str, Duration);

#[derive(Debug, Default, Deserialize)]
pub struct OverviewQuery {
    #[serde(default)]
    period: String,
}

/// One connection that is not as it should be.
struct Card {
    view: AttentionView,
    checked: Option<Moment>,
}

/// A number with its name, for the list of states.
struct Count {
    words: &'static str,
    class: &'static str,
    number: u64,
    address: String,
}

/// Something about verifyd itself.
struct Remark {
    bad: bool,
    text: String,
    link: Option<(String, &'static str)>,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    page: Layout,
    headline: String,
    tone: &'static str,
    remarks: Vec<Remark>,
    broken: Vec<Card>,
    accepted: Vec<Card>,
    /// How many more there are than are shown.
    more_blocked: u64,
    more_attention: u64,
    counts: Vec<Count>,
    empty: bool,
    chart: Chart,
    width: u32,
    height: u32,
    completed: u64,
    truncated: bool,
    period: &'static str,
    periods: [(&'static str, &'static str, bool); 3],
    latency: Option<[String; 3]>,
    active: RunCounts,
}

/// `GET /`
pub async fn page(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    Query(query): Query<OverviewQuery>,
) -> Result<Response, PageError> {
    let store = visitor.reads(&pages);
    let binding = visitor.binding;
    let counts = store.connection_counts(&binding).await?;
    let blocked = broken(&pages, &visitor, Standing::Blocked).await?;
    let attention = broken(&pages, &visitor, Standing::NeedsAttention).await?;
    let more_blocked = counts.blocked.saturating_sub(blocked.len() as u64);
    let more_attention = counts
        .needs_attention
        .saturating_sub(attention.len() as u64);
    let mut cards = Vec::new();
    for state in blocked.into_iter().chain(attention) {
        cards.push(card(&pages, &visitor, state.into()).await?);
    }
    let (accepted, broken): (Vec<Card>, Vec<Card>) =
        cards.into_iter().partition(|card| card.view.acknowledged);
    let (period, history) = history(&pages, &visitor, &query.period).await?;
    let now = pages.clock.now();
    let (remarks, active) = remarks(&pages, &visitor).await?;
    let tone = match () {
        () if broken
            .iter()
            .any(|c| c.view.connection.standing == Standing::Blocked) =>
        {
            "bad"
        }
        () if !broken.is_empty() || more_blocked + more_attention > 0 => "attention",
        () if !accepted.is_empty() => "neutral",
        () if counts.ready > 0 => "good",
        () => "neutral",
    };
    Ok(render(&OverviewPage {
        page: Layout::of(&visitor, "overview", "Overview").live("/live"),
        headline: headline(&counts),
        tone,
        remarks,
        broken,
        accepted,
        more_blocked,
        more_attention,
        counts: numbers(&counts),
        empty: counts.total == 0,
        chart: Chart::of(&history, now, period.1),
        width: chart::WIDTH,
        height: chart::HEIGHT,
        completed: history.runs,
        truncated: history.truncated,
        period: period.1,
        periods: [HOUR, DAY, WEEK].map(|p| (p.0, p.1, p.0 == period.0)),
        latency: history
            .latency_ms
            .map(|l| l.map(|ms| span(ms.round() as i64))),
        active,
    }))
}

/// Of the period that was asked for. Else of a day, or of an hour where all of it lies in that.
async fn history(
    pages: &Pages,
    visitor: &Visitor,
    asked: &str,
) -> Result<(Period, History), StoreError> {
    let read = async |period: Period| {
        visitor
            .reads(pages)
            .history(&visitor.binding, period.2, SLICES, MAX_RUNS)
            .await
    };
    if let Some(period) = [HOUR, DAY, WEEK].into_iter().find(|p| p.0 == asked) {
        return Ok((period, read(period).await?));
    }
    let day = read(DAY).await?;
    let earlier = day.slices.iter().rev().skip(1);
    let nothing_earlier = earlier
        .map(|s| s.succeeded + s.failed + s.blocked)
        .sum::<u64>()
        == 0;
    if day.runs > 0 && nothing_earlier {
        return Ok((HOUR, read(HOUR).await?));
    }
    Ok((DAY, day))
}

async fn broken(
    pages: &Pages,
    visitor: &Visitor,
    standing: Standing,
) -> Result<Vec<ConnectionState>, StoreError> {
    visitor
        .reads(pages)
        .connection_states(&ConnectionFilter {
            binding: visitor.binding,
            status: Some(ConnectionStatus::Enabled),
            overall: Some(standing.as_str().to_owned()),
            // Whose credential ends first is the most urgent.
            sort: ConnectionSort::Expiry,
            limit: MAX_SHOWN,
            ..ConnectionFilter::default()
        })
        .await
}

async fn card(
    pages: &Pages,
    visitor: &Visitor,
    connection: ConnectionView,
) -> Result<Card, StoreError> {
    let (store, now) = (visitor.reads(pages), pages.clock.now());
    let latest = connection.latest_report.as_ref();
    let checked = Moment::maybe(latest.map(|latest| latest.completed_at), now);
    let run = match latest.map(|latest| RunId(latest.operation_run_id)) {
        Some(id) => {
            let said = store.acknowledgements_of(id).await?;
            let run = store.run(id).await?;
            run.map(|run| RunView::of(&run, &said, now))
        }
        None => None,
    };
    let view = AttentionView::of(connection, run.as_ref());
    Ok(Card { checked, view })
}

fn numbers(counts: &ConnectionCounts) -> Vec<Count> {
    [
        (Standing::Blocked, counts.blocked),
        (Standing::NeedsAttention, counts.needs_attention),
        (Standing::Ready, counts.ready),
        (Standing::Never, counts.never_checked),
        (Standing::Disabled, counts.disabled),
        (Standing::Unusable, counts.unusable),
    ]
    .into_iter()
    .filter(|(standing, number)| *standing != Standing::Unusable || *number > 0)
    .map(|(standing, number)| Count {
        words: standing.words(),
        class: standing.as_str(),
        number,
        address: format!("/connections?state={}", standing.as_str()),
    })
    .collect()
}

/// What is to be said of verifyd itself, and its runs.
async fn remarks(pages: &Pages, visitor: &Visitor) -> Result<(Vec<Remark>, RunCounts), StoreError> {
    let now = pages.clock.now();
    // A lag would make workers look dead.
    let workers = pages.store.workers().await?;
    let alive = workers
        .iter()
        .filter(|worker| worker.is_alive(now, pages.dead_after))
        .count();
    let dead = workers.len() - alive;
    let mut remarks = Vec::new();
    let to_workers = || {
        visitor
            .sees_workers()
            .then(|| ("/workers".to_owned(), "Workers"))
    };
    if alive == 0 {
        remarks.push(Remark {
            bad: true,
            text: "No worker is alive: checks wait until one is started.".to_owned(),
            link: to_workers(),
        });
    } else if dead > 0 && visitor.sees_workers() {
        remarks.push(Remark {
            bad: false,
            text: match dead {
                1 => "One worker stopped sending heartbeats without shutting down.".to_owned(),
                n => format!("{n} workers stopped sending heartbeats without shutting down."),
            },
            link: to_workers(),
        });
    }
    let store = visitor.reads(pages);
    let waiting = store.longest_waiting(&visitor.binding, 1).await?;
    if let Some(run) = waiting
        .first()
        .filter(|run| run.waiting_seconds > LONG_WAIT_SECONDS)
    {
        remarks.push(Remark {
            bad: false,
            text: format!(
                "A run has been waiting for a worker for {}.",
                span((run.waiting_seconds * 1_000.0) as i64)
            ),
            link: Some((
                format!("/runs/{}", run.operation_run_id),
                "The run that waits",
            )),
        });
    }
    // Of everybody: only who reaches everything may see it.
    let active = if visitor.binding == Binding::EVERYTHING {
        store.counts().await?
    } else {
        RunCounts::default()
    };
    Ok((remarks, active))
}
