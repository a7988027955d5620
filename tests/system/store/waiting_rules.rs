//! Rules of the application that wait, or end the session, where a run is queued again.

use crate::store::bed::Bed;
use crate::store::fixtures::worker;
use test_support::waiting::within;
use verifyd::domain::RunId;
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
        let mut reclaimed = within("sweeps pass the runs that wait", sweeps).await;
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
    // Half of them as of a worker that was lost before it wrote a lease.
    bed.exec(
        "UPDATE operation_runs SET started_at = now() - interval '1 hour' WHERE id % 2 = 0;
         DELETE FROM verifyd.run_attempts WHERE run_id % 2 = 0",
    )
    .await;
    let bare = bed.queued().await;
    // A rollback does not undo a sequence.
    bed.exec("CREATE SEQUENCE tries").await;
    let rule = "PERFORM nextval(''tries''); PERFORM pg_sleep(3600)";
    add(rule, &bed).await;
    let swept = bed.sweep().await;
    assert_eq!((swept.reclaimed, swept.due), (Vec::new(), vec![bare]));
    // All whose lease is dead together, then the first two of them.
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
        let released = within("the orphan between those that wait is released", releasing).await;
        assert_eq!(released, [runs[1]], "{rule}");
    }
}

/// Drops the rule. Returns runs that this worker has claimed, and counts the statements that change runs from now on.
async fn count_statements(bed: &Bed, name: &str) -> Vec<RunId> {
    bed.exec("DROP TRIGGER keep ON operation_runs").await;
    let runs = bed.many_queued(3).await;
    for run in &runs {
        bed.claim(*run, name).await;
    }
    bed.exec(
        "CREATE SEQUENCE statements;
         CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM nextval(''statements''); RETURN NULL; END';
         CREATE TRIGGER count_statement AFTER UPDATE ON operation_runs FOR EACH STATEMENT
             EXECUTE FUNCTION count_statement()",
    )
    .await;
    runs
}

/// All of these are queued again, by one statement.
async fn queued_by_one_statement(bed: &Bed, runs: &[RunId], queued: &[RunId]) {
    assert!(runs.iter().all(|run| queued.contains(run)), "{queued:?}");
    let statements = "SELECT last_value FROM statements";
    assert_eq!(bed.number(statements).await, 1);
}

/// The run that has ended a transaction has the next ones queue runs one by one, until one of them gets through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_got_through_is_followed_by_sweeps_of_one_statement() {
    let bed = Bed::postgres().await;
    let refused = bed.queued_for(8, 1).await;
    bed.claim(refused, "dead").await;
    add(RULES[1], &bed).await;
    assert_eq!(bed.sweep().await.reclaimed, []);
    let runs = count_statements(&bed, "dead").await;
    let reclaimed = bed.sweep().await.reclaimed;
    queued_by_one_statement(&bed, &runs, &reclaimed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_got_through_is_followed_by_releases_of_one_statement() {
    let bed = Bed::postgres().await;
    let me = worker("w1");
    let release = async || {
        let open = bed.store.open_attempts(&me).await.unwrap();
        bed.store.release_orphaned(&me, &open).await.unwrap()
    };
    let refused = bed.queued_for(8, 1).await;
    bed.claim(refused, "w1").await;
    add(RULES[1], &bed).await;
    assert_eq!(release().await, []);
    let runs = count_statements(&bed, "w1").await;
    let released = release().await;
    queued_by_one_statement(&bed, &runs, &released).await;
}
