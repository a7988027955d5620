//! Is the process alive, and can it claim runs?

use crate::engine::Engine;
use crate::engine::reconciler::ReconcilerState;
use crate::ports::queue::Queue;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// An answer of a dependency that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// A consumer that has shown no sign of life for so long is stuck. Its heartbeat is much quicker.
const CONSUMER_PATIENCE: Duration = Duration::from_secs(60);

/// What the health endpoints look at.
#[derive(Debug)]
pub struct Health {
    pub engine: Engine,
    pub queue: Arc<dyn Queue>,
    pub reconciler: Arc<ReconcilerState>,
    pub metrics: PrometheusHandle,
    /// How long a loop may stand still.
    pub stuck_after: Duration,
    /// Set while the process drains.
    pub stopping: CancellationToken,
}

/// `GET /healthz`: 200 while the loops of this process turn, else 503. Touches no dependency: with
/// the database away the loops turn, in vain.
pub async fn live(State(health): State<Arc<Health>>) -> Response {
    let loops = [
        ("heartbeat", health.engine.lease.motion.still_for()),
        ("reconciler", health.reconciler.motion.still_for()),
    ];
    let stuck = stuck(&loops, health.stuck_after, health.stopping.is_cancelled());
    let (code, status) = match stuck {
        None => (StatusCode::OK, "alive".to_owned()),
        Some((name, still)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the {name} has not turned for {} s", still.as_secs()),
        ),
    };
    let body = json!({ "status": status, "version": env!("CARGO_PKG_VERSION") });
    (code, Json(body)).into_response()
}

/// The loop that has stood still for too long. While the process stops, loops end.
fn stuck<'a>(
    loops: &[(&'a str, Duration)],
    after: Duration,
    stopping: bool,
) -> Option<(&'a str, Duration)> {
    let stuck = loops.iter().find(|(_, still)| *still > after);
    stuck.filter(|_| !stopping).copied()
}

/// `GET /readyz`: 200 when a claim is possible, else 503 with what is in the way.
pub async fn ready(State(health): State<Arc<Health>>) -> Response {
    let checks = health.readiness().await;
    let ready = checks.iter().all(|(_, problem)| problem.is_none());
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

/// `GET /metrics`
pub async fn metrics(State(health): State<Arc<Health>>) -> String {
    if let Ok(Ok(counts)) = tokio::time::timeout(PATIENCE, health.engine.store.counts()).await {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        {
            metrics::gauge!("verifyd_runs_queued").set(counts.queued as f64);
            metrics::gauge!("verifyd_runs_running").set(counts.running as f64);
        }
        metrics::gauge!("verifyd_oldest_queued_seconds")
            .set(counts.oldest_queued_seconds.unwrap_or(0.0));
    }
    metrics::gauge!("verifyd_runs_in_flight")
        .set(f64::from(health.engine.in_flight.load(Ordering::Relaxed)));
    health.metrics.run_upkeep();
    health.metrics.render()
}

impl Health {
    /// What each part says: its name, and what is wrong with it.
    async fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        let store = &self.engine.store;
        let database = match tokio::time::timeout(PATIENCE, store.ping()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        let schema = if database.is_some() {
            Some("unknown, the database does not answer".to_owned())
        } else {
            match tokio::time::timeout(PATIENCE, store.schema_version()).await {
                Ok(Ok(Some(version))) if version >= store.wanted_schema_version() => None,
                Ok(Ok(version)) => Some(format!(
                    "version {}, needed {}: run `verifyd migrate`",
                    version.map_or("none".to_owned(), |v| v.to_string()),
                    store.wanted_schema_version()
                )),
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            }
        };
        let queue = self.queue.health();
        let polling = self.reconciler.polling.load(Ordering::Relaxed);
        let consumer = match queue.last_tick {
            _ if polling => None,
            Some(age) if age < CONSUMER_PATIENCE => None,
            Some(age) => Some(format!("no sign of life for {} s", age.as_secs())),
            None => Some("not started yet".to_owned()),
        };
        let lease = (!self.engine.lease.is_alive())
            .then(|| "the heartbeat does not get through".to_owned());
        let draining = self
            .stopping
            .is_cancelled()
            .then(|| "the process is stopping".to_owned());
        vec![
            ("database", database),
            ("schema", schema),
            ("consumer", consumer),
            ("lease", lease),
            ("draining", draining),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_named_unless_the_process_stops() {
        let second = Duration::from_secs(1);
        let loops = [("heartbeat", second), ("reconciler", 5 * second)];
        assert_eq!(stuck(&loops, 5 * second, false), None);
        let found = stuck(&loops, 4 * second, false);
        assert_eq!(found, Some(("reconciler", 5 * second)));
        assert_eq!(stuck(&loops, 4 * second, true), None);
    }
}
