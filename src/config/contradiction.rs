//! Keys that do not fit together, though each is allowed on its own.

use super::error::Problem;
use super::print::Shown;
use super::settings::Settings;
use crate::http::oidc::OidcSettings;
use crate::http::reads::MAX_HEARTBEAT_INTERVAL;
use crate::queue::redis::MAX_QUEUE_NAME;
use secrecy::ExposeSecret as _;

/// All contradictions.
pub(super) fn find(settings: &Settings) -> Vec<Problem> {
    let Settings {
        worker,
        reconciler,
        microsoft,
        ..
    } = settings;
    let rules = [
        (
            worker.dead_after >= 2 * worker.heartbeat_interval,
            "worker.dead_after",
            "at least twice",
            "worker.heartbeat_interval",
            "one late heartbeat must not cost the worker its runs",
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
    let has_replica = !settings.database.read_url.expose_secret().is_empty();
    if has_replica && worker.heartbeat_interval > MAX_HEARTBEAT_INTERVAL {
        problems.push(Problem {
            source: None,
            message: format!(
                "{} must be at most {} s where {} is set: heartbeats tell how far the replica is behind",
                said("worker.heartbeat_interval"),
                MAX_HEARTBEAT_INTERVAL.as_secs(),
                said("database.read_url")
            ),
        });
    }
    if has_replica && settings.is_embedded() {
        problems.push(Problem {
            source: None,
            message: format!(
                "{} must be empty where {} is no server: only PostgreSQL has replicas",
                said("database.read_url"),
                said("database.url")
            ),
        });
    }
    problems.extend(unusable_group(settings, said));
    problems.extend(incomplete_sign_in(&settings.http.oidc, said));
    problems
}

/// What is wrong with the group of this process, and with the names of the groups' queues.
fn unusable_group(settings: &Settings, said: impl Fn(&str) -> String) -> Vec<Problem> {
    let (groups, redis) = (&settings.worker.groups, &settings.redis);
    let mut problems = Vec::new();
    if !groups.names().any(|name| name == settings.worker.group) {
        let known: Vec<&str> = groups.names().collect();
        problems.push(Problem {
            source: None,
            message: format!(
                "{} must be a group of {}: {}",
                said("worker.group"),
                said("worker.groups"),
                known.join(", ")
            ),
        });
    }
    if groups
        .names()
        .any(|name| redis.queue_of(name).len() > MAX_QUEUE_NAME)
    {
        problems.push(Problem {
            source: None,
            message: format!(
                "{} must be shorter, or a name in {}: with a dot between them they have at most {MAX_QUEUE_NAME} characters",
                said("redis.queue"),
                said("worker.groups")
            ),
        });
    }
    problems
}

/// What is missing for sign-in with OpenID Connect.
fn incomplete_sign_in(oidc: &OidcSettings, said: impl Fn(&str) -> String) -> Vec<Problem> {
    if !oidc.is_configured() {
        return Vec::new();
    }
    let needed = [
        ("http.oidc.public_url", oidc.public_url.is_empty()),
        ("http.oidc.client_id", oidc.client_id.is_empty()),
        ("http.oidc.grants", oidc.grants.is_empty()),
    ];
    let missing = needed.into_iter().filter(|(_, is_empty)| *is_empty);
    missing
        .map(|(key, _)| Problem {
            source: None,
            message: format!(
                "{} must not be empty where {} is set: nobody could sign in",
                said(key),
                said("http.oidc.issuer")
            ),
        })
        .collect()
}
