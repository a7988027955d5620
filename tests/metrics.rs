//! Metrics in a process that runs for years, and that nobody asks for them.
//!
//! A process of its own: what is measured is its memory.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

/// Measurements at a time; a histogram that keeps them needs eight bytes and more for each.
const BURST: usize = 8_000_000;

/// Guards against hanging only.
const PATIENCE: Duration = Duration::from_secs(120);

fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

fn burst() {
    let histogram = metrics::histogram!("verifyd_run_duration_seconds");
    for n in 0..BURST {
        histogram.record(f64::from(u32::try_from(n % 100).unwrap()) / 100.0);
    }
}

/// After each burst it waits until what was kept has been sorted in, which leaves its memory to the next
/// one: some 130 MiB all the time. Kept for ever, the four of them take up 500.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measurements_that_nobody_asks_for_are_not_kept() {
    let handle = verifyd::telemetry::metrics::install().unwrap();
    let mut most = 0;
    for _ in 0..4 {
        burst();
        most = most.max(resident_mib());
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    assert!(most < 300, "{most} MiB");
    let began = Instant::now();
    let all = format!("verifyd_run_duration_seconds_count {}", 4 * BURST);
    while !handle.render().contains(&all) {
        assert!(began.elapsed() < PATIENCE, "not all were counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
