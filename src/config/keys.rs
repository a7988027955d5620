//! All keys, with what is allowed.

use super::rule::{Rule, is_cloud_name};
use Rule::{
    CloudBase, CloudName, DatabaseUrl, Duration, Filter, Hosts, Integer, Keys, LaravelKeys, Link,
    LinkWithId, Listen, NoProxy, OneOf, Path, Portal, PostgresUrl, ProxyUrl, QueueName,
    RedirectUri, RedisUrl,
};

/// Where a cloud's keys stand.
pub(super) const CLOUDS: &str = "microsoft.clouds.";
/// The keys of every cloud.
pub(super) const CLOUD_KEYS: [&str; 3] = ["login", "graph", "portal"];

/// The fixed keys; those of the clouds come on top.
pub(super) const FIXED: &[(&str, Rule)] = &[
    ("database.url", DatabaseUrl),
    ("database.max_connections", Integer(1, 1000)),
    ("database.acquire_timeout", Duration("100ms", "5m")),
    ("database.connect_timeout", Duration("100ms", "5m")),
    ("database.statement_timeout", Duration("100ms", "1h")),
    ("database.lock_timeout", Duration("10ms", "1h")),
    ("database.idle_timeout", Duration("1s", "1d")),
    ("database.max_lifetime", Duration("1s", "1d")),
    ("database.listen", OneOf(&["auto", "off"])),
    ("database.listen_url", PostgresUrl),
    ("redis.url", RedisUrl),
    ("redis.queue", QueueName),
    ("redis.fetchers", Integer(1, 64)),
    ("redis.connect_timeout", Duration("100ms", "1m")),
    ("redis.response_timeout", Duration("100ms", "1m")),
    ("redis.retries", Integer(0, 100)),
    ("redis.retry_max_delay", Duration("10ms", "5m")),
    ("redis.poll_interval", Duration("10ms", "1m")),
    ("redis.heartbeat_interval", Duration("1s", "5m")),
    ("redis.missed_heartbeats", Integer(2, 1000)),
    ("redis.restart_backoff_min", Duration("10ms", "5m")),
    ("redis.restart_backoff_max", Duration("10ms", "1h")),
    ("redis.clean_interval", Duration("100ms", "1h")),
    ("redis.clean_chunk", Integer(1, 1000)),
    ("redis.dead_keep", Integer(0, 1_000_000)),
    ("in_process_queue.capacity", Integer(1, 10_000_000)),
    ("limits.context_bytes", Integer(1024, 1_048_576)),
    ("worker.concurrency", Integer(1, 4096)),
    ("worker.max_attempts", Integer(1, 100)),
    ("worker.run_deadline", Duration("1s", "1h")),
    ("worker.total_deadline", Duration("1s", "7d")),
    ("worker.beat_interval", Duration("100ms", "5m")),
    ("worker.dead_after", Duration("200ms", "1h")),
    ("worker.consumer_dead_after", Duration("2s", "1d")),
    ("worker.grace_period", Duration("0s", "1h")),
    ("reconciler.interval", Duration("50ms", "5m")),
    ("reconciler.redeliver_after", Duration("100ms", "1d")),
    ("reconciler.batch", Integer(1, 10_000)),
    ("reconciler.redeliver_below", Integer(1, 10_000_000)),
    ("reconciler.deliver_below", Integer(1, 10_000_000)),
    ("http.listen", Listen),
    ("http.stuck_after", Duration("90s", "1d")),
    ("http.check_timeout", Duration("100ms", "30s")),
    ("http.max_connections", Integer(1, 65_536)),
    ("http.max_connections_per_peer", Integer(1, 65_536)),
    ("http.header_timeout", Duration("100ms", "10m")),
    ("http.body_timeout", Duration("100ms", "10m")),
    ("http.write_timeout", Duration("100ms", "10m")),
    ("http.api.enabled", OneOf(&["on", "off"])),
    ("http.api.requests_per_minute", Integer(1, 1_000_000)),
    (
        "http.api.anonymous_requests_per_minute",
        Integer(1, 1_000_000),
    ),
    ("http.api.max_concurrent_requests", Integer(1, 10_000)),
    (
        "http.api.max_concurrent_requests_per_token",
        Integer(1, 10_000),
    ),
    ("http.api.request_timeout", Duration("1s", "10m")),
    ("http.api.max_body_bytes", Integer(1024, 16_777_216)),
    ("http.api.idempotency_keys_kept", Duration("1m", "30d")),
    ("pages.session_lifetime", Duration("1m", "30d")),
    ("pages.secure_cookie", OneOf(&["auto", "always"])),
    ("pages.requests_per_minute", Integer(1, 1_000_000)),
    ("pages.anonymous_requests_per_minute", Integer(1, 1_000_000)),
    ("pages.logins_per_minute", Integer(1, 1_000_000)),
    ("pages.max_streams", Integer(0, 10_000)),
    ("pages.max_streams_per_session", Integer(0, 10_000)),
    ("pages.max_streams_per_token", Integer(0, 10_000)),
    ("pages.live_interval", Duration("100ms", "1m")),
    ("pages.heartbeat", Duration("1s", "5m")),
    ("log.format", OneOf(&["auto", "pretty", "json"])),
    ("log.filter", Filter),
    ("credentials.keys", Keys),
    ("credentials.keys_file", Path),
    ("credentials.key_file", Path),
    ("credentials.laravel_keys", LaravelKeys),
    ("links.connections", Link),
    ("links.connection", LinkWithId),
    ("links.run", LinkWithId),
    ("links.consent_redirect", RedirectUri),
    ("webhooks.concurrency", Integer(1, 1024)),
    ("webhooks.concurrency_per_endpoint", Integer(1, 1024)),
    ("webhooks.connect_timeout", Duration("100ms", "1m")),
    ("webhooks.request_timeout", Duration("100ms", "5m")),
    ("webhooks.poll_interval", Duration("100ms", "5m")),
    ("webhooks.max_attempts", Integer(1, 100)),
    ("webhooks.retry_base_delay", Duration("10ms", "1h")),
    ("webhooks.retry_max_delay", Duration("10ms", "7d")),
    ("webhooks.give_up_after", Duration("1s", "365d")),
    ("webhooks.circuit_failures", Integer(1, 1000)),
    ("webhooks.circuit_pause", Duration("100ms", "1h")),
    ("webhooks.circuit_max_pause", Duration("100ms", "1d")),
    ("webhooks.keep_delivered", Duration("0s", "365d")),
    ("webhooks.keep_failed", Duration("0s", "365d")),
    ("webhooks.loopback_hosts", Hosts),
    ("outbound.proxy", ProxyUrl),
    ("outbound.no_proxy", NoProxy),
    ("microsoft.default_cloud", CloudName),
    ("microsoft.connect_timeout", Duration("100ms", "5m")),
    ("microsoft.read_timeout", Duration("100ms", "5m")),
    ("microsoft.request_timeout", Duration("100ms", "10m")),
    ("microsoft.max_response_bytes", Integer(1024, 67_108_864)),
    ("microsoft.max_pages", Integer(1, 1000)),
    ("microsoft.max_resources", Integer(1, 1000)),
    ("microsoft.max_attempts_per_request", Integer(1, 20)),
    ("microsoft.retry_base_delay", Duration("1ms", "1m")),
    ("microsoft.retry_max_delay", Duration("1ms", "10m")),
    ("microsoft.defer_after", Duration("0s", "10m")),
    ("microsoft.token_refresh_margin", Duration("0s", "30m")),
    ("microsoft.token_cache_entries", Integer(1, 1_000_000)),
    ("microsoft.role_cache_entries", Integer(1, 1_000_000)),
    ("microsoft.role_cache_ttl", Duration("1s", "7d")),
    ("microsoft.modules_dir", Path),
];

/// What is allowed for this key; null if there is no such key.
pub(super) fn rule(key: &str) -> Option<Rule> {
    if let Some((_, rule)) = FIXED.iter().find(|(name, _)| *name == key) {
        return Some(*rule);
    }
    let (cloud, last) = key.strip_prefix(CLOUDS)?.split_once('.')?;
    let rule = if last == "portal" { Portal } else { CloudBase };
    (is_cloud_name(cloud) && CLOUD_KEYS.contains(&last)).then_some(rule)
}

/// Whether this is the name of a section or of the table of clouds.
pub(super) fn is_section(key: &str) -> bool {
    let prefix = format!("{key}.");
    format!("{CLOUDS}x.").starts_with(&prefix)
        || FIXED.iter().any(|(name, _)| name.starts_with(&prefix))
        || key.strip_prefix(CLOUDS).is_some_and(is_cloud_name)
}

/// The known key that is most like this one, if any is like it at all.
pub(super) fn nearest(key: &str) -> Option<String> {
    const ALIKE: f64 = 0.5;
    let in_cloud = key
        .strip_prefix(CLOUDS)
        .and_then(|rest| rest.split_once('.'))
        .map(|(cloud, _)| cloud)
        .filter(|cloud| is_cloud_name(cloud))
        .unwrap_or("global");
    FIXED
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(CLOUD_KEYS.map(|last| format!("{CLOUDS}{in_cloud}.{last}")))
        .map(|name| (strsim::normalized_damerau_levenshtein(key, &name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// The sentence about a key that does not exist.
pub(super) fn unknown(key: &str) -> String {
    let nearest = nearest(key);
    let key = key.escape_debug();
    match nearest {
        Some(nearest) => format!("unknown key {key}, did you mean {nearest}?"),
        None => format!(
            "unknown key {key}, and no known one is like it; docs/reference/configuration.md lists all"
        ),
    }
}
