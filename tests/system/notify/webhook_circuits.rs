//! Receivers that fail for long: circuits, ages, and waits that they ask for.

use crate::notify::receiver::Answer;
use crate::notify::webhooks::{add, bench, deliveries, ended};
use crate::pages::person::Person;
use serde_json::Value;
use test_support::bench::{Bench, Daemon};
use test_support::waiting::until;

pub fn set(bench: &mut Bench, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        bench.set(&format!("VERIFYD__WEBHOOKS__{key}"), *value);
    }
}

fn listed(bench: &Bench, endpoint: i64) -> Value {
    let all = bench.json(&["webhooks", "list"]);
    let found = all.as_array().unwrap().iter().find(|e| e["id"] == endpoint);
    found.unwrap().clone()
}

async fn until_circuit_is(bench: &Bench, endpoint: i64, wanted: &str) {
    until(&format!("the circuit is {wanted}"), async || {
        listed(bench, endpoint)["circuit"] == wanted
    })
    .await;
}

pub async fn record(bench: &Bench, connection: i64, runs: usize) {
    for _ in 0..runs {
        bench.enqueue(connection);
        bench.all_completed().await;
    }
}

/// A pause of a circuit is twice the limit of an attempt: longer than a test.
const LONG: (&str, &str) = ("REQUEST_TIMEOUT", "5m");

/// As many failures as open a circuit.
const FAILURES: usize = 5;

/// A receiver that fails. What is recorded for it is not tried, by two replicas, and costs the other endpoint
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_records_without_trying() {
    let (mut bench, connection, receiver) = bench().await;
    set(&mut bench, &[("CONCURRENCY", "4"), LONG]);
    let (broken, _) = add(&bench, &receiver.url("broken"), &[]);
    let (other, _) = add(&bench, &receiver.url("other"), &[]);
    receiver.answers("broken", Answer::Status(500, usize::MAX));
    let replicas = [bench.serve(&[]), bench.serve(&[])];
    record(&bench, connection, FAILURES).await;
    until_circuit_is(&bench, broken, "open").await;
    // Those that were on their way when it opened have ended.
    bench
        .until(
            "SELECT count(*) FROM verifyd.webhook_attempts WHERE result IS NULL",
            |left| left == 0,
        )
        .await;
    let tried = receiver.got("broken").len();

    record(&bench, connection, 6).await;
    let arrived = ended(&bench, other).await;
    assert_eq!(arrived.len(), FAILURES + 6);
    assert!(
        arrived
            .iter()
            .all(|d| d["state"] == "delivered" && d["attempts"] == 1)
    );
    assert_eq!(receiver.got("broken").len(), tried, "nothing more is tried");
    let waiting = deliveries(&bench, broken);
    assert_eq!(waiting.len(), FAILURES + 6);
    assert!(waiting.iter().all(|d| d["state"] == "pending"));
    // Newest first: they have used up nothing.
    assert!(
        waiting[..6].iter().all(|d| d["attempts"] == 0),
        "{waiting:?}"
    );
    let shown = listed(&bench, broken);
    assert_eq!(shown["failures"], FAILURES, "{shown}");
    assert_eq!(shown["last_failure"]["http_status"], 500, "{shown}");
    assert!(listed(&bench, other)["last_failure"].is_null());
    assert!(!shown["circuit_probe_at"].is_null() && !shown["oldest_pending_since"].is_null());
    assert_eq!(listed(&bench, other)["circuit"], "closed");
    let line = bench.examined("webhooks");
    assert_eq!(line["state"], "warning");
    let found = line["found"].as_str().unwrap();
    assert!(
        found.contains("11 pending")
            && found.contains("1 endpoint with an open or half-open circuit"),
        "{found}"
    );
    let remedy = line["remedy"].as_str().unwrap();
    assert!(remedy.contains("webhooks deliveries"), "{remedy}");
    // Measured when they are asked for; a slow database may leave them out once.
    let mut measured = (0.0, 0.0);
    for _ in 0..20 {
        let pending = "verifyd_webhook_deliveries_pending";
        let open = "verifyd_webhook_circuits_open";
        measured = (
            replicas[0].metric(pending).await,
            replicas[0].metric(open).await,
        );
        if measured == (11.0, 1.0) {
            break;
        }
    }
    assert_eq!(measured, (11.0, 1.0));

    // The operator knows that it works again.
    receiver.answers("broken", Answer::Ok);
    bench.json(&["webhooks", "enable", &broken.to_string()]);
    due_now(&bench).await;
    let arrived = ended(&bench, broken).await;
    assert!(arrived.iter().all(|d| d["state"] == "delivered"));
    assert!(listed(&bench, broken)["last_failure"].is_null());
    assert_eq!(bench.examined("webhooks")["state"], "ok");
}

/// As if the pauses of all messages had passed.
async fn due_now(bench: &Bench) {
    let statement = "UPDATE verifyd.webhook_deliveries SET next_attempt_at = now()
        WHERE state = 'pending' RETURNING endpoint_id";
    bench.numbers(statement).await;
}

/// It probes after its pauses, also after a restart of the only replica, and closes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_probes_and_closes_when_the_receiver_answers_again() {
    let (bench, connection, receiver) = bench().await;
    let (broken, _) = add(&bench, &receiver.url("broken"), &[]);
    receiver.answers("broken", Answer::Status(500, usize::MAX));
    let mut first = bench.serve(&[]);
    record(&bench, connection, FAILURES).await;
    bench
        .until(
            "SELECT circuit_pauses::bigint FROM verifyd.webhook_endpoints",
            |pauses| pauses >= 3,
        )
        .await;
    first.kill();
    receiver.answers("broken", Answer::Ok);
    let _second = bench.serve(&[]);
    let arrived = ended(&bench, broken).await;
    assert_eq!(arrived.len(), FAILURES);
    assert!(arrived.iter().all(|d| d["state"] == "delivered"));
    until_circuit_is(&bench, broken, "closed").await;
    assert_eq!(listed(&bench, broken)["failures"], 0);
}

/// What is recorded for a receiver that fails is bounded by its age.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_too_long_is_given_up_counted_and_listed() {
    let (mut bench, connection, receiver) = bench().await;
    set(&mut bench, &[("GIVE_UP_AFTER", "2s"), LONG]);
    let (broken, _) = add(&bench, &receiver.url("broken"), &[]);
    receiver.answers("broken", Answer::Status(500, usize::MAX));
    let daemon = bench.serve(&[]);
    record(&bench, connection, FAILURES).await;
    let given_up = ended(&bench, broken).await;
    assert_eq!(given_up.len(), FAILURES);
    for delivery in &given_up {
        assert_eq!(
            (&delivery["state"], &delivery["give_up_reason"]),
            (&"failed".into(), &"age".into())
        );
    }
    for line in [
        "verifyd_webhook_deliveries_given_up_total{reason=\"age\"} 5",
        "verifyd_webhook_oldest_pending_seconds 0",
        "verifyd_webhook_circuits_open 1",
    ] {
        until(line, async || daemon.get("/metrics").await.1.contains(line)).await;
    }
    let line = bench.examined("webhooks");
    let found = line["found"].as_str().unwrap();
    assert!(found.contains("5 given up, 5 of them by age"), "{found}");
    let page = workers_page(&bench, &daemon).await;
    let probe = ", a probe goes with the first message after <time ";
    assert!(page.contains(probe), "{page}");
}

/// In both forms.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_is_not_tried_again_before_it_asks_for_it() {
    let (bench, connection, receiver) = bench().await;
    let endpoints = [
        ("seconds", Answer::WaitSeconds(3600)),
        ("date", Answer::WaitUntil(3600)),
    ];
    let mut ids = Vec::new();
    for (path, answer) in endpoints {
        receiver.answers(path, answer);
        ids.push((path, add(&bench, &receiver.url(path), &[]).0));
    }
    let _daemon = bench.serve(&[]);
    record(&bench, connection, 1).await;
    bench
        .until(
            "SELECT count(*) FROM verifyd.webhook_attempts WHERE result = 'http_status'",
            |answered| answered == 2,
        )
        .await;
    for (path, id) in ids {
        let wait = bench
            .numbers(&format!(
                "SELECT extract(epoch FROM next_attempt_at - created_at)::bigint \
                 FROM verifyd.webhook_deliveries WHERE endpoint_id = {id}"
            ))
            .await[0];
        // An hour, and up to a fifth more.
        assert!((3590..=4600).contains(&wait), "{path}: {wait}");
        assert_eq!(receiver.got(path).len(), 1);
    }
}

/// Whatever is recorded meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_to_wait_gets_nothing_meanwhile() {
    let (mut bench, connection, receiver) = bench().await;
    set(&mut bench, &[LONG]);
    let (busy, _) = add(&bench, &receiver.url("busy"), &[]);
    let (other, _) = add(&bench, &receiver.url("other"), &[]);
    receiver.answers("busy", Answer::WaitSeconds(3600));
    let _daemon = bench.serve(&[]);
    record(&bench, connection, 1).await;
    until_circuit_is(&bench, busy, "open").await;
    record(&bench, connection, FAILURES).await;
    assert_eq!(ended(&bench, other).await.len(), FAILURES + 1);
    assert_eq!(receiver.got("busy").len(), 1);
    let shown = listed(&bench, busy);
    assert_eq!(shown["failures"], 1, "{shown}");
    let wait = bench
        .numbers(
            "SELECT extract(epoch FROM circuit_probe_at - circuit_opened_at)::bigint \
             FROM verifyd.webhook_endpoints WHERE circuit_pauses > 0",
        )
        .await;
    assert!(
        matches!(wait[..], [seconds] if (3599..=3900).contains(&seconds)),
        "{wait:?}"
    );
    let waiting = deliveries(&bench, busy);
    assert_eq!(waiting.len(), FAILURES + 1);
    assert!(waiting.iter().all(|d| d["state"] == "pending"));
    // Newest first.
    assert_eq!(waiting[0]["next_attempt_at"], shown["circuit_probe_at"]);

    // The operator knows better.
    receiver.answers("busy", Answer::Ok);
    bench.json(&["webhooks", "enable", &busy.to_string()]);
    let arrived = ended(&bench, busy).await;
    assert!(arrived.iter().all(|d| d["state"] == "delivered"));
}

/// Of circuits and of messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_a_day_is_waited_for_within_the_bounds() {
    let (mut bench, connection, receiver) = bench().await;
    set(&mut bench, &[LONG]);
    let paths = ["one", "two", "three"];
    for path in paths {
        receiver.answers(path, Answer::WaitSeconds(86_400));
        add(&bench, &receiver.url(path), &[]);
    }
    let _daemon = bench.serve(&[]);
    record(&bench, connection, FAILURES).await;
    bench
        .until(
            "SELECT count(*) FROM verifyd.webhook_endpoints WHERE circuit_pauses = 1",
            |open| open == 3,
        )
        .await;
    bench
        .until(
            "SELECT count(*) FROM verifyd.webhook_attempts WHERE result IS NULL",
            |left| left == 0,
        )
        .await;
    // A quarter of a message's age; a message was on its way before.
    for pauses in [
        "SELECT extract(epoch FROM circuit_probe_at - circuit_opened_at)::bigint \
         FROM verifyd.webhook_endpoints",
        "SELECT extract(epoch FROM next_attempt_at - created_at)::bigint \
         FROM verifyd.webhook_deliveries WHERE attempts > 0",
    ] {
        let pauses = bench.numbers(pauses).await;
        assert!(pauses.len() >= 3, "{pauses:?}");
        let within = 21_599..=21_900;
        assert!(pauses.iter().all(|p| within.contains(p)), "{pauses:?}");
    }
}

/// `/workers`, as somebody sees it who has signed in.
async fn workers_page(bench: &Bench, daemon: &Daemon) -> String {
    let token = bench.token(&["read", "run", "admin"]);
    let person = Person::logged_in(&format!("http://{}", daemon.listening), &token).await;
    person.page("/workers").await
}

/// An address may hold a secret: it is not shown.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_workers_shows_what_waits() {
    let (mut bench, connection, receiver) = bench().await;
    set(&mut bench, &[LONG]);
    let (broken, _) = add(&bench, &receiver.url("hidden-path"), &[]);
    receiver.answers("hidden-path", Answer::Status(500, usize::MAX));
    let mut daemon = bench.serve(&[]);
    record(&bench, connection, FAILURES).await;
    until_circuit_is(&bench, broken, "open").await;
    let line = daemon.wait_for("circuit of a webhook endpoint opened");
    assert!(line.contains("http_status"), "{line}");
    let page = workers_page(&bench, &daemon).await;
    assert!(page.contains("Oldest pending"), "{page}");
    let row = format!("Endpoint {broken} of workspace 1: {FAILURES} failures in a row");
    assert!(page.contains(&row), "{page}");
    assert!(page.contains(", next probe <time "), "{page}");
    assert!(!page.contains("hidden-path"), "{page}");
}
