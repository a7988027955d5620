//! Rules of the application that wait, or end the session, where a run is queued again.

use crate::store::bed::Bed;
use crate::store::fixtures::worker;
use std::time::Duration;
use verifyd::ports::store::Swept;

/// The second one waits for the end that it has asked for.
const RULES: [&str; 2] = [
    "PERFORM pg_sleep(3600)",
    "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(3600)",
];

/// Adds the rule for runs of the tenant 8.
async fn add(rule: &str, bed: &Bed) {
    bed.exec(&format!(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {rule}; RETURN new; END';
         CREATE TRIGGER keep BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN (new.status = 'queued' AND new.tenant_id = 8) EXECUTE FUNCTION keep()"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_whose_rule_waits_or_ends_the_session_stop_no_sweep() {
    for rule in RULES {
        let bed = Bed::postgres().await;
        let mut others = Vec::new();
        for tenant in [8, 7, 8, 8, 7] {
            let run = bed.queued_for(tenant, 1).await;
            bed.claim(run, "dead").await;
            bed.age_run(run, "started_at", 301).await;
            if tenant == 7 {
                others.push(run);
            }
        }
        let bare = bed.queued().await;
        add(rule, &bed).await;
        let sweeps = async {
            let Swept {
                mut reclaimed, due, ..
            } = bed.sweep().await;
            assert!(due.contains(&bare), "{rule}");
            while reclaimed.len() < others.len() {
                reclaimed.extend(bed.sweep().await.reclaimed);
            }
            reclaimed
        };
        let reclaimed = tokio::time::timeout(Duration::from_secs(300), sweeps).await;
        let mut reclaimed = reclaimed.expect("sweeps pass them");
        reclaimed.sort_unstable();
        assert_eq!(reclaimed, others, "{rule}");
        let kept = "operation_runs WHERE tenant_id = 8 AND status = 'running'";
        assert_eq!(bed.count(kept).await, 3, "{rule}");
    }
}

/// Runs of bare INSERTs are delivered by the sweep alone, once it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_waits_for_few_runs_before_it_delivers() {
    let bed = Bed::postgres().await;
    for _ in 0..9 {
        let run = bed.queued_for(8, 1).await;
        bed.claim(run, "dead").await;
    }
    let bare = bed.queued().await;
    // A rollback does not undo a sequence.
    bed.exec("CREATE SEQUENCE tries").await;
    let rule = "PERFORM nextval(''tries''); PERFORM pg_sleep(3600)";
    add(rule, &bed).await;
    let swept = bed.sweep().await;
    assert_eq!((swept.reclaimed, swept.due), (Vec::new(), vec![bare]));
    // All of them together, then the first two.
    let tries = bed.number("SELECT last_value FROM tries").await;
    assert_eq!(tries, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_whose_rule_waits_or_ends_the_session_keeps_no_other() {
    for rule in RULES {
        let bed = Bed::postgres().await;
        let mut runs = Vec::new();
        for tenant in [8, 7, 8] {
            let run = bed.queued_for(tenant, 1).await;
            bed.claim(run, "w1").await;
            runs.push(run);
        }
        add(rule, &bed).await;
        let me = worker("w1");
        let releasing = async {
            loop {
                let open = bed.store.open_attempts(&me).await.unwrap();
                let released = bed.store.release_orphaned(&me, &open).await.unwrap();
                // The session that was ended may still lock them.
                if !released.is_empty() {
                    break released;
                }
            }
        };
        let released = tokio::time::timeout(Duration::from_secs(300), releasing).await;
        let released = released.expect("it waits for no run for long");
        assert_eq!(released, [runs[1]], "{rule}");
    }
}
