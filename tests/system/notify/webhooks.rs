//! Webhooks to a receiver on loopback.

use crate::notify::receiver::{Answer, Receiver};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use test_support::bench::Bench;
use verifyd::ports::clock::{Clock as _, SystemClock};
use verifyd_simulator::Scenario;

/// Pauses follow the limit of an attempt; the lease of a sender that died is seven seconds long.
const QUICKLY: &[(&str, &str)] = &[
    ("VERIFYD__WEBHOOKS__LOOPBACK_HOSTS", "127.0.0.1"),
    ("VERIFYD__WEBHOOKS__REQUEST_TIMEOUT", "1s"),
];

/// Attempts after which a message is given up.
const MAX_ATTEMPTS: i64 = 11;

pub async fn bench() -> (Bench, i64, Receiver) {
    let mut bench = Bench::new().await;
    for (key, value) in QUICKLY {
        bench.set(key, *value);
    }
    let connection = bench.connection(1, &Scenario::SecretExpired.tenant_id(0), "health_check");
    (bench, connection, Receiver::start().await)
}

/// Adds an endpoint; returns its id and its secret.
pub fn add(bench: &Bench, url: &str, more: &[&str]) -> (i64, String) {
    let mut arguments = vec!["webhooks", "add", "--workspace", "1", "--url", url];
    arguments.extend(more);
    let added = bench.json(&arguments);
    (
        added["endpoint"]["id"].as_i64().unwrap(),
        added["secret"].as_str().unwrap().to_owned(),
    )
}

pub fn deliveries(bench: &Bench, endpoint: i64) -> Vec<Value> {
    let endpoint = endpoint.to_string();
    let found = bench.json(&["webhooks", "deliveries", "--endpoint", &endpoint]);
    found.as_array().unwrap().clone()
}

/// Waits until no message of the endpoint is pending.
pub async fn ended(bench: &Bench, endpoint: i64) -> Vec<Value> {
    let pending = format!(
        "SELECT count(*) FROM verifyd.webhook_deliveries \
         WHERE endpoint_id = {endpoint} AND state = 'pending'"
    );
    bench.until(&pending, |n| n == 0).await;
    deliveries(bench, endpoint)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_deliver_every_event_once_and_signed() {
    let (bench, connection, receiver) = bench().await;
    let (all, secret) = add(&bench, &receiver.url("all"), &[]);
    let (changes, _) = add(&bench, &receiver.url("changes"), &["--changed-only"]);
    let _replicas = [bench.serve(&[]), bench.serve(&[])];
    bench.record(&[connection], 40).await;
    bench.all_completed().await;
    let found = ended(&bench, all).await;
    assert_eq!(found.len(), 40);
    assert!(
        found
            .iter()
            .all(|d| d["state"] == "delivered" && d["attempts"] == 1)
    );
    let requests = receiver.wait("all", 40).await;
    assert_eq!(requests.len(), 40);
    let ids: BTreeSet<&str> = requests.iter().map(|r| r.id()).collect();
    let runs: BTreeSet<i64> = requests
        .iter()
        .map(|r| r.event().data.operation_run_id.0)
        .collect();
    assert_eq!((ids.len(), runs.len()), (40, 40));
    for request in &requests {
        assert!(request.is_signed_with(&secret));
        assert_eq!(request.header("content-type"), "application/json");
        let sent: i64 = request.header("webhook-timestamp").parse().unwrap();
        assert!((SystemClock.now().timestamp() - sent).abs() < 600);
    }
    // The verdict was the same every time: one change.
    assert_eq!(ended(&bench, changes).await.len(), 1);
    assert_eq!(receiver.wait("changes", 1).await.len(), 1);
    assert!(!bench.printed.lock().unwrap().contains(&secret[6..]) || only_once(&bench, &secret));
}

/// The command that made the secret printed it; nobody else does.
fn only_once(bench: &Bench, secret: &str) -> bool {
    bench.printed.lock().unwrap().matches(&secret[6..]).count() == 1
}

/// Waits until an attempt to each of these endpoints has failed, then counts all but one as made. The last is due within
/// eight seconds, however many there were: more than the lease of a sender, which this must not shorten.
async fn spend_attempts(bench: &Bench, endpoints: &[i64]) {
    let ids: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let theirs = format!("endpoint_id IN ({})", ids.join(", "));
    let tried = format!(
        "SELECT count(*) FROM verifyd.webhook_deliveries d WHERE {theirs} AND EXISTS \
         (SELECT FROM verifyd.webhook_attempts a WHERE a.delivery_id = d.id AND a.result IS NOT NULL)"
    );
    let all = i64::try_from(endpoints.len()).unwrap();
    bench.until(&tried, |tried| tried == all).await;
    let spent = MAX_ATTEMPTS - 1;
    let spend = format!(
        "UPDATE verifyd.webhook_deliveries SET tries = {spent}, \
         next_attempt_at = least(next_attempt_at, now() + interval '8 s') WHERE {theirs}"
    );
    bench.execute(&spend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_tried_again_recorded_and_replayed() {
    let (mut bench, connection, receiver) = bench().await;
    let (flaky, _) = add(&bench, &receiver.url("flaky"), &[]);
    let (broken, _) = add(&bench, &receiver.url("broken"), &[]);
    let (gone, _) = add(&bench, &receiver.url("gone"), &[]);
    let (moved, _) = add(&bench, &receiver.url("moved"), &[]);
    // A name that is configured no longer, and leads to loopback; and a port where nobody listens.
    let (loopback, hosts) = QUICKLY[0];
    bench.set(loopback, format!("{hosts},localhost"));
    let (private, _) = add(&bench, "https://localhost/hook", &[]);
    bench.set(loopback, hosts);
    let (away, _) = add(&bench, "http://127.0.0.1:1/hook", &[]);
    receiver.answers("flaky", Answer::Status(503, 2));
    receiver.answers("broken", Answer::Status(500, usize::MAX));
    receiver.answers("gone", Answer::Status(410, 100));
    receiver.answers("moved", Answer::Redirect);
    let mut daemon = bench.serve(&[]);
    bench.enqueue(connection);
    bench.all_completed().await;
    spend_attempts(&bench, &[broken, moved, private, away]).await;

    let last = |found: &[Value]| {
        assert_eq!(found.len(), 1);
        (
            found[0]["state"].as_str().unwrap().to_owned(),
            found[0]["last_result"].as_str().unwrap().to_owned(),
            found[0]["attempts"].as_i64().unwrap(),
        )
    };
    // More than two where the machine is busy.
    let wanted = [
        (flaky, "delivered", "delivered", 3..=3),
        (broken, "failed", "http_status", 2..=MAX_ATTEMPTS),
        (gone, "failed", "gone", 1..=1),
        (moved, "failed", "redirect_refused", 2..=MAX_ATTEMPTS),
        (private, "failed", "address_refused", 2..=MAX_ATTEMPTS),
        (away, "failed", "unreachable", 2..=MAX_ATTEMPTS),
    ];
    for (endpoint, state, result, attempts) in wanted {
        let (found_state, found_result, made) = last(&ended(&bench, endpoint).await);
        assert_eq!((&*found_state, &*found_result), (state, result));
        assert!(attempts.contains(&made), "{result}: {made} attempts");
    }
    assert!(receiver.got("elsewhere").is_empty());
    let flaky = receiver.got("flaky");
    assert_eq!(flaky.len(), 3);
    assert!(
        flaky
            .iter()
            .all(|r| r.id() == flaky[0].id() && r.body == flaky[0].body)
    );
    let endpoints = bench.json(&["webhooks", "list"]);
    let listed = endpoints.as_array().unwrap().iter();
    let disabled: Vec<i64> = listed
        .filter(|e| e["enabled"] == false)
        .map(|e| e["id"].as_i64().unwrap())
        .collect();
    assert_eq!(disabled, [gone]);

    // The log names the commands that send them again.
    let id = |endpoint| deliveries(&bench, endpoint)[0]["id"].to_string();
    for how in [
        format!("`verifyd webhooks replay {}` sends it again", id(broken)),
        format!(
            "after `verifyd webhooks enable {gone}`, `verifyd webhooks replay {}` sends it again",
            id(gone)
        ),
    ] {
        daemon.wait_for(&format!("webhook delivery given up; {how}"));
    }

    // Its receiver works again: the old message under its old id.
    let delivery = deliveries(&bench, broken)[0]["id"].to_string();
    let attempts = bench.json(&["webhooks", "attempts", &delivery]);
    let tried = receiver.got("broken").len();
    assert_eq!(attempts.as_array().unwrap().len(), tried);
    assert!(
        attempts
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["http_status"] == 500)
    );
    receiver.answers("broken", Answer::Ok);
    bench.json(&["webhooks", "replay", &delivery]);
    let requests = receiver.wait("broken", tried + 1).await;
    assert_eq!(requests[tried].id(), requests[0].id());
    assert_eq!(last(&ended(&bench, broken).await).0, "delivered");
    // The same by time.
    let endpoint = broken.to_string();
    let replayed = bench.json(&[
        "webhooks",
        "replay",
        "--endpoint",
        &endpoint,
        "--since",
        "2020-01-01T00:00:00Z",
        "--delivered-too",
    ]);
    let wanted = json!({ "replayed": 1, "endpoint_id": broken, "endpoint_enabled": true });
    assert_eq!(replayed, wanted);
    receiver.wait("broken", tried + 2).await;
    // To an endpoint that is disabled nothing is sent.
    let delivery = deliveries(&bench, gone)[0]["id"].to_string();
    let waits = bench.run(&["webhooks", "replay", &delivery]);
    let noted = String::from_utf8_lossy(&waits.stderr);
    let said = format!(
        "Endpoint {gone} is disabled: nothing is sent until `verifyd webhooks enable {gone}`."
    );
    assert!(waits.status.success() && noted.contains(&said), "{noted}");
    let waits = bench.json(&["webhooks", "replay", &delivery]);
    let wanted = json!({ "replayed": 0, "endpoint_id": gone, "endpoint_enabled": false });
    assert_eq!(waits, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_holds_up_nobody() {
    let (mut bench, connection, receiver) = bench().await;
    bench.set("VERIFYD__WEBHOOKS__CONCURRENCY", "2");
    let (slow, _) = add(&bench, &receiver.url("slow"), &[]);
    let (other, secret) = add(&bench, &receiver.url("other"), &[]);
    receiver.answers("slow", Answer::Never);
    let _daemon = bench.serve(&[]);
    // A run that is still active is not recorded a second time.
    let runs: BTreeSet<i64> = (0..10).map(|_| bench.enqueue(connection)).collect();
    bench.all_completed().await;
    // All of one, long before the other has had its attempts of a second each.
    assert_eq!(ended(&bench, other).await.len(), runs.len());
    let pending = format!(
        "SELECT count(*) FROM verifyd.webhook_deliveries \
         WHERE endpoint_id = {slow} AND state = 'pending'"
    );
    assert!(bench.numbers(&pending).await[0] > 0);
    let endpoint = other.to_string();
    let rotated = bench.json(&["webhooks", "rotate-secret", &endpoint]);
    let fresh = rotated["secret"].as_str().unwrap().to_owned();
    bench.enqueue(connection);
    let requests = receiver.wait("other", runs.len() + 1).await;
    let (before, after) = (&requests[runs.len() - 1], &requests[runs.len()]);
    assert!(after.is_signed_with(&fresh) && after.is_signed_with(&secret));
    assert!(!before.is_signed_with(&fresh) && before.is_signed_with(&secret));
    // A previous one that no key opens.
    bench
        .execute("UPDATE verifyd.webhook_endpoints SET previous_secret = 'vfd1.lost.x.x'")
        .await;
    let run = bench.enqueue(connection);
    let requests = receiver.wait("other", runs.len() + 2).await;
    let mut requests = requests.iter();
    let of_run = requests.find(|request| request.event().data.operation_run_id.0 == run);
    let of_run = of_run.unwrap();
    assert!(of_run.is_signed_with(&fresh) && !of_run.is_signed_with(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_killed_before_it_knows_is_followed_by_another() {
    let (bench, connection, receiver) = bench().await;
    let (endpoint, _) = add(&bench, &receiver.url("held"), &[]);
    receiver.answers("held", Answer::Never);
    let mut first = bench.serve(&[]);
    bench.enqueue(connection);
    receiver.wait("held", 1).await;
    first.kill();
    receiver.answers("held", Answer::Ok);
    let _second = bench.serve(&[]);
    let found = ended(&bench, endpoint).await;
    assert_eq!(found[0]["state"], "delivered");
    let requests = receiver.got("held");
    assert!(requests.len() >= 2);
    assert!(
        requests
            .iter()
            .all(|r| r.id() == requests[0].id() && r.body == requests[0].body)
    );
    let delivery = found[0]["id"].to_string();
    let attempts = bench.json(&["webhooks", "attempts", &delivery]);
    let attempts = attempts.as_array().unwrap();
    assert!(attempts[0]["result"].is_null());
    assert_eq!(attempts.last().unwrap()["result"], "delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_must_not_be_called_are_not_added() {
    let (bench, ..) = bench().await;
    for url in [
        "https://169.254.169.254/latest",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://127.0.0.2/",
        "http://receiver.example/",
        "https://user:pass@receiver.example/",
        "ftp://receiver.example/",
        "receiver.example",
        "https:///receiver.example/",
        "https://receiver/",
    ] {
        let output = bench.run(&["webhooks", "add", "--workspace", "1", "--url", url]);
        assert_eq!(output.status.code(), Some(1), "{url}");
    }
    let endpoints = bench.json(&["webhooks", "list"]);
    assert_eq!(endpoints, serde_json::json!([]));
    // One that was written past the command line has no secret that opens, and gets nothing.
    let (id, _) = add(&bench, "http://127.0.0.1:9/hook", &[]);
    let connection = bench.connection(2, &Scenario::SecretExpired.tenant_id(1), "health_check");
    bench
        .numbers(&format!(
            "UPDATE verifyd.webhook_endpoints SET url = 'https://169.254.169.254/' \
             WHERE id = {id} RETURNING id"
        ))
        .await;
    let _daemon = bench.serve(&[]);
    bench.enqueue(connection);
    bench.all_completed().await;
    spend_attempts(&bench, &[id]).await;
    let found = ended(&bench, id).await;
    assert_eq!(found[0]["last_result"], "secret_unusable");
}
