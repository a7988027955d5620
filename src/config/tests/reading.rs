use super::*;
use crate::domain::access::Scope;
use crate::domain::{TenantId, WorkspaceId};
use crate::telemetry::logs::LogFormat;
use crate::telemetry::sampling::TraceSampler;
use crate::telemetry::traces::Protocol;

#[test]
fn the_defaults_load_alone() {
    let settings = load(&[]).unwrap();
    assert_eq!(settings.worker.concurrency, 64);
    assert_eq!(settings.worker.total_deadline, Duration::from_secs(900));
    assert_eq!(settings.http.listen.port(), 9464);
    assert_eq!(settings.log.format, LogFormat::Auto);
    assert!(!settings.has_redis());
    assert!(settings.is_embedded());
    assert_eq!(
        settings.embedded_key_file(),
        Some(PathBuf::from("verifyd.key"))
    );
    let clouds = &settings.microsoft.clouds;
    assert_eq!(
        clouds.keys().collect::<Vec<_>>(),
        ["china", "global", "us_gov_dod", "us_gov_l4"]
    );
    assert_eq!(clouds["us_gov_dod"].graph, "https://dod-graph.microsoft.us");
}

#[test]
fn what_is_printed_loads_again_and_prints_the_same() {
    let environment = [
        (
            "VERIFYD__MICROSOFT__CLOUDS__TEST__LOGIN",
            "http://127.0.0.1:8080",
        ),
        (
            "VERIFYD__MICROSOFT__CLOUDS__TEST__GRAPH",
            "http://[::1]:8080",
        ),
        (
            "VERIFYD__MICROSOFT__CLOUDS__TEST__PORTAL",
            "https://portal.example",
        ),
        (
            "VERIFYD__CREDENTIALS__KEY_FILE",
            "/tmp/a \"b\"\\c\u{7f}#.key",
        ),
        ("VERIFYD__LOG__FILTER", "info,verifyd=debug"),
        ("VERIFYD__DATABASE__LISTEN_URL", "off"),
    ];
    let first = load(&environment).unwrap();
    let printed = first.print();
    let second = with_file(&printed, &[]).unwrap();
    assert_eq!(bare(&second.print()), bare(&printed));
    assert_eq!(
        second.credentials.key_file,
        PathBuf::from("/tmp/a \"b\"\\c\u{7f}#.key")
    );
    assert_eq!(second.microsoft.clouds, first.microsoft.clouds);
    assert!(!second.database.listens());
    let defaults = load(&[]).unwrap().print();
    assert_eq!(
        defaults
            .lines()
            .filter(|line| line.ends_with(" # default"))
            .count(),
        keys::FIXED.len() + 12
    );
}

#[test]
fn later_sources_win() {
    let toml = "[worker]\nconcurrency = 2\nmax_attempts = 2\nheartbeat_interval = \"2s\"\n";
    let config = file(toml);
    let mut all = sources(&[
        ("VERIFYD_CONFIG", path(&config)),
        ("VERIFYD__WORKER__CONCURRENCY", "3"),
        ("VERIFYD__WORKER__MAX_ATTEMPTS", "4"),
    ]);
    all.overrides = Overrides::default()
        .with("--concurrency", "worker.concurrency", "5")
        .with_optional("--listen", "http.listen", None::<String>)
        .with_optional("--queue", "redis.queue", Some("q"));
    let settings = Settings::load(all.clone()).unwrap();
    assert_eq!(settings.worker.concurrency, 5);
    assert_eq!(settings.worker.max_attempts, 4);
    assert_eq!(settings.worker.heartbeat_interval, Duration::from_secs(2));
    assert_eq!(settings.redis.queue, "q");
    let printed = settings.print();
    for line in [
        "concurrency = 5 # flag --concurrency".to_owned(),
        "max_attempts = 4 # environment variable VERIFYD__WORKER__MAX_ATTEMPTS".to_owned(),
        format!("heartbeat_interval = \"2s\" # file {}", path(&config)),
        "dead_after = \"15s\" # default".to_owned(),
    ] {
        assert!(printed.lines().any(|l| l == line), "{line}\n{printed}");
    }
    // The flag wins over the variable.
    let other = file("[worker]\nheartbeat_interval = \"3s\"\n");
    all.file = Some(other.path().to_owned());
    let settings = Settings::load(all).unwrap();
    assert_eq!(settings.worker.heartbeat_interval, Duration::from_secs(3));
}

#[test]
fn the_plain_names_lose_against_the_full_ones() {
    let url = |settings: Settings| settings.database.url.expose_secret().to_owned();
    let plain = ("DATABASE_URL", "postgres://plain/x");
    let full = ("VERIFYD__DATABASE__URL", "postgres://full/x");
    assert_eq!(url(load(&[plain]).unwrap()), plain.1);
    assert_eq!(url(load(&[plain, full]).unwrap()), full.1);
    assert_eq!(
        url(with_file("[database]\nurl = \"sqlite:x\"", &[plain]).unwrap()),
        plain.1
    );
    // Set to nothing is not set.
    let empty = ("DATABASE_URL", "");
    assert_eq!(
        url(with_file("[database]\nurl = \"sqlite:x\"", &[empty]).unwrap()),
        "sqlite:x"
    );
    for url in ["redis://h", "redis+sentinel://h:1,[::1]:2/mymaster/0"] {
        assert!(load(&[("REDIS_URL", url)]).unwrap().has_redis(), "{url}");
    }
}

#[test]
fn the_standard_variables_of_traces_count_where_traces_are_on() {
    let json = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
    let broken = ("OTEL_EXPORTER_OTLP_HEADERS", "canary");
    assert!(load(&[json, broken]).is_ok());
    let off = ("VERIFYD__TRACES__ENDPOINT", "");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
    assert!(load(&[json, broken, endpoint, off]).is_ok());
    let error = errors(&[json, broken, endpoint]);
    for problem in [
        "OTEL_EXPORTER_OTLP_PROTOCOL: must be one of http/protobuf, grpc, found the text",
        "OTEL_EXPORTER_OTLP_HEADERS: traces.headers must be",
    ] {
        assert_holds(&error, &format!("environment variable {problem}"));
    }
    assert!(!error.contains("canary"), "{error}");

    let headers = |environment: &[(&str, &str)]| {
        let settings = with_file("[traces]\nheaders = \"a=file\"", environment).unwrap();
        settings.traces.headers.expose_secret().to_owned()
    };
    let standard = ("OTEL_EXPORTER_OTLP_HEADERS", "a=standard");
    let own = ("VERIFYD__TRACES__HEADERS", "a=own");
    assert_eq!(headers(&[endpoint]), "a=file");
    assert_eq!(headers(&[endpoint, standard]), "a=standard");
    assert_eq!(headers(&[endpoint, standard, own]), "a=own");

    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let protocol = |environment: &[(&str, &str)]| load(environment).unwrap().traces.protocol;
    assert_eq!(protocol(&[endpoint]), Protocol::Http);
    assert_eq!(protocol(&[endpoint, grpc]), Protocol::Grpc);
}

#[test]
fn the_standard_sampler_counts_and_is_refused_beside_the_key() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
    let sampler = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
    let ratio = ("OTEL_TRACES_SAMPLER_ARG", "0.25");
    let traces = |environment: &[(&str, &str)]| {
        let traces = load(environment).unwrap().traces;
        (traces.sampler, traces.sampling_ratio)
    };
    let standard = TraceSampler::ParentBasedTraceIdRatio;
    assert_eq!(traces(&[endpoint, sampler, ratio]), (standard, 0.25));
    assert_eq!(traces(&[endpoint, sampler]), (standard, 1.0));
    assert_eq!(traces(&[endpoint, ratio]), (TraceSampler::Auto, 1.0));
    let own = ("VERIFYD__TRACES__SAMPLING_RATIO", "0.5");
    assert_eq!(traces(&[endpoint, ratio, own]), (TraceSampler::Auto, 0.5));
    let remote = ("OTEL_TRACES_SAMPLER", "jaeger_remote");
    assert!(load(&[remote, own]).is_ok());
    let refused = "environment variable OTEL_TRACES_SAMPLER: counts for nothing where \
        traces.sampling_ratio is set; set OTEL_TRACES_SAMPLER_ARG instead of the key";
    assert_eq!(errors(&[endpoint, sampler, ratio, own]), refused);
    let in_file = with_file("[traces]\nsampling_ratio = 0.5", &[endpoint, sampler]);
    assert_eq!(in_file.unwrap_err().to_string(), refused);
    let error = errors(&[endpoint, remote]);
    assert_holds(
        &error,
        "environment variable OTEL_TRACES_SAMPLER: must be one of always_on, always_off,",
    );
}

#[test]
fn the_standard_variable_switches_traces_off() {
    let endpoint = |value: &str| {
        let own = ("VERIFYD__TRACES__ENDPOINT", "http://localhost:4318");
        let settings = load(&[own, ("OTEL_SDK_DISABLED", value)]).unwrap();
        settings.traces.endpoint
    };
    assert_eq!(endpoint("True"), "");
    for value in ["", "false", "1"] {
        assert_eq!(endpoint(value), "http://localhost:4318", "{value}");
    }
}

#[test]
fn lists_are_separated_by_commas() {
    let settings = load(&[("VERIFYD__CREDENTIALS__KEYS", "k2:AA==, k1:BB==")]).unwrap();
    let ids: Vec<&str> = settings
        .credentials
        .keys
        .iter()
        .map(|k| k.id.as_str())
        .collect();
    assert_eq!(ids, ["k2", "k1"]);
    let settings = load(&[("VERIFYD__CREDENTIALS__LARAVEL_KEYS", "")]).unwrap();
    assert!(settings.credentials.laravel_keys.is_empty());
    let toml = "[credentials]\nkeys = [\"k2:AA==\", { id = \"k1\", key = \"BB==\" }]\n";
    let settings = with_file(toml, &[]).unwrap();
    assert_eq!(settings.credentials.keys[1].id, "k1");
    assert_eq!(settings.credentials.keys[1].key.expose_secret(), "BB==");
}

/// The keys without which nobody could sign in with OpenID Connect.
const SIGN_IN: &str = "[http.oidc]\nissuer = \"https://login.example\"\n\
    public_url = \"https://verifyd.example\"\nclient_id = \"verifyd\"\n";

#[test]
fn grants_are_tables_of_a_file_or_a_list_in_a_variable() {
    let one = "value = \"ops\"\nscopes = [\"read\", \"run\"]\nworkspace = 1\ntenant = 2\n";
    let settings = with_file(&format!("{SIGN_IN}[[http.oidc.grants]]\n{one}"), &[]).unwrap();
    let grants = &settings.http.oidc.grants;
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0].value, "ops");
    assert_eq!(grants[0].scopes, [Scope::Read, Scope::Run]);
    let ids = (grants[0].workspace, grants[0].tenant);
    assert_eq!(ids, (Some(WorkspaceId(1)), Some(TenantId(2))));
    let printed = with_file(&settings.print(), &[]).unwrap();
    assert_eq!(&printed.http.oidc.grants, grants);
    let list = r#"[{ value = "ops", scopes = ["read", "run"], workspace = 1, tenant = 2 }]"#;
    let by_variable = with_file(SIGN_IN, &[("VERIFYD__HTTP__OIDC__GRANTS", list)]).unwrap();
    assert_eq!(&by_variable.http.oidc.grants, grants);
}

#[test]
fn secrets_are_read_from_files() {
    let database = file("postgres://u:p@h/db\r\n");
    let keys = file("# previous ones below\nbase64:AA==\n\nbase64:BB==,base64:CC==\n");
    let settings = load(&[
        ("DATABASE_URL_FILE", path(&database)),
        ("REDIS_URL_FILE", ""),
        ("VERIFYD__CREDENTIALS__LARAVEL_KEYS_FILE", path(&keys)),
        ("VERIFYD__CREDENTIALS__KEYS_FILE", "/run/secrets/keys"),
        ("VERIFYD__CREDENTIALS__KEYS", "k1:AA=="),
    ])
    .unwrap();
    assert_eq!(settings.database.url.expose_secret(), "postgres://u:p@h/db");
    assert_eq!(settings.credentials.laravel_keys.len(), 3);
    assert_eq!(
        settings.credentials.keys_file,
        PathBuf::from("/run/secrets/keys")
    );
    let printed = settings.print();
    assert_holds(
        &printed,
        "# the file that environment variable DATABASE_URL_FILE names",
    );
    let redis = file("redis://h/1");
    let settings = load(&[("VERIFYD__REDIS__URL_FILE", path(&redis))]).unwrap();
    assert_eq!(settings.redis.url.expose_secret(), "redis://h/1");

    for (value, file) in [
        ("DATABASE_URL", "DATABASE_URL_FILE"),
        ("VERIFYD__DATABASE__URL", "VERIFYD__DATABASE__URL_FILE"),
    ] {
        let error = errors(&[(value, "sqlite:x"), (file, path(&database))]);
        assert_eq!(
            error,
            format!("environment variable {file}: {value} is set, too; set only one of the two")
        );
    }
    // Only secrets have such a variable.
    let error = errors(&[("VERIFYD__LOG__FILTER_FILE", "/x")]);
    assert_holds(
        &error,
        "unknown key log.filter_file, did you mean log.filter?",
    );
}

#[test]
fn a_cloud_is_added_by_the_environment() {
    let settings = load(&[
        ("VERIFYD__MICROSOFT__DEFAULT_CLOUD", "sim_1"),
        (
            "VERIFYD__MICROSOFT__CLOUDS__SIM_1__LOGIN",
            "http://127.0.0.1:1",
        ),
        (
            "VERIFYD__MICROSOFT__CLOUDS__SIM_1__GRAPH",
            "http://127.0.0.1:2",
        ),
        (
            "VERIFYD__MICROSOFT__CLOUDS__SIM_1__PORTAL",
            "https://portal.test",
        ),
    ])
    .unwrap();
    assert_eq!(
        settings.microsoft.clouds["sim_1"].graph,
        "http://127.0.0.1:2"
    );
    assert_eq!(settings.microsoft.clouds.len(), 5);
}

#[test]
fn the_key_file_of_the_embedded_default_lies_beside_its_database() {
    for (url, expected) in [
        (
            "sqlite:///var/lib/verifyd/main.db",
            Some("/var/lib/verifyd/main.key"),
        ),
        (
            "sqlite:data/my%20runs.db?mode=rwc",
            Some("data/my runs.key"),
        ),
        ("sqlite:odd.key", Some("odd.key.key")),
        ("postgres://h/db", None),
    ] {
        let settings = load(&[("DATABASE_URL", url)]).unwrap();
        assert_eq!(
            settings.embedded_key_file(),
            expected.map(PathBuf::from),
            "{url}"
        );
    }
}

#[test]
fn files_are_read_as_windows_writes_them() {
    let url = "postgres://u:p@h/db";
    let utf16: Vec<u8> = std::iter::once(0xfeff)
        .chain(format!("{url}\r\n").encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    for content in [
        url.as_bytes().to_vec(),
        format!("{url}\n").into(),
        format!("\u{feff}{url}\r\n").into(),
        utf16,
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let settings = load(&[("DATABASE_URL_FILE", path(&file))]).unwrap();
        assert_eq!(settings.database.url.expose_secret(), url, "{content:?}");
    }
    let marked = format!("\u{feff}{url}");
    let settings = load(&[("DATABASE_URL", &marked)]).unwrap();
    assert_eq!(settings.database.url.expose_secret(), url);
    let toml = file("\u{feff}[worker]\r\nconcurrency = 3\r\n");
    let mut all = sources(&[]);
    all.file = Some(toml.path().to_owned());
    assert_eq!(Settings::load(all).unwrap().worker.concurrency, 3);

    let mut broken = tempfile::NamedTempFile::new().unwrap();
    broken.write_all(b"postgres://u:p\xff@h/db").unwrap();
    let error = errors(&[("DATABASE_URL_FILE", path(&broken))]);
    assert_holds(&error, "byte 15 is not UTF-8");

    let keys = file(&format!("\u{feff}k1:{}\r\n", "QUFB".repeat(10)));
    let settings = load(&[("VERIFYD__CREDENTIALS__LARAVEL_KEYS_FILE", path(&keys))]).unwrap();
    let key = settings.credentials.laravel_keys[0].expose_secret();
    assert!(key.starts_with("k1:"), "{key:?}");
}

#[test]
fn hosts_may_be_ipv6_addresses_with_or_without_brackets() {
    let hosts = "::1, [::1], 127.0.0.1,Localhost";
    let settings = load(&[("VERIFYD__WEBHOOKS__LOOPBACK_HOSTS", hosts)]).unwrap();
    let hosts: Vec<String> = settings.webhooks.loopback_hosts().into_iter().collect();
    assert_eq!(hosts, ["127.0.0.1", "[::1]", "localhost"]);
    assert!(load(&[("VERIFYD__WEBHOOKS__LOOPBACK_HOSTS", "::z")]).is_err());
}

#[test]
fn the_proxy_of_the_environment_fills_in_what_nothing_else_sets() {
    let proxy = |text: Option<&str>, environment: &[(&str, &str)]| {
        let settings = match text {
            Some(text) => with_file(text, environment),
            None => load(environment),
        };
        let settings = settings.unwrap();
        let outbound = &settings.outbound;
        (
            outbound.proxy.expose_secret().to_owned(),
            outbound.no_proxy.clone(),
            settings.origin("outbound.proxy").to_owned(),
        )
    };
    let shared = [
        ("HTTP_PROXY", "http://plain:1"),
        ("HTTPS_PROXY", ""),
        ("https_proxy", "http://lower:2"),
        ("ALL_PROXY", "http://all:3"),
        ("NO_PROXY", "a.example"),
    ];
    let variable = "environment variable https_proxy";
    assert_eq!(
        proxy(None, &shared),
        ("http://lower:2".into(), "a.example".into(), variable.into())
    );
    assert_eq!(proxy(None, &shared[..1]).0, "");
    assert_eq!(proxy(None, &shared[3..]).0, "http://all:3");
    // The setting wins wherever it stands, and an empty one says nothing.
    let file = "[outbound]\nproxy = \"http://file:4\"\nno_proxy = \"b.example\"\n";
    let (found, no_proxy, _) = proxy(Some(file), &shared);
    assert_eq!((&*found, &*no_proxy), ("http://file:4", "b.example"));
    let none = "[outbound]\nproxy = \"none\"\n";
    assert_eq!(proxy(Some(none), &shared).0, "none");
    let empty = "[outbound]\nproxy = \"\"\n";
    assert_eq!(proxy(Some(empty), &shared).0, "http://lower:2");
    let own = [shared[2], ("VERIFYD__OUTBOUND__PROXY", "http://own:5")];
    assert_eq!(proxy(Some(none), &own).0, "http://own:5");
}

#[test]
fn the_socket_is_in_the_runtime_directory_unless_it_is_set() {
    let socket = |environment: &[(&str, &str)]| load(environment).unwrap().debug.socket;
    assert_eq!(socket(&[]), PathBuf::new());
    let runtime = ("RUNTIME_DIRECTORY", "/run/verifyd-9464:/run/other");
    assert_eq!(
        socket(&[runtime]),
        PathBuf::from("/run/verifyd-9464/debug.sock")
    );
    let own = ("VERIFYD__DEBUG__SOCKET", "/tmp/own.sock");
    assert_eq!(socket(&[runtime, own]), PathBuf::from("/tmp/own.sock"));
}

#[test]
fn a_proxy_that_cannot_be_used_is_refused_by_name_and_never_shown() {
    let error = load(&[("ALL_PROXY", "socks5://u:canary@proxy.example:1080")]).unwrap_err();
    let text = error.to_string();
    assert_holds(&text, "environment variable ALL_PROXY");
    assert_holds(&text, "only proxies over http:// and https://");
    assert!(!text.contains("canary"), "{text}");
    let settings = load(&[("HTTPS_PROXY", "u:canary@proxy.example:3128")]).unwrap();
    let printed = settings.print();
    assert_holds(&printed, "http://***@proxy.example:3128");
    assert!(!format!("{printed}{settings:?}").contains("canary"));
}
