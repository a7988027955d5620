//! What every queue does. Each queue's module makes named tests of these by `conformance!`.

use crate::queue::probe::{Consumer, Probe, hints, until};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use verifyd::domain::RunId;
use verifyd::domain::hint::Hint;
use verifyd::ports::queue::Queue;

/// A queue under test.
pub struct Subject {
    pub queue: Arc<dyn Queue>,
    /// The same queue as another replica would see it.
    pub other: Arc<dyn Queue>,
}

macro_rules! conformance {
    ($subject:expr; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (subject, cleanup) = $subject.await;
                crate::queue::conformance::$name(subject).await;
                cleanup.await;
            }
        )+
    };
}

macro_rules! every_conformance_test {
    ($subject:expr) => {
        conformance!(
            $subject;
            every_hint_arrives,
            a_hint_arrives_as_it_was_sent,
            the_concurrency_bound_is_reached_and_never_exceeded,
            one_at_a_time_is_possible,
            a_graceful_stop_finishes_what_runs_and_keeps_the_rest,
            an_idle_consumer_stops,
            a_panicking_handler_does_not_stop_the_consumer,
            the_same_run_can_be_delivered_again,
            two_consumers_share,
            what_is_not_worked_on_stays_in_the_queue,
            a_consumer_shows_that_it_lives,
            a_queue_without_consumer_has_no_tick,
        );
    };
}

pub async fn every_hint_arrives(s: Subject) {
    let probe = Probe::new();
    // Some wait already, some come while it consumes, alone and many at a time.
    s.queue.send(&hints(1..=200)).await.unwrap();
    let consumer = Consumer::start(&s.queue, &probe, 8);
    for hint in hints(201..=300) {
        s.queue.send(&[hint]).await.unwrap();
    }
    s.queue.send(&hints(301..=500)).await.unwrap();
    until("all 500 runs were started", || probe.runs().len() == 500).await;
    assert_eq!(probe.runs(), (1..=500).collect::<HashSet<i64>>());
    consumer.stop().await;
    assert_eq!(s.queue.depth().await.unwrap(), 0);
    assert_eq!(s.queue.health().dead_letters, 0);
}

pub async fn a_hint_arrives_as_it_was_sent(s: Subject) {
    let mut hint = Hint::new(RunId(i64::MAX));
    hint.traceparent = Some(format!("00-{}-{}-01", "a1".repeat(16), "b2".repeat(8)));
    hint.tracestate = Some("vendor=\"ü\\n\"".into());
    let probe = Probe::new();
    let consumer = Consumer::start(&s.queue, &probe, 2);
    s.queue.send(std::slice::from_ref(&hint)).await.unwrap();
    until("the hint arrived", || probe.started() > 0).await;
    assert_eq!(probe.hints()[0], hint);
    consumer.stop().await;
}

/// On a queue that is looked at once an hour, if ever, when nothing wakes its consumer: no test waits for that.
pub async fn an_idle_consumer_is_woken(s: Subject) {
    let probe = Probe::new();
    let consumer = Consumer::start(&s.queue, &probe, 4);
    s.queue.send(&hints(1_000..=1_000)).await.unwrap();
    until("the consumer is there", || probe.started() > 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for run in 1..=30 {
        s.queue.send(&[Hint::new(RunId(run))]).await.unwrap();
        until("the run was started", || probe.times(run) > 0).await;
        // Idle again, at another moment of the tick.
        tokio::time::sleep(Duration::from_millis(17)).await;
    }
    consumer.stop().await;
}

pub async fn the_concurrency_bound_is_reached_and_never_exceeded(s: Subject) {
    let probe = Probe::new();
    probe.close_gate();
    let consumer = Consumer::start(&s.queue, &probe, 5);
    s.queue.send(&hints(1..=60)).await.unwrap();
    until("five are in flight", || probe.in_flight() == 5).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(probe.in_flight(), 5);
    probe.open_gate();
    until("all were started", || probe.runs().len() == 60).await;
    consumer.stop().await;
    assert_eq!(probe.max_in_flight(), 5);
}

pub async fn one_at_a_time_is_possible(s: Subject) {
    let probe = Probe::new();
    let consumer = Consumer::start(&s.queue, &probe, 1);
    s.queue.send(&hints(1..=40)).await.unwrap();
    until("all were started", || probe.runs().len() == 40).await;
    consumer.stop().await;
    assert_eq!(probe.max_in_flight(), 1);
}

pub async fn a_graceful_stop_finishes_what_runs_and_keeps_the_rest(s: Subject) {
    let first = Probe::new();
    first.close_gate();
    let consumer = Consumer::start(&s.queue, &first, 3);
    s.queue.send(&hints(1..=20)).await.unwrap();
    until("three are in flight", || first.in_flight() == 3).await;
    consumer.ask_to_stop();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!consumer.has_ended(), "it must wait for what is in flight");
    assert_eq!(first.started(), 3, "nothing is fetched after the stop");
    first.open_gate();
    consumer.stop().await;
    assert_eq!(first.finished(), 3);
    assert_eq!(first.started(), 3);
    assert_eq!(s.queue.depth().await.unwrap(), 17);

    let second = Probe::new();
    let consumer = Consumer::start(&s.other, &second, 3);
    until("the rest was started", || second.runs().len() == 17).await;
    consumer.stop().await;
    assert!(
        first.runs().is_disjoint(&second.runs()),
        "what was finished was acknowledged"
    );
}

pub async fn an_idle_consumer_stops(s: Subject) {
    let probe = Probe::new();
    let consumer = Consumer::start(&s.queue, &probe, 4);
    s.queue.send(&hints(1..=1)).await.unwrap();
    until("the run was started", || probe.started() == 1).await;
    consumer.stop().await;
    s.queue.send(&hints(2..=2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(probe.started(), 1);
    assert_eq!(s.queue.depth().await.unwrap(), 1);
}

pub async fn a_panicking_handler_does_not_stop_the_consumer(s: Subject) {
    let probe = Probe::new();
    probe.panic_on(3);
    probe.panic_on(7);
    let consumer = Consumer::start(&s.queue, &probe, 2);
    s.queue.send(&hints(1..=20)).await.unwrap();
    until("all were started", || probe.runs().len() == 20).await;
    until("the others were finished", || probe.finished() == 18).await;
    s.queue.send(&hints(21..=21)).await.unwrap();
    until("another was started", || probe.times(21) > 0).await;
    assert_eq!(s.queue.health().restarts, 0);
    consumer.stop().await;
    assert_eq!(probe.times(3), 1, "a panic is not tried again");
}

pub async fn the_same_run_can_be_delivered_again(s: Subject) {
    let probe = Probe::new();
    let consumer = Consumer::start(&s.queue, &probe, 2);
    for n in 1..=3 {
        s.queue.send_runs(&[RunId(4)]).await.unwrap();
        until("it was started again", || probe.times(4) == n).await;
    }
    consumer.stop().await;
}

pub async fn two_consumers_share(s: Subject) {
    let (a, b) = (Probe::new(), Probe::new());
    a.close_gate();
    b.close_gate();
    let first = Consumer::start(&s.queue, &a, 4);
    let second = Consumer::start(&s.other, &b, 4);
    s.queue.send(&hints(1..=40)).await.unwrap();
    until("both are full", || a.in_flight() == 4 && b.in_flight() == 4).await;
    a.open_gate();
    b.open_gate();
    until("all were started", || a.started() + b.started() >= 40).await;
    first.stop().await;
    second.stop().await;
    assert_eq!(a.started() + b.started(), 40, "each was delivered to one");
    assert!(a.runs().is_disjoint(&b.runs()));
}

pub async fn what_is_not_worked_on_stays_in_the_queue(s: Subject) {
    let probe = Probe::new();
    probe.close_gate();
    let consumer = Consumer::start(&s.queue, &probe, 2);
    s.queue.send(&hints(1..=50)).await.unwrap();
    until("two are in flight", || probe.in_flight() == 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(s.queue.depth().await.unwrap(), 48);
    probe.open_gate();
    until("all were started", || probe.runs().len() == 50).await;
    consumer.stop().await;
}

pub async fn a_consumer_shows_that_it_lives(s: Subject) {
    let probe = Probe::new();
    let consumer = Consumer::start(&s.queue, &probe, 1);
    until("there is a sign", || {
        s.queue
            .health()
            .last_activity
            .is_some_and(|age| age < Duration::from_secs(30))
    })
    .await;
    // Idle, and again with all places taken.
    let another_sign = async |when| {
        let from = Instant::now();
        until(when, || {
            s.queue.health().last_activity.unwrap() < from.elapsed()
        })
        .await;
    };
    another_sign("there is one while it is idle").await;
    another_sign("there is another one").await;
    assert!(s.queue.health().connected);
    probe.close_gate();
    s.queue.send(&hints(1..=2)).await.unwrap();
    until("one is in flight", || probe.in_flight() == 1).await;
    another_sign("there is one while all places are taken").await;
    another_sign("there is another one then").await;
    probe.open_gate();
    consumer.stop().await;
    s.queue.ping().await.unwrap();
}

pub async fn a_queue_without_consumer_has_no_tick(s: Subject) {
    s.queue.send(&hints(1..=1)).await.unwrap();
    s.queue.ping().await.unwrap();
    assert_eq!(s.queue.depth().await.unwrap(), 1);
    assert_eq!(s.queue.health().last_activity, None);
}
