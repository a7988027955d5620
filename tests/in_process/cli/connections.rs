//! Connections and their credentials: shown, changed, sealed again, and refused.

use super::{Desk, add_line, assert_holds, finish, json, stderr, stdout};
use serde_json::Value;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

pub const OLD: &str = "old:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
pub const NEW: &str = "new:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shown_disabled_and_given_new_credentials() {
    let desk = Desk::new().await;
    let id = desk.add(
        Scenario::Healthy,
        "--secret-stdin --expires-at 2031-01-02T03:04:05Z",
        SIMULATED_SECRET,
    );
    let shown = desk.json(&format!("connections show {id} --json"));
    assert_eq!(shown["credential"]["kind"], "client_secret");
    assert_eq!(shown["credential"]["decryptable"], true);
    assert_eq!(shown["credential"]["expires_at"], "2031-01-02T03:04:05Z");
    assert!(!shown.to_string().contains(SIMULATED_SECRET));

    desk.json(&format!("connections disable {id} --json"));
    let listed = desk.json("connections list --json");
    assert_eq!(listed[0]["status"], "disabled");
    desk.json(&format!("connections enable {id} --json"));

    let set = |source: &str| desk.json(&format!("connections set-credential {id} --json {source}"));
    let token = desk.folder.path().join("token");
    let changed = set(&format!("--federated-token-file {}", token.display()));
    assert_eq!(changed["kind"], "federated_token_file");

    // A certificate's expiry is read from it.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut parameters = rcgen::CertificateParams::new(["cli.invalid".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2030, 5, 6);
    let certificate = parameters.self_signed(&key).unwrap();
    let pem = desk.folder.path().join("certificate.pem");
    std::fs::write(
        &pem,
        format!("{}{}", certificate.pem(), key.serialize_pem()),
    )
    .unwrap();
    let changed = set(&format!("--certificate {}", pem.display()));
    assert_eq!(changed["expires_at"], "2030-05-06T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_expiry_that_is_no_time_is_named() {
    let desk = Desk::new().await;
    let id = desk.add(Scenario::Healthy, "--secret-stdin", SIMULATED_SECRET);
    let named = "provider_credentials.expires_at is no time from the year 1 on";
    for invalid in ["2030-1-5", "0000-12-31", "-infinity"] {
        desk.sql(&format!(
            "UPDATE provider_credentials SET expires_at = '{invalid}'"
        ))
        .await;
        let shown = stdout(&desk.ends(&format!("connections show {id}"), 0));
        assert_holds(&shown, named);
        let listed = desk.json("connections list --json");
        assert_eq!(listed[0]["credential_expires_at"], Value::Null, "{invalid}");
        let checked = stdout(&desk.ends("doctor", 0));
        assert_holds(&checked, &format!("connection {id}: {named}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_too_large_to_be_read_is_named_and_can_be_replaced() {
    let desk = Desk::new().await;
    let id = desk.add(Scenario::Healthy, "--secret-stdin", SIMULATED_SECRET);
    desk.sql("UPDATE provider_credentials SET payload = printf('%.*c', 300000, 'z')")
        .await;
    let problem = "provider_credentials.payload of row 1: 300000 bytes, allowed: at most 262144";
    let shown = desk.json(&format!("connections show {id} --json"));
    assert_eq!(shown["problem"], problem);
    assert_eq!(shown["credential"], Value::Null);
    let shown = stdout(&desk.ends(&format!("connections show {id}"), 0));
    assert_holds(&shown, &format!("cannot be used: {problem}"));
    assert_holds(&shown, "not read");

    let command = desk.command(&format!("connections set-credential {id} --secret-stdin"));
    let output = finish(command, SIMULATED_SECRET);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = desk.json(&format!("connections show {id} --json"));
    assert_eq!(shown["problem"], Value::Null);
    assert_eq!(shown["credential"]["decryptable"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_another_application_is_named() {
    const KEYS: &str = "base64:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let desk = Desk::new().await;
    let id = desk.add(Scenario::Healthy, "--secret-stdin", SIMULATED_SECRET);
    // What Laravel made of {"client_id":"5c000000-0000-4000-8000-c00000000002","client_secret":"s3cr3t"}.
    desk.sql("UPDATE provider_credentials SET payload = 'eyJpdiI6IkFBRUNBd1FGQmdjSUNRb0xEQTBPRHc9PSIsInZhbHVlIjoianViNmVhQUl0TU11aVE1aGhNMkRueTEvK1pWUmlyaVk3eDRtK1hpWERvVW92RmwwZTlwNWFydElGV2RZSERxUDNnM2ZGZGd0L2EvOE5TZFRaakZFU1BHcldqM2crRi9WR3ZsZ1NhamgwN0U9IiwibWFjIjoiYTc3N2ZmZTY1MDA0NjIyNTI0YzRhZjU3NGE4OWY2MjM0OTE0OWQ3OWExZDk1MTkyZDRhOWRjNDQzMGZlNjczYiIsInRhZyI6IiJ9'")
        .await;
    let show = |line: &str| {
        let mut command = desk.command(line);
        command.env("VERIFYD__CREDENTIALS__LARAVEL_KEYS", KEYS);
        finish(command, "")
    };
    let problem = "credential_malformed: field credential.client_id, \
                   expected 5c000000-0000-4000-8000-c00000000001, \
                   found 5c000000-0000-4000-8000-c00000000002";
    let shown = json(&show(&format!("connections show {id} --json")));
    assert_eq!(shown["credential"]["problem"], problem);
    assert_eq!(shown["credential"]["decryptable"], true);
    let shown = stdout(&show(&format!("connections show {id}")));
    assert_holds(&shown, &format!("client_secret; {problem}"));
    let checked = stdout(&show("doctor"));
    let line = format!("connection {id}: runs end blocked, {problem}");
    assert_holds(&checked, &line);
    assert_holds(&checked, "correct client_id of the connection");
    // Nothing but its key opens it.
    let told = json(&show("connections rotate-keys --json"));
    assert_eq!(told["left_to_laravel"], 1);
    let told = desk.json_of("connections rotate-keys --json", 1);
    assert_eq!(told["left_to_laravel"], 0);
    assert_eq!(told["undecryptable"], serde_json::json!([1]));
    // Its runs end blocked before that.
    desk.sql("UPDATE provider_connections SET status = 'disabled'")
        .await;
    let checked = stdout(&show("doctor"));
    assert!(!checked.contains("runs end blocked"), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_that_another_connection_read_are_not_shown() {
    let desk = Desk::new().await;
    let own = desk.add(Scenario::Healthy, "--secret-stdin", SIMULATED_SECRET);
    // Of the same tenant, and of another directory.
    let other = desk.add(Scenario::PermissionMissing, "", "");
    let _serving = desk.serve();
    desk.ends(&format!("enqueue --connection {own} --wait 120"), 0);
    let inventory = |id: &str| {
        let shown = desk.json(&format!("connections show {id} --json"));
        shown["inventory"].clone()
    };
    let read = inventory(&own);
    assert!(read["freshness"].is_object(), "{read}");
    assert_ne!(read["permissions"], serde_json::json!([]));
    assert_eq!(read["unknown"], Value::Null);
    let foreign = inventory(&other);
    assert_eq!(
        foreign,
        serde_json::json!({
            "freshness": null,
            "permissions": [],
            "unknown": "read_by_another_connection",
        })
    );
    let shown = stdout(&desk.ends(&format!("connections show {other}"), 0));
    assert_holds(&shown, "was read through another connection");
    assert!(!shown.contains('✓'), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated() {
    let desk = Desk::new().await;
    let with = |keys: &str, line: &str, input: &str| {
        let mut command = desk.command(line);
        command.env("VERIFYD__CREDENTIALS__KEYS", keys);
        finish(command, input)
    };
    let add = add_line(1, Scenario::Healthy, "--secret-stdin");
    json(&with(OLD, &add, SIMULATED_SECRET));
    let webhook = "webhooks add --workspace 1 --url https://app.example/ --json";
    json(&with(OLD, webhook, ""));
    let rotate = "connections rotate-keys --json";
    let lost = with(NEW, rotate, "");
    assert_eq!(lost.status.code(), Some(1));
    assert_holds(&stderr(&lost), "connections 1; ");
    assert_holds(&stderr(&lost), "secrets of webhook endpoints 1");
    let checked = with(NEW, "doctor", "");
    assert_eq!(checked.status.code(), Some(1));
    let checked = stdout(&checked);
    assert_holds(
        &checked,
        "webhook endpoint 1: a secret cannot be decrypted: the key that",
    );
    assert_holds(
        &checked,
        "add that key to credentials.keys, or run `verifyd webhooks",
    );
    let told = stdout(&with(OLD, "connections rotate-keys", ""));
    for what in ["credentials", "secrets of webhooks"] {
        let line = format!("{what}: 0 sealed again, 1 already with the writing key, 0 changed");
        assert_holds(&told, &line);
    }
    let previous = stderr(&with(OLD, "webhooks rotate-secret 1", ""));
    assert_holds(&previous, "The previous secret also signs until ");
    assert_holds(&previous, " UTC.");
    let both = format!("{NEW},{OLD}");
    for rotated in [1, 0] {
        let told = json(&with(&both, rotate, ""));
        assert_eq!(told["rotated"], rotated);
        assert_eq!(told["webhooks"]["rotated"], rotated);
    }
    let shown = json(&with(NEW, "connections show 1 --json", ""));
    assert_eq!(shown["credential"]["decryptable"], true);
    assert_eq!(shown["credential"]["needs_rotation"], false);
}

/// Nor the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_opens_says_nothing_of_the_credentials() {
    // Without a credential none is lost.
    for (of_credential, of_webhook, code) in
        [(Some(OLD), NEW, 1), (Some(NEW), OLD, 0), (None, OLD, 0)]
    {
        let desk = Desk::new().await;
        let with = |keys: &str, line: &str, input: &str| {
            let mut command = desk.command(line);
            command.env("VERIFYD__CREDENTIALS__KEYS", keys);
            finish(command, input)
        };
        if let Some(keys) = of_credential {
            let add = add_line(1, Scenario::Healthy, "--secret-stdin");
            json(&with(keys, &add, SIMULATED_SECRET));
        }
        let webhook = "webhooks add --workspace 1 --url https://app.example/ --json";
        json(&with(of_webhook, webhook, ""));
        let checked = with(NEW, "doctor", "");
        assert_eq!(checked.status.code(), Some(code), "{}", stdout(&checked));
        assert_holds(&stdout(&checked), "cannot be decrypted: the key that");
    }
}

/// Also what names the writing key, and plain text. A secret that does not open is mended by another one.
#[tokio::test(flavor = "multi_thread")]
async fn everything_that_no_key_opens_is_named() {
    let desk = Desk::new().await;
    for name in ["fine", "copied", "plain"] {
        let named = format!("--secret-stdin --display-name {name}");
        desk.add(Scenario::Healthy, &named, SIMULATED_SECRET);
    }
    for _ in 0..2 {
        desk.json("webhooks add --workspace 1 --url https://app.example/ --json");
    }
    desk.sql(
        "UPDATE provider_credentials SET payload = (SELECT payload FROM provider_credentials
             WHERE provider_connection_id = 1) WHERE provider_connection_id = 2;
         UPDATE provider_credentials SET payload = 'simulated-secret-~1' WHERE provider_connection_id = 3;
         UPDATE verifyd_webhook_endpoints SET secret = (SELECT secret FROM verifyd_webhook_endpoints
             WHERE id = 1) WHERE id = 2",
    )
    .await;
    let rotation = desk.ends("connections rotate-keys", 1);
    let told = stdout(&rotation);
    for what in ["credentials", "secrets of webhooks"] {
        assert_holds(&told, &format!("{what}: 0 sealed again, 1 already with"));
    }
    assert!(!told.contains("Laravel"), "{told}");
    assert_holds(
        &stderr(&rotation),
        "connections 2, 3; cannot be decrypted with any key here: secrets of webhook endpoints 2",
    );
    let told = desk.json_of("connections rotate-keys --json", 1);
    assert_eq!(told["undecryptable"], serde_json::json!([2, 3]));
    assert_eq!(told["left_to_laravel"], 0);
    let of_endpoint = "webhook endpoint 2: a secret cannot be decrypted: it was changed, was sealed for another place";
    let checked = stdout(&desk.ends("doctor", 0));
    assert_holds(&checked, of_endpoint);
    assert_holds(&checked, "run `verifyd webhooks rotate-secret ENDPOINT`");
    let rotated = stderr(&desk.ends("webhooks rotate-secret 2", 0));
    assert_holds(
        &rotated,
        "The previous secret is not kept: no key here opens it.",
    );
    assert!(!rotated.contains("also signs"), "{rotated}");
    let checked = stdout(&desk.ends("doctor", 0));
    assert!(!checked.contains("webhook endpoint"), "{checked}");
    let told = desk.json_of("connections rotate-keys --json", 1);
    assert_eq!(told["webhooks"]["current"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_with_what_is_allowed() {
    let desk = Desk::new().await;
    let fine = add_line(1, Scenario::Healthy, "--module intune");
    let add = |changed: &str, value: &str| {
        let mut words: Vec<&str> = fine.split_whitespace().collect();
        match words.iter().position(|word| *word == changed) {
            Some(at) => words[at + 1] = value,
            None => words.extend([changed, value]),
        }
        let output = desk.run(&words.join(" "));
        assert!(!output.status.success(), "{changed} {value}");
        let said = stderr(&output);
        assert_holds(&said, changed.trim_start_matches('-'));
        said
    };
    assert!(add("--entra-tenant-id", "contoso").contains("a GUID"));
    assert!(add("--client-id", "5").contains("a GUID"));
    assert!(add("--cloud", "moon").contains("global"));
    assert!(add("--module", "teleport").contains("health_check"));
    assert!(add("--provider", "acme").contains("microsoft"));
    let long = "x".repeat(201);
    assert!(add("--display-name", &long).contains("has 201 characters, allowed: 1 to 200"));
    assert!(add("--workspace", "one").contains("a whole number from 1 to"));
    assert!(add("--federated-token-file", "relative/path").contains("absolute"));
    add("--certificate", "does-not-exist.pem");

    let unknown = desk.run("runs show 99");
    assert!(stderr(&unknown).contains("run 99: no such run"));
    let unknown = desk.run("enqueue --connection 99");
    assert!(stderr(&unknown).contains("connection 99: no such connection"));
    let mut command = desk.command("config print");
    command.env("VERIFYD__WORKER__CONCURENCY", "5");
    let output = finish(command, "");
    assert_holds(&stderr(&output), "did you mean worker.concurrency?");
}
