//! The real process, and tokens as they are made.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use test_support::bench::Bench;
use verifyd_simulator::SimulatorOptions;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_printed_once_and_never_logged() {
    let bench = Bench::with(SimulatorOptions::default()).await;
    let connection = bench.healthy(1);
    let create = "tokens create --name console --scope read --scope run --workspace 1 --tenant 1 \
                  --expires 90d";
    let created = bench.success(&create.split(' ').collect::<Vec<_>>());
    let token = String::from_utf8(created.stdout).unwrap();
    let token = token.strip_suffix('\n').unwrap();
    assert!(
        verifyd::domain::token::hash(token).is_some(),
        "nothing but the token"
    );
    // It went to standard output, where it was asked for: only there.
    let told = String::from_utf8(created.stderr).unwrap();
    assert!(
        told.contains("tenant 1 of workspace 1") && !told.contains(token),
        "{told}"
    );
    bench.printed.lock().unwrap().clear();

    let mut daemon = bench.serve(&[("VERIFYD__LOG__FILTER", "trace")]);
    let client = reqwest::Client::new();
    let path = format!(
        "http://{}/v1/connections/{connection}/checks",
        daemon.listening
    );
    let started = client.post(&path).bearer_auth(token).send().await.unwrap();
    assert_eq!(started.status(), 201);
    let run = started.headers()["location"].to_str().unwrap().to_owned();
    bench.all_completed().await;
    let run = format!("http://{}{run}", daemon.listening);
    let shown = client.get(&run).bearer_auth(token).send().await.unwrap();
    let id = shown.headers()["x-request-id"].to_str().unwrap().to_owned();
    let shown: Value = serde_json::from_str(&shown.text().await.unwrap()).unwrap();
    assert_eq!(shown["outcome"], "succeeded");

    let listed = bench.json(&["tokens", "list"]);
    assert_eq!(listed[0]["scopes"], json!(["read", "run"]));
    assert!(listed[0]["last_used_at"].is_string());
    let revoked = bench.json(&["tokens", "revoke", "1"]);
    assert_eq!(revoked["revoked_now"], true);
    let again = bench.json(&["tokens", "revoke", "1"]);
    assert_eq!(again["revoked_now"], false);
    assert!(!bench.run(&["tokens", "revoke", "7"]).status.success());
    let refused = client.get(&run).bearer_auth(token).send().await.unwrap();
    assert_eq!(refused.status(), 401);

    daemon.terminate();
    let printed = bench.printed.lock().unwrap().clone();
    let line = printed
        .lines()
        .find(|line| line.contains(&id) && line.contains("answered"));
    let line: Value = serde_json::from_str(line.expect("the request is logged")).unwrap();
    assert_eq!(line["status"], 200, "{line}");
    assert!(line["millis"].is_u64(), "{line}");
    for secret in [token, &verifyd::domain::token::hash(token).unwrap()] {
        assert!(!printed.contains(secret), "a token in what was printed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_does_not_fill_the_log() {
    const REQUESTS: u64 = 200;
    let bench = Bench::new().await;
    let mut daemon = bench.serve(&[]);
    let client = reqwest::Client::new();
    let base = format!("http://{}/v1", daemon.listening);
    let unknown = format!("{base}/{}", "x".repeat(10_000));
    let begun = Instant::now();
    for n in 0..REQUESTS {
        let request = match n % 3 {
            0 => client.get(format!("{base}/runs")),
            1 => client.get(&unknown),
            _ => client.delete(format!("{base}/runs")),
        };
        let status = request.send().await.unwrap().status();
        assert!(status.is_client_error(), "{status}");
    }
    let seconds = begun.elapsed().as_secs();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    client.get(&unknown).send().await.unwrap();
    daemon.terminate();
    let printed = bench.printed.lock().unwrap().clone();
    let lines: Vec<&str> = printed
        .lines()
        .filter(|line| line.contains("\"answered\""))
        .collect();
    let mut left_out = 0;
    for line in &lines {
        assert!(line.len() < 1_000, "{line}");
        let line: Value = serde_json::from_str(line).unwrap();
        left_out += line["left_out"].as_u64().unwrap();
    }
    let shown = u64::try_from(lines.len()).unwrap();
    assert!(
        (2..=seconds + 2).contains(&shown),
        "{shown} lines in {seconds} s"
    );
    assert_eq!(shown + left_out, REQUESTS + 1);
}
