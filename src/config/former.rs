//! Keys of earlier versions. Each is refused with what took its place.

use std::fmt;

/// What took the place of a former key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// A key with this name.
    Key(&'static str),
    /// A constant with this value.
    Constant(&'static str),
    /// A value that follows another key.
    Derived(&'static str),
    /// The variable of the environment with this name.
    Variable(&'static str),
}

use Now::{Constant, Derived, Key, Variable};

/// All former keys, in the order in which they stood in the configuration.
#[rustfmt::skip] // A line for each.
pub(super) const FORMER: &[(&str, Now)] = &[
    ("database.connect_timeout", Derived("database.acquire_timeout")),
    ("database.lock_timeout", Derived("a sixth of database.statement_timeout")),
    ("database.idle_timeout", Constant("10m")),
    ("database.max_lifetime", Constant("30m")),
    ("database.listen", Derived("off where database.listen_url is off")),
    ("redis.connect_timeout", Derived("two fifths of redis.response_timeout, at least 500ms")),
    ("redis.fetchers", Constant("2")),
    ("redis.retries", Derived("6, or 0 where redis.url names Sentinels")),
    ("redis.retry_max_delay", Constant("2s")),
    ("redis.poll_interval", Derived("a fifth of worker.heartbeat_interval")),
    ("redis.heartbeat_interval", Derived("worker.heartbeat_interval in whole seconds")),
    ("redis.missed_heartbeats", Constant("6")),
    ("redis.restart_backoff_min", Constant("200ms")),
    ("redis.restart_backoff_max", Derived("twice worker.heartbeat_interval")),
    ("redis.clean_interval", Constant("2s")),
    ("redis.clean_chunk", Constant("500")),
    ("redis.dead_keep", Constant("1000")),
    ("in_process_queue.capacity", Constant("100000")),
    ("worker.beat_interval", Key("worker.heartbeat_interval")),
    ("worker.consumer_dead_after", Derived("24 times worker.heartbeat_interval")),
    ("reconciler.batch", Constant("500")),
    ("reconciler.redeliver_below", Constant("100")),
    ("reconciler.deliver_below", Constant("250")),
    ("http.stuck_after", Derived("36 times worker.heartbeat_interval, at least 90s plus twice reconciler.interval")),
    ("http.check_timeout", Constant("2s")),
    ("http.header_timeout", Constant("30s")),
    ("http.body_timeout", Constant("20s")),
    ("http.write_timeout", Constant("30s")),
    ("http.api.max_concurrent_requests", Derived("three fifths of database.max_connections")),
    ("http.api.max_concurrent_requests_per_token", Derived("three tenths of database.max_connections")),
    ("http.api.request_timeout", Constant("30s")),
    ("http.api.idempotency_keys_kept", Constant("24h")),
    ("http.api.max_body_bytes", Constant("65536")),
    ("pages.requests_per_minute", Derived("http.api.requests_per_minute")),
    ("pages.anonymous_requests_per_minute", Derived("http.api.requests_per_minute")),
    ("pages.logins_per_minute", Derived("half of http.api.anonymous_requests_per_minute")),
    ("pages.max_streams", Derived("an eighth of http.max_connections, at most 64")),
    ("pages.max_streams_per_session", Derived("a sixty-fourth of http.max_connections, at most 8")),
    ("pages.max_streams_per_token", Derived("a sixteenth of http.max_connections, at most 32")),
    ("pages.live_interval", Constant("1s")),
    ("pages.heartbeat", Constant("15s")),
    ("traces.protocol", Variable("OTEL_EXPORTER_OTLP_PROTOCOL")),
    ("traces.sampler", Variable("OTEL_TRACES_SAMPLER")),
    ("webhooks.concurrency_per_endpoint", Derived("a quarter of webhooks.concurrency")),
    ("webhooks.connect_timeout", Derived("a third of webhooks.request_timeout")),
    ("webhooks.max_attempts", Constant("11")),
    ("webhooks.poll_interval", Constant("2s")),
    ("webhooks.retry_base_delay", Derived("a third of webhooks.request_timeout")),
    ("webhooks.retry_max_delay", Derived("a quarter of webhooks.give_up_after")),
    ("webhooks.circuit_failures", Constant("5")),
    ("webhooks.circuit_pause", Derived("twice webhooks.request_timeout")),
    ("webhooks.circuit_max_pause", Derived("sixty times webhooks.request_timeout")),
    ("microsoft.connect_timeout", Derived("a quarter of microsoft.request_timeout")),
    ("microsoft.read_timeout", Derived("half of microsoft.request_timeout")),
    ("microsoft.max_attempts_per_request", Constant("4")),
    ("microsoft.max_response_bytes", Constant("1048576")),
    ("microsoft.max_pages", Constant("20")),
    ("microsoft.max_resources", Constant("50")),
    ("microsoft.retry_base_delay", Constant("200ms")),
    ("microsoft.retry_max_delay", Constant("5s")),
    ("microsoft.defer_after", Derived("the lesser of 5s and microsoft.request_timeout")),
    ("microsoft.token_refresh_margin", Constant("2m")),
    ("microsoft.token_cache_entries", Constant("10000")),
    ("microsoft.role_cache_entries", Constant("2000")),
    ("microsoft.role_cache_ttl", Constant("1h")),
];

/// Returns what took the place of this key, if there was one.
pub(super) fn now(key: &str) -> Option<Now> {
    FORMER
        .iter()
        .find(|(former, _)| *former == key)
        .map(|(_, now)| *now)
}

/// Completes a sentence about the former key.
impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key(key) => write!(f, "is now called {key}"),
            Constant(value) => write!(f, "is no longer a key: it is a constant, {value}"),
            Derived(rule) => write!(f, "is no longer a key: it is {rule}"),
            Variable(name) => write!(f, "is no longer a key: only {name} sets it"),
        }
    }
}
