//! All keys, with what is allowed.

use super::former;
use super::rule::{Rule, is_cloud_name};
use Rule::{
    ClaimName, ClientId, CloudBase, CloudName, CollectorUrl, DatabaseUrl, Duration, Filter, Grants,
    GroupName, Groups, Headers, Hosts, Integer, Issuer, Keys, LaravelKeys, Link, LinkWithId,
    Listen, ListenUrl, NoProxy, OidcScopes, OneOf, Path, Portal, PostgresUrl, ProxyUrl, PublicUrl,
    QueueName, Ratio, RedirectUri, RedisUrl,
};

/// Where a cloud's keys stand.
pub(super) const CLOUDS: &str = "microsoft.clouds.";
/// The keys of every cloud.
pub(super) const CLOUD_KEYS: [&str; 3] = ["login", "graph", "portal"];

/// The fixed keys; those of the clouds come on top.
pub(super) const FIXED: &[(&str, Rule)] = &[
    ("database.url", DatabaseUrl),
    ("database.password_file", Path),
    ("database.max_connections", Integer(1, 1000)),
    ("database.acquire_timeout", Duration("100ms", "5m")),
    ("database.statement_timeout", Duration("100ms", "1h")),
    ("database.listen_url", ListenUrl),
    ("database.read_url", PostgresUrl),
    ("redis.url", RedisUrl),
    ("redis.queue", QueueName),
    ("redis.response_timeout", Duration("100ms", "1m")),
    ("limits.context_bytes", Integer(1024, 1_048_576)),
    ("worker.concurrency", Integer(1, 4096)),
    ("worker.max_attempts", Integer(1, 100)),
    ("worker.run_deadline", Duration("1s", "1h")),
    ("worker.total_deadline", Duration("1s", "7d")),
    ("worker.heartbeat_interval", Duration("100ms", "5m")),
    ("worker.dead_after", Duration("200ms", "1h")),
    ("worker.grace_period", Duration("0s", "1h")),
    ("worker.groups", Groups),
    ("worker.group", GroupName),
    ("reconciler.interval", Duration("50ms", "5m")),
    ("reconciler.redeliver_after", Duration("100ms", "1d")),
    ("http.listen", Listen),
    ("http.max_connections", Integer(1, 65_536)),
    ("http.max_connections_per_peer", Integer(1, 65_536)),
    ("http.api.enabled", OneOf(&["on", "off"])),
    ("http.api.requests_per_minute", Integer(1, 1_000_000)),
    (
        "http.api.anonymous_requests_per_minute",
        Integer(1, 1_000_000),
    ),
    ("http.oidc.issuer", Issuer),
    ("http.oidc.public_url", PublicUrl),
    ("http.oidc.client_id", ClientId),
    ("http.oidc.client_secret_file", Path),
    ("http.oidc.scopes", OidcScopes),
    ("http.oidc.claim", ClaimName),
    ("http.oidc.grants", Grants),
    ("http.oidc.sign_out_at_provider", OneOf(&["on", "off"])),
    ("pages.session_lifetime", Duration("1m", "30d")),
    ("pages.secure_cookie", OneOf(&["auto", "always"])),
    ("log.format", OneOf(&["auto", "pretty", "json"])),
    ("log.filter", Filter),
    ("traces.endpoint", CollectorUrl),
    ("traces.headers", Headers),
    ("traces.sampling_ratio", Ratio),
    ("debug.socket", Path),
    ("credentials.keys", Keys),
    ("credentials.keys_file", Path),
    ("credentials.key_file", Path),
    ("credentials.laravel_keys", LaravelKeys),
    ("links.connections", Link),
    ("links.connection", LinkWithId),
    ("links.run", LinkWithId),
    ("links.consent_redirect", RedirectUri),
    ("webhooks.concurrency", Integer(1, 1024)),
    ("webhooks.request_timeout", Duration("100ms", "5m")),
    ("webhooks.give_up_after", Duration("1s", "365d")),
    ("webhooks.keep_delivered", Duration("0s", "365d")),
    ("webhooks.keep_failed", Duration("0s", "365d")),
    ("webhooks.loopback_hosts", Hosts),
    ("outbound.proxy", ProxyUrl),
    ("outbound.no_proxy", NoProxy),
    ("microsoft.default_cloud", CloudName),
    ("microsoft.request_timeout", Duration("100ms", "10m")),
    ("microsoft.modules_dir", Path),
];

/// What is allowed for this key; `None` if there is no such key.
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
    if key.is_empty() {
        return "names no key; docs/reference/configuration.md lists all keys".to_owned();
    }
    if let Some(now) = former::now(key) {
        return format!("{key} {now}");
    }
    let nearest = nearest(key);
    let key = key.escape_debug();
    match nearest {
        Some(nearest) => format!("unknown key {key}, did you mean {nearest}?"),
        None => format!(
            "unknown key {key}, and no known one is similar; docs/reference/configuration.md lists all keys"
        ),
    }
}
