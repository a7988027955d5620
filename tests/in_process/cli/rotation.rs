//! `verifyd connections rotate-keys` where something is in its way.

use super::connections::{NEW, OLD};
use super::{Desk, add_line, assert_holds, finish, json, stderr, stdout};
use serde_json::Value;
use std::process::Output;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

const LOST: &str = "lost:YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=";
const ROTATE: &str = "connections rotate-keys";
const ROTATE_JSON: &str = "connections rotate-keys --json";

/// What a command leaves that has these keys, the first of which writes.
fn with(desk: &Desk, keys: &[&str], line: &str) -> Output {
    let mut command = desk.command(line);
    command.env("VERIFYD__CREDENTIALS__KEYS", keys.join(","));
    finish(command, "")
}

/// The result of a rotation with these keys, which has to end with this code.
#[track_caller]
fn rotated(desk: &Desk, keys: &[&str], code: i32) -> Value {
    let output = with(desk, keys, ROTATE_JSON);
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A desk with so many connections, whose credentials the old key has sealed.
async fn desk(connections: u32) -> Desk {
    let desk = Desk::new().await;
    for number in 1..=connections {
        let add = add_line(number, Scenario::Healthy, "--secret-stdin");
        let mut command = desk.command(&add);
        command.env("VERIFYD__CREDENTIALS__KEYS", OLD);
        json(&finish(command, SIMULATED_SECRET));
    }
    desk
}

fn add_webhook(desk: &Desk, key: &str) {
    let line = "webhooks add --workspace 1 --url https://app.example/ --json";
    json(&with(desk, &[key], line));
}

/// A worker may have the key of that secret, and receivers may know no other one yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_previous_secret_that_does_not_open_stays_and_is_named() {
    let desk = desk(0).await;
    add_webhook(&desk, LOST);
    json(&with(
        &desk,
        &[OLD, LOST],
        "webhooks rotate-secret 1 --json",
    ));
    let told = rotated(&desk, &[NEW, OLD], 1);
    assert_eq!(told["webhooks"]["rotated"], 1);
    assert_eq!(
        told["webhooks"]["previous_undecryptable"],
        serde_json::json!([1])
    );
    assert_eq!(told["webhooks"]["undecryptable"], serde_json::json!([]));
    let said = stderr(&with(&desk, &[NEW], ROTATE));
    let words = "with any key here: previous secrets of webhook endpoints 1";
    assert_holds(&said, words);
    let checked = stdout(&with(&desk, &[NEW], "doctor"));
    assert!(!checked.contains("webhook endpoint"), "{checked}");
    let told = rotated(&desk, &[NEW, LOST], 0);
    assert_eq!(told["webhooks"]["rotated"], 1);
    assert_eq!(rotated(&desk, &[NEW], 0)["webhooks"]["current"], 1);
    let listed = json(&with(&desk, &[NEW], "webhooks list --json"));
    assert!(listed[0]["previous_secret_until"].is_string(), "{listed}");

    // Also one that names the writing key, until it is over.
    desk.sql("UPDATE verifyd_webhook_endpoints SET previous_secret = 'vfd1.new.x.x'")
        .await;
    let told = rotated(&desk, &[NEW], 1);
    assert_eq!(
        told["webhooks"]["previous_undecryptable"],
        serde_json::json!([1])
    );
    desk.sql(
        "UPDATE verifyd_webhook_endpoints SET previous_secret_until = '2001-01-01T00:00:00.000Z'",
    )
    .await;
    assert_eq!(rotated(&desk, &[NEW], 0)["webhooks"]["current"], 1);
}

/// What the rules of today refuse needs no old key. What cannot be read is named, and ends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_credential_is_sealed_again_or_named_as_such() {
    const LARAVEL: &str = "base64:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let desk = desk(2).await;
    desk.sql(
        "UPDATE provider_credentials SET kind = 'certificate' WHERE provider_connection_id = 1",
    )
    .await;
    let told = rotated(&desk, &[NEW, OLD], 0);
    assert_eq!(told["rotated"], 2);
    let shown = json(&with(&desk, &[NEW], "connections show 1 --json"));
    assert_eq!(shown["credential"]["decryptable"], true);
    assert_eq!(shown["credential"]["needs_rotation"], false);
    let problem = "the credential is not usable: it is of another kind than its row says";
    assert_eq!(shown["credential"]["problem"], problem);
    let checked = stdout(&with(&desk, &[NEW], "doctor"));
    assert_holds(&checked, &format!("connection 1: {problem}"));

    // What Laravel made of {"client_id":"5c000000-0000-4000-8000-c00000000002","client_secret":"s3cr3t"}.
    desk.sql("UPDATE provider_credentials SET payload = 'eyJpdiI6IkFBRUNBd1FGQmdjSUNRb0xEQTBPRHc9PSIsInZhbHVlIjoianViNmVhQUl0TU11aVE1aGhNMkRueTEvK1pWUmlyaVk3eDRtK1hpWERvVW92RmwwZTlwNWFydElGV2RZSERxUDNnM2ZGZGd0L2EvOE5TZFRaakZFU1BHcldqM2crRi9WR3ZsZ1NhamgwN0U9IiwibWFjIjoiYTc3N2ZmZTY1MDA0NjIyNTI0YzRhZjU3NGE4OWY2MjM0OTE0OWQ3OWExZDk1MTkyZDRhOWRjNDQzMGZlNjczYiIsInRhZyI6IiJ9' WHERE provider_connection_id = 1")
        .await;
    let mut command = desk.command("connections rotate-keys --json --laravel-too");
    command.env("VERIFYD__CREDENTIALS__KEYS", [OLD, NEW].join(","));
    command.env("VERIFYD__CREDENTIALS__LARAVEL_KEYS", LARAVEL);
    let output = finish(command, "");
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert_holds(&said, &format!("connection 1 was left out: {problem}"));
    assert_holds(
        &said,
        "credentials are malformed: connections 1; store them",
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["malformed"][0]["provider_connection_id"], 1);
    assert_eq!(told["undecryptable"], serde_json::json!([]));
    assert_eq!(told["rotated"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_behind_a_rotation_is_sealed_again_too() {
    let desk = desk(2).await;
    desk.sql(
        "CREATE TABLE kept AS SELECT payload FROM provider_credentials WHERE provider_connection_id = 1;
         CREATE TRIGGER behind AFTER UPDATE OF payload ON provider_credentials
             WHEN NEW.provider_connection_id = 2 BEGIN
                 UPDATE provider_credentials SET payload = (SELECT payload FROM kept)
                 WHERE provider_connection_id = 1;
             END",
    )
    .await;
    let told = rotated(&desk, &[NEW, OLD], 0);
    assert_eq!(
        (&told["rotated"], &told["current"]),
        (&serde_json::json!(2), &serde_json::json!(0))
    );
    let shown = json(&with(&desk, &[NEW], "connections show 1 --json"));
    assert_eq!(shown["credential"]["decryptable"], true);
    assert_eq!(rotated(&desk, &[NEW], 0)["current"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_may_have_left_an_old_key_says_so() {
    for (table, column) in [
        ("provider_credentials", "payload"),
        ("verifyd_webhook_endpoints", "secret"),
    ] {
        let desk = desk(1).await;
        add_webhook(&desk, OLD);
        desk.sql(&format!(
            "CREATE TRIGGER kept BEFORE UPDATE OF {column} ON {table} BEGIN SELECT RAISE(IGNORE); END"
        ))
        .await;
        let output = with(&desk, &[NEW, OLD], ROTATE);
        assert_eq!(output.status.code(), Some(1), "{table}");
        assert_holds(&stdout(&output), "1 changed meanwhile");
        assert_holds(&stderr(&output), "; repeat the command");
        desk.sql("DROP TRIGGER kept").await;
        rotated(&desk, &[NEW, OLD], 0);
        rotated(&desk, &[NEW], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_a_webhook_hides_no_result_of_the_credentials() {
    let desk = desk(2).await;
    add_webhook(&desk, OLD);
    desk.sql(
        "UPDATE provider_credentials SET payload = (SELECT payload FROM provider_credentials
             WHERE provider_connection_id = 1) WHERE provider_connection_id = 2;
         CREATE TRIGGER kept BEFORE UPDATE ON verifyd_webhook_endpoints BEGIN
             SELECT RAISE(ABORT, 'not today');
         END",
    )
    .await;
    let output = with(&desk, &[NEW, OLD], ROTATE);
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&stdout(&output), "credentials: 1 sealed again");
    let said = stderr(&output);
    assert_holds(&said, "with any key here: connections 2\n");
    assert_holds(&said, "webhook endpoint 1: ");
    assert_holds(&said, "not today");
}
