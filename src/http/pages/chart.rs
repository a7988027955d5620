//! The picture of outcomes over time: bars of an SVG, computed here, drawn by the template.

use crate::domain::overview::History;
use chrono::{DateTime, Utc};

pub const WIDTH: u32 = 400;
pub const HEIGHT: u32 = 168;
/// Where the bars stand on, and how high they may get.
const BASE: f64 = 140.0;
const TALL: f64 = 124.0;
const LEFT: f64 = 28.0;

#[derive(Clone, Debug)]
pub struct Part {
    pub class: &'static str,
    pub y: String,
    pub height: String,
}

#[derive(Clone, Debug)]
pub struct Bar {
    pub x: String,
    pub width: String,
    pub parts: Vec<Part>,
    /// `14:00 to 15:00`
    pub label: String,
    pub succeeded: u64,
    pub failed: u64,
    pub blocked: u64,
}

#[derive(Clone, Debug)]
pub struct Mark {
    pub at: String,
    pub label: String,
}

/// What the template draws.
#[derive(Clone, Debug)]
pub struct Chart {
    pub bars: Vec<Bar>,
    /// Lines at round numbers of runs.
    pub lines: Vec<Mark>,
    /// Times below the bars.
    pub times: Vec<Mark>,
    pub succeeded: u64,
    pub failed: u64,
    pub blocked: u64,
    /// In place of the picture, for whoever cannot see it.
    pub description: String,
}

impl Chart {
    /// `words` names the period.
    pub fn of(history: &History, until: DateTime<Utc>, words: &str) -> Self {
        let slices = &history.slices;
        let total = |s: &crate::domain::overview::HistorySlice| s.succeeded + s.failed + s.blocked;
        let most = slices.iter().map(total).max().unwrap_or(0);
        let top = round_up(most);
        let count = slices.len().max(1) as f64;
        let step = (f64::from(WIDTH) - LEFT) / count;
        let scale = TALL / top as f64;
        let long = slices
            .first()
            .is_some_and(|first| until - first.from > chrono::TimeDelta::hours(25));
        let time = |at: DateTime<Utc>| at.format(if long { "%d %b %H:%M" } else { "%H:%M" });
        let mut bars = Vec::with_capacity(slices.len());
        for (i, slice) in slices.iter().enumerate() {
            let mut y = BASE;
            let mut parts = Vec::new();
            for (class, n) in [
                ("succeeded", slice.succeeded),
                ("blocked", slice.blocked),
                ("failed", slice.failed),
            ] {
                if n > 0 {
                    // One run among thousands still shows.
                    let height = (n as f64 * scale).max(2.0);
                    y -= height;
                    parts.push(Part {
                        class,
                        y: number(y),
                        height: number(height),
                    });
                }
            }
            let to = slices.get(i + 1).map_or(until, |next| next.from);
            bars.push(Bar {
                x: number(LEFT + step * i as f64 + step * 0.12),
                width: number(step * 0.76),
                parts,
                label: format!("{} to {}", time(slice.from), time(to)),
                succeeded: slice.succeeded,
                failed: slice.failed,
                blocked: slice.blocked,
            });
        }
        let lines = [0, top / 2, top]
            .into_iter()
            .filter(|n| *n == 0 || *n * 2 == top || *n == top)
            .map(|n| Mark {
                at: number(BASE - n as f64 * scale),
                label: n.to_string(),
            })
            .collect();
        let times = slices
            .iter()
            .enumerate()
            .filter(|(i, _)| i % (slices.len() / 3).max(1) == 0)
            .map(|(i, slice)| Mark {
                at: number(LEFT + step * i as f64),
                label: time(slice.from).to_string(),
            })
            .collect();
        let sum =
            |of: fn(&crate::domain::overview::HistorySlice) -> u64| slices.iter().map(of).sum();
        let (succeeded, failed, blocked) =
            (sum(|s| s.succeeded), sum(|s| s.failed), sum(|s| s.blocked));
        Self {
            bars,
            lines,
            times,
            succeeded,
            failed,
            blocked,
            description: format!(
                "Runs completed in {words}: {succeeded} succeeded, {failed} failed, {blocked} \
                 blocked; at most {most} in one bar."
            ),
        }
    }
}

/// The next number that is 2, 4, 6, 10, 20, 40, 60, 100, ...
fn round_up(n: u64) -> u64 {
    let mut unit = 1;
    loop {
        for step in [2, 4, 6, 10] {
            if n <= step * unit {
                return step * unit;
            }
        }
        unit *= 10;
    }
}

fn number(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::overview::{CompletedRun, History};
    use crate::domain::run::Outcome;
    use std::time::Duration;

    #[test]
    fn the_scale_is_round_and_never_too_small() {
        for (n, top) in [
            (0, 2),
            (1, 2),
            (3, 4),
            (5, 6),
            (7, 10),
            (11, 20),
            (61, 100),
            (101, 200),
        ] {
            assert_eq!(round_up(n), top);
        }
    }

    #[test]
    fn bars_stand_on_the_base_and_within_the_picture() {
        let now: DateTime<Utc> = "2026-01-02T12:00:00Z".parse().unwrap();
        let runs: Vec<CompletedRun> = (0..50)
            .map(|i| CompletedRun {
                outcome: [Outcome::Succeeded, Outcome::Failed, Outcome::Blocked][i % 3],
                created_at: None,
                completed_at: now - Duration::from_secs(i as u64 * 1_000),
            })
            .collect();
        let day = Duration::from_secs(86_400);
        let chart = Chart::of(&History::of(&runs, now, day, 24, false), now, "a day");
        assert_eq!(chart.bars.len(), 24);
        assert_eq!((chart.succeeded, chart.failed, chart.blocked), (17, 17, 16));
        for bar in &chart.bars {
            let right = bar.x.parse::<f64>().unwrap() + bar.width.parse::<f64>().unwrap();
            assert!(right <= f64::from(WIDTH));
            for part in &bar.parts {
                let y: f64 = part.y.parse().unwrap();
                assert!((0.0..=BASE).contains(&y));
            }
        }
        assert!(chart.description.contains("17 succeeded"));
        assert!(!chart.lines.is_empty() && !chart.times.is_empty());
    }

    #[test]
    fn without_runs_there_is_an_empty_picture() {
        let now = DateTime::UNIX_EPOCH + Duration::from_secs(86_400);
        let history = History::of(&[], now, Duration::from_secs(86_400), 24, false);
        let chart = Chart::of(&history, now, "a day");
        assert!(chart.bars.iter().all(|bar| bar.parts.is_empty()));
    }
}
