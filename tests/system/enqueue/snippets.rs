//! Runs each snippet against a worker on PostgreSQL and Redis.

use crate::enqueue::guide::{Snippet, snippets};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use test_support::bench::{Bench, Daemon};
use test_support::port::free_port;
use test_support::redis_server::{PrivateRedis, command, connection, keys_of};

/// A sweep that comes this rarely starts no run while a test lasts.
const NO_SWEEP: &[(&str, &str)] = &[
    ("VERIFYD__RECONCILER__INTERVAL", "5m"),
    ("VERIFYD__RECONCILER__REDELIVER_AFTER", "5m"),
    // Nor may the notification of the statement.
    ("VERIFYD__DATABASE__LISTEN_URL", "off"),
];

/// A command that the machine has, and that can do what `probe` wants.
fn able(candidates: &[&str], probe: &[&str], environment: &[(&str, &Path)]) -> String {
    candidates
        .iter()
        .find(|program| {
            Command::new(program)
                .args(probe)
                .envs(environment.iter().copied())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
        .unwrap_or_else(|| panic!("none of {candidates:?} passes {probe:?}: run scripts/test"))
        .to_string()
}

/// Where scripts/test puts the packages that a Node program of an application would have.
fn node_modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/producers/node_modules")
}

/// The interpreter, and the suffix of the file that it is given.
fn interpreter(language: &str) -> (Command, &'static str) {
    match language {
        "sh" => (Command::new("sh"), "sh"),
        "php" => {
            let probe = "exit(extension_loaded('pdo_pgsql') && extension_loaded('redis') ? 0 : 1);";
            let mut command = Command::new(able(&["php"], &["-r", probe], &[]));
            command.args(["-d", "display_errors=stderr"]);
            (command, "php")
        }
        "python" => {
            let probe = ["-c", "import psycopg, redis"];
            (
                Command::new(able(&["python3", "/usr/bin/python3"], &probe, &[])),
                "py",
            )
        }
        "node" => {
            let modules = node_modules();
            let probe = ["-e", "require('pg'); require('redis')"];
            let node = able(&["node", "nodejs"], &probe, &[("NODE_PATH", &modules)]);
            let mut command = Command::new(node);
            command.env("NODE_PATH", modules);
            (command, "cjs")
        }
        other => panic!("no interpreter for {other}"),
    }
}

/// Runs the snippet as a person would who pasted it, with the Redis of the worker.
fn run(bench: &Bench, worker: &Daemon, snippet: &Snippet, connection: i64) -> Output {
    run_with(bench, worker, snippet, connection, &[])
}

/// The same with these variables.
fn run_with(
    bench: &Bench,
    worker: &Daemon,
    snippet: &Snippet,
    connection: i64,
    environment: &[(&str, &str)],
) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let (mut command, suffix) = interpreter(&snippet.language);
    let pasted = folder.path().join(format!("snippet.{suffix}"));
    std::fs::write(&pasted, &snippet.text).unwrap();
    match snippet.sends_hint {
        true => command.env("REDIS_URL", &bench.redis_url),
        false => command.env_remove("REDIS_URL"),
    };
    command
        .arg(snippet.file.as_ref().unwrap_or(&pasted))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("DATABASE_URL", bench.database.url())
        .env("PROVIDER_CONNECTION_ID", connection.to_string())
        .env("VERIFYD_URL", format!("http://{}", worker.listening))
        .env("VERIFYD_TOKEN", token(bench))
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs the snippet, and returns the run that it printed.
fn paste(bench: &Bench, worker: &Daemon, snippet: &Snippet, connection: i64) -> i64 {
    let output = run(bench, worker, snippet, connection);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Nothing may have gone wrong quietly: a hint that was not sent is said there.
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!complaints.contains("not sent"), "{complaints}");
    printed
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{printed:?} is no id"))
}

/// As the page says that it is made.
fn token(bench: &Bench) -> String {
    let create = "tokens create --name app --scope run --workspace 1";
    let output = bench.success(&create.split(' ').collect::<Vec<_>>());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A database, a Redis with the queue's default name, and a worker.
async fn bench(redis: &PrivateRedis) -> Bench {
    let mut bench = Bench::new().await;
    bench.use_redis(redis.url());
    bench.environment.remove("VERIFYD__REDIS__QUEUE");
    bench
}

async fn ends_in_a_completed_run(kind: &str, language: &str) {
    let redis = PrivateRedis::start();
    let bench = bench(&redis).await;
    let connection = bench.healthy(1);
    // With a hint, nothing but the hint may be what starts the run. (A statement alone may be found by
    // the sweep.)
    let settings: &[(&str, &str)] = if kind == "insert" { &[] } else { NO_SWEEP };
    let worker = bench.serve(settings);
    let snippet = snippets().remove(&format!("{language}-{kind}")).unwrap();

    let run = paste(&bench, &worker, &snippet, connection);
    bench.all_completed().await;
    let shown = bench.json(&["runs", "show", &run.to_string()]);
    assert_eq!(shown["outcome"], "succeeded", "{shown}");
    assert_eq!(shown["context"]["provider_connection_id"], connection);
}

/// Has a password that an address has to encode.
const USER: &str = "verifyd_producer:hunter2%40%3A%2F%25";

/// A Redis with the users of `deploy/redis.acl`, of which one has the password of [`USER`].
async fn redis_with_users() -> PrivateRedis {
    let redis = PrivateRedis::with_users();
    let mut admin = connection(&redis.url_of("admin")).await;
    for user in [["verifyd_producer", ">hunter2@:/%"], ["reader", ">hunter2"]] {
        let _: () = command(&mut admin, &["ACL", "SETUSER", user[0], user[1], "on"]).await;
    }
    let _: () = command(&mut admin, &["ACL", "SETUSER", "reader", "+@connection"]).await;
    redis
}

/// The programs that send a hint, by name.
fn with_hint() -> impl Iterator<Item = (String, Snippet)> {
    let all = snippets().into_iter();
    all.filter(|(_, snippet)| snippet.sends_hint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_is_sent_with_user_and_password_of_the_address() {
    let redis = redis_with_users().await;
    let mut bench = bench(&redis).await;
    bench.use_redis(redis.url_of("admin"));
    let worker = bench.serve(NO_SWEEP);
    let address = format!("redis://{USER}@127.0.0.1:{}", redis.port());
    for (tenant, (name, snippet)) in (1..).zip(with_hint()) {
        let connection = bench.healthy(tenant);
        let output = run_with(
            &bench,
            &worker,
            &snippet,
            connection,
            &[("REDIS_URL", address.as_str())],
        );
        assert!(output.status.success(), "{name}: {output:?}");
        bench.all_completed().await;
    }
}

/// The row is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_refuses_is_said_and_the_run_is_recorded() {
    let redis = redis_with_users().await;
    let mut bench = bench(&redis).await;
    bench.use_redis(redis.url_of("admin"));
    let worker = bench.serve(&[]);
    let connection = bench.healthy(1);
    let (port, closed) = (redis.port(), free_port());
    for address in [
        format!("redis://verifyd_producer:hunter2@127.0.0.1:{port}"),
        format!("redis://reader:hunter2@127.0.0.1:{port}"),
        format!("redis://{USER}@127.0.0.1:{closed}"),
        format!("http://{USER}@127.0.0.1:{closed}"),
    ] {
        for (name, snippet) in with_hint() {
            let address = [("REDIS_URL", address.as_str())];
            let output = run_with(&bench, &worker, &snippet, connection, &address);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}, {address:?}: {said}");
            assert!(
                said.contains("the hint was not sent"),
                "{name}, {address:?}: {said}"
            );
            assert!(!said.contains("hunter2"), "{name}, {address:?}: {said}");
            let run = String::from_utf8(output.stdout).unwrap();
            let shown = bench.json(&["runs", "show", run.trim()]);
            assert_eq!(shown["context"]["provider_connection_id"], connection);
        }
    }
}

/// psql alone ends as if all were well, and prints nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_does_not_exist_is_an_error_and_no_hint_is_sent() {
    let redis = PrivateRedis::start();
    let bench = bench(&redis).await;
    let worker = bench.serve(&[]);
    for (name, snippet) in snippets() {
        let output = run(&bench, &worker, &snippet, 404);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout.trim_ascii().is_empty(), "{name}: {output:?}");
        let is_silent = name == "psql-insert";
        assert_eq!(output.status.success(), is_silent, "{name}: {said}");
        if !is_silent && !name.ends_with("-http") {
            assert!(said.contains("no such connection"), "{name}: {said}");
        }
    }
    let keys = keys_of(&redis.url(), "verifyd").await;
    let is_sent = |key: &String| key.ends_with(":data") || key.ends_with(":dead");
    assert!(!keys.iter().any(is_sent), "{keys:?}");
}

macro_rules! each {
    ($($name:ident: $language:literal $kind:literal),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                ends_in_a_completed_run($kind, $language).await;
            }
        )+

        #[test]
        fn none_is_left_out() {
            let mut here = vec![$(format!("{}-{}", $language, $kind)),+];
            here.sort();
            assert_eq!(here, snippets().into_keys().collect::<Vec<_>>());
        }
    };
}

each! {
    psql_one_statement: "psql" "insert",
    shell_one_statement: "sh" "insert",
    php_one_statement: "php" "insert",
    python_one_statement: "python" "insert",
    node_one_statement: "node" "insert",
    shell_with_a_hint: "sh" "hint",
    php_with_a_hint: "php" "hint",
    python_with_a_hint: "python" "hint",
    node_with_a_hint: "node" "hint",
    curl_over_http: "curl" "http",
    php_over_http: "php" "http",
    python_over_http: "python" "http",
    node_over_http: "node" "http",
}
