//! Keys that do not fit together, though each is allowed on its own.

use super::error::Problem;
use super::print::Shown;
use super::settings::Settings;

/// All contradictions.
pub(super) fn find(settings: &Settings) -> Vec<Problem> {
    let Settings {
        database,
        redis,
        worker,
        reconciler,
        webhooks,
        microsoft,
        ..
    } = settings;
    let rules = [
        (
            database.lock_timeout <= database.statement_timeout,
            "database.lock_timeout",
            "at most",
            "database.statement_timeout",
            "the statement would end before it gives up on the lock",
        ),
        (
            redis.restart_backoff_min <= redis.restart_backoff_max,
            "redis.restart_backoff_min",
            "at most",
            "redis.restart_backoff_max",
            "the pauses grow from the one to the other",
        ),
        (
            worker.dead_after >= 2 * worker.beat_interval,
            "worker.dead_after",
            "at least twice",
            "worker.beat_interval",
            "one beat that comes late must not cost the worker its runs",
        ),
        (
            worker.consumer_dead_after >= 4 * redis.heartbeat_interval,
            "worker.consumer_dead_after",
            "at least four times",
            "redis.heartbeat_interval",
            "a consumer that is busy shows no other sign of life",
        ),
        (
            worker.run_deadline > microsoft.request_timeout,
            "worker.run_deadline",
            "longer than",
            "microsoft.request_timeout",
            "otherwise one slow request uses up the whole attempt",
        ),
        (
            worker.total_deadline >= worker.run_deadline,
            "worker.total_deadline",
            "at least",
            "worker.run_deadline",
            "a run must have the time for one attempt",
        ),
        (
            reconciler.redeliver_after >= reconciler.interval,
            "reconciler.redeliver_after",
            "at least",
            "reconciler.interval",
            "otherwise every sweep delivers the same runs again",
        ),
        (
            reconciler.deliver_below >= reconciler.redeliver_below,
            "reconciler.deliver_below",
            "at least",
            "reconciler.redeliver_below",
            "hints that were lost would never be sent again",
        ),
        (
            microsoft.request_timeout >= microsoft.connect_timeout,
            "microsoft.request_timeout",
            "at least",
            "microsoft.connect_timeout",
            "connecting is a part of the request",
        ),
        (
            microsoft.request_timeout >= microsoft.read_timeout,
            "microsoft.request_timeout",
            "at least",
            "microsoft.read_timeout",
            "reading is a part of the request",
        ),
        (
            microsoft.retry_base_delay <= microsoft.retry_max_delay,
            "microsoft.retry_base_delay",
            "at most",
            "microsoft.retry_max_delay",
            "the pauses grow from the one to the other",
        ),
        (
            microsoft.defer_after < worker.run_deadline,
            "microsoft.defer_after",
            "shorter than",
            "worker.run_deadline",
            "waiting must leave time for the check",
        ),
        (
            webhooks.concurrency_per_endpoint <= webhooks.concurrency,
            "webhooks.concurrency_per_endpoint",
            "at most",
            "webhooks.concurrency",
            "one endpoint cannot have more than all together",
        ),
        (
            webhooks.request_timeout >= webhooks.connect_timeout,
            "webhooks.request_timeout",
            "at least",
            "webhooks.connect_timeout",
            "connecting is a part of the attempt",
        ),
        (
            webhooks.circuit_pause <= webhooks.circuit_max_pause,
            "webhooks.circuit_pause",
            "at most",
            "webhooks.circuit_max_pause",
            "the pauses grow from the one to the other",
        ),
        (
            webhooks.retry_base_delay <= webhooks.retry_max_delay,
            "webhooks.retry_base_delay",
            "at most",
            "webhooks.retry_max_delay",
            "the pauses grow from the one to the other",
        ),
    ];
    let said = |key: &str| {
        let shown = settings.shown.iter().find(|shown| shown.key == key);
        match shown {
            Some(Shown { text, origin, .. }) => format!("{key} ({text}, {origin})"),
            None => key.to_owned(),
        }
    };
    let mut problems: Vec<Problem> = rules
        .into_iter()
        .filter(|(holds, ..)| !holds)
        .map(|(_, key, relation, other, why)| Problem {
            source: None,
            message: format!("{} must be {relation} {}: {why}", said(key), said(other)),
        })
        .collect();
    if !microsoft.clouds.contains_key(&microsoft.default_cloud) {
        let known: Vec<&str> = microsoft.clouds.keys().map(String::as_str).collect();
        problems.push(Problem {
            source: None,
            message: format!(
                "{} must be one of the clouds under microsoft.clouds: {}",
                said("microsoft.default_cloud"),
                known.join(", ")
            ),
        });
    }
    problems
}
