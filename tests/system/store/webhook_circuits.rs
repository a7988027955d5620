//! Circuits of webhook endpoints, and deliveries that are given up by their age.

use crate::store::bed::Bed;
use crate::store::fixtures::succeeded;
use crate::store::webhooks::{
    CIRCUIT, HOUR, completed, endpoint, everything, lease_one, leased, outcome, policy, recorded,
    state,
};
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::EndpointId;
use verifyd::domain::circuit::CircuitState;
use verifyd::domain::webhook::{AttemptResult, DeliveryState, DisabledReason, GiveUpReason};
use verifyd::ports::webhook_deliveries::{
    CircuitChange, DeliveryCounts, DeliveryFilter, LeasePolicy, LeasedDelivery, Next, Replay,
};
use verifyd::ports::webhook_endpoints::Endpoint;

async fn fail(bed: &Bed, delivery: &LeasedDelivery) -> CircuitChange {
    let failed = outcome(AttemptResult::Timeout, Next::Retry(Duration::ZERO));
    let recorded = bed.store.record_attempt(delivery, &failed).await.unwrap();
    assert!(recorded.is_current);
    recorded.circuit
}

async fn only_endpoint(bed: &Bed) -> Endpoint {
    let mut all = bed.store.endpoints(None).await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

async fn counts(bed: &Bed) -> DeliveryCounts {
    bed.store.delivery_counts().await.unwrap()
}

/// Opens the circuit of the only endpoint, with a delivery that is due.
async fn opened(bed: &Bed) -> EndpointId {
    let id = endpoint(bed, 1, false).await.id;
    completed(bed, succeeded()).await;
    for expected in [false, false, true] {
        let change = fail(bed, &lease_one(bed).await).await;
        assert_eq!(change == CircuitChange::Opened(CIRCUIT.pause), expected);
    }
    id
}

/// Ends the pause of every circuit.
async fn end_pause(bed: &Bed) {
    let table = bed.own("webhook_endpoints");
    bed.age(
        &table,
        "circuit_probe_at",
        "circuit_probe_at IS NOT NULL",
        3600,
    )
    .await;
}

pub async fn a_circuit_opens_records_without_trying_and_closes_after_a_probe(bed: &Bed) {
    let id = opened(bed).await;
    let shown = only_endpoint(bed).await;
    assert_eq!((shown.circuit, shown.failures), (CircuitState::Open, 3));
    assert!(shown.circuit_probe_at.unwrap() > shown.circuit_opened_at.unwrap());
    assert!(shown.oldest_pending_since.is_some());
    assert_eq!(counts(bed).await.open_circuits, 1);

    // Recorded, not tried, by no replica, and no attempt is used up.
    completed(bed, succeeded()).await;
    let replica = bed.replica().await;
    assert_eq!(replica.lease_deliveries(&policy(HOUR)).await.unwrap(), []);
    let all = bed.store.deliveries(&everything()).await.unwrap();
    let attempts: Vec<u32> = all.iter().map(|d| d.attempts).collect();
    assert_eq!(attempts, [0, 3]);

    // After the pause one delivery is tried, over all replicas.
    end_pause(bed).await;
    assert_eq!(only_endpoint(bed).await.circuit, CircuitState::HalfOpen);
    let lease = policy(HOUR);
    let replicas = [
        bed.replica().await,
        bed.replica().await,
        bed.replica().await,
    ];
    let leased =
        futures::future::join_all(replicas.iter().map(|r| r.lease_deliveries(&lease))).await;
    let mut probes: Vec<LeasedDelivery> = leased.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(probes.len(), 1);
    let probe = probes.remove(0);
    assert!(probe.is_probe && probe.failing);
    assert_eq!(bed.store.lease_deliveries(&lease).await.unwrap(), []);

    // It fails: the pauses grow.
    let change = fail(bed, &probe).await;
    assert_eq!(change, CircuitChange::StaysOpen(2 * CIRCUIT.pause));
    assert_eq!(bed.store.lease_deliveries(&lease).await.unwrap(), []);
    end_pause(bed).await;
    let probe = lease_one(bed).await;
    let change = fail(bed, &probe).await;
    assert_eq!(change, CircuitChange::StaysOpen(CIRCUIT.max_pause));
    end_pause(bed).await;
    let probe = lease_one(bed).await;
    let worked = outcome(AttemptResult::Delivered, Next::Delivered);
    let recorded = bed.store.record_attempt(&probe, &worked).await.unwrap();
    assert_eq!(recorded.circuit, CircuitChange::Closed);
    let shown = only_endpoint(bed).await;
    assert_eq!((shown.circuit, shown.failures), (CircuitState::Closed, 0));
    assert_eq!(
        (shown.circuit_opened_at, shown.circuit_probe_at),
        (None, None)
    );
    assert_eq!(counts(bed).await.open_circuits, 0);
    let next = lease_one(bed).await;
    assert!(!next.is_probe && !next.failing && next.endpoint.endpoint_id == id);
}

pub async fn a_probe_whose_sender_died_is_followed_by_another(bed: &Bed) {
    opened(bed).await;
    completed(bed, succeeded()).await;
    end_pause(bed).await;
    let lost = lease_one(bed).await;
    assert!(lost.is_probe);
    assert_eq!(leased(bed).await, []);
    // Its lease has passed.
    end_pause(bed).await;
    let second = lease_one(bed).await;
    assert!(second.is_probe && second.id != lost.id);
    // The first one was only slow, and it succeeded: that is what counts.
    let worked = outcome(AttemptResult::Delivered, Next::Delivered);
    let recorded = bed.store.record_attempt(&lost, &worked).await.unwrap();
    assert_eq!(recorded.circuit, CircuitChange::Closed);
    // And the failure of the second one is the first since then.
    assert_eq!(fail(bed, &second).await, CircuitChange::Unchanged);
    assert_eq!(only_endpoint(bed).await.failures, 1);
}

pub async fn attempts_that_were_under_way_when_it_opened_leave_the_circuit_alone(bed: &Bed) {
    let id = endpoint(bed, 1, false).await.id;
    for _ in 0..4 {
        completed(bed, succeeded()).await;
    }
    let mut under_way = Vec::new();
    for _ in 0..4 {
        under_way.push(lease_one(bed).await);
    }
    let mut changes = Vec::new();
    for delivery in &under_way {
        changes.push(fail(bed, delivery).await);
    }
    assert_eq!(
        changes,
        [
            CircuitChange::Unchanged,
            CircuitChange::Unchanged,
            CircuitChange::Opened(CIRCUIT.pause),
            CircuitChange::Unchanged,
        ]
    );
    // Enabling it begins anew.
    assert!(
        bed.store
            .set_endpoint_enabled(id, None, operator())
            .await
            .unwrap()
    );
    let shown = only_endpoint(bed).await;
    assert_eq!((shown.circuit, shown.failures), (CircuitState::Closed, 0));
    assert!(!lease_one(bed).await.is_probe);
}

pub async fn a_wait_that_a_receiver_asks_for_holds_for_its_endpoint(bed: &Bed) {
    endpoint(bed, 1, false).await;
    for _ in 0..4 {
        completed(bed, succeeded()).await;
    }
    let mut under_way = Vec::new();
    for _ in 0..4 {
        under_way.push(lease_one(bed).await);
    }
    // The shorter wait that is asked for later ends no longer one.
    for (delivery, asked, change) in [
        (
            &under_way[0],
            100,
            CircuitChange::Opened(Duration::from_secs(100)),
        ),
        (&under_way[1], 7000, CircuitChange::Unchanged),
        (&under_way[2], 50, CircuitChange::Unchanged),
    ] {
        let mut failed = outcome(AttemptResult::HttpStatus, Next::Retry(Duration::ZERO));
        failed.sent.retry_after = Some(Duration::from_secs(asked));
        let recorded = bed.store.record_attempt(delivery, &failed).await.unwrap();
        assert_eq!(recorded.circuit, change);
    }
    // It took this one before.
    let worked = outcome(AttemptResult::Delivered, Next::Delivered);
    let recorded = bed.store.record_attempt(&under_way[3], &worked).await;
    assert_eq!(recorded.unwrap().circuit, CircuitChange::Unchanged);
    let shown = only_endpoint(bed).await;
    assert_eq!((shown.circuit, shown.failures), (CircuitState::Open, 3));
    let probe_at = shown.circuit_probe_at.unwrap();
    let wait = (probe_at - shown.circuit_opened_at.unwrap()).num_seconds();
    assert!((6999..7200).contains(&wait), "{wait}");
    completed(bed, succeeded()).await;
    assert_eq!(leased(bed).await, []);
    let all = bed.store.deliveries(&everything()).await.unwrap();
    let waiting = all.iter().filter(|d| d.state == DeliveryState::Pending);
    let due: Vec<_> = waiting.map(|d| d.next_attempt_at.unwrap()).collect();
    assert_eq!(due, [probe_at; 4]);
}

pub async fn an_open_circuit_holds_up_no_other_endpoint(bed: &Bed) {
    let failing = opened(bed).await;
    let other = endpoint(bed, 1, false).await.id;
    completed(bed, succeeded()).await;
    let found = lease_one(bed).await;
    assert_eq!(found.endpoint.endpoint_id, other);
    end_pause(bed).await;
    completed(bed, succeeded()).await;
    let both = leased(bed).await;
    let of: Vec<_> = both
        .iter()
        .map(|d| (d.endpoint.endpoint_id, d.is_probe))
        .collect();
    assert_eq!(of.len(), 2);
    assert!(of.contains(&(failing, true)) && of.contains(&(other, false)));
}

pub async fn open_circuits_take_no_place_of_what_is_tried(bed: &Bed) {
    for _ in 0..8 {
        endpoint(bed, 1, false).await;
    }
    completed(bed, succeeded()).await;
    for _ in 0..3 {
        for delivery in leased(bed).await {
            fail(bed, &delivery).await;
        }
    }
    assert_eq!(counts(bed).await.open_circuits, 8);
    let other = endpoint(bed, 1, false).await.id;
    completed(bed, succeeded()).await;
    // Healthy ones come first anyway: it fails, too, and is due again.
    fail(bed, &lease_one(bed).await).await;
    let one = LeasePolicy {
        limit: 1,
        ..policy(HOUR)
    };
    for _ in 0..2 {
        let found = bed.store.lease_deliveries(&one).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].endpoint.endpoint_id, other);
        fail(bed, &found[0]).await;
    }
}

pub async fn what_is_pending_for_too_long_is_given_up(bed: &Bed) {
    let id = opened(bed).await;
    let table = bed.own("webhook_deliveries");
    assert_eq!(bed.store.give_up_deliveries(HOUR, 10).await.unwrap(), 0);
    bed.age(&table, "pending_since", "true", 4000).await;
    completed(bed, succeeded()).await;
    let waiting = counts(bed).await;
    let oldest = waiting.oldest_pending_seconds.unwrap();
    assert!((4000.0..8000.0).contains(&oldest), "{oldest}");
    assert_eq!((waiting.pending, waiting.failed), (2, 0));

    assert_eq!(bed.store.give_up_deliveries(HOUR, 10).await.unwrap(), 1);
    assert_eq!(bed.store.give_up_deliveries(HOUR, 10).await.unwrap(), 0);
    let left = counts(bed).await;
    assert_eq!((left.pending, left.failed, left.failed_by_age), (1, 1, 1));
    assert!(left.oldest_pending_seconds.unwrap() < 4000.0);
    let failed = DeliveryFilter {
        state: Some(DeliveryState::Failed),
        ..everything()
    };
    let found = bed.store.deliveries(&failed).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].give_up_reason, Some(GiveUpReason::Age));
    assert!(found[0].ended_at.is_some());

    // Put to the beginning it has its time before it again, whenever it was recorded.
    bed.age(&table, "created_at", "true", 90_000).await;
    assert_eq!(bed.store.replay(Replay::One(found[0].id)).await.unwrap(), 1);
    assert_eq!(bed.store.give_up_deliveries(HOUR, 10).await.unwrap(), 0);
    assert_eq!(state(bed, found[0].id).await, DeliveryState::Pending);

    // What waits for a disabled endpoint is bounded, too; no more than asked for at once.
    let by_hand = Some(DisabledReason::Operator);
    assert!(
        bed.store
            .set_endpoint_enabled(id, by_hand, operator())
            .await
            .unwrap()
    );
    bed.age(&table, "pending_since", "state = 'pending'", 4000)
        .await;
    // It is counted, and no reason to look for an endpoint that fails.
    let waiting = counts(bed).await;
    assert_eq!((waiting.pending, waiting.oldest_pending_seconds), (2, None));
    assert_eq!(bed.store.give_up_deliveries(HOUR, 1).await.unwrap(), 1);
    assert_eq!(bed.store.give_up_deliveries(HOUR, 1).await.unwrap(), 1);
    assert_eq!(bed.store.give_up_deliveries(HOUR, 1).await.unwrap(), 0);
    assert_eq!(counts(bed).await.oldest_pending_seconds, None);
}

pub async fn what_was_given_up_while_it_was_sent_and_arrived_is_delivered(bed: &Bed) {
    endpoint(bed, 1, false).await;
    completed(bed, succeeded()).await;
    let sent = lease_one(bed).await;
    let table = bed.own("webhook_deliveries");
    bed.age(&table, "pending_since", "true", 4000).await;
    assert_eq!(bed.store.give_up_deliveries(HOUR, 10).await.unwrap(), 1);
    assert_eq!(state(bed, sent.id).await, DeliveryState::Failed);
    assert!(recorded(bed, &sent, AttemptResult::Delivered, Next::Delivered).await);
    let found = bed.store.deliveries(&everything()).await.unwrap();
    assert_eq!(found[0].state, DeliveryState::Delivered);
    assert_eq!(found[0].give_up_reason, None);
}
