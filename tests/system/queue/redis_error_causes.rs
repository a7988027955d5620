//! Why Redis cannot be used is shown by its first answer. Retries are set so long that a queue which
//! retried first would not answer within the test.

use crate::queue::probe::{Consumer, Probe, until};
use crate::queue::redis::settings;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use test_support::redis_server::{PrivateRedis, TlsFiles, command, connection};
use test_support::waiting;
use verifyd::domain::RunId;
use verifyd::domain::tls_cause::TlsCause;
use verifyd::ports::queue::Queue;
use verifyd::queue::redis::{RedisQueue, RedisSettings};

/// Guards against hanging only.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn patient(url: &str) -> RedisSettings {
    let mut settings = settings(url, "q");
    settings.response_timeout = Duration::from_secs(60);
    settings.consumer.retries = 1000;
    settings
}

pub async fn ping(url: &str) -> String {
    let queue = RedisQueue::connect(&patient(url), "host").unwrap();
    let answer = tokio::time::timeout(PATIENCE, queue.ping()).await;
    answer.expect("an answer").unwrap_err().to_string()
}

async fn send(url: &str) -> String {
    let queue = RedisQueue::connect(&patient(url), "host").unwrap();
    let answer = tokio::time::timeout(PATIENCE, queue.send_runs(&[RunId(1)])).await;
    answer.expect("an answer").unwrap_err().to_string()
}

/// Over a connection of its own.
async fn try_sending(url: &str) -> String {
    let queue = RedisQueue::connect(&patient(url), "host").unwrap();
    let answer = tokio::time::timeout(PATIENCE, queue.try_sending()).await;
    answer.expect("an answer").unwrap_err().to_string()
}

pub fn assert_says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(!error.contains("p4ss"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens_or_the_name_is_unknown() {
    let server = PrivateRedis::stopped();
    assert_says(&ping(&server.url()).await, &["no server listens there"]);
    assert_says(
        &ping("redis://nowhere.invalid").await,
        &["the host's name cannot be resolved"],
    );
    // Not a look-up of the name `[::1]`, whether there is IPv6 here or not.
    let error = ping(&format!("redis://[::1]:{}", server.port())).await;
    assert!(!error.contains("resolved"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sign_in_is_told_in_the_servers_words() {
    let server = PrivateRedis::start_with(&["--requirepass", "right-p4ss"]);
    let with = |user: &str| format!("redis://{user}127.0.0.1:{}", server.port());
    assert_says(
        &ping(&with(":wrong-p4ss@")).await,
        &["WRONGPASS", "invalid username-password pair"],
    );
    assert_says(&ping(&with("nobody:p4ss@")).await, &["WRONGPASS"]);
    assert_says(&try_sending(&with(":wrong-p4ss@")).await, &["WRONGPASS"]);
    assert_says(&ping(&with("")).await, &["NOAUTH"]);
    let queue = RedisQueue::connect(&patient(&with(":right-p4ss@")), "host").unwrap();
    queue.ping().await.unwrap();

    let open = PrivateRedis::start();
    let url = format!("redis://:p4ss@127.0.0.1:{}", open.port());
    assert_says(
        &ping(&url).await,
        &["the server answers ERR", "without any password configured"],
    );
}

/// The password is changed under a running consumer, and set back. The log is that of this thread.
#[tokio::test]
async fn a_sign_in_that_is_refused_later_is_told_in_the_servers_words() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(log.reopen().unwrap())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let failures = || -> Vec<String> {
        let log = std::fs::read_to_string(log.path()).unwrap();
        let failures = log.lines().filter(|line| line.contains("fetcher failed"));
        failures.map(str::to_owned).collect()
    };
    let server = PrivateRedis::start_with(&["--requirepass", "right-p4ss"]);
    let url = format!("redis://:right-p4ss@127.0.0.1:{}", server.port());
    let mut settings = settings(&url, "q");
    settings.consumer.retries = 0;
    let queue = RedisQueue::connect(&settings, "host").unwrap();
    queue.ping().await.unwrap();
    let consumer = Consumer::start(&queue, &Probe::new(), 1);
    // Over a connection of its own: the one that its calls share is opened after the change.
    let reached = RedisQueue::connect(&settings, "host").unwrap();
    reached.try_sending().await.unwrap();
    // It has signed in already, and stays so.
    let mut operator = connection(&url).await;
    let change = ["CONFIG", "SET", "requirepass", "other-p4ss"];
    command::<()>(&mut operator, &change).await;
    command::<u64>(&mut operator, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    waiting::until("a call says so", async || {
        let answer = queue.ping().await;
        answer.is_err_and(|error| error.to_string().contains("WRONGPASS"))
    })
    .await;
    let error = reached.ping().await.unwrap_err().to_string();
    assert_says(&error, &["WRONGPASS"]);
    until("a fetcher says so", || {
        failures().iter().any(|line| line.contains("WRONGPASS"))
    })
    .await;
    let failures = failures();
    assert!(
        failures.iter().all(|line| !line.contains("p4ss")),
        "{failures:?}"
    );
    command::<()>(
        &mut operator,
        &["CONFIG", "SET", "requirepass", "right-p4ss"],
    )
    .await;
    waiting::until("calls are answered again", async || {
        queue.ping().await.is_ok() && reached.ping().await.is_ok()
    })
    .await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_do_is_told_in_its_words() {
    let limited =
        PrivateRedis::start_with(&["--user", "limited", "on", ">p4ss", "~*", "+ping", "+client"]);
    let url = format!("redis://limited:p4ss@127.0.0.1:{}", limited.port());
    assert_says(&send(&url).await, &["NOPERM"]);
    let replica = PrivateRedis::start_with(&["--replicaof", "127.0.0.1 1"]);
    assert_says(&send(&replica.url()).await, &["READONLY"]);
    let full = PrivateRedis::start_with(&["--maxmemory", "1"]);
    let error = send(&full.url()).await;
    assert_says(&error, &["the server answers OOM command not allowed"]);
    assert!(!error.contains("script"), "{error}");
    let database = format!("{}/99", PrivateRedis::url(&full));
    assert_says(&ping(&database).await, &["DB index is out of range"]);
}

/// The log of this thread, on which the whole test runs.
#[tokio::test]
async fn a_full_server_is_logged_with_its_remedy_and_not_at_every_restart() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(log.reopen().unwrap())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let full = PrivateRedis::start_with(&["--maxmemory", "1"]);
    let queue = RedisQueue::connect(&settings(&full.url(), "q"), "host").unwrap();
    let consumer = Consumer::start(&queue, &Probe::new(), 4);
    until("its fetchers are started again", || {
        queue.health().restarts >= 8
    })
    .await;
    consumer.stop().await;
    let log = std::fs::read_to_string(log.path()).unwrap();
    let failures: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("fetcher failed"))
        .collect();
    for words in [
        "the server answers ",
        "OOM command not allowed",
        "raise maxmemory",
    ] {
        assert!(failures[0].contains(words), "{words}: {log}");
    }
    let restarts = usize::try_from(queue.health().restarts).unwrap();
    assert!(failures.len() < restarts, "{restarts}: {log}");
}

/// Answers everything with one line.
fn answering(line: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    // Commands may come together: an answer for each.
                    let commands = buffer.iter().filter(|byte| **byte == b'*').count();
                    let answers = line.repeat(commands.max(1));
                    buffer = [0; 4096];
                    if stream.write_all(answers.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_loading_says_so() {
    let port = answering("-LOADING Redis is loading the dataset in memory\r\n");
    let error = ping(&format!("redis://127.0.0.1:{port}")).await;
    assert_says(&error, &["LOADING Redis is loading the dataset in memory"]);
}

/// Sends one line to whoever connects, and closes the connection.
fn closing_with(line: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(line.as_bytes());
        }
    });
    port
}

/// The client's own commands meet a closed connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_before_any_command_is_told_in_the_servers_words() {
    for (line, words) in [
        (
            "-ERR max number of clients reached\r\n",
            "the server answers ERR max number of clients reached",
        ),
        (
            "-DENIED Redis is running in protected mode. If you want to connect from external\r\n",
            "the server answers DENIED Redis is running in protected mode",
        ),
        ("", "it may want TLS (rediss://)"),
    ] {
        let error = ping(&format!("redis://127.0.0.1:{}", closing_with(line))).await;
        assert_says(&error, &[words]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_protocol_is_no_redis() {
    let port = answering("HTTP/1.1 400 Bad Request\r\n\r\n");
    let error = ping(&format!("redis://127.0.0.1:{port}")).await;
    assert_says(
        &error,
        &["the server speaks another protocol than that of Redis"],
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_failures_are_told_apart() {
    let files = TlsFiles::of("localhost");
    let tls_port = PrivateRedis::stopped().port();
    let server = PrivateRedis::start_with(&files.arguments(&tls_port.to_string()));
    let error = ping(&format!("rediss://localhost:{tls_port}")).await;
    assert_says(
        &error,
        &["the server's certificate is not accepted", "UnknownIssuer"],
    );
    let old_port = PrivateRedis::stopped().port().to_string();
    let arguments = files.arguments(&old_port);
    let _old =
        PrivateRedis::start_with(&[&arguments[..], &["--tls-protocols", "TLSv1.1"]].concat());
    let error = ping(&format!("rediss://localhost:{old_port}")).await;
    assert_says(&error, &[&TlsCause::ProtocolVersion.to_string()]);
    let error = ping(&format!("rediss://127.0.0.1:{}", closing_with(""))).await;
    assert_says(&error, &["the server closed the connection: "]);
    // It waits for the rest of what it takes for a command.
    let mut settings = patient(&format!("rediss://localhost:{}", server.port()));
    settings.response_timeout = Duration::from_secs(5);
    let queue = RedisQueue::connect(&settings, "host").unwrap();
    let error = queue.ping().await.unwrap_err().to_string();
    assert_says(&error, &["may speak no TLS"]);
}

/// Once it has been reached, what is wrong may pass: it is waited for as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_reached_is_waited_for() {
    let mut server = PrivateRedis::start();
    let queue: Arc<dyn Queue> = RedisQueue::connect(&patient(&server.url()), "host").unwrap();
    queue.ping().await.unwrap();
    server.restart();
    let answer = tokio::time::timeout(PATIENCE, async {
        // The command that meets the closed connection may fail with it.
        while let Err(error) = queue.ping().await {
            assert!(!error.to_string().contains("no answer"), "{error}");
        }
    });
    answer.await.expect("it is reached again");
}
