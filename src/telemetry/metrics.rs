//! Metrics in the Prometheus text format.

use super::build_info::BUILD;
use super::histograms::Histograms;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;

/// The metrics of this process.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Counters and gauges.
    numbers: PrometheusHandle,
    histograms: Arc<Histograms>,
}

impl Metrics {
    /// Of no recorder: nothing is ever recorded here.
    pub fn detached() -> Self {
        Self {
            numbers: PrometheusBuilder::new().build_recorder().handle(),
            histograms: Arc::default(),
        }
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = self.numbers.render();
        self.histograms.render(&mut text);
        text
    }
}

/// Counters and gauges go to the library's recorder, histograms to verifyd's own.
struct Split {
    numbers: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

impl Recorder for Split {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.numbers.describe_counter(name, unit, description);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.numbers.describe_gauge(name, unit, description);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.histograms.describe(name.as_str(), &description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.numbers.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.numbers.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.histograms.of(key)
    }
}

/// Installs the recorder of this process and describes what it records.
pub fn install() -> anyhow::Result<Metrics> {
    let numbers = PrometheusBuilder::new().build_recorder();
    let installed = Metrics {
        numbers: numbers.handle(),
        histograms: Arc::default(),
    };
    let histograms = Arc::clone(&installed.histograms);
    metrics::set_global_recorder(Split {
        numbers,
        histograms,
    })?;
    describe();
    Ok(installed)
}

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without labels: it is there from the start, so that its first event is an increase.
    Counter,
    LabelledCounter,
    Gauge,
    Histogram,
}

/// Every metric of this process.
#[rustfmt::skip] // A line for each.
pub const METRICS: &[(Kind, &str, &str)] = &[
    (Kind::LabelledCounter, "verifyd_runs_processed_total", "Processed runs"),
    (Kind::Histogram, "verifyd_run_duration_seconds", "Time from claim to completion or release"),
    (Kind::LabelledCounter, "verifyd_claims_refused_total", "Claims that failed while the database answered"),
    (Kind::Counter, "verifyd_claims_unsent_total", "Claims that were not sent, as no connection for calls like them got free in time; their runs are tried again later"),
    (Kind::Counter, "verifyd_hints_without_claim_total", "Hints for runs that were not queued or not due"),
    (Kind::Counter, "verifyd_hints_handed_over_total", "Hints for runs of another group, left to its workers"),
    (Kind::Counter, "verifyd_runs_reclaimed_total", "Runs reclaimed from lost workers"),
    (Kind::Histogram, "verifyd_database_batch_calls", "Calls in one batch"),
    (Kind::LabelledCounter, "verifyd_database_batches_failed_total", "Batches that failed, so that their calls were sent separately"),
    (Kind::Counter, "verifyd_runs_redelivered_total", "Due runs for which the sweep sent a hint"),
    (Kind::Counter, "verifyd_heartbeat_failures_total", "Heartbeats that failed"),
    (Kind::Counter, "verifyd_wakeups_total", "Notifications of the database that a run may be queued"),
    (Kind::Gauge, "verifyd_listening", "1 while notifications of the database arrive"),
    (Kind::LabelledCounter, "verifyd_completion_events_dropped_total", "Completion events that could not be published"),
    (Kind::LabelledCounter, "verifyd_webhook_attempts_total", "Attempts to send a webhook"),
    (Kind::Histogram, "verifyd_webhook_attempt_duration_seconds", "Time of one attempt to send a webhook"),
    (Kind::Gauge, "verifyd_webhook_deliveries_pending", "Pending webhook deliveries"),
    (Kind::Gauge, "verifyd_webhook_deliveries_failed", "Webhook deliveries that were given up and are still stored"),
    (Kind::Gauge, "verifyd_webhook_oldest_pending_seconds", "Age of the oldest pending webhook delivery of an enabled endpoint; 0 when none is pending"),
    (Kind::Gauge, "verifyd_webhook_circuits_open", "Enabled endpoints with an open or half-open circuit"),
    (Kind::Counter, "verifyd_webhook_circuits_opened_total", "Circuits of webhook endpoints that opened"),
    (Kind::LabelledCounter, "verifyd_webhook_deliveries_given_up_total", "Webhook deliveries given up"),
    (Kind::Counter, "verifyd_sweep_failures_total", "Sweeps that failed"),
    (Kind::Counter, "verifyd_reports_replaced_total", "Reports that were not valid and were replaced by the fallback report"),
    (Kind::Counter, "verifyd_hints_sent_total", "Hints that were sent"),
    (Kind::Counter, "verifyd_dead_letters_total", "Payloads that became dead letters"),
    (Kind::Counter, "verifyd_hint_panics_total", "Handlers of hints that panicked"),
    (Kind::Counter, "verifyd_queue_restarts_total", "Restarts of the queue's fetchers"),
    (Kind::Counter, "verifyd_queue_malformed_entries_total", "Entries of the queue without data or meta that were repaired or removed"),
    (Kind::Counter, "verifyd_hints_too_large_total", "Payloads longer than 4096 bytes that were removed from the queue unread"),
    (Kind::Counter, "verifyd_queue_entries_removed_total", "Acknowledged deliveries that were removed from the queue"),
    (Kind::LabelledCounter, "verifyd_provider_requests_total", "Requests to a provider"),
    (Kind::Histogram, "verifyd_provider_request_duration_seconds", "Time of one request to a provider"),
    (Kind::Gauge, "verifyd_provider_budget_requests_per_second", "Lowest budget in use, in requests a second of all replicas; 0: none"),
    (Kind::Gauge, "verifyd_provider_requests_waiting", "Requests that wait for a permit"),
    (Kind::Counter, "verifyd_provider_budget_timeouts_total", "Requests that were refused a permit"),
    (Kind::LabelledCounter, "verifyd_provider_token_cache_lookups_total", "Sign-ins by whether a token was in memory"),
    (Kind::Counter, "verifyd_orphans_released_total", "Orphans of this process that it released"),
    (Kind::Counter, "verifyd_isolation_hints_dropped_total", "Hints of runs that require isolation, dropped because others were first"),
    (Kind::Counter, "verifyd_fair_queuing_runs_total", "Runs that fair queuing chose, for tenants without a run in flight"),
    (Kind::Counter, "verifyd_forced_completions_total", "Forced completions: runs completed from their id alone"),
    (Kind::Counter, "verifyd_completions_refused_total", "Attempts whose completion the database refused, for a lock or timeout only within a trigger; their runs are tried again later"),
    (Kind::Counter, "verifyd_check_panics_total", "Checks that panicked"),
    (Kind::Counter, "verifyd_http_panics_total", "Handlers of HTTP requests that panicked"),
    (Kind::LabelledCounter, "verifyd_http_connections_evicted_total", "Waiting connections that were closed for new ones"),
    (Kind::LabelledCounter, "verifyd_http_connections_refused_total", "Connections refused because all others were being answered"),
    (Kind::Counter, "verifyd_http_body_timeouts_total", "Requests whose body timed out"),
    (Kind::Counter, "verifyd_http_write_timeouts_total", "Connections closed because their peer did not read its answer"),
    (Kind::LabelledCounter, "verifyd_http_requests_total", "Answered requests"),
    (Kind::Histogram, "verifyd_http_request_duration_seconds", "Time until the answer to a request begins"),
    (Kind::Gauge, "verifyd_http_requests_in_flight", "Requests whose answer has not begun"),
    (Kind::Gauge, "verifyd_database_connections", "Connections of a pool by state: idle, used"),
    (Kind::Gauge, "verifyd_database_connections_max", "Largest number of connections of a pool"),
    (Kind::Gauge, "verifyd_replica_lag_seconds", "Lag of database.read_url, by the heartbeats of this process; NaN while it is unknown"),
    (Kind::Gauge, "verifyd_replica_usable", "1 while lists and details are read from database.read_url"),
    (Kind::Gauge, "verifyd_redis_connected", "1 while Redis has answered the last call"),
    (Kind::Gauge, "verifyd_ready", "1 while GET /readyz answers 200"),
    (Kind::Gauge, "verifyd_polling", "1 while runs are taken from the database, as the queue is unavailable"),
    (Kind::Gauge, "verifyd_partitions_left_seconds", "Seconds until the partitions of operation_runs end; NaN where it has none by created_at, or they have no end"),
    (Kind::Gauge, "verifyd_invalid_runs", "Invalid runs among the latest 10,000 rows and the oldest that are not completed, 1,000 at most"),
    (Kind::Gauge, "verifyd_runs_queued", "Runs with status queued"),
    (Kind::Gauge, "verifyd_runs_requeue_refused", "Runs that the database refuses to queue again, for a lock or timeout only within a trigger"),
    (Kind::Gauge, "verifyd_runs_running", "Runs with status running"),
    (Kind::Gauge, "verifyd_runs_not_due", "Queued runs that may not be claimed yet, such as throttled ones"),
    (Kind::Gauge, "verifyd_oldest_queued_seconds", "Time for which the oldest queued run has been due; 0 when none is"),
    (Kind::Gauge, "verifyd_group_oldest_queued_seconds", "Time for which the oldest queued run of this process's group has been due; NaN while that is unknown"),
    (Kind::Gauge, "verifyd_group_workers", "Workers alive of a group of worker.groups; NaN while that is unknown"),
    (Kind::Gauge, "verifyd_runs_in_flight", "Runs in flight in this process"),
    (Kind::LabelledCounter, "verifyd_trace_spans_total", "Ended spans of traces by result: exported (the collector has answered; it may have rejected some), failed (they did not reach it, or it refused them), dropped (the queue was full)"),
    (Kind::Gauge, "verifyd_build_info", "Always 1; the labels name the build of this process"),
];

/// A label and its value.
pub type Label = (&'static str, &'static str);

/// Labels whose values are few and known: the metric, its other labels, the label and its values.
#[rustfmt::skip] // A line for each.
pub const LABELS: &[(&str, &[Label], &str, &[&str])] = &[
    ("verifyd_runs_processed_total", &[], "result", &["succeeded", "failed", "blocked", "released", "discarded", "deferred"]),
    ("verifyd_claims_refused_total", &[], "class", &["contended", "corrupt", "refused", "schema", "unavailable"]),
    ("verifyd_database_batches_failed_total", &[], "call", &["claim", "complete"]),
    ("verifyd_completion_events_dropped_total", &[], "channel", &["all", "postgres", "redis"]),
    ("verifyd_webhook_deliveries_given_up_total", &[], "reason", &["attempts", "age", "gone"]),
    ("verifyd_trace_spans_total", &[], "result", &["exported", "failed", "dropped"]),
    ("verifyd_http_connections_evicted_total", &[], "limit", &["peer", "all", "reserve"]),
    ("verifyd_http_connections_refused_total", &[], "limit", &["peer", "all"]),
    ("verifyd_provider_token_cache_lookups_total", &[("provider", "microsoft")], "result", &["hit", "miss"]),
];

/// Describes every metric to the recorder, and records what is known from the start: counters with known labels at 0,
/// and the build.
fn describe() {
    for (kind, name, description) in METRICS {
        match kind {
            Kind::Counter => {
                metrics::describe_counter!(*name, *description);
                metrics::counter!(*name).increment(0);
            }
            Kind::LabelledCounter => metrics::describe_counter!(*name, *description),
            Kind::Gauge => metrics::describe_gauge!(*name, *description),
            Kind::Histogram => metrics::describe_histogram!(*name, *description),
        }
    }
    for (name, others, label, values) in LABELS {
        for value in *values {
            let labels: Vec<Label> = [*others, &[(*label, *value)]].concat();
            metrics::counter!(*name, &labels).increment(0);
        }
    }
    let build = metrics::gauge!(
        "verifyd_build_info",
        "commit" => BUILD.commit,
        "rustc" => BUILD.rustc,
        "version" => BUILD.version
    );
    build.set(1.0);
}
