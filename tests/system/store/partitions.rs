//! Runs in a table that is partitioned by the time of recording: another application's, and one that verifyd made.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, context, failed, quoted, succeeded, worker};
use crate::store::relation_kinds::replaced;
use futures::future::join_all;
use std::time::Duration;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunId, RunStatus};
use verifyd::ports::store::{Claim, PrunePolicy};

/// Another application's, with partitions for this month and two before, and one for all other times.
const BY_MONTH: &str = "
    CREATE TABLE operation_runs (id bigserial, workspace_id bigint NOT NULL, tenant_id bigint,
        type varchar(255) NOT NULL, status varchar(255) NOT NULL, outcome varchar(255), context jsonb,
        failure_summary jsonb, created_at timestamp NOT NULL, started_at timestamp, completed_at timestamp,
        PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
    CREATE TABLE runs_default PARTITION OF operation_runs DEFAULT;
    DO $do$ DECLARE month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC'); BEGIN
        FOR n IN 0..2 LOOP
            EXECUTE format('CREATE TABLE runs_%s PARTITION OF operation_runs FOR VALUES FROM (%L) TO (%L)', n,
                month - make_interval(months => n), month - make_interval(months => n - 1));
        END LOOP;
    END $do$;
    DELETE FROM verifyd.owned_tables WHERE table_name = 'operation_runs'";

const DAY: u32 = 24 * 3600;

fn none() -> Vec<String> {
    Vec::new()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_every_partition_are_worked_on() {
    let bed = replaced(&["operation_runs"], BY_MONTH).await;
    bed.exec(&format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
         SELECT 1, 7, '{RUN_TYPE}', 'queued', '{}', t.at AT TIME ZONE 'UTC'
         FROM (VALUES (now()), (now() - interval '1 month'), (now() - interval '2 months'),
             ('2020-01-01 00:00:00+00'), ('infinity')) AS t(at)",
        quoted(&context(1))
    ))
    .await;
    let runs: Vec<RunId> = (1..=5).map(RunId).collect();
    let partitions = "SELECT count(DISTINCT tableoid) FROM operation_runs WHERE status = ";
    assert_eq!(bed.number(&format!("{partitions}'queued'")).await, 4);

    // Nothing is wrong with it.
    let findings = bed.store.inspect().await.unwrap();
    assert!(
        findings.iter().all(|finding| !finding.fatal),
        "{findings:?}"
    );
    let enforced = bed.store.enforce().await.unwrap();
    assert_eq!((enforced.added.len(), enforced.refused), (6, vec![]));
    let end = bed.store.partitions_end().await.unwrap().unwrap();
    let days = end.seconds / f64::from(DAY);
    assert!(end.has_default && (-1.0..32.0).contains(&days), "{end:?}");

    assert_eq!(bed.sweep().await.due, runs);
    let me = worker("w1");
    let claims = join_all(runs.iter().map(|run| bed.store.claim(*run, &me, &POLICY))).await;
    let claims: Vec<Claim> = claims
        .into_iter()
        .map(|answer| answer.unwrap().claimed().expect("it can be claimed"))
        .collect();
    let completion = succeeded();
    let completed = claims
        .iter()
        .map(|claim| bed.store.complete(claim, &completion));
    for completed in join_all(completed).await {
        assert!(completed.unwrap());
    }
    assert_eq!(bed.number(&format!("{partitions}'completed'")).await, 4);
    assert_eq!(bed.count("verifyd.run_attempts").await, 5);
    let newest_first: Vec<RunId> = runs.iter().rev().copied().collect();
    assert_eq!(bed.listed().await, newest_first);
    for run in &runs {
        let restored = "status = 'queued', outcome = NULL, completed_at = NULL";
        bed.save(*run, restored).await;
        assert_eq!(bed.run(*run).await.status, RunStatus::Completed);
    }

    for run in &runs {
        bed.age_run(*run, "completed_at", 20 * DAY).await;
    }
    let policy = PrunePolicy {
        older_than: Duration::from_secs(u64::from(10 * DAY)),
        batch: 100,
    };
    let pruned = bed.store.prune(&policy, None).await.unwrap();
    assert_eq!((pruned.runs, pruned.attempts), (5, 5));
}

#[tokio::test]
async fn another_applications_table_is_left_to_it() {
    let bed = replaced(&["operation_runs"], BY_MONTH).await;
    let refused = bed.store.partition_by_month().await.unwrap_err();
    let why = "it is another application's";
    assert!(refused.to_string().contains(why), "{refused}");
    assert_eq!(bed.store.partition_plan().await.unwrap().obstacles, [why]);
    assert_eq!(bed.store.add_months().await.unwrap(), none());
}

#[tokio::test]
async fn a_table_that_verifyd_made_becomes_the_first_partition() {
    let bed = Bed::postgres().await;
    assert_eq!(bed.store.add_months().await.unwrap(), none());
    let done = bed.completed(&failed()).await;
    let waiting = bed.queued().await;
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    bed.exec(&format!(
        "CREATE ROLE {role}; GRANT SELECT, UPDATE (status) ON operation_runs TO {role};
         GRANT USAGE ON SEQUENCE operation_runs_id_seq TO {role};
         CREATE INDEX of_operator ON operation_runs (completed_at)"
    ))
    .await;
    let before = bed.content("operation_runs").await;
    let plan = bed.store.partition_plan().await.unwrap();
    assert_eq!((&plan.obstacles, plan.months.len()), (&none(), 12));
    assert!(plan.first.is_some_and(|first| first.bytes > 0));
    let months = bed.store.partition_by_month().await.unwrap();
    assert_eq!(months, plan.months);

    assert_eq!(bed.content("operation_runs").await, before);
    assert_eq!(bed.count("ONLY operation_runs_earlier").await, 2);
    let rights = format!(
        "SELECT count(*) FROM pg_class WHERE oid = 'operation_runs'::regclass
             AND has_table_privilege('{role}', oid, 'SELECT')
             AND has_column_privilege('{role}', oid, 'status', 'UPDATE')
             AND NOT has_column_privilege('{role}', oid, 'context', 'UPDATE')
             AND has_sequence_privilege('{role}', pg_get_serial_sequence('operation_runs', 'id'), 'USAGE')"
    );
    let rights = bed.number(&rights).await;
    bed.exec(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
    assert_eq!(rights, 1);
    // Later migrations know the indexes by their names.
    let indexes = "pg_index WHERE indrelid = 'operation_runs'::regclass AND indexrelid::regclass::text
        IN ('operation_runs_pkey', 'operation_runs_check_active', 'operation_runs_check_turns', 'of_operator')";
    assert_eq!(bed.count(indexes).await, 4);
    assert_eq!(bed.store.inspect().await.unwrap(), []);
    assert_eq!(bed.store.guards().await.unwrap().missing, none());

    // Ids and runs go on.
    let next = bed.recorded(1).await;
    assert_eq!(next, RunId(waiting.0 + 1));
    for run in [waiting, next] {
        bed.complete(run, &succeeded()).await;
    }
    assert_eq!(bed.listed().await, [next, waiting, done]);
    assert_eq!(bed.store.partition_by_month().await.unwrap(), none());
    let end = bed.store.partitions_end().await.unwrap().unwrap();
    assert!(
        end.has_default && end.seconds > 360.0 * f64::from(DAY),
        "{end:?}"
    );

    // A month with rows in the default partition leaves them there.
    let [.., before_last, last] = &months[..] else {
        panic!("{months:?}")
    };
    bed.exec(&format!(
        "DROP TABLE {before_last}, {last};
         INSERT INTO operation_runs (workspace_id, type, created_at) SELECT 1, 'x',
             (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '11 months 1 day') AT TIME ZONE 'UTC'"
    ))
    .await;
    assert_eq!(
        &bed.store.add_months().await.unwrap(),
        std::slice::from_ref(last)
    );
    assert_eq!(bed.count("operation_runs_default").await, 1);
}

#[tokio::test]
async fn what_would_not_go_over_keeps_the_table_as_it_is() {
    let bed = Bed::postgres().await;
    bed.exec(
        "CREATE VIEW of_application AS SELECT id FROM operation_runs;
         CREATE TABLE referring (run bigint REFERENCES operation_runs (id));
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER noted BEFORE INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION nothing();
         CREATE POLICY own ON operation_runs USING (true);
         ALTER TABLE operation_runs ENABLE ROW LEVEL SECURITY;
         ALTER TABLE operation_runs ADD CONSTRAINT unproven CHECK (workspace_id > 0) NOT VALID,
             ADD CONSTRAINT of_this_alone CHECK (workspace_id > 0) NO INHERIT;
         INSERT INTO operation_runs (workspace_id, type, created_at) VALUES (1, 'x', 'infinity')",
    )
    .await;
    let refused = bed.store.partition_by_month().await.unwrap_err();
    let refused = refused.to_string();
    for part in [
        "view of_application",
        "table referring",
        "trigger noted",
        "policy own",
        "row security",
        "constraint unproven",
        "constraint of_this_alone",
        "not before next month",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let plan = bed.store.partition_plan().await.unwrap();
    assert!(refused.contains(&plan.obstacles[0]), "{plan:?}");
    let plain = "pg_class WHERE oid = 'operation_runs'::regclass AND relkind = 'r'";
    assert_eq!(bed.count(plain).await, 1);
    bed.exec(
        "DROP VIEW of_application; DROP TABLE referring; DROP TRIGGER noted ON operation_runs;
         DROP POLICY own ON operation_runs; ALTER TABLE operation_runs DISABLE ROW LEVEL SECURITY;
         ALTER TABLE operation_runs DROP CONSTRAINT unproven, DROP CONSTRAINT of_this_alone;
         DELETE FROM operation_runs",
    )
    .await;
    assert_eq!(bed.store.partition_by_month().await.unwrap().len(), 12);
}
