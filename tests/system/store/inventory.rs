//! The permission inventory: written where it changed.

use crate::store::bed::Bed;
use crate::store::fixtures::{claim, refresh, succeeded};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Barrier;
use verifyd::domain::permission::{PermissionStatus, StoredPermission};
use verifyd::domain::{RunId, TenantId};

async fn complete_with(bed: &Bed, tenant: i64, permissions: &[(&str, bool)]) -> RunId {
    let run = bed.queued().await;
    let held = claim(&bed.store, run, "w1").await;
    let mut completion = succeeded();
    completion.inventory = Some(refresh(tenant, permissions));
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    run
}

async fn stored(bed: &Bed, tenant: i64) -> Vec<StoredPermission> {
    bed.store.permissions(TenantId(tenant)).await.unwrap()
}

async fn one(bed: &Bed, key: &str) -> StoredPermission {
    let all = stored(bed, 7).await;
    all.into_iter().find(|p| p.permission_key == key).unwrap()
}

pub async fn a_first_refresh_stores_everything(bed: &Bed) {
    let run = complete_with(bed, 7, &[("A.Read", true), ("B.Read", false)]).await;
    let found = stored(bed, 7).await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].permission_key, "A.Read");
    assert_eq!(found[0].status, PermissionStatus::Granted);
    assert_eq!(
        found[0].details,
        serde_json::json!({
            "required": true, "app_role_id": "role of A.Read", "source": "app_role_assignments"
        })
    );
    assert!(found[0].last_checked_at.is_some());
    assert_eq!(found[1].status, PermissionStatus::Missing);
    assert!(found[1].details.get("removed_at").is_none());
    let fresh = bed
        .store
        .inventory_freshness(TenantId(7))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fresh.operation_run_id, run);
    assert_eq!(fresh.source, "app_role_assignments");
    assert_eq!(fresh.tenant_id, TenantId(7));
}

pub async fn an_unchanged_refresh_writes_no_row(bed: &Bed) {
    let permissions = [("A.Read", true), ("B.Read", false), ("C.Read", true)];
    complete_with(bed, 7, &permissions).await;
    complete_with(
        bed,
        7,
        &[("A.Read", true), ("B.Read", false), ("C.Read", false)],
    )
    .await;
    let again = [("A.Read", true), ("B.Read", false), ("C.Read", false)];
    let before = bed.dump("tenant_permissions").await;
    let earlier = bed
        .store
        .inventory_freshness(TenantId(7))
        .await
        .unwrap()
        .unwrap();
    let run = complete_with(bed, 7, &again).await;
    assert_eq!(bed.dump("tenant_permissions").await, before);
    let fresh = bed
        .store
        .inventory_freshness(TenantId(7))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fresh.operation_run_id, run);
    assert!(fresh.refreshed_at >= earlier.refreshed_at);
}

pub async fn only_changed_rows_are_written(bed: &Bed) {
    complete_with(bed, 7, &[("A.Read", true), ("B.Read", false)]).await;
    let before = bed.dump("tenant_permissions").await;
    complete_with(
        bed,
        7,
        &[("A.Read", true), ("B.Read", true), ("C.Read", false)],
    )
    .await;
    let after = bed.dump("tenant_permissions").await;
    let kept: Vec<_> = after.iter().filter(|row| before.contains(row)).collect();
    assert_eq!((after.len(), kept.len()), (3, 1));
    assert!(kept[0].contains("A.Read"));
    assert_eq!(one(bed, "B.Read").await.status, PermissionStatus::Granted);
}

pub async fn a_removed_grant_is_marked_and_the_mark_is_kept(bed: &Bed) {
    complete_with(bed, 7, &[("A.Read", true)]).await;
    complete_with(bed, 7, &[("A.Read", false)]).await;
    let removed = one(bed, "A.Read").await;
    assert_eq!(removed.status, PermissionStatus::Missing);
    let at = removed.details["removed_at"].as_str().unwrap().to_owned();
    let parsed: chrono::DateTime<chrono::Utc> = at.parse().unwrap();
    assert!(
        (removed.last_checked_at.unwrap() - parsed)
            .num_seconds()
            .abs()
            < 60
    );
    assert_eq!(removed.details["app_role_id"], "role of A.Read");
    complete_with(bed, 7, &[("A.Read", false)]).await;
    assert_eq!(one(bed, "A.Read").await, removed);
    // Also when something else about it changes, and when it is not listed at all.
    let run = bed.queued().await;
    let held = claim(&bed.store, run, "w1").await;
    let mut completion = succeeded();
    let mut changed = refresh(7, &[("A.Read", false)]);
    let mut entries = BTreeMap::clone(&changed.entries);
    entries.get_mut("A.Read").unwrap().details.required = false;
    Arc::get_mut(&mut changed).unwrap().entries = Arc::new(entries.into());
    completion.inventory = Some(changed);
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    let later = one(bed, "A.Read").await;
    assert_eq!(later.details["required"], false);
    assert_eq!(later.details["removed_at"], at.as_str());
    complete_with(bed, 7, &[]).await;
    assert_eq!(one(bed, "A.Read").await, later);
}

pub async fn a_grant_that_comes_back_loses_the_mark(bed: &Bed) {
    complete_with(bed, 7, &[("A.Read", true)]).await;
    let granted = one(bed, "A.Read").await;
    complete_with(bed, 7, &[("A.Read", false)]).await;
    complete_with(bed, 7, &[("A.Read", true)]).await;
    let again = one(bed, "A.Read").await;
    assert_eq!(again.status, PermissionStatus::Granted);
    assert_eq!(again.details, granted.details);
}

pub async fn a_grant_that_is_not_listed_any_more_is_marked(bed: &Bed) {
    complete_with(
        bed,
        7,
        &[("A.Read", true), ("B.Read", true), ("C.Read", false)],
    )
    .await;
    let never = one(bed, "C.Read").await;
    complete_with(bed, 7, &[("A.Read", true)]).await;
    let gone = one(bed, "B.Read").await;
    assert_eq!(gone.status, PermissionStatus::Missing);
    assert!(gone.details["removed_at"].is_string());
    assert_eq!(gone.details["app_role_id"], "role of B.Read");
    assert_eq!(one(bed, "C.Read").await, never);
}

pub async fn other_tenants_are_not_touched(bed: &Bed) {
    complete_with(bed, 7, &[("A.Read", true)]).await;
    complete_with(bed, 8, &[("A.Read", true), ("B.Read", true)]).await;
    let other = stored(bed, 8).await;
    let other_fresh = bed.store.inventory_freshness(TenantId(8)).await.unwrap();
    complete_with(bed, 7, &[("A.Read", false)]).await;
    assert_eq!(stored(bed, 8).await, other);
    assert_eq!(
        bed.store.inventory_freshness(TenantId(8)).await.unwrap(),
        other_fresh
    );
}

pub async fn no_inventory_keeps_the_last_known_one(bed: &Bed) {
    complete_with(bed, 7, &[("A.Read", true)]).await;
    let (rows, fresh) = (
        bed.dump("tenant_permissions").await,
        bed.dump(&bed.own("tenant_inventory")).await,
    );
    let run = bed.queued().await;
    let held = claim(&bed.store, run, "w1").await;
    assert!(
        bed.store
            .complete(&held, &crate::store::fixtures::failed())
            .await
            .unwrap()
    );
    assert_eq!(bed.dump("tenant_permissions").await, rows);
    assert_eq!(bed.dump(&bed.own("tenant_inventory")).await, fresh);
}

/// No deadlock, and the result is that of one of them.
pub async fn refreshes_of_one_tenant_are_serialised(bed: &Bed) {
    let replica = bed.replica().await;
    for round in 0..10 {
        let barrier = Arc::new(Barrier::new(4));
        let mut tasks = Vec::new();
        for n in 0..4 {
            let run = bed.queued().await;
            let held = claim(&bed.store, run, "w1").await;
            let (store, barrier) = (
                if n % 2 == 0 {
                    bed.store.clone()
                } else {
                    replica.clone()
                },
                barrier.clone(),
            );
            let granted = (n + round) % 2 == 0;
            let mut completion = succeeded();
            completion.inventory = Some(refresh(
                7,
                &[
                    ("A.Read", granted),
                    ("B.Read", !granted),
                    ("C.Read", granted),
                ],
            ));
            tasks.push(tokio::spawn(async move {
                barrier.wait().await;
                store.complete(&held, &completion).await
            }));
        }
        for task in tasks {
            assert!(task.await.unwrap().unwrap(), "round {round}");
        }
        let status: Vec<_> = stored(bed, 7).await.into_iter().map(|p| p.status).collect();
        assert_eq!(status[0], status[2]);
        assert_ne!(status[0], status[1]);
    }
}
