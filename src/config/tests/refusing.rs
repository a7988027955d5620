use super::*;

#[test]
fn an_unknown_key_names_its_source_and_the_nearest_known_one() {
    assert_eq!(
        errors(&[("VERIFYD__WORKER__CONCURENCY", "5")]),
        "environment variable VERIFYD__WORKER__CONCURENCY: unknown key worker.concurency, did you \
         mean worker.concurrency?"
    );
    for (name, nearest) in [
        ("VERIFYD__WORKER_CONCURRENCY", "worker.concurrency"),
        ("VERIFYD__WROKER__CONCURRENCY", "worker.concurrency"),
        ("VERIFYD__DATABASE_URL", "database.url"),
        (
            "VERIFYD__MICROSOFT__CLOUDS__TEST__LOGNI",
            "microsoft.clouds.test.login",
        ),
        ("VERIFYD__CREDENTIALS__KEY", "credentials.keys"),
    ] {
        let error = errors(&[(name, "5")]);
        assert!(
            error.ends_with(&format!("did you mean {nearest}?")),
            "{error}"
        );
    }
    let error = errors(&[("VERIFYD__ZZZZZZ", "5")]);
    assert_holds(&error, "unknown key zzzzzz, and no known one is similar");
    let error = errors(&[("VERIFYD__", "1")]);
    assert_holds(
        &error,
        "environment variable VERIFYD__: names no key; docs/",
    );

    let text = "redis = 5\n[wroker]\nconcurrency = 5\n[empty]\n[worker]\ncncurrency = 5\n";
    let error = with_file(text, &[]).unwrap_err();
    let messages: Vec<&str> = error.problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(messages.len(), 4, "{error}");
    for expected in [
        "redis must be a table of keys, not a value",
        "unknown key wroker.concurrency, did you mean worker.concurrency?",
        "unknown key worker.cncurrency, did you mean worker.concurrency?",
    ] {
        assert!(messages.contains(&expected), "{expected}\n{error}");
    }
    assert!(
        error
            .problems
            .iter()
            .all(|p| p.source.as_deref().unwrap().starts_with("file /"))
    );

    let mut flags = sources(&[]);
    flags.overrides = Overrides::default().with("--listen", "http.lisen", "x");
    let error = Settings::load(flags).unwrap_err().to_string();
    assert_eq!(
        error,
        "flag --listen: unknown key http.lisen, did you mean http.listen?"
    );
}

#[test]
fn a_group_without_a_usable_queue_is_refused() {
    let groups = r#"[{ name = "eu", workspaces = [1] }]"#;
    let groups = ("VERIFYD__WORKER__GROUPS", groups);
    let eu = ("VERIFYD__WORKER__GROUP", "eu");
    let settings = load(&[groups, eu]).unwrap();
    assert_eq!(
        settings.redis.queue_of(&settings.worker.group),
        "verifyd.eu"
    );
    assert_holds(
        &errors(&[eu]),
        "must be a group of worker.groups ([], default): default",
    );
    let us = ("VERIFYD__WORKER__GROUP", "us");
    assert_holds(&errors(&[groups, us]), ": default, eu");
    let long = "q".repeat(62);
    let error = errors(&[groups, ("VERIFYD__REDIS__QUEUE", long.as_str())]);
    assert_holds(&error, "they have at most 64 characters");
}

#[test]
fn a_number_that_no_key_can_hold_is_named_with_its_key() {
    for number in [
        "9223372036854775808",
        "99999999999999999999999999999999999999999",
    ] {
        for (text, allowed) in [
            (
                format!("[worker]\nconcurrency = {number}"),
                "worker.concurrency must be a whole number from 1 to 4096, ",
            ),
            (
                format!("worker.groups = [{{ name = \"eu\", workspaces = [1, {number}] }}]"),
                "worker.groups must be a list of {",
            ),
        ] {
            let error = with_file(&text, &[]).unwrap_err().to_string();
            assert_holds(&error, allowed);
            assert!(
                error.ends_with("found a number that is out of range"),
                "{error}"
            );
        }
        for (text, problem) in [
            (
                format!("[worker]\nconcurency = {number}"),
                "unknown key worker.concurency, did you mean worker.concurrency?",
            ),
            (format!("nonsense = [{number}]"), "unknown key nonsense, "),
            (
                format!("worker = {number}"),
                "worker must be a table of keys, not a value",
            ),
        ] {
            let error = with_file(&text, &[]).unwrap_err().to_string();
            assert_holds(&error, problem);
        }
    }
}

#[test]
fn a_sign_in_that_nobody_could_use_is_refused() {
    let issuer = ("VERIFYD__HTTP__OIDC__ISSUER", "https://login.example");
    let error = errors(&[issuer]);
    for key in ["public_url", "client_id", "grants"] {
        assert_holds(&error, &format!("http.oidc.{key} ("));
    }
    assert_holds(&error, "must not be empty where http.oidc.issuer (");
    for (key, wrong) in [
        ("ISSUER", "http://login.example"),
        ("ISSUER", "https://login.example?a=b"),
        // Each is read as another address than it says.
        ("ISSUER", "https:///login.example"),
        ("ISSUER", "https://login.example/a/../b"),
        ("ISSUER", "https://login.example:0"),
        ("PUBLIC_URL", "https://verifyd.example/"),
        ("PUBLIC_URL", "http://verifyd.example"),
        ("PUBLIC_URL", "https://verifyd.example:0"),
        ("CLIENT_ID", "a b"),
        ("CLAIM", ""),
        ("SCOPES", "profile"),
        ("SCOPES", "openid  profile"),
        ("GRANTS", "ops"),
        ("GRANTS", "[{ value = \"ops\" }]"),
    ] {
        let error = errors(&[(&format!("VERIFYD__HTTP__OIDC__{key}"), wrong)]);
        let key = key.to_lowercase();
        assert_holds(&error, &format!("http.oidc.{key} must be "));
    }
}

#[test]
fn wrong_types_and_ranges_name_key_source_found_and_allowed() {
    let source = "environment variable VERIFYD__WORKER__CONCURRENCY: worker.concurrency must be a \
                  whole number from 1 to 4096, found ";
    for (value, found) in [
        ("many", "the text \"many\""),
        ("0", "0"),
        ("4097", "4097"),
        ("", "the text \"\""),
        ("99999999999999999999", "the text \"99999999999999999999\""),
    ] {
        let error = errors(&[("VERIFYD__WORKER__CONCURRENCY", value)]);
        assert_eq!(error, format!("{source}{found}"));
    }
    for (toml, expected) in [
        ("worker.concurrency = '64'", "found the text \"64\""),
        ("worker.concurrency = 1.5", "a number with a fraction"),
        ("worker.concurrency = true", "found true or false"),
        ("worker.concurrency = [1]", "found a list"),
        ("worker.concurrency = { x = 1 }", "found a table"),
        ("worker.concurrency = 2026-01-01", "found a date"),
        ("credentials.keys = [2026-01-01]", "found a date"),
        (
            "worker.heartbeat_interval = 5",
            "found the number 5 without a unit (for seconds write \"5s\")",
        ),
        (
            "worker.heartbeat_interval = '5'",
            "from 100ms to 5m, found the text \"5\"",
        ),
        ("worker.heartbeat_interval = '1h'", "the text \"1h\""),
        (
            "log.format = 'xml'",
            "one of auto, pretty, json, found the text \"xml\"",
        ),
        ("log.filter = 'info,='", "must be a filter"),
        ("log.filter = 'inof'", "must be a filter"),
        ("log.filter = 'info,verifyd'", "must be a filter"),
        ("log.filter = 'info debug'", "must be a filter"),
        ("log.filter = 'info,,'", "must be a filter"),
        ("http.listen = '9464'", "must be an IP address and a port"),
        ("redis.queue = 'a b'", "must be 1 to 64 letters"),
        ("redis.url = 'http://h'", "must be a redis://"),
        ("database.url = 'mysql://h/x'", "must be a postgres://"),
        ("database.url = 'sqlite:'", "must be a postgres://"),
        ("database.listen_url = 'on'", "address, off, or empty"),
        ("credentials.keys = 'k1:x'", "must be a list of keys"),
        ("credentials.keys = [5]", "a whole number as element [0]"),
        (
            "credentials.keys = ['a:b', { id = 'x' }]",
            "found a table as element [1]",
        ),
        (
            "credentials.laravel_keys = [{ id = 'x', key = 'y' }]",
            "as element [0]",
        ),
        ("links.run = '/runs'", "with {id} in it"),
        ("links.run = '//evil/{id}'", "must be"),
        (
            "links.consent_redirect = 'http://app.example/back'",
            "must be",
        ),
        (
            "links.consent_redirect = 'https://app.example/#back'",
            "must be",
        ),
        ("links.connections = 'http://x'", "must be"),
        ("links.connections = 'https://'", "must be"),
        (
            "links.connections = 'https:///app.example'",
            "must be written as it is called",
        ),
        (
            "links.run = 'https://app.example:0/{id}'",
            "it must have a port from 1 to 65535",
        ),
        (
            "microsoft.clouds.global.graph = 'https://graph.test:0'",
            "it must have a port",
        ),
        (
            "traces.endpoint = 'http://collector.test:0'",
            "must have a port",
        ),
        ("outbound.proxy = 'http://proxy.test:0'", "from 1 to 65535"),
        ("outbound.proxy = 'proxy.test:0'", "from 1 to 65535"),
        ("redis.url = 'redis://h:0'", "from 1 to 65535"),
        ("database.url = 'postgres://h:0/x'", "from 1 to 65535"),
        (
            "links.run = 'https://b\u{fc}cher.example/{id}'",
            "HOST in ASCII (xn--…)",
        ),
        (
            "links.consent_redirect = 'https:\\\\app.example\\back'",
            "must be",
        ),
        (
            "microsoft.clouds.global.graph = 'https:///graph.test'",
            "must be",
        ),
        ("traces.endpoint = 'http:///collector.test'", "must be"),
        (
            "traces.headers = 'a=1,Host=s3cr3t'",
            "found host, which the exporter sets itself; allowed: any but host, content-type,",
        ),
        ("microsoft.default_cloud = 'Mars'", "must be"),
        (
            "microsoft.clouds.global.graph = 'http://graph.test'",
            "http only for loopback",
        ),
        (
            "microsoft.clouds.global.graph = 'https://graph.test/v1.0'",
            "without a path",
        ),
        (
            "microsoft.clouds.global.graph = 'https://graph.test/'",
            "without a path",
        ),
        (
            "microsoft.clouds.global.graph = 'https://u:p@graph.test'",
            "without a path",
        ),
        (
            "microsoft.clouds.mars = { login = 'https://x', portal = 'https://x' }",
            "microsoft.clouds.mars.graph is missing",
        ),
        (
            "microsoft.clouds.Mars.login = 'https://x'",
            "unknown key microsoft.clouds.Mars.login",
        ),
    ] {
        let error = with_file(toml, &[]).unwrap_err().to_string();
        let (key, _) = toml.split_once(" = ").unwrap();
        assert!(
            error.contains(expected) && error.contains(key) && error.starts_with("file /"),
            "{toml}\n{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let error = load(&[
        ("VERIFYD__WORKER__CONCURRENCY", "0"),
        ("VERIFYD__WORKER__CONCURENCY", "5"),
        ("VERIFYD__LOG__FORMAT", "xml"),
    ])
    .unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
    assert_eq!(error.to_string().lines().count(), 3);
}

#[test]
fn keys_that_contradict_each_other_are_refused_with_both_origins() {
    assert_eq!(
        errors(&[("VERIFYD__WORKER__DEAD_AFTER", "8s")]),
        "worker.dead_after (\"8s\", environment variable VERIFYD__WORKER__DEAD_AFTER) must be at \
         least twice worker.heartbeat_interval (\"5s\", default): one late heartbeat must \
         not cost the worker its runs"
    );
    for (key, value, expected) in [
        (
            "WORKER__RUN_DEADLINE",
            "20s",
            "longer than microsoft.request_timeout",
        ),
        (
            "WORKER__TOTAL_DEADLINE",
            "59s",
            "at least worker.run_deadline",
        ),
        ("RECONCILER__INTERVAL", "31s", "reconciler.redeliver_after"),
        (
            "MICROSOFT__DEFAULT_CLOUD",
            "mars",
            "china, global, us_gov_dod, us_gov_l4",
        ),
    ] {
        let error = errors(&[(&format!("VERIFYD__{key}"), value)]);
        assert!(error.contains(expected), "{key}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let read_url = "postgres://u@h/db";
    let error = errors(&[
        ("DATABASE_URL", "sqlite:x.db"),
        ("VERIFYD__DATABASE__READ_URL", read_url),
    ]);
    assert_holds(&error, "must be empty where database.url (\"sqlite:x.db\"");
    let error = errors(&[
        ("DATABASE_URL", read_url),
        ("VERIFYD__DATABASE__READ_URL", read_url),
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "11s"),
        ("VERIFYD__WORKER__DEAD_AFTER", "22s"),
    ]);
    assert_holds(&error, "must be at most 10 s where database.read_url (");
}

#[test]
fn files_that_cannot_be_read_or_parsed_are_named() {
    let error = errors(&[("VERIFYD_CONFIG", "/nowhere/verifyd.toml")]);
    assert!(
        error.starts_with("environment variable VERIFYD_CONFIG: /nowhere/verifyd.toml cannot be"),
        "{error}"
    );
    let text = format!("[database]\nurl = \"postgres://u:{CANARY}@h/db\" x\n");
    let error = with_file(&text, &[]).unwrap_err().to_string();
    assert_holds(&error, "is no valid TOML: line 2, column ");
    assert!(!error.contains(CANARY), "{error}");
}

#[test]
fn an_address_that_cannot_be_read_says_what_to_change_and_never_the_password() {
    for (name, url, words) in [
        (
            "DATABASE_URL",
            "postgres://u:canaryS3cr3t#x@h/db",
            "percent-encode # as %23 in the password",
        ),
        (
            "DATABASE_URL",
            "postgres://u:canaryS3cr3t/x@h/db",
            "percent-encode / as %2F in the password",
        ),
        (
            "DATABASE_URL",
            "postgres://u:canaryS3cr3t?x@h/db",
            "percent-encode ? as %3F in the password",
        ),
        (
            "DATABASE_URL",
            "postgres://u:canaryS3cr3t@h/db?sslmode=no-verify",
            "the parameter sslmode has another value, allowed: disable, allow, prefer, require, \
             verify-ca, verify-full",
        ),
        (
            "DATABASE_URL",
            "postgres://u@::1:5432/db",
            "an IPv6 address must be in brackets",
        ),
        (
            "VERIFYD__DATABASE__LISTEN_URL",
            "postgres://u:canaryS3cr3t#@h/db",
            "percent-encode # as %23",
        ),
        (
            "REDIS_URL",
            "redis://:canaryS3cr3t#x@h",
            "percent-encode # as %23 in the password",
        ),
        (
            "REDIS_URL",
            "redis://canaryS3cr3t@h",
            "redis://:PASSWORD@HOST",
        ),
        ("REDIS_URL", "redis://h/first", "the number of a database"),
        (
            "REDIS_URL",
            "redis+sentinel://:canaryS3cr3t@h,i",
            "the name of a primary that Sentinel monitors",
        ),
        (
            "REDIS_URL",
            "rediss://h?db=1",
            "the parameter \"db\" is not known",
        ),
        (
            "DATABASE_URL",
            "sqlite:x.db?foo=1",
            "the parameter \"foo\" is not known, allowed: mode, cache, immutable, vfs",
        ),
        (
            "DATABASE_URL",
            "sqlite:x.db?mode=ro",
            "allowed: rw, rwc; verifyd writes the file",
        ),
        (
            "DATABASE_URL",
            "sqlite::memory:",
            "it names a database in memory, of which every connection and every process would see another",
        ),
        (
            "DATABASE_URL",
            "postgres://u:canaryS3cr3t@h/db\u{200b}",
            "it ends with U+200B ZERO WIDTH SPACE; remove it",
        ),
        (
            "REDIS_URL",
            "redis://:canaryS3cr3t@h\u{201d}/0",
            "the host holds U+201D RIGHT DOUBLE QUOTATION MARK; remove it",
        ),
        (
            "DATABASE_URL",
            "POSTGRES://u:canaryS3cr3t@h/db",
            "the scheme must be in lower case, postgres:",
        ),
        (
            "DATABASE_URL",
            "SQLite:x.db",
            "the scheme must be in lower case, sqlite:",
        ),
        (
            "REDIS_URL",
            "REDISS://:canaryS3cr3t@h",
            "the scheme must be in lower case, rediss:",
        ),
        (
            "DATABASE_URL",
            "\"postgres://u:canaryS3cr3t@h/db\"",
            "it begins with U+0022 QUOTATION MARK; nothing may be before the scheme",
        ),
        (
            "REDIS_URL",
            "\u{200b}redis://:canaryS3cr3t@h",
            "it begins with U+200B ZERO WIDTH SPACE;",
        ),
        (
            "VERIFYD__OUTBOUND__PROXY",
            "'http://u:canaryS3cr3t@h:3128'",
            "it begins with U+0027 APOSTROPHE;",
        ),
        (
            "VERIFYD__OUTBOUND__PROXY",
            "http://[::1",
            "the text in brackets is no IPv6 address",
        ),
        (
            "VERIFYD__OUTBOUND__PROXY",
            "::1:3128",
            "an IPv6 address must be in brackets",
        ),
        (
            "VERIFYD__OUTBOUND__PROXY",
            "u:canaryS3cr3t/x@h:3128",
            "percent-encode / as %2F in the password",
        ),
    ] {
        let error = errors(&[(name, url)]);
        assert!(
            error.contains(words) && error.contains(name),
            "{url}: {error}"
        );
        assert!(!error.contains("canaryS3cr3t"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
