//! What a command refuses, and what it says then.

use super::{Desk, assert_holds, stderr, stdout};
use sqlx::{Connection as _, Executor as _};
use std::fs::Permissions;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_KEY: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

impl Desk {
    pub(super) async fn sql(&self, statement: &str) {
        let file = std::fs::read_dir(self.folder.path()).unwrap();
        let file = file
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|end| end == "db"))
            .unwrap();
        let url = format!("sqlite:{}", file.display());
        let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
        database
            .execute("PRAGMA ignore_check_constraints = ON")
            .await
            .unwrap();
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        database.execute(statement).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_named_with_what_is_allowed() {
    let desk = Desk::new().await;
    desk.add(Scenario::Healthy, "--secret-stdin", SIMULATED_SECRET);
    let ids = "a whole number from 1 to";
    let path = "x".repeat(2048);
    let long = format!("webhooks add --workspace 1 --url https://a.example/{path}");
    let add = "webhooks add --workspace 1 --url https://a.example/hook --description";
    let long_description = format!("{add} {}", "x".repeat(201));
    let control_character = format!("{add} a\u{7}b");
    for (line, code, words) in [
        ("enqueue --connection 0", 2, ids),
        ("enqueue --connection=-1", 2, ids),
        ("enqueue --connection -1", 2, "'--connection <ID>': allowed"),
        ("enqueue --connection 1 --onboarding-session 0", 2, ids),
        ("connections list --tenant 0", 2, ids),
        (
            "connections list --after x",
            2,
            "the cursor that the page before ends with",
        ),
        (
            "enqueue --connection 1 --wait 60s",
            2,
            "'--wait <SECONDS>': allowed: a whole number from 0 to 604800",
        ),
        ("runs show 0", 2, ids),
        ("runs show -1", 2, ids),
        (
            "runs list --limit ten",
            2,
            "'--limit <LIMIT>': allowed: a whole number from 1 to 1000",
        ),
        (
            "connections list --limit 1001",
            2,
            "'--limit <LIMIT>': allowed: a whole number from 1 to 1000",
        ),
        (
            "serve --listen localhost",
            2,
            "'--listen <ADDRESS:PORT>': allowed: an IP address and a port",
        ),
        (
            "serve --concurrency many",
            2,
            "'--concurrency <N>': allowed: a whole number from 1 to 4096",
        ),
        ("serve --concurrency 0", 2, "from 1 to 4096"),
        ("demo --show 16", 2, "a whole number from 1 to 15"),
        ("webhooks replay", 2, "replay <DELIVERY>"),
        ("webhooks replay", 2, "--endpoint <ID> --since <TIME>"),
        ("runs list --before=-7", 2, ids),
        ("webhooks add --workspace 0 --url https://a.example", 2, ids),
        (
            "connections add --workspace 0 --tenant 1 --entra-tenant-id x --client-id x",
            2,
            ids,
        ),
        (
            "webhooks rotate-secret 1 --keep-previous banana",
            2,
            "each with a unit",
        ),
        ("prune --older-than 90", 2, "each with a unit"),
        (
            "prune --older-than -1d",
            2,
            "'--older-than <DURATION>': allowed: numbers",
        ),
        (
            "prune --older-than 1d --audit-older-than 29d",
            2,
            "are kept for at least 30d",
        ),
        ("audit list --action moon.painted", 2, "token.created"),
        (
            "audit list --object token --id 0",
            2,
            "a whole number from 1",
        ),
        (
            "tokens create --name x --scope read --expires -1d",
            2,
            "'--expires <TIME>': allowed is 2026-12-31",
        ),
        (
            "connections set-credential 1 --expires-at -1d",
            2,
            "'--expires-at <TIME>': allowed is 2026-12-31",
        ),
        (
            "tokens create --name x --scope read --expires 101years",
            2,
            "at most 100years",
        ),
        (
            "tokens create --name x --scope read --expires 2020-01-01",
            1,
            "--expires: has passed, allowed: a time in the future",
        ),
        (
            "tokens create --name x --scope read --scope admin --workspace 1",
            1,
            "--scope: admin belongs to no workspace, and the token is bound to one, allowed: read, run, audit",
        ),
        (
            "enqueue --connection 1 --module teleport",
            1,
            "--module: \"teleport\" is not known, allowed: ",
        ),
        (
            "webhooks add --workspace 1 --url https://localhost/hook",
            1,
            "--url: not a public address (loopback only for hosts in webhooks.loopback_hosts)",
        ),
        (
            "webhooks add --workspace 1 --url https://-a.example/hook",
            1,
            "--url: must have a host of at most 253 characters",
        ),
        (
            "webhooks add --workspace 1 --url https://a.example/hook#part",
            1,
            "--url: must not contain a #: what follows it is never sent",
        ),
        ("debug log-filter info --for 0s", 2, "from 1s to 24h"),
        ("debug log-filter info --for 1ms", 2, "from 1s to 24h"),
        ("debug log-filter info --for -1h", 2, "from 1s to 24h"),
        ("debug log-filter info --for 25h", 2, "--for"),
        (
            "debug log-filter info --for 24h",
            1,
            "debug.socket is not set",
        ),
        ("debug state", 1, "set it where the daemon starts"),
        ("healthcheck", 1, "nothing listens there"),
        ("report validate /", 1, "it is a directory"),
        ("simulate --certificate /", 1, "it is a directory"),
        ("webhooks replay 999", 1, "delivery 999: no such delivery"),
        ("webhooks attempts 999", 1, "delivery 999: no such delivery"),
        (
            "webhooks replay --endpoint 99 --since 2026-01-01",
            1,
            "endpoint 99: no such endpoint",
        ),
        ("webhooks add --workspace 1 --url nowhere", 1, "not a URL"),
        (
            "webhooks add --workspace 1 --url https:///a.example/hook",
            1,
            "--url: must be written as it is called: HOST in ASCII",
        ),
        (
            "webhooks add --workspace 1 --url https://a.example:0/hook",
            1,
            "--url: must have a port from 1 to 65535",
        ),
        (
            "webhooks add --workspace 1 --url https:\\\\a.example\\hook",
            1,
            "--url: must be written as it is called",
        ),
        (
            "webhooks add --workspace 1 --url https://intranet/hook",
            1,
            "--url: its host has no dot, so it is not public",
        ),
        (long.as_str(), 1, "longer than 2048 bytes"),
        (
            long_description.as_str(),
            1,
            "--description: has 201 characters, allowed: 1 to 200",
        ),
        (
            control_character.as_str(),
            1,
            "--description: has a control character, allowed: one line of text",
        ),
        (
            "webhooks add --workspace 1 --url https://u:s3cr3t@a.example/",
            1,
            "--url",
        ),
    ] {
        let said = stderr(&desk.ends(line, code));
        assert!(said.contains(words), "{line}: {said}");
        assert!(!said.contains("s3cr3t"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_stops_neither_its_defaults_nor_a_bundle() {
    let desk = Desk::new().await;
    let bad = "[worker]\nconcurrency = 0\n[redis]\nurl = \"http://u:s3cr3t@h\"\n";
    std::fs::write(desk.folder.path().join("bad.toml"), bad).unwrap();
    let ends = |line: &str, code: i32| {
        let mut command = desk.command(line);
        command.env("VERIFYD_CONFIG", "bad.toml");
        let output = super::finish(command, "");
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        output
    };
    ends("config print", 1);
    assert_holds(&stdout(&ends("config default", 0)), "[worker]");
    let bundled = ends("support-bundle --output bundle.tar.gz", 0);
    assert_holds(&stderr(&bundled), "why the configuration cannot be used");
    let bundle = std::fs::File::open(desk.folder.path().join("bundle.tar.gz")).unwrap();
    let mut held = String::new();
    let mut archive = flate2::read::GzDecoder::new(bundle);
    archive.read_to_string(&mut held).unwrap();
    assert_holds(
        &held,
        "worker.concurrency must be a whole number from 1 to 4096, found 0",
    );
    assert_holds(&held, "redis.url must be a redis://");
    assert!(!held.contains("s3cr3t"), "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_not_written_to_a_terminal() {
    let desk = Desk::new().await;
    // Runs its command on a terminal, and shows what is written there.
    let mut command = desk.prepared(Command::new("/usr/bin/script"), "--quiet --return");
    let bundle = concat!(env!("CARGO_BIN_EXE_verifyd"), " support-bundle --output -");
    command.args(["--command", bundle, "/dev/null"]);
    let output = super::finish(command, "");
    let shown = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert_holds(&shown, "standard output is a terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_the_driver_of_postgresql_would_drop_is_named() {
    let desk = Desk::new().await;
    let mut command = desk.command("runs list");
    command
        .env("DATABASE_URL", "postgres://u@127.0.0.1:1/app")
        .env("PGSSLMODE", "requre");
    let output = super::finish(command, "");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_holds(
        &said,
        "cannot open the database: database.url cannot be used: the variable PGSSLMODE has another value, allowed: disable,",
    );
    assert_holds(&said, "→ correct or unset the variable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_may_be_the_cause_of_an_error_is_named() {
    let desk = Desk::new().await;
    let mut command = desk.command("doctor");
    command
        .env("DATABASE_URL", "postgres://u@127.0.0.1/app")
        .env("PGPORT", "1");
    let output = super::finish(command, "");
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_holds(&said, "database.url leaves the port to the variable PGPORT");
    assert_holds(&said, "check the variable PGPORT and");
}

/// The driver logs a line of it that it cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_passwords_is_not_read() {
    let desk = Desk::new().await;
    let file = desk.folder.path().join(".pgpass");
    std::fs::write(&file, "s3cr3t\n").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let mut command = desk.command("runs list");
    command
        .env("DATABASE_URL", "postgres://u@127.0.0.1:1/app")
        .env("HOME", desk.folder.path())
        .env("PGPASSFILE", &file);
    let said = stderr(&super::finish(command, ""));
    assert_holds(&said, "→ check database.url (DATABASE_URL), and that");
    assert!(!said.contains("s3cr3t"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_of_a_webhook_is_not_shown() {
    let desk = Desk::new().await;
    for line in [
        "webhooks add --workspace 1 --url https://8.8.8.8/hook?token=s3cr3t --json",
        "webhooks list",
        "webhooks list --json",
    ] {
        let output = desk.run(line);
        assert!(output.status.success(), "{}", stderr(&output));
        let shown = stdout(&output);
        assert_holds(&shown, "https://8.8.8.8/hook?…");
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_used_is_listed_and_left_out_of_a_rotation() {
    let desk = Desk::new().await;
    for name in ["fine", "odd", "broken"] {
        let named = format!("--secret-stdin --display-name {name}");
        desk.add(Scenario::Healthy, &named, SIMULATED_SECRET);
    }
    desk.sql(
        "UPDATE provider_connections SET status = 'paused' WHERE id = 2;
         UPDATE provider_credentials SET kind = 'password' WHERE provider_connection_id = 3",
    )
    .await;
    let output = desk.run("connections list");
    let (shown, said) = (stdout(&output), stderr(&output));
    for name in ["fine", "odd", "broken", "unusable"] {
        assert_holds(&shown, name);
    }
    assert_holds(
        &said,
        "Connection 2 cannot be used: provider_connections.status: ",
    );
    let shown = stdout(&desk.ends("connections show 2", 0));
    assert_holds(
        &shown,
        "cannot be used: provider_connections.status of row 2: ",
    );
    let output = desk.ends("enqueue --connection 2", 1);
    assert!(stderr(&output).contains("provider_connections.status"));

    let output = desk.ends("connections rotate-keys", 1);
    let (shown, said) = (stdout(&output), stderr(&output));
    // That with a foreign status is bound to the same as ever.
    assert_holds(&shown, "2 already with the writing key");
    assert_holds(&said, "connection 3 was left out");

    let output = desk.run("doctor");
    let shown = stdout(&output);
    for words in [
        "connection 2: provider_connections.status: ",
        "connection 3: provider_credentials.kind of row 3: ",
        "correct the row",
    ] {
        assert_holds(&shown, words);
    }
}

/// One that opens says nothing of the others, and the remedy is that of the cause.
#[tokio::test(flavor = "multi_thread")]
async fn every_credential_that_does_not_open_is_found_by_doctor() {
    let desk = Desk::new().await;
    for name in ["fine", "copied", "again", "plain"] {
        let named = format!("--secret-stdin --display-name {name}");
        desk.add(Scenario::Healthy, &named, SIMULATED_SECRET);
    }
    desk.sql(
        "UPDATE provider_credentials SET payload = (SELECT payload FROM provider_credentials
             WHERE provider_connection_id = 1) WHERE provider_connection_id IN (2, 3);
         UPDATE provider_credentials SET payload = 'simulated-secret-~1' WHERE provider_connection_id = 4",
    )
    .await;
    let shown = stdout(&desk.ends("doctor", 0));
    for words in [
        "connections 2, 3: the credential cannot be decrypted: it was changed, was sealed for another place",
        "store the credential again for this connection",
        "connection 4: the credential cannot be decrypted: the payload is plain text, not encrypted",
        "replace the secret, which others may have read",
    ] {
        assert_holds(&shown, words);
    }
    assert!(!shown.contains("connection 1:"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_run_is_not_said_to_be_missing() {
    let desk = Desk::new().await;
    desk.add(Scenario::Healthy, "--secret-stdin", SIMULATED_SECRET);
    desk.sql(
        "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, outcome, context, created_at, completed_at)
         VALUES (7, 1, 1, 'provider.connection.check', 'completed', 'cancelled', '{}',
             '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z'),
         (8, 1, 1, 'provider.connection.check', 'running', 'pending', '{}', '2026-01-01T00:00:00.000Z', NULL)",
    )
    .await;
    let doctor = stdout(&desk.ends("doctor", 0));
    for (run, problem) in [
        (
            7,
            "\"cancelled\" on a completed run, allowed: succeeded, failed, blocked",
        ),
        (
            8,
            "\"pending\" on a run that is not completed, allowed: null",
        ),
    ] {
        let found = format!("operation_runs.outcome of run {run}: {problem}");
        assert_holds(&doctor, &found);
        for command in ["show", "diff"] {
            let said = stderr(&desk.ends(&format!("runs {command} {run}"), 1));
            assert_holds(&said, &format!("run {run} is invalid: {found}"));
        }
    }
    assert_holds(&stderr(&desk.ends("runs show 9", 1)), "no such run");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_open_nothing_are_found_by_doctor() {
    let desk = Desk::new().await;
    let keys = desk.folder.path().join("keys");
    std::fs::write(&keys, format!("first:{KEY}\n")).unwrap();
    let with_keys = |line: &str, input: &str| {
        let mut command = desk.command(line);
        command.env("VERIFYD__CREDENTIALS__KEYS_FILE", &keys);
        super::finish(command, input)
    };
    let add = super::add_line(1, Scenario::Healthy, "--secret-stdin");
    super::json(&with_keys(&add, SIMULATED_SECRET));
    assert_eq!(with_keys("doctor", "").status.code(), Some(0));
    // The same name for another key, and another name.
    for (other, found, remedy) in [
        (
            "first",
            "it was changed, was sealed for another place, or its key is another one",
            "give the key first the value that it had when it sealed the credential",
        ),
        (
            "second",
            "the key that it was sealed with is not configured (the key first)",
            "add that key to credentials.keys, or store the credential again",
        ),
    ] {
        std::fs::write(&keys, format!("{other}:{OTHER_KEY}\n")).unwrap();
        let output = with_keys("doctor", "");
        let shown = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        let found = format!("connection 1: the credential cannot be decrypted: {found}");
        assert_holds(&shown, &found);
        assert_holds(&shown, remedy);
    }
    std::fs::write(&keys, format!("first:{KEY}\nsecond:short\n")).unwrap();
    let output = with_keys("doctor", "");
    let shown = stdout(&output);
    assert_holds(&shown, "line 2");
    assert_holds(&shown, "correct what is named");
}
