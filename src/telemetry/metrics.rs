//! Metrics in the Prometheus text format.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

/// Buckets of durations, seconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Buckets of batch sizes, calls.
const CALLS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// What histograms have been told since then is kept one by one.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder of this process and describes what it records. Call it within a Tokio
/// runtime: there it sorts what histograms have been told into their buckets, whether or not anybody
/// ever asks for the metrics.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(
            Matcher::Full("verifyd_database_batch_calls".to_owned()),
            CALLS,
        )?
        .install_recorder()?;
    let kept_up = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            kept_up.run_upkeep();
        }
    });
    metrics::describe_counter!(
        "verifyd_runs_processed_total",
        "Claimed runs by how the work on them ended"
    );
    metrics::describe_histogram!(
        "verifyd_run_duration_seconds",
        metrics::Unit::Seconds,
        "Time from claim to completion or release"
    );
    metrics::describe_counter!(
        "verifyd_hints_without_claim_total",
        "Hints for runs that were not queued or not due"
    );
    metrics::describe_counter!(
        "verifyd_runs_reclaimed_total",
        "Runs taken back from lost workers"
    );
    metrics::describe_histogram!(
        "verifyd_database_batch_calls",
        "Calls that went to the database in one transaction"
    );
    metrics::describe_counter!(
        "verifyd_database_batches_failed_total",
        "Batches whose calls had to go alone"
    );
    metrics::describe_counter!(
        "verifyd_deliveries_by_sweep_total",
        "Due runs that the sweep delivered"
    );
    metrics::describe_counter!(
        "verifyd_heartbeat_failures_total",
        "Heartbeats that did not get through"
    );
    metrics::describe_counter!(
        "verifyd_wakeups_total",
        "Notifications that something may be queued"
    );
    metrics::describe_gauge!(
        "verifyd_listening",
        "1 while notifications of the database arrive"
    );
    metrics::describe_counter!(
        "verifyd_notices_lost_total",
        "Completed runs that could not be announced, by channel"
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
    metrics::describe_gauge!("verifyd_webhooks_pending", "Webhooks to be sent");
    metrics::describe_gauge!("verifyd_webhooks_given_up", "Webhooks that were given up");
    metrics::describe_counter!("verifyd_sweep_failures_total", "Sweeps that failed");
    metrics::describe_counter!(
        "verifyd_reports_replaced_total",
        "Reports that were not valid and were replaced by the fallback report"
    );
    metrics::describe_counter!("verifyd_hints_sent_total", "Hints that were sent");
    metrics::describe_counter!(
        "verifyd_hints_rejected_total",
        "Payloads that were not hints"
    );
    metrics::describe_counter!(
        "verifyd_hint_panics_total",
        "Handlers of hints that panicked"
    );
    metrics::describe_counter!(
        "verifyd_queue_restarts_total",
        "How often a fetcher of the queue had to be started again"
    );
    metrics::describe_counter!(
        "verifyd_queue_malformed_total",
        "Entries of the queue without data or meta that were removed"
    );
    metrics::describe_counter!(
        "verifyd_queue_cleaned_total",
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
        "verifyd_provider_token_cache_total",
        "Sign-ins by whether a token was in memory"
    );
    metrics::describe_counter!(
        "verifyd_runs_disowned_total",
        "Runs that this process had claimed, lost sight of, and put back"
    );
    metrics::describe_counter!(
        "verifyd_runs_postponed_total",
        "Hints of runs that need to be alone, left because others were before them"
    );
    metrics::describe_counter!(
        "verifyd_turns_total",
        "Runs taken ahead of the queue's order, for tenants with nothing in work here"
    );
    metrics::describe_counter!(
        "verifyd_last_resorts_total",
        "Runs that were completed from nothing but their id"
    );
    metrics::describe_counter!("verifyd_panics_total", "Checks that panicked");
    metrics::describe_gauge!(
        "verifyd_polling",
        "1 while the queue is away and runs are taken from the database"
    );
    metrics::describe_gauge!(
        "verifyd_invalid_runs",
        "Runs among the latest 10,000 rows that verifyd cannot work on, 1,000 at most"
    );
    metrics::describe_gauge!("verifyd_runs_queued", "Runs with status queued");
    metrics::describe_gauge!("verifyd_runs_running", "Runs with status running");
    metrics::describe_gauge!(
        "verifyd_oldest_queued_seconds",
        metrics::Unit::Seconds,
        "Age of the oldest queued run"
    );
    metrics::describe_gauge!("verifyd_runs_in_flight", "Runs in work in this process");
    Ok(handle)
}
