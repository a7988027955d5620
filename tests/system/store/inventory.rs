//! The permission inventory: written where it changed.

use crate::store::bed::Bed;
use crate::store::fixtures::{at_once, failed, refresh, succeeded};
use std::collections::BTreeMap;
use std::sync::Arc;
use verifyd::domain::completion::Completion;
use verifyd::domain::permission::{PermissionStatus, StoredPermission};
use verifyd::domain::{RunId, TenantId};
use verifyd::ports::store::InventoryFreshness;

async fn complete_with(bed: &Bed, tenant: i64, permissions: &[(&str, bool)]) -> RunId {
    let run = bed.queued().await;
    let mut completion = succeeded();
    completion.inventory = Some(refresh(tenant, permissions));
    bed.complete(run, &completion).await;
    run
}

async fn stored(bed: &Bed, tenant: i64) -> Vec<StoredPermission> {
    bed.store.permissions(TenantId(tenant)).await.unwrap()
}

async fn fresh(bed: &Bed) -> InventoryFreshness {
    let fresh = bed.store.inventory_freshness(TenantId(7)).await.unwrap();
    fresh.unwrap()
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
    let fresh = fresh(bed).await;
    assert_eq!(fresh.operation_run_id, run);
    assert_eq!(fresh.source, "app_role_assignments");
    assert_eq!(fresh.tenant_id, TenantId(7));
}

pub async fn an_unchanged_refresh_writes_no_row(bed: &Bed) {
    let permissions = [("A.Read", true), ("B.Read", false), ("C.Read", true)];
    complete_with(bed, 7, &permissions).await;
    let removed = [("A.Read", true), ("B.Read", false), ("C.Read", false)];
    complete_with(bed, 7, &removed).await;
    let before = bed.dump("tenant_permissions").await;
    let earlier = fresh(bed).await;
    let run = complete_with(bed, 7, &removed).await;
    assert_eq!(bed.dump("tenant_permissions").await, before);
    let fresh = fresh(bed).await;
    assert_eq!(fresh.operation_run_id, run);
    assert!(fresh.refreshed_at >= earlier.refreshed_at);
}

pub async fn only_changed_rows_are_written(bed: &Bed) {
    complete_with(bed, 7, &[("A.Read", true), ("B.Read", false)]).await;
    let before = bed.dump("tenant_permissions").await;
    let granted = [("A.Read", true), ("B.Read", true), ("C.Read", false)];
    complete_with(bed, 7, &granted).await;
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
    let off = removed.last_checked_at.unwrap() - parsed;
    assert!(off.num_seconds().abs() < 60, "{off}");
    assert_eq!(removed.details["app_role_id"], "role of A.Read");
    complete_with(bed, 7, &[("A.Read", false)]).await;
    assert_eq!(one(bed, "A.Read").await, removed);
    // Also when something else about it changes, and when it is not listed at all.
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
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
    let granted = [("A.Read", true), ("B.Read", true), ("C.Read", false)];
    complete_with(bed, 7, &granted).await;
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
    let tables = ["tenant_permissions".to_owned(), bed.own("tenant_inventory")];
    let rows = [bed.dump(&tables[0]).await, bed.dump(&tables[1]).await];
    bed.completed(&failed()).await;
    for (table, before) in tables.iter().zip(rows) {
        assert_eq!(bed.dump(table).await, before, "{table}");
    }
}

/// No deadlock, and the result is that of one of them.
pub async fn refreshes_of_one_tenant_are_serialised(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    for round in 0..10 {
        let mut held = Vec::new();
        for run in bed.many_queued(4).await {
            held.push(bed.claim(run, "w1").await);
        }
        let completed = at_once(&stores, 4, |store, n| {
            let held = held[n].clone();
            async move {
                let granted = (n + round) % 2 == 0;
                let keys = ["A.Read", "B.Read", "C.Read"];
                let grants = [granted, !granted, granted];
                let completion = Completion {
                    inventory: Some(refresh(7, &[0, 1, 2].map(|k| (keys[k], grants[k])))),
                    ..succeeded()
                };
                store.complete(&held, &completion).await.unwrap()
            }
        })
        .await;
        assert_eq!(completed, [true; 4], "round {round}");
        let status: Vec<_> = stored(bed, 7).await.into_iter().map(|p| p.status).collect();
        assert_eq!(status[0], status[2]);
        assert_ne!(status[0], status[1]);
    }
}
