//! Histograms in a process that runs for years: every measurement is counted, and none is kept.
//!
//! Each test has a process of its own: the recorder and the allocator, which counts, belong to the whole
//! process.

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::atomic::{AtomicBool, Ordering};
use test_support::{own_process, test_name};
use verifyd::telemetry::metrics::{Kind, METRICS, install};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// So many that some would be lost if any could be.
const MEASUREMENTS: u64 = 1_000_000;

/// So many that they could not be kept unnoticed.
const UNASKED: u64 = 100_000;

fn value_of(text: &str, line: &str) -> Option<u64> {
    text.lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_measurement_is_counted_however_often_the_metrics_are_asked_for() {
    if !own_process::entered(
        test_name!(every_measurement_is_counted_however_often_the_metrics_are_asked_for),
        &[],
    ) {
        return;
    }
    let installed = install().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let histogram = metrics::histogram!("verifyd_webhook_attempt_duration_seconds");
                    for _ in 0..MEASUREMENTS {
                        histogram.record(0.5);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                installed.render();
            }
        });
        for thread in threads {
            thread.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let text = installed.render();
    let name = "verifyd_webhook_attempt_duration_seconds";
    let all = Some(3 * MEASUREMENTS);
    assert_eq!(value_of(&text, &format!("{name}_count")), all);
    for (bound, wanted) in [("0.25", Some(0)), ("0.5", all), ("60", all), ("+Inf", all)] {
        let line = format!("{name}_bucket{{le=\"{bound}\"}}");
        assert_eq!(value_of(&text, &line), wanted, "{line}");
    }
    // Halves add up without a rounding error.
    assert_eq!(value_of(&text, &format!("{name}_sum")), all.map(|n| n / 2));
}

#[test]
fn measurements_that_nobody_asks_for_are_not_kept() {
    if !own_process::entered(
        test_name!(measurements_that_nobody_asks_for_are_not_kept),
        &[],
    ) {
        return;
    }
    let _metrics = install().unwrap();
    let record = || {
        metrics::histogram!("verifyd_database_batch_calls", "call" => "claim").record(3.0);
    };
    record();
    let region = Region::new(ALLOCATOR);
    for _ in 0..UNASKED {
        record();
    }
    // The runner of the tests allocates a little on its own threads.
    let change = region.change();
    let kept = change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated);
    assert!(
        kept < 64 * 1024,
        "{kept} bytes are kept of {UNASKED} measurements"
    );
}

#[test]
fn counters_are_there_before_their_first_event() {
    if !own_process::entered(test_name!(counters_are_there_before_their_first_event), &[]) {
        return;
    }
    let text = install().unwrap().render();
    for line in [
        "verifyd_check_panics_total",
        "verifyd_forced_completions_total",
        "verifyd_hints_too_large_total",
        "verifyd_http_panics_total",
        "verifyd_sweep_failures_total",
        "verifyd_webhook_deliveries_given_up_total{reason=\"age\"}",
        "verifyd_completion_events_dropped_total{channel=\"redis\"}",
        "verifyd_runs_processed_total{result=\"failed\"}",
        "verifyd_provider_token_cache_lookups_total{provider=\"microsoft\",result=\"hit\"}",
    ] {
        assert_eq!(value_of(&text, line), Some(0), "{line}: {text}");
    }
}

#[test]
fn every_metric_is_described_with_its_type() {
    if !own_process::entered(test_name!(every_metric_is_described_with_its_type), &[]) {
        return;
    }
    let installed = install().unwrap();
    for (kind, name, _) in METRICS {
        match kind {
            Kind::Gauge => metrics::gauge!(*name).set(1.0),
            Kind::Histogram => metrics::histogram!(*name).record(1.0),
            Kind::Counter | Kind::LabelledCounter => metrics::counter!(*name).increment(1),
        }
    }
    let text = installed.render();
    for (kind, name, description) in METRICS {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Counter | Kind::LabelledCounter => "counter",
        };
        let described = format!("# HELP {name} {description}\n# TYPE {name} {kind}\n");
        assert!(text.contains(&described), "{described}{text}");
    }
}
