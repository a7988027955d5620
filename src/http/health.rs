//! Health endpoints: whether the process is alive, and whether it can claim runs.

use super::panics;
use crate::engine::reconciler::ReconcilerState;
use crate::engine::reconciler::invalid_runs::{COUNTED, LATEST_ROWS};
use crate::engine::worker::WorkerState;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::queue::Queue;
use crate::ports::single_flight::SingleFlight;
use crate::ports::store::{Store, StoreError};
use crate::ports::workers::alive_in_group;
use crate::telemetry::metrics::Metrics;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The text of `/readyz` while the schema does not fit.
const SCHEMA_UNFIT: &str = "the schema does not fit";

/// Timeout of the database for readiness and metrics: shorter than what a probe waits for them.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The state that the health endpoints read.
#[derive(Debug)]
pub struct Health {
    pub store: Arc<dyn Store>,
    pub queue: Arc<dyn Queue>,
    pub worker: Arc<WorkerState>,
    pub reconciler: Arc<ReconcilerState>,
    pub metrics: Metrics,
    /// Timeout of the database for a health check.
    pub check_timeout: Duration,
    /// Time without progress of a loop, or without an answer to sweeps and claims, after which the process is
    /// unhealthy.
    pub stuck_after: Duration,
    /// Time without an answered claim, or with every sweep refused or stopped by locks, after which the process is not
    /// ready.
    pub unclaimed_after: Duration,
    /// Time for which hints may wait while this process has free slots and takes none.
    pub untaken_after: Duration,
    /// Set while the process drains.
    pub stopping: CancellationToken,
    /// The message of the last error of the database that was logged.
    pub logged: Mutex<String>,
    /// The metrics, and a call of the database: each is made once at a time, however many ask.
    pub rendered: SingleFlight<Bytes>,
    pub database: SingleFlight<(Problem, Problem)>,
}

/// What is wrong with a part, if anything is.
type Problem = Option<String>;

/// `GET /healthz`: 200 while the loops of this process make progress and it processes what it can, else 503.
/// Calls no dependency: without a database the loops still make progress.
pub async fn live(State(health): State<Arc<Health>>) -> Response {
    let (code, status) = match health.stuck() {
        None => (StatusCode::OK, "alive".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let body = json!({ "status": status, "version": env!("CARGO_PKG_VERSION") });
    (code, Json(body)).into_response()
}

/// The first of these that has lasted for longer than it may, in words.
fn too_long(signs: &[(&str, Duration, Duration)]) -> Option<String> {
    let (what, lasted, _) = signs.iter().find(|(_, lasted, may)| lasted > may)?;
    Some(format!("{what} for {} s", lasted.as_secs()))
}

/// `GET /readyz`: 200 when a claim would succeed once a slot is free, else 503 with the reason.
pub async fn ready(State(health): State<Arc<Health>>) -> Response {
    let checks = health.readiness().await;
    let ready = is_ready(&checks);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let checks: serde_json::Map<String, Value> = checks
        .into_iter()
        .map(|(name, problem)| (name.to_owned(), problem.map_or(json!("ok"), Value::from)))
        .collect();
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

/// Whether no part has a problem.
fn is_ready(checks: &[(&str, Problem)]) -> bool {
    checks.iter().all(|(_, problem)| problem.is_none())
}

/// `GET /metrics`: 500 where the measurement panicked, since the gauges then hold old values. Nothing but the number of
/// connections bounds who asks: requests at the same time share one text, and none is refused for those who do not read.
pub async fn metrics(State(health): State<Arc<Health>>) -> Response {
    // Before this request uses a connection itself.
    health.measure_connections();
    let measured = Arc::clone(&health);
    let rendered = async move { measured.render_metrics().await };
    match health.rendered.get(panics::counted(rendered)).await {
        Some(text) => ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Health {
    /// Why a restart would help. While the process stops, loops end.
    pub(crate) fn stuck(&self) -> Option<String> {
        if self.stopping.is_cancelled() {
            return None;
        }
        let (lease, reconciler) = (&self.worker.lease, &self.reconciler);
        let after = self.stuck_after;
        too_long(&[
            ("the heartbeat has not turned", lease.activity.age(), after),
            (
                "the reconciler has not turned",
                reconciler.activity.age(),
                after,
            ),
            (
                "the heartbeat gets through, but no sweep has been answered",
                reconciler.cut_off.lasted(),
                after,
            ),
            (
                "the heartbeat gets through, but no claim has been answered",
                self.worker.claim_failures.lasted(),
                after,
            ),
            (
                "hints have been waiting and none was taken",
                reconciler.hints_untaken.lasted(),
                self.untaken_after,
            ),
        ])
    }

    fn measure_connections(&self) {
        for pool in self.store.pools() {
            for (state, count) in [("idle", pool.idle), ("used", pool.used)] {
                let name = pool.name.clone();
                metrics::gauge!("verifyd_database_connections", "pool" => name, "state" => state)
                    .set(count);
            }
            metrics::gauge!("verifyd_database_connections_max", "pool" => pool.name).set(pool.max);
        }
        if self.queue.kind() == "redis" {
            let connected = u8::from(self.queue.health().connected);
            metrics::gauge!("verifyd_redis_connected").set(connected);
        }
    }

    async fn render_metrics(self: &Arc<Self>) -> Bytes {
        // Alone: what is read for the gauges must not take the connections that the judgement needs.
        let is_ready = is_ready(&self.readiness().await);
        metrics::gauge!("verifyd_ready").set(u8::from(is_ready));
        tokio::join!(self.measure_rows(), self.measure_groups());
        let in_flight = self.worker.in_flight.claimed();
        metrics::gauge!("verifyd_runs_in_flight").set(f64::from(in_flight));
        let polling = self.reconciler.polling.load(Ordering::Relaxed);
        metrics::gauge!("verifyd_polling").set(u8::from(polling));
        // Without what the buffer has grown by: it may be kept until slow clients have read it.
        Bytes::from(self.metrics.render().into_bytes().into_boxed_slice())
    }

    /// Sets the gauges that are read from the database. One that cannot be read in time becomes NaN: an old value
    /// looks like a new one.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    async fn measure_rows(&self) {
        let (runs, invalid, deliveries, partitions) = tokio::join!(
            self.in_time(self.store.counts()),
            self.in_time(self.store.invalid_runs(LATEST_ROWS, COUNTED)),
            self.in_time(self.store.delivery_counts()),
            self.in_time(self.store.partitions_end()),
        );
        let (runs, deliveries) = (runs.as_ref(), deliveries.as_ref());
        for (name, value) in [
            ("verifyd_runs_queued", runs.map(|n| n.queued as f64)),
            ("verifyd_runs_running", runs.map(|n| n.running as f64)),
            ("verifyd_runs_not_due", runs.map(|n| n.not_due as f64)),
            (
                "verifyd_oldest_queued_seconds",
                runs.map(|n| n.oldest_queued_seconds.unwrap_or(0.0)),
            ),
            (
                "verifyd_invalid_runs",
                invalid.map(|found| found.len() as f64),
            ),
            (
                "verifyd_partitions_left_seconds",
                partitions.flatten().map(|end| end.seconds),
            ),
            (
                "verifyd_webhook_deliveries_pending",
                deliveries.map(|n| n.pending as f64),
            ),
            (
                "verifyd_webhook_deliveries_failed",
                deliveries.map(|n| n.failed as f64),
            ),
            (
                "verifyd_webhook_circuits_open",
                deliveries.map(|n| n.open_circuits as f64),
            ),
            (
                "verifyd_webhook_oldest_pending_seconds",
                deliveries.map(|n| n.oldest_pending_seconds.unwrap_or(0.0)),
            ),
        ] {
            metrics::gauge!(name).set(value.unwrap_or(f64::NAN));
        }
    }

    /// Counts the workers of each group, and measures how long runs of this process's own wait, where there are groups.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    async fn measure_groups(&self) {
        let settings = &self.worker.settings;
        let Some(own) = settings.groups.members(&settings.group) else {
            return;
        };
        let (workers, waiting) = tokio::join!(
            self.in_time(self.store.workers()),
            self.in_time(self.store.counts_of_group(&own)),
        );
        let oldest = waiting.map(|counts| counts.oldest_queued_seconds.unwrap_or(0.0));
        metrics::gauge!("verifyd_group_oldest_queued_seconds", "group" => settings.group.clone())
            .set(oldest.unwrap_or(f64::NAN));
        let now = SystemClock.now();
        for group in settings.groups.names() {
            let alive = workers
                .as_ref()
                .map(|workers| alive_in_group(workers, group, now, settings.dead_after) as f64);
            metrics::gauge!("verifyd_group_workers", "group" => group.to_owned())
                .set(alive.unwrap_or(f64::NAN));
        }
    }

    /// What the database answers within the timeout.
    async fn in_time<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        let answer = tokio::time::timeout(self.check_timeout, read).await;
        answer.ok()?.ok()
    }

    /// What `/readyz` answers, in a line.
    pub(crate) async fn status(self: &Arc<Self>) -> String {
        let parts = self.readiness().await.into_iter();
        let problems = parts.filter_map(|(name, problem)| Some(format!("{name}: {}", problem?)));
        match problems.collect::<Vec<_>>().as_slice() {
            [] => "ready".to_owned(),
            problems => format!("not ready: {}", problems.join("; ")),
        }
    }

    /// Returns the class of an error of the database. Its message may contain internal names, so it is only
    /// logged, once for each change.
    fn class(&self, error: &StoreError) -> String {
        let class = match error {
            StoreError::Unavailable(_) => "unavailable",
            StoreError::Contended(_) | StoreError::TooManyCalls | StoreError::LockedRun => "busy",
            StoreError::Schema(_) => SCHEMA_UNFIT,
            StoreError::Corrupt { .. } | StoreError::Refused(_) | StoreError::Settings(_) => {
                "refused"
            }
        };
        let message = error.to_string();
        let mut logged = self.logged.lock();
        if *logged != message {
            tracing::warn!(%error, "not ready: the database does not answer as it should");
            *logged = message;
        }
        format!("{class}; the log says why")
    }

    /// Returns what is wrong with the database, and with its schema.
    async fn check_database(&self) -> (Problem, Problem) {
        let store = &self.store;
        let database = match tokio::time::timeout(self.check_timeout, store.ping()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(self.class(&error)),
            Err(_) => Some("no answer within the timeout".to_owned()),
        };
        let schema = if database.is_some() {
            Some("unknown, the database does not answer".to_owned())
        } else {
            match tokio::time::timeout(self.check_timeout, store.schema_version()).await {
                Ok(Ok(Some(version))) if version >= store.wanted_schema_version() => {
                    let unfit = !self.worker.schema.fits();
                    unfit.then(|| format!("{SCHEMA_UNFIT}; the log says why"))
                }
                Ok(Ok(version)) => Some(format!(
                    "version {}, needed {}: run `verifyd migrate`",
                    version.map_or("none".to_owned(), |v| v.to_string()),
                    store.wanted_schema_version()
                )),
                Ok(Err(error)) => Some(self.class(&error)),
                Err(_) => Some("no answer within the timeout".to_owned()),
            }
        };
        (database, schema)
    }

    /// Returns the state of each part: its name, and what is wrong with it.
    async fn readiness(self: &Arc<Self>) -> Vec<(&'static str, Problem)> {
        let checked = Arc::clone(self);
        let check = async move { checked.check_database().await };
        let panicked = || Some("the check panicked; the log says where".to_owned());
        let (database, schema) = self
            .database
            .get(panics::counted(check))
            .await
            .unwrap_or_else(|| (panicked(), panicked()));
        let queue = self.queue.health();
        let polling = self.reconciler.polling.load(Ordering::Relaxed);
        let consumer = match queue.last_activity {
            _ if polling => None,
            Some(age) if age <= self.worker.settings.consumer_stalled_after() => None,
            Some(age) => Some(format!("no activity for {} s", age.as_secs())),
            None => Some("not started yet".to_owned()),
        };
        let lease = (!self.worker.lease.is_alive())
            .then(|| "the heartbeat does not get through".to_owned());
        let after = self.unclaimed_after;
        let claims = too_long(&[
            (
                "none was answered",
                self.worker.claim_failures.lasted(),
                after,
            ),
            (
                "sweeps have met locks or conflicts",
                self.reconciler.contended.lasted(),
                after,
            ),
            (
                "sweeps have been refused",
                self.reconciler.refused.lasted(),
                after,
            ),
        ]);
        let draining = self
            .stopping
            .is_cancelled()
            .then(|| "the process is stopping".to_owned());
        vec![
            ("database", database),
            ("schema", schema),
            ("consumer", consumer),
            ("lease", lease),
            ("claims", claims),
            ("draining", draining),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_for_too_long_is_named() {
        let second = Duration::from_secs(1);
        let signs = |may| {
            [
                ("it stands", 2 * second, 9 * second),
                ("it waits", 5 * second, may),
            ]
        };
        assert_eq!(too_long(&signs(5 * second)), None);
        let found = too_long(&signs(4 * second)).unwrap();
        assert_eq!(found, "it waits for 5 s");
    }
}
