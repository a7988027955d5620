//! Endpoints, the deliveries that completions record, and the way of a delivery.

use crate::store::bed::Bed;
use crate::store::fixtures::{blocked, failed, succeeded};
use std::collections::BTreeSet;
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::circuit::CircuitPolicy;
use verifyd::domain::completion::Completion;
use verifyd::domain::completion_event::WebhookEvent;
use verifyd::domain::webhook::{
    AttemptResult, DeliveryState, DisabledReason, GiveUpReason, WebhookBinding,
};
use verifyd::domain::{ConnectionId, DeliveryId, EndpointId, RunId, WorkspaceId};
use verifyd::ports::vault::VaultError;
use verifyd::ports::webhook_deliveries::{
    AttemptOutcome, DeliveryFilter, LeasePolicy, LeasedDelivery, Next, Replay, SendResult,
};
use verifyd::ports::webhook_endpoints::{
    Endpoint, EndpointError, NewEndpoint, RotateSecret, SealedSecrets,
};

pub const HOUR: Duration = Duration::from_secs(3600);

const NO_ROUTE: &str = "no connection";

/// Opens after three failures in a row. No test waits for its pauses: it moves the times.
pub const CIRCUIT: CircuitPolicy = CircuitPolicy {
    open_after: 3,
    pause: Duration::from_secs(600),
    max_pause: Duration::from_secs(1800),
    max_asked: Duration::from_secs(7200),
};

fn place(binding: &WebhookBinding) -> Result<String, VaultError> {
    Ok(format!(
        "sealed for {} {} {}",
        binding.workspace_id, binding.endpoint_id, binding.url
    ))
}

pub async fn endpoint(bed: &Bed, workspace: i64, changed_only: bool) -> Endpoint {
    let new = NewEndpoint {
        workspace_id: WorkspaceId(workspace),
        url: "https://receiver.example/hook".into(),
        description: Some("the other application".into()),
        changed_only,
    };
    bed.store
        .add_endpoint(&new, &place, operator())
        .await
        .unwrap()
}

/// Completes a run about connection 1 of workspace 1.
pub async fn completed(bed: &Bed, mut completion: Completion) -> RunId {
    completion.connection = Some(ConnectionId(1));
    bed.completed(&completion).await
}

pub fn policy(lease: Duration) -> LeasePolicy {
    LeasePolicy {
        limit: 100,
        lease,
        busy: Vec::new(),
        healthy_only: false,
    }
}

pub async fn leased(bed: &Bed) -> Vec<LeasedDelivery> {
    bed.store.lease_deliveries(&policy(HOUR)).await.unwrap()
}

pub async fn lease_one(bed: &Bed) -> LeasedDelivery {
    let mut all = leased(bed).await;
    assert_eq!(all.len(), 1);
    all.remove(0)
}

pub fn outcome(result: AttemptResult, next: Next) -> AttemptOutcome {
    AttemptOutcome {
        sent: SendResult {
            result,
            cause: (result == AttemptResult::Unreachable).then(|| NO_ROUTE.to_owned()),
            status_code: (result == AttemptResult::HttpStatus).then_some(503),
            retry_after: None,
        },
        duration: Duration::from_millis(12),
        next,
        circuit: CIRCUIT,
    }
}

/// Whether the outcome of this attempt was still of consequence.
pub async fn recorded(
    bed: &Bed,
    delivery: &LeasedDelivery,
    result: AttemptResult,
    next: Next,
) -> bool {
    let outcome = outcome(result, next);
    let recorded = bed.store.record_attempt(delivery, &outcome).await;
    recorded.unwrap().is_current
}

pub async fn state(bed: &Bed, id: DeliveryId) -> DeliveryState {
    let all = bed.store.deliveries(&everything()).await.unwrap();
    all.into_iter().find(|d| d.id == id).unwrap().state
}

pub fn everything() -> DeliveryFilter {
    DeliveryFilter {
        limit: 1000,
        ..DeliveryFilter::default()
    }
}

pub async fn a_completion_records_a_delivery_for_each_endpoint_that_wants_it(bed: &Bed) {
    let mut events = bed.store.completions();
    completed(bed, succeeded()).await;
    assert_eq!(bed.store.deliveries(&everything()).await.unwrap(), []);

    let all = endpoint(bed, 1, false).await.id;
    let changes = endpoint(bed, 1, true).await.id;
    let disabled = endpoint(bed, 1, false).await.id;
    let gone = Some(DisabledReason::Operator);
    assert!(
        bed.store
            .set_endpoint_enabled(disabled, gone, operator())
            .await
            .unwrap()
    );
    endpoint(bed, 2, false).await;

    let same = completed(bed, succeeded()).await;
    let other = completed(bed, failed()).await;
    let again = completed(bed, failed()).await;
    let found = bed.store.deliveries(&everything()).await.unwrap();
    let told: BTreeSet<(i64, RunId)> = found
        .iter()
        .map(|d| (d.endpoint_id.0, d.operation_run_id))
        .collect();
    let wanted = [(all, same), (all, other), (changes, other), (all, again)];
    assert_eq!(told, wanted.map(|(e, run)| (e.0, run)).into());
    // The endpoints of one event get it under one id, and no two events share one.
    let ids: BTreeSet<&str> = found.iter().map(|d| d.message_id.as_str()).collect();
    assert_eq!(ids.len(), 3);

    // The same is said within the process and to the endpoints.
    let said: Vec<bool> = std::iter::from_fn(|| events.try_recv().ok())
        .map(|event| event.changed)
        .collect();
    assert_eq!(said, [true, false, true, false]);
    for delivery in leased(bed).await {
        let event: WebhookEvent = serde_json::from_str(&delivery.payload).unwrap();
        let run = bed.run(event.data.operation_run_id).await;
        assert_eq!(event.data.workspace_id, run.workspace_id);
        assert_eq!(event.data.tenant_id, run.tenant_id);
        assert_eq!(Some(event.data.outcome), run.outcome);
        assert_eq!(
            event.data.fingerprint,
            run.report().unwrap()["fingerprint"].as_str().unwrap()
        );
        assert_eq!(
            event
                .timestamp
                .parse::<chrono::DateTime<chrono::Utc>>()
                .unwrap()
                .timestamp_millis(),
            run.completed_at.unwrap().timestamp_millis()
        );
    }
}

pub async fn a_run_that_is_not_completed_is_not_announced(bed: &Bed) {
    endpoint(bed, 1, false).await;
    let mut events = bed.store.completions();
    let run = bed.queued().await;
    let mut held = bed.claim(run, "w1").await;
    held.token = uuid::Uuid::new_v4();
    assert!(!bed.store.complete(&held, &succeeded()).await.unwrap());
    assert!(events.try_recv().is_err());
    assert_eq!(bed.store.deliveries(&everything()).await.unwrap(), []);
}

pub async fn the_way_there_and_back_is_two_changes(bed: &Bed) {
    let mut events = bed.store.completions();
    for completion in [succeeded(), blocked(), succeeded(), succeeded()] {
        completed(bed, completion).await;
    }
    // A run without a connection of its own has nothing to be compared with.
    bed.completed(&succeeded()).await;
    let said: Vec<bool> = std::iter::from_fn(|| events.try_recv().ok())
        .map(|event| event.changed)
        .collect();
    assert_eq!(said, [true, true, true, false, true]);
}

pub async fn a_delivery_is_leased_once_until_the_lease_has_passed(bed: &Bed) {
    let id = endpoint(bed, 1, false).await.id;
    completed(bed, succeeded()).await;
    let (one, two) = (bed.replica().await, bed.replica().await);
    let policy = policy(HOUR);
    let (a, b) = tokio::join!(one.lease_deliveries(&policy), two.lease_deliveries(&policy));
    let mut both = [a.unwrap(), b.unwrap()].concat();
    assert_eq!(both.len(), 1);
    let first = both.remove(0);
    assert_eq!((first.attempt, first.tries, first.failing), (1, 1, false));
    assert_eq!(first.endpoint.endpoint_id, id);
    assert_eq!(first.secrets.current, place(&first.endpoint).unwrap());
    assert_eq!(first.secrets.previous, None);
    assert_eq!(leased(bed).await, []);

    // The sender died: the same message is due again, under the same id.
    let table = bed.own("webhook_deliveries");
    bed.age(&table, "next_attempt_at", "true", 3601).await;
    let second = lease_one(bed).await;
    assert_eq!(second.attempt, 2);
    assert_eq!(
        (&second.message_id, &second.payload),
        (&first.message_id, &first.payload)
    );
    let attempts = bed.store.delivery_attempts(first.id).await.unwrap();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|a| a.result.is_none()));

    // It did not die. That it failed is of no consequence any more; that it succeeded is.
    assert!(!recorded(bed, &first, AttemptResult::Timeout, Next::GiveUp).await);
    assert_eq!(state(bed, first.id).await, DeliveryState::Pending);
    assert!(recorded(bed, &first, AttemptResult::Delivered, Next::Delivered).await);
    assert_eq!(state(bed, first.id).await, DeliveryState::Delivered);
    assert!(
        !recorded(
            bed,
            &second,
            AttemptResult::Timeout,
            Next::Retry(Duration::ZERO)
        )
        .await
    );
    assert_eq!(state(bed, first.id).await, DeliveryState::Delivered);
}

pub async fn endpoints_alternate_and_failing_ones_come_last(bed: &Bed) {
    let busy = endpoint(bed, 1, false).await.id;
    for _ in 0..3 {
        completed(bed, succeeded()).await;
    }
    let other = endpoint(bed, 1, false).await.id;
    completed(bed, succeeded()).await;
    let of = |all: &[LeasedDelivery]| -> BTreeSet<i64> {
        all.iter().map(|d| d.endpoint.endpoint_id.0).collect()
    };
    let first = leased(bed).await;
    assert_eq!(first.len(), 2);
    assert_eq!(of(&first), [busy.0, other.0].into());
    let without = LeasePolicy {
        busy: vec![busy],
        ..policy(HOUR)
    };
    assert_eq!(bed.store.lease_deliveries(&without).await.unwrap(), []);

    // Now one of them fails, and both have something to be sent.
    completed(bed, succeeded()).await;
    let bad = first
        .iter()
        .find(|d| d.endpoint.endpoint_id == busy)
        .unwrap();
    assert!(recorded(bed, bad, AttemptResult::HttpStatus, Next::Retry(HOUR)).await);
    let healthy = LeasePolicy {
        healthy_only: true,
        ..policy(HOUR)
    };
    let found = bed.store.lease_deliveries(&healthy).await.unwrap();
    assert_eq!(of(&found), [other.0].into());
    assert_eq!(found.len(), 1);
    let rest = lease_one(bed).await;
    assert!(rest.failing && rest.endpoint.endpoint_id == busy);
    let listed = bed.store.endpoints(Some(WorkspaceId(1))).await.unwrap();
    let failures: Vec<u32> = listed.iter().map(|e| e.failures).collect();
    assert_eq!(failures, [1, 0]);
    // One that works again is healthy at once.
    assert!(recorded(bed, &rest, AttemptResult::Delivered, Next::Delivered).await);
    assert!(!lease_one(bed).await.failing);
}

pub async fn a_message_is_tried_again_given_up_and_replayed(bed: &Bed) {
    let endpoint = endpoint(bed, 1, false).await.id;
    completed(bed, succeeded()).await;
    let first = lease_one(bed).await;
    assert!(recorded(bed, &first, AttemptResult::HttpStatus, Next::Retry(HOUR)).await);
    assert_eq!(leased(bed).await, []);
    let table = bed.own("webhook_deliveries");
    bed.age(&table, "next_attempt_at", "true", 3601).await;
    let second = lease_one(bed).await;
    assert_eq!((second.attempt, second.tries), (2, 2));
    assert!(recorded(bed, &second, AttemptResult::Unreachable, Next::GiveUp).await);
    let found = bed.store.deliveries(&everything()).await.unwrap();
    assert_eq!(found[0].state, DeliveryState::Failed);
    assert_eq!(found[0].last_result, Some(AttemptResult::Unreachable));
    assert_eq!(found[0].last_cause.as_deref(), Some(NO_ROUTE));
    let last = bed.store.last_failure(endpoint).await.unwrap().unwrap();
    assert_eq!((last.attempt, last.result), (2, found[0].last_result));
    assert_eq!(last.cause.as_deref(), Some(NO_ROUTE));
    assert_eq!(found[0].give_up_reason, Some(GiveUpReason::Attempts));
    assert_eq!((found[0].next_attempt_at, found[0].attempts), (None, 2));
    assert!(found[0].ended_at.is_some());
    let counts = bed.store.delivery_counts().await.unwrap();
    assert_eq!((counts.pending, counts.failed), (0, 1));
    let failed = DeliveryFilter {
        state: Some(DeliveryState::Failed),
        endpoint: Some(endpoint),
        ..everything()
    };
    assert_eq!(bed.store.deliveries(&failed).await.unwrap(), found);
    let earlier = DeliveryFilter {
        before: Some(found[0].id),
        ..everything()
    };
    assert_eq!(bed.store.deliveries(&earlier).await.unwrap(), []);

    assert_eq!(bed.store.replay(Replay::One(first.id)).await.unwrap(), 1);
    assert_eq!(bed.store.replay(Replay::One(first.id)).await.unwrap(), 0);
    let third = lease_one(bed).await;
    assert_eq!((third.attempt, third.tries), (3, 1));
    // The one that is under way has not failed.
    let still = bed.store.last_failure(endpoint).await.unwrap();
    assert_eq!(still.as_ref(), Some(&last));
    assert_eq!(third.message_id, first.message_id);
    assert!(recorded(bed, &third, AttemptResult::Delivered, Next::Delivered).await);
    let attempts = bed.store.delivery_attempts(first.id).await.unwrap();
    let results = attempts
        .iter()
        .map(|a| (a.result, a.http_status, a.cause.as_deref()));
    let results: Vec<_> = results.collect();
    assert_eq!(
        results,
        [
            (Some(AttemptResult::HttpStatus), Some(503), None),
            (Some(AttemptResult::Unreachable), None, Some(NO_ROUTE)),
            (Some(AttemptResult::Delivered), None, None),
        ]
    );
    assert_eq!(attempts[0].duration_ms, Some(12));

    let since = |seconds: i64, delivered_too| Replay::Since {
        endpoint,
        since: found[0].created_at + chrono::Duration::seconds(seconds),
        delivered_too,
    };
    assert_eq!(bed.store.replay(since(-3600, false)).await.unwrap(), 0);
    assert_eq!(bed.store.replay(since(3600, true)).await.unwrap(), 0);
    assert_eq!(bed.store.replay(since(-3600, true)).await.unwrap(), 1);
}

pub async fn an_endpoint_that_is_gone_is_left_alone_until_enabled(bed: &Bed) {
    let id = endpoint(bed, 1, false).await.id;
    completed(bed, succeeded()).await;
    completed(bed, succeeded()).await;
    let first = lease_one(bed).await;
    assert!(recorded(bed, &first, AttemptResult::Gone, Next::GiveUp).await);
    let listed = bed.store.endpoints(None).await.unwrap();
    assert!(!listed[0].enabled);
    assert_eq!(listed[0].disabled_reason, Some(DisabledReason::Gone));
    assert_eq!(leased(bed).await, []);
    // Nothing more is recorded for it; what is pending waits.
    completed(bed, succeeded()).await;
    assert_eq!(bed.store.delivery_counts().await.unwrap().pending, 1);
    assert!(
        bed.store
            .set_endpoint_enabled(id, None, operator())
            .await
            .unwrap()
    );
    let listed = bed.store.endpoints(None).await.unwrap();
    assert_eq!((listed[0].disabled_reason, listed[0].failures), (None, 0));
    assert!(!lease_one(bed).await.failing);
    let nobody = bed
        .store
        .set_endpoint_enabled(EndpointId(999), None, operator())
        .await;
    assert!(!nobody.unwrap());
}

pub async fn a_rotated_secret_leaves_the_one_before_for_a_while(bed: &Bed) {
    let id = endpoint(bed, 1, false).await.id;
    let old = place(&WebhookBinding {
        workspace_id: WorkspaceId(1),
        endpoint_id: id,
        url: "https://receiver.example/hook".into(),
    })
    .unwrap();
    let sealed = |current: &str, previous: Option<&str>| SealedSecrets {
        current: current.to_owned(),
        previous: previous.map(str::to_owned),
    };
    let new = |_: &WebhookBinding, previous: String| Ok(sealed("new", Some(&previous)));
    let rotated = bed
        .store
        .rotate_secret(id, &new, HOUR, operator())
        .await
        .unwrap();
    assert!(rotated.unwrap().previous_secret_until.is_some());
    completed(bed, succeeded()).await;
    let both = sealed("new", Some(&old));
    assert_eq!(lease_one(bed).await.secrets, both);
    let stored = bed.store.endpoint_secrets().await.unwrap();
    assert_eq!(stored[0].1, both);

    // Sealed again by another key, unless somebody rotated meanwhile.
    let resealed = sealed("NEW", Some("OLD"));
    let swap = bed.store.reseal_secrets(id, &both, &resealed, operator());
    assert!(swap.await.unwrap());
    let swap = bed.store.reseal_secrets(id, &both, &resealed, operator());
    assert!(!swap.await.unwrap());

    let table = bed.own("webhook_endpoints");
    bed.age(&table, "previous_secret_until", "true", 3601).await;
    completed(bed, succeeded()).await;
    let alone = sealed("NEW", None);
    assert_eq!(lease_one(bed).await.secrets, alone);
    assert_eq!(bed.store.endpoint_secrets().await.unwrap()[0].1, alone);
    // The previous one was read before it was over.
    let swap = bed
        .store
        .reseal_secrets(id, &resealed, &resealed, operator());
    assert!(swap.await.unwrap());
    assert_eq!(bed.store.endpoint_secrets().await.unwrap()[0].1, alone);
    let again = sealed("again", None);
    let swap = bed.store.reseal_secrets(id, &alone, &again, operator());
    assert!(swap.await.unwrap());

    // One that does not open is not kept, nor one for which no time is given.
    let last = |_: &WebhookBinding, previous: String| Ok(sealed("last", Some(&previous)));
    let unkept = |_: &WebhookBinding, _: String| Ok(sealed("next", None));
    let rotations: [(RotateSecret<'_>, Duration, &str); 2] =
        [(&last, Duration::ZERO, "last"), (&unkept, HOUR, "next")];
    for (rotate, keep, current) in rotations {
        let rotated = bed.store.rotate_secret(id, rotate, keep, operator()).await;
        assert_eq!(rotated.unwrap().unwrap().previous_secret_until, None);
        completed(bed, succeeded()).await;
        assert_eq!(lease_one(bed).await.secrets, sealed(current, None));
    }
    let nobody = bed
        .store
        .rotate_secret(EndpointId(999), &new, HOUR, operator())
        .await;
    assert_eq!(nobody.unwrap(), None);
}

pub async fn a_secret_that_cannot_be_sealed_adds_no_endpoint(bed: &Bed) {
    let new = NewEndpoint {
        workspace_id: WorkspaceId(1),
        url: "https://receiver.example/".into(),
        description: None,
        changed_only: false,
    };
    let refuse = |_: &WebhookBinding| Err(VaultError::NoKey);
    let refused = bed.store.add_endpoint(&new, &refuse, operator()).await;
    assert!(matches!(
        refused,
        Err(EndpointError::Vault(VaultError::NoKey))
    ));
    assert_eq!(bed.store.endpoints(None).await.unwrap(), []);
    let id = endpoint(bed, 1, false).await.id;
    let refuse = |_: &WebhookBinding, _: String| Err(VaultError::NoKey);
    let refused = bed.store.rotate_secret(id, &refuse, HOUR, operator()).await;
    assert!(refused.is_err());
    completed(bed, succeeded()).await;
    assert_eq!(lease_one(bed).await.secrets.previous, None);
}

pub async fn what_has_ended_is_forgotten_after_its_time(bed: &Bed) {
    let id = endpoint(bed, 1, false).await.id;
    for next in [Next::Delivered, Next::GiveUp] {
        completed(bed, succeeded()).await;
        let leased = lease_one(bed).await;
        let result = match next {
            Next::Delivered => AttemptResult::Delivered,
            _ => AttemptResult::Timeout,
        };
        bed.store
            .record_attempt(&leased, &outcome(result, next))
            .await
            .unwrap();
    }
    completed(bed, succeeded()).await;
    let states = || async {
        let found = bed.store.deliveries(&everything()).await.unwrap();
        found.iter().map(|d| d.state).collect::<Vec<_>>()
    };
    assert_eq!(bed.store.prune_deliveries(HOUR, HOUR, 10).await.unwrap(), 0);
    let table = bed.own("webhook_deliveries");
    bed.age(&table, "ended_at", "ended_at IS NOT NULL", 7200)
        .await;
    assert_eq!(
        bed.store
            .prune_deliveries(HOUR, 3 * HOUR, 10)
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        states().await,
        [DeliveryState::Pending, DeliveryState::Failed]
    );
    assert_eq!(bed.store.prune_deliveries(HOUR, HOUR, 10).await.unwrap(), 1);
    assert_eq!(states().await, [DeliveryState::Pending]);
    let attempts = bed.own("webhook_attempts");
    assert_eq!(bed.count(&attempts).await, 0);
    assert!(bed.store.remove_endpoint(id, operator()).await.unwrap());
    assert!(!bed.store.remove_endpoint(id, operator()).await.unwrap());
    assert_eq!(states().await, []);
}
