//! Metrics in the Prometheus text format.

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

/// A counter without labels: it is there from the start, so that its first event is an increase.
macro_rules! counter {
    ($name:literal, $description:literal $(,)?) => {
        metrics::describe_counter!($name, $description);
        metrics::counter!($name).increment(0);
    };
}

/// Describes every metric to the recorder, and registers the counters whose labels are known.
pub fn describe() {
    metrics::describe_counter!("verifyd_runs_processed_total", "Processed runs by result");
    metrics::describe_histogram!(
        "verifyd_run_duration_seconds",
        metrics::Unit::Seconds,
        "Time from claim to completion or release"
    );
    counter!(
        "verifyd_hints_without_claim_total",
        "Hints for runs that were not queued or not due"
    );
    counter!(
        "verifyd_runs_reclaimed_total",
        "Runs reclaimed from lost workers"
    );
    metrics::describe_histogram!("verifyd_database_batch_calls", "Calls in one batch");
    metrics::describe_counter!(
        "verifyd_database_batches_failed_total",
        "Batches that failed, so that their calls were sent separately"
    );
    counter!(
        "verifyd_runs_redelivered_total",
        "Due runs for which the sweep sent a hint"
    );
    counter!("verifyd_heartbeat_failures_total", "Heartbeats that failed");
    counter!(
        "verifyd_wakeups_total",
        "Notifications of the database that a run may be queued"
    );
    metrics::describe_gauge!(
        "verifyd_listening",
        "1 while notifications of the database arrive"
    );
    metrics::describe_counter!(
        "verifyd_completion_events_dropped_total",
        "Completion events that could not be published, by channel"
    );
    metrics::describe_counter!(
        "verifyd_webhook_attempts_total",
        "Attempts to send a webhook by result"
    );
    metrics::describe_histogram!(
        "verifyd_webhook_attempt_duration_seconds",
        metrics::Unit::Seconds,
        "Time of one attempt to send a webhook"
    );
    metrics::describe_gauge!(
        "verifyd_webhook_deliveries_pending",
        "Pending webhook deliveries"
    );
    metrics::describe_gauge!(
        "verifyd_webhook_deliveries_failed",
        "Webhook deliveries that were given up and are still stored"
    );
    metrics::describe_gauge!(
        "verifyd_webhook_oldest_pending_seconds",
        metrics::Unit::Seconds,
        "Age of the oldest pending webhook delivery; 0 when none is pending"
    );
    metrics::describe_gauge!(
        "verifyd_webhook_circuits_open",
        "Enabled endpoints with an open circuit"
    );
    counter!(
        "verifyd_webhook_circuits_opened_total",
        "Circuits of webhook endpoints that opened after failures in a row"
    );
    metrics::describe_counter!(
        "verifyd_webhook_deliveries_given_up_total",
        "Webhook deliveries given up, by reason: attempts, age, gone"
    );
    counter!("verifyd_sweep_failures_total", "Sweeps that failed");
    counter!(
        "verifyd_reports_replaced_total",
        "Reports that were not valid and were replaced by the fallback report"
    );
    counter!("verifyd_hints_sent_total", "Hints that were sent");
    counter!(
        "verifyd_dead_letters_total",
        "Payloads that became dead letters"
    );
    counter!(
        "verifyd_hint_panics_total",
        "Handlers of hints that panicked"
    );
    counter!(
        "verifyd_queue_restarts_total",
        "Restarts of the queue's fetchers"
    );
    counter!(
        "verifyd_queue_malformed_entries_total",
        "Entries of the queue without data or meta that were repaired or removed"
    );
    counter!(
        "verifyd_hints_too_large_total",
        "Payloads longer than 4096 bytes that were removed from the queue unread"
    );
    counter!(
        "verifyd_queue_entries_removed_total",
        "Acknowledged deliveries that were removed from the queue"
    );
    metrics::describe_counter!(
        "verifyd_provider_requests_total",
        "Requests to a provider by call and result"
    );
    metrics::describe_histogram!(
        "verifyd_provider_request_duration_seconds",
        metrics::Unit::Seconds,
        "Time of one request to a provider"
    );
    metrics::describe_counter!(
        "verifyd_provider_token_cache_lookups_total",
        "Sign-ins by whether a token was in memory"
    );
    counter!(
        "verifyd_orphans_released_total",
        "Orphans of this process that it released"
    );
    counter!(
        "verifyd_isolation_hints_dropped_total",
        "Hints of runs that require isolation, dropped because others were first"
    );
    counter!(
        "verifyd_fair_queuing_runs_total",
        "Runs that fair queuing chose, for tenants without a run in flight"
    );
    counter!(
        "verifyd_forced_completions_total",
        "Forced completions: runs completed from their id alone"
    );
    counter!("verifyd_check_panics_total", "Checks that panicked");
    counter!(
        "verifyd_http_panics_total",
        "Handlers of HTTP requests that panicked"
    );
    counter!(
        "verifyd_http_connections_evicted_total",
        "Waiting connections that were closed for new ones"
    );
    counter!(
        "verifyd_http_connections_refused_total",
        "Connections refused because all others were being answered"
    );
    counter!(
        "verifyd_http_body_timeouts_total",
        "Requests whose body timed out"
    );
    counter!(
        "verifyd_http_write_timeouts_total",
        "Connections closed because their peer did not read its answer"
    );
    metrics::describe_gauge!(
        "verifyd_polling",
        "1 while runs are taken from the database, as the queue is unavailable"
    );
    metrics::describe_gauge!(
        "verifyd_invalid_runs",
        "Invalid runs among the latest 10,000 rows, 1,000 at most"
    );
    metrics::describe_gauge!("verifyd_runs_queued", "Runs with status queued");
    metrics::describe_gauge!("verifyd_runs_running", "Runs with status running");
    metrics::describe_gauge!(
        "verifyd_oldest_queued_seconds",
        metrics::Unit::Seconds,
        "Age of the oldest queued run"
    );
    metrics::describe_gauge!("verifyd_runs_in_flight", "Runs in flight in this process");
    with_labels();
}

/// Registers the values of labels that are few and known.
fn with_labels() {
    for result in [
        "succeeded",
        "failed",
        "blocked",
        "released",
        "discarded",
        "deferred",
    ] {
        metrics::counter!("verifyd_runs_processed_total", "result" => result).increment(0);
    }
    for call in ["claim", "complete"] {
        metrics::counter!("verifyd_database_batches_failed_total", "call" => call).increment(0);
    }
    for channel in ["all", "postgres", "redis"] {
        metrics::counter!("verifyd_completion_events_dropped_total", "channel" => channel)
            .increment(0);
    }
    for reason in ["attempts", "age", "gone"] {
        metrics::counter!("verifyd_webhook_deliveries_given_up_total", "reason" => reason)
            .increment(0);
    }
    for result in ["hit", "miss"] {
        metrics::counter!("verifyd_provider_token_cache_lookups_total", "provider" => "microsoft", "result" => result)
            .increment(0);
    }
}
