//! Fair queuing.

use crate::store::bed::Bed;
use crate::store::fixtures::{context, succeeded};
use crate::store::migrate_beside_another_application::beside;
use std::time::Duration;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunId, TenantId};
use verifyd::ports::store::AttemptEnd;

const TENANTS: [i64; 3] = [3, 7, 9];

async fn queued(bed: &Bed, tenant: i64) -> RunId {
    bed.queued_for(tenant, 1).await
}

/// A connection for each of these tenants.
async fn connected(bed: &Bed, tenants: &[i64]) {
    for tenant in tenants {
        bed.exec(&format!(
            "INSERT INTO provider_connections (workspace_id, tenant_id, provider, status)
             VALUES (1, {tenant}, 'microsoft', 'enabled')"
        ))
        .await;
    }
}

async fn turns(bed: &Bed, after: Option<i64>, except: &[i64], most: u32) -> Vec<(i64, RunId)> {
    let except: Vec<TenantId> = except.iter().copied().map(TenantId).collect();
    let found = bed
        .store
        .oldest_run_of_each_tenant(after.map(TenantId), &except, most)
        .await;
    let found = found.unwrap().runs.into_iter();
    found.map(|turn| (turn.tenant.0, turn.run)).collect()
}

pub async fn each_tenant_has_its_oldest_run_next(bed: &Bed) {
    connected(bed, &TENANTS).await;
    assert_eq!(turns(bed, None, &[], 10).await, []);
    let mut firsts = Vec::new();
    for _ in 0..3 {
        for tenant in TENANTS {
            let run = queued(bed, tenant).await;
            firsts.push((tenant, run));
        }
    }
    let first = &firsts[..3];
    assert_eq!(turns(bed, None, &[], 10).await, first);
    assert_eq!(turns(bed, None, &[], 2).await, first[..2]);
    assert_eq!(turns(bed, Some(3), &[], 10).await, first[1..]);
    assert_eq!(turns(bed, Some(9), &[], 10).await, []);
    assert_eq!(turns(bed, None, &[7, 4], 10).await, [first[0], first[2]]);
    // Leaving one out takes no place.
    assert_eq!(turns(bed, None, &[3], 2).await, first[1..]);

    let held = bed.claim(first[0].1, "w1").await;
    assert_eq!(turns(bed, None, &[], 1).await, [firsts[3]]);
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
    assert_eq!(turns(bed, None, &[], 1).await, [firsts[3]]);
}

pub async fn only_runs_that_are_due_and_ours_are_next(bed: &Bed) {
    connected(bed, &[3, 4, 5]).await;
    let waiting = queued(bed, 3).await;
    bed.insert_for(TenantId(4), "inventory.sync", "queued", &context(1))
        .await;
    bed.insert_for(TenantId(5), RUN_TYPE, "running", &context(1))
        .await;
    let held = bed.claim(waiting, "w1").await;
    let later = Some(Duration::from_secs(3600));
    assert!(bed.release(&held, AttemptEnd::Throttled, later).await);
    assert_eq!(turns(bed, None, &[], 10).await, []);
    // What waits does not hold up what came after it.
    let next = queued(bed, 3).await;
    assert_eq!(turns(bed, None, &[], 10).await, [(3, next)]);
}

/// Rows that can never be claimed stay the first ones of their tenant for ever.
pub async fn runs_that_can_never_be_claimed_keep_their_tenant_in_the_queue(bed: &Bed) {
    bed.lift_constraints().await;
    connected(bed, &[3, 7]).await;
    let columns = "workspace_id, tenant_id, type, status, outcome";
    let row = format!("(1, 3, '{RUN_TYPE}', 'queued', 'pending')");
    let rows = vec![row; 9].join(", ");
    bed.unchecked(&format!(
        "INSERT INTO operation_runs ({columns}) VALUES {rows}"
    ))
    .await;
    let healthy = [(3, queued(bed, 3).await), (7, queued(bed, 7).await)];
    queued(bed, 3).await;
    assert_eq!(turns(bed, None, &[], 10).await, healthy);
}

/// A producer may write any tenant into its rows. Two tenants that have a connection wait behind thousands
/// that it invents, around theirs and with several runs each.
pub async fn tenants_without_a_connection_share_one_place(bed: &Bed) {
    const INVENTED: i64 = 1_000;
    const OWN: [i64; 2] = [500, 700];
    connected(bed, &OWN).await;
    bed.exec(&format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2 * {INVENTED})
         INSERT INTO operation_runs (workspace_id, tenant_id, type, status)
         SELECT 1, n % {INVENTED} + 1 + CASE WHEN n % {INVENTED} + 1 IN (500, 700) THEN 5000 ELSE 0 END,
                '{RUN_TYPE}', 'queued' FROM n"
    ))
    .await;
    let mut own = Vec::new();
    for tenant in OWN {
        own.push((tenant, queued(bed, tenant).await));
    }
    let found = turns(bed, None, &[], 64).await;
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(own.iter().all(|turn| found.contains(turn)), "{found:?}");
    // A run of one that is in flight takes the turn of all of them.
    assert_eq!(turns(bed, None, &[3], 64).await, own);
    assert_eq!(turns(bed, Some(500), &[], 64).await.last(), Some(&own[1]));
    // They have it where nobody else waits.
    for (_, run) in own {
        bed.claim(run, "w1").await;
    }
    assert_eq!(turns(bed, None, &[], 64).await.len(), 1);
}

/// Reading all that is queued for each tenant would cost more than waiting.
#[tokio::test]
async fn without_the_index_there_is_no_fair_queuing() {
    let bed = beside().await;
    bed.store.migrate().await.unwrap();
    let run = bed.queued().await;
    connected(&bed, &[7]).await;
    assert_eq!(turns(&bed, None, &[], 10).await, []);
    let found = bed.store.inspect().await.unwrap();
    let advice = found
        .iter()
        .find(|finding| finding.remedy.contains("operation_runs_check_turns"))
        .unwrap();
    assert!(!advice.fatal);
    bed.exec(advice.remedy.trim_end_matches(';')).await;
    assert_eq!(turns(&bed, None, &[], 10).await, [(7, run)]);
}
