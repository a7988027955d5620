//! The budgets of throttled applications, which replicas share.

use crate::store::bed::Bed;
use crate::store::fixtures::{at_once, heartbeat};
use std::time::{Duration, Instant};
use uuid::Uuid;
use verifyd::domain::budget::{BudgetKey, Throttling};
use verifyd::ports::budgets::PermitRequest;

fn key(client: u128) -> BudgetKey {
    BudgetKey {
        cloud: "global".into(),
        client_id: Uuid::from_u128(client),
    }
}

fn wanted(wanted: u32) -> PermitRequest {
    PermitRequest {
        wanted,
        throttling: None,
    }
}

/// A first refusal of a replica that has sent so many requests a minute.
fn throttled(unpermitted_per_minute: u32, pause: u64) -> PermitRequest {
    PermitRequest {
        wanted: 0,
        throttling: Some(Throttling {
            unpermitted_per_minute,
            pause: Duration::from_secs(pause),
        }),
    }
}

pub async fn an_application_that_was_never_throttled_has_no_budget(bed: &Bed) {
    let permits = bed.store.permits(&key(1), &wanted(5)).await.unwrap();
    assert_eq!(permits, None);
    assert_eq!(bed.store.budgets().await.unwrap(), []);
    assert_eq!(bed.count(&bed.own("provider_budgets")).await, 0);
}

/// All are behind one pause, so that it does not matter how long the calls take.
pub async fn replicas_take_permits_one_after_another(bed: &Bed) {
    for name in ["first", "second"] {
        bed.store.heartbeat(&heartbeat(name)).await.unwrap();
    }
    let other = bed.replica().await;
    let store = &bed.store;
    let began = store.permits(&key(1), &throttled(6_000, 50)).await.unwrap();
    let began = began.unwrap();
    assert_eq!(
        (began.count, began.per_minute, began.replicas),
        (0, 4_200, 2)
    );
    assert!(began.starts_in > Duration::from_secs(49), "{began:?}");

    let rounding = Duration::from_millis(5);
    let asked = Instant::now();
    let first = store.permits(&key(1), &wanted(1_000)).await.unwrap();
    let second = other.permits(&key(1), &wanted(1_000)).await.unwrap();
    let took = asked.elapsed();
    let (first, second) = (first.unwrap(), second.unwrap());
    // Half of a second's permits.
    assert!((35..=70).contains(&first.count), "{first:?}");
    let behind = first.starts_in + first.count * first.interval();
    assert!(
        second.starts_in <= behind + rounding,
        "{first:?} {second:?}"
    );
    assert!(
        second.starts_in + took + rounding >= behind,
        "{first:?} {second:?}"
    );
    let of_another = store.permits(&key(2), &wanted(1)).await.unwrap();
    assert_eq!(of_another, None);
}

/// Both find no row.
pub async fn refusals_of_replicas_at_once_add_up(bed: &Bed) {
    let stores = [bed.replica().await, bed.replica().await];
    let permits = at_once(&stores, 2, |store, _| async move {
        store.permits(&key(1), &throttled(6_000, 50)).await.unwrap()
    });
    assert!(permits.await.iter().all(Option::is_some));
    let table = bed.own("provider_budgets");
    let per_minute = format!("SELECT CAST(per_minute AS bigint) FROM {table}");
    assert_eq!(bed.number(&per_minute).await, 8_400);
}

pub async fn a_budget_ends_ten_minutes_after_the_last_refusal(bed: &Bed) {
    let (store, table) = (&bed.store, bed.own("provider_budgets"));
    for (client, rate) in [(1, 6_000), (2, 3_000)] {
        let refused = store.permits(&key(client), &throttled(rate, 0)).await;
        refused.unwrap().unwrap();
    }
    let clients = async || -> Vec<BudgetKey> {
        let budgets = store.budgets().await.unwrap().into_iter();
        budgets.map(|budget| budget.key).collect()
    };
    // The lowest first.
    assert_eq!(clients().await, [key(2), key(1)]);
    let first = format!("client_id = '{}'", key(1).client_id);
    bed.age(&table, "decreased_at", &first, 300).await;
    let aged = store.budgets().await.unwrap();
    assert!(aged[1].per_minute >= 4 * 4_200, "{aged:?}");
    bed.age(&table, "decreased_at", &first, 301).await;
    assert_eq!(clients().await, [key(2)]);
    assert_eq!(store.permits(&key(1), &wanted(1)).await.unwrap(), None);
}

/// The application may be in use no longer, and no replica may remember it.
pub async fn a_sweep_forgets_budgets_that_are_long_over(bed: &Bed) {
    let (store, table) = (&bed.store, bed.own("provider_budgets"));
    for client in [1, 2] {
        let refused = store.permits(&key(client), &throttled(600, 0)).await;
        refused.unwrap().unwrap();
    }
    let first = format!("client_id = '{}'", key(1).client_id);
    bed.age(&table, "decreased_at", &first, 90_000).await;
    bed.sweep().await;
    assert_eq!(bed.count(&table).await, 1);
    let kept = store.budgets().await.unwrap();
    assert_eq!(kept[0].key, key(2));
}
