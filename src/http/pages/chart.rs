//! The chart of outcomes over time: bars of an SVG, computed here and drawn by the template.

use crate::domain::overview::{History, HistorySlice};
use chrono::{DateTime, Utc};

pub const WIDTH: u32 = 400;
pub const HEIGHT: u32 = 168;
/// Vertical position of the bars' base, and their largest height.
const BASE: f64 = 140.0;
const TALL: f64 = 124.0;
/// Between the labels of the lines and the bars.
const GAP: f64 = 6.0;
/// Room for the widest label: three digits, unless there is a longer one.
const LABEL_WIDTH: f64 = 22.0;
/// Widest digit of any font, in the picture's units: 0.65 em of the axis' font size of 11.
const DIGIT_WIDTH: f64 = 7.15;

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

/// The values that the template draws.
#[derive(Clone, Debug)]
pub struct Chart {
    pub bars: Vec<Bar>,
    /// Where the labels of the lines end, and where the lines and bars begin.
    pub labels_end: String,
    pub left: String,
    /// Lines at round numbers of runs.
    pub lines: Vec<Mark>,
    /// Times below the bars.
    pub times: Vec<Mark>,
    pub succeeded: u64,
    pub failed: u64,
    pub blocked: u64,
    /// Text alternative of the chart.
    pub description: String,
}

impl Chart {
    /// `words` names the period.
    pub fn of(history: &History, until: DateTime<Utc>, words: &str) -> Self {
        let slices = &history.slices;
        let total = |s: &HistorySlice| s.succeeded + s.failed + s.blocked;
        let most = slices.iter().map(total).max().unwrap_or(0);
        let top = round_up(most);
        let count = slices.len().max(1) as f64;
        let labels_end = LABEL_WIDTH.max(top.to_string().len() as f64 * DIGIT_WIDTH);
        let left = labels_end + GAP;
        let step = (f64::from(WIDTH) - left) / count;
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
                x: number(left + step * i as f64 + step * 0.12),
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
                at: number(left + step * i as f64),
                label: time(slice.from).to_string(),
            })
            .collect();
        let sum = |of: fn(&HistorySlice) -> u64| slices.iter().map(of).sum();
        let (succeeded, failed, blocked) =
            (sum(|s| s.succeeded), sum(|s| s.failed), sum(|s| s.blocked));
        Self {
            bars,
            labels_end: number(labels_end),
            left: number(left),
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
    use crate::domain::overview::CompletedRun;
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
    fn the_axis_has_room_for_its_labels() {
        let from: DateTime<Utc> = "2026-01-02T11:00:00Z".parse().unwrap();
        for (runs, widest) in [
            (0, 1),
            (7, 2),
            (100, 3),
            (1_000, 4),
            (10_000, 5),
            (1_000_000, 7),
            (3_999_999_999, 10),
        ] {
            let history = History {
                slices: vec![HistorySlice {
                    from,
                    succeeded: runs,
                    failed: 0,
                    blocked: 0,
                }],
                ..History::of(&[], from, Duration::from_secs(3_600), 1, false)
            };
            let chart = Chart::of(&history, from + Duration::from_secs(3_600), "an hour");
            let longest = chart.lines.iter().map(|line| line.label.len()).max();
            assert_eq!(longest, Some(widest), "{runs}");
            let read = |text: &str| text.parse::<f64>().unwrap();
            // The label ends there and grows to the left: it begins inside of the picture.
            assert!(
                read(&chart.labels_end) >= widest as f64 * DIGIT_WIDTH - 0.1,
                "{runs}"
            );
            assert!(read(&chart.left) > read(&chart.labels_end));
            let bar = &chart.bars[0];
            assert!(read(&bar.x) >= read(&chart.left));
            assert!(read(&bar.x) + read(&bar.width) <= f64::from(WIDTH));
        }
    }

    #[test]
    fn without_runs_there_is_an_empty_picture() {
        let now = DateTime::UNIX_EPOCH + Duration::from_secs(86_400);
        let history = History::of(&[], now, Duration::from_secs(86_400), 24, false);
        let chart = Chart::of(&history, now, "a day");
        assert!(chart.bars.iter().all(|bar| bar.parts.is_empty()));
    }
}
