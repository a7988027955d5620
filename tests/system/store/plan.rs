//! The stored inventories of many connections, as plans read them.

use crate::store::bed::Bed;
use crate::store::fixtures::{bound, new_connection, refresh, succeeded};
use serde_json::json;
use std::collections::BTreeSet;
use test_support::world::operator;
use verifyd::domain::permission::InventorySource;
use verifyd::domain::plan::PlanSubject;
use verifyd::domain::{ConnectionId, RunId, TenantId, WorkspaceId};
use verifyd::ports::plan::PlanFilter;

/// A run of this connection that has read this inventory.
async fn read(
    bed: &Bed,
    connection: ConnectionId,
    tenant: i64,
    permissions: &[(&str, bool)],
) -> RunId {
    let run = bed.queued_for(tenant, connection.0).await;
    let mut completion = succeeded();
    completion.connection = Some(connection);
    completion.inventory = Some(refresh(tenant, permissions));
    bed.complete(run, &completion).await;
    run
}

async fn subjects(bed: &Bed, change: impl FnOnce(&mut PlanFilter)) -> Vec<PlanSubject> {
    let mut filter = PlanFilter {
        provider: "microsoft".into(),
        keys: ["A.Read", "A.Write", "B.Read"].map(str::to_owned).to_vec(),
        limit: 1000,
        ..PlanFilter::default()
    };
    change(&mut filter);
    bed.store.plan_subjects(&filter).await.unwrap()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

pub async fn a_plan_reads_what_is_granted_itself_and_through_whom(bed: &Bed) {
    let one = bed.connection(7).await;
    let other = bed.connection(7).await;
    let never = bed.connection(8).await;
    let permissions = [
        ("A.Write", true),
        ("A.Read", true),
        ("B.Read", false),
        ("C.Read", true),
    ];
    let run = read(bed, one, 7, &permissions).await;
    // Only included in another one.
    let details = json!({ "required": true, "satisfied_by": "A.Write" });
    bed.exec(&format!(
        "UPDATE tenant_permissions SET details = '{details}' WHERE permission_key = 'A.Read'"
    ))
    .await;
    let found = subjects(bed, |_| {}).await;
    let ids: Vec<ConnectionId> = found.iter().map(|s| s.connection.id).collect();
    assert_eq!(ids, [one, other, never]);
    for subject in &found[..2] {
        let grants = subject.grants.as_ref().unwrap();
        assert_eq!(grants.granted, names(&["A.Write"]));
        assert_eq!(grants.read_by, Some(one));
        assert_eq!(grants.source, Some(InventorySource::AppRoleAssignments));
        assert!(grants.read_at.is_some());
    }
    assert_eq!(found[2].grants, None);

    // The run is pruned: what it read still counts, and nobody knows through whom it was read.
    let attempts = bed.own("run_attempts");
    bed.exec(&format!("DELETE FROM {attempts} WHERE run_id = {run}"))
        .await;
    bed.delete_run(run).await;
    let found = subjects(bed, |_| {}).await;
    let grants = found[0].grants.as_ref().unwrap();
    assert_eq!((grants.read_by, grants.granted.len()), (None, 1));
}

pub async fn an_inventory_of_another_run_of_the_same_id_is_none(bed: &Bed) {
    let one = bed.connection(7).await;
    let run = read(bed, one, 7, &[("A.Read", true)]).await;
    bed.exec(&format!(
        "UPDATE {} SET refreshed_at = '2001-02-03T04:05:06.000Z' WHERE operation_run_id = {run}",
        bed.own("tenant_inventory")
    ))
    .await;
    assert_eq!(subjects(bed, |_| {}).await[0].grants, None);
}

pub async fn a_plan_sees_its_own_reach_and_provider_only(bed: &Bed) {
    let seven = bed.connection(7).await;
    let eight = bed.connection(8).await;
    let mut foreign = new_connection(9);
    foreign.workspace_id = WorkspaceId(2);
    let foreign = bed
        .store
        .add_connection(&foreign, None, operator())
        .await
        .unwrap();
    let mut acme = new_connection(10);
    acme.provider = "acme".into();
    bed.store
        .add_connection(&acme, None, operator())
        .await
        .unwrap();
    let ids = async |change: fn(&mut PlanFilter)| {
        let found = subjects(bed, change).await;
        found.iter().map(|s| s.connection.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(|_| {}).await, [seven, eight, foreign]);
    let workspace = |f: &mut PlanFilter| f.binding = bound(1, None);
    assert_eq!(ids(workspace).await, [seven, eight]);
    let tenant = |f: &mut PlanFilter| f.binding.tenant_id = Some(TenantId(8));
    assert_eq!(ids(tenant).await, [eight]);
}

pub async fn a_plan_comes_in_pages_whatever_stands_in_the_rows(bed: &Bed) {
    let mut all = Vec::new();
    for tenant in 20..26 {
        let id = bed.connection(tenant).await;
        read(bed, id, tenant, &[("A.Read", true), ("B.Read", true)]).await;
        all.push(id);
    }
    // As other writers may leave them.
    for details in [
        "[]",
        "7",
        "\"satisfied_by\"",
        "null",
        "{\"satisfied_by\":null}",
    ] {
        bed.exec(&format!(
            "UPDATE tenant_permissions SET details = '{details}' WHERE permission_key = 'B.Read'"
        ))
        .await;
        let found = subjects(bed, |_| {}).await;
        for subject in &found {
            let granted = &subject.grants.as_ref().unwrap().granted;
            assert_eq!(*granted, names(&["A.Read", "B.Read"]), "{details}");
        }
    }
    let mut seen = Vec::new();
    loop {
        let after = seen.last().copied();
        let page = subjects(bed, |filter| {
            filter.after = after;
            filter.limit = 4;
        })
        .await;
        assert!(page.len() <= 4);
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|s| s.connection.id));
    }
    assert_eq!(seen, all);
}
