//! Keys of earlier versions are refused with what took their place.

use super::*;
use crate::config::former::{self, FORMER, Now};

#[test]
fn a_former_key_is_refused_with_what_took_its_place() {
    for (name, toml, message) in [
        (
            "VERIFYD__WORKER__BEAT_INTERVAL",
            "[worker]\nbeat_interval = \"5s\"",
            "worker.beat_interval is now called worker.heartbeat_interval",
        ),
        (
            "VERIFYD__IN_PROCESS_QUEUE__CAPACITY",
            "[in_process_queue]\ncapacity = 5",
            "in_process_queue.capacity is no longer a key: it is a constant, 100000",
        ),
        (
            "VERIFYD__MICROSOFT__READ_TIMEOUT",
            "[microsoft]\nread_timeout = \"5s\"",
            "microsoft.read_timeout is no longer a key: it is half of microsoft.request_timeout",
        ),
        (
            "VERIFYD__TRACES__SAMPLER",
            "[traces]\nsampler = \"always_off\"",
            "traces.sampler is no longer a key: only OTEL_TRACES_SAMPLER sets it",
        ),
    ] {
        assert_eq!(
            errors(&[(name, "5")]),
            format!("environment variable {name}: {message}")
        );
        let error = with_file(toml, &[]).unwrap_err().to_string();
        assert!(error.starts_with("file /"), "{error}");
        assert!(error.ends_with(&format!(": {message}")), "{error}");
    }
}

#[test]
fn a_former_key_is_none_any_more_and_leads_to_keys_that_are() {
    for (former, now) in FORMER {
        assert_eq!(keys::rule(former), None, "{former}");
        let text = match now {
            Now::Key(key) => *key,
            Now::Derived(rule) => *rule,
            Now::Constant(value) => {
                assert!(value.starts_with(|c: char| c.is_ascii_digit()), "{former}");
                continue;
            }
            Now::Variable(name) => {
                assert!(name.starts_with("OTEL_"), "{former}");
                continue;
            }
        };
        let words = text.split([' ', ',']);
        assert!(
            words.into_iter().any(|word| keys::rule(word).is_some()),
            "{former}: {text}"
        );
    }
}

/// Private constants of other modules are not compared.
#[test]
fn the_text_about_a_constant_has_its_value() {
    let settings = load(&[]).unwrap();
    let text = |duration: Duration| humantime::format_duration(duration).to_string();
    let (consumer, http) = (&settings.redis.consumer, &settings.http.timeouts);
    let (live, pauses) = (&settings.pages.live, &settings.microsoft.pauses);
    let capacity = crate::queue::in_process::CAPACITY;
    for (key, value) in [
        ("redis.fetchers", consumer.fetchers.to_string()),
        ("redis.clean_interval", text(consumer.clean_interval)),
        ("redis.dead_keep", consumer.dead_keep.to_string()),
        ("in_process_queue.capacity", capacity.to_string()),
        ("http.header_timeout", text(http.head)),
        ("http.body_timeout", text(http.body)),
        ("http.write_timeout", text(http.write)),
        ("http.api.request_timeout", text(http.request)),
        ("pages.live_interval", text(live.poll_interval)),
        ("pages.heartbeat", text(live.keep_alive)),
        (
            "webhooks.circuit_failures",
            settings.webhooks.circuit().open_after.to_string(),
        ),
        ("microsoft.retry_base_delay", text(pauses.first)),
        ("microsoft.retry_max_delay", text(pauses.longest)),
    ] {
        let expected = format!("is no longer a key: it is a constant, {value}");
        assert_eq!(former::now(key).unwrap().to_string(), expected, "{key}");
    }
    // Constants up to a bound, or in most cases.
    for (key, rule) in [
        (
            "redis.retries",
            format!("{}, or 0 where redis.url names Sentinels", consumer.retries),
        ),
        (
            "microsoft.defer_after",
            format!(
                "the lesser of {} and microsoft.request_timeout",
                text(pauses.defer_after)
            ),
        ),
    ] {
        let expected = format!("is no longer a key: it is {rule}");
        assert_eq!(former::now(key).unwrap().to_string(), expected, "{key}");
    }
}

/// What follows a key has had the value that is said, with the defaults.
#[test]
fn by_default_everything_has_the_value_that_it_had_as_a_key() {
    let settings = load(&[]).unwrap();
    let seconds = |duration: Duration| duration.as_secs_f64();
    let (database, worker) = (&settings.database, &settings.worker);
    assert_eq!(seconds(database.lock_timeout()), 5.0);
    assert_eq!(seconds(worker.consumer_dead_after()), 120.0);
    let stuck_after = |sweeps| seconds(worker.stuck_after(Duration::from_secs(sweeps)));
    assert_eq!((stuck_after(1), stuck_after(300)), (180.0, 690.0));
    assert_eq!(seconds(settings.redis.connect_timeout()), 2.0);
    let consumer = &settings.redis.consumer;
    assert_eq!(seconds(consumer.heartbeat_interval), 5.0);
    assert_eq!(seconds(consumer.poll_interval), 1.0);
    let http = &settings.http;
    assert_eq!(http.logins_per_minute(), 30);
    assert_eq!(
        (
            http.max_streams(),
            http.max_streams_per_session(),
            http.max_streams_per_token()
        ),
        (64, 8, 32)
    );
    let webhooks = &settings.webhooks;
    assert_eq!(webhooks.per_endpoint(), 4);
    assert_eq!(seconds(webhooks.connect_timeout()), 5.0);
    assert_eq!(seconds(webhooks.pause_after(1)), 5.0);
    assert_eq!(seconds(webhooks.max_retry_delay()), 6.0 * 3600.0);
    let microsoft = &settings.microsoft;
    assert_eq!(seconds(microsoft.connect_timeout()), 5.0);
    assert_eq!(seconds(microsoft.read_timeout()), 10.0);
    assert_eq!(microsoft.max_attempts_per_request, 4);
    assert!(settings.http.timeouts.body < settings.http.timeouts.request);
}

#[test]
fn a_consumer_follows_the_heartbeat_that_is_configured() {
    let settings = load(&[
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "500ms"),
        ("VERIFYD__WORKER__DEAD_AFTER", "8s"),
    ])
    .unwrap();
    assert_eq!(
        settings.redis.consumer.heartbeat_interval,
        Duration::from_secs(1)
    );
    assert_eq!(
        settings.worker.consumer_dead_after(),
        Duration::from_secs(24)
    );
}

#[test]
fn more_connections_than_by_default_give_no_more_live_pages() {
    let settings = load(&[("VERIFYD__HTTP__MAX_CONNECTIONS", "65536")]).unwrap();
    assert_eq!(settings.http.max_streams(), 64);
}
