//! The in-process queue.

use crate::queue::conformance::Subject;
use crate::queue::probe::{Consumer, Probe, hints, until};
use std::sync::Arc;
use verifyd::ports::queue::{Queue, QueueError};
use verifyd::queue::in_process::InProcessQueue;

fn queue(capacity: usize) -> Arc<dyn Queue> {
    InProcessQueue::open(capacity)
}

async fn subject() -> (Subject, impl Future<Output = ()>) {
    let queue = queue(10_000);
    let other = Arc::clone(&queue);
    (Subject { queue, other }, async {})
}

every_conformance_test!(subject());
conformance!(subject(); an_idle_consumer_is_woken);

#[tokio::test]
async fn a_full_queue_says_so_and_takes_more_once_there_is_room() {
    let queue = queue(3);
    let error = queue.send(&hints(1..=5)).await.unwrap_err();
    assert!(matches!(error, QueueError::Full { capacity: 3 }));
    assert_eq!(queue.depth().await.unwrap(), 3);
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 2);
    until("there is room", || probe.started() == 3).await;
    queue.send(&hints(4..=5)).await.unwrap();
    until("the others arrived", || probe.runs().len() == 5).await;
    consumer.stop().await;
}

#[tokio::test]
async fn a_run_that_waits_is_not_queued_twice() {
    let queue = queue(2);
    queue.send(&hints(1..=2)).await.unwrap();
    // Not even where the queue is full.
    queue.send(&hints(1..=2)).await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), 2);
    let probe = Probe::new();
    probe.close_gate();
    let consumer = Consumer::start(&queue, &probe, 2);
    until("both are in flight", || probe.in_flight() == 2).await;
    // What is in flight does not wait.
    queue.send(&hints(1..=1)).await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), 1);
    probe.open_gate();
    until("it came again", || probe.times(1) == 2).await;
    consumer.stop().await;
    assert_eq!(probe.started(), 3);
}
