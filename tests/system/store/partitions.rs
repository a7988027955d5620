//! Runs in a table that is partitioned by the time of recording: another application's, and one that verifyd made.

use crate::store::bed::Bed;
use crate::store::fixtures::{
    ISOLATED, POLICY, context, failed, heartbeat, new_run, quoted, succeeded, worker,
};
use crate::store::relation_kinds::replaced;
use futures::future::join_all;
use std::time::Duration;
use test_support::waiting::until;
use verifyd::domain::access::Binding;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, RunId, RunStatus};
use verifyd::operations::read_run;
use verifyd::ports::store::{AttemptEnd, Claim, Months, NewRun, PrunePolicy, RunFilter};

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

/// Partitions the table; returns the months that were added.
async fn partitioned(bed: &Bed) -> Vec<String> {
    bed.store.partition_by_month().await.unwrap();
    let months = bed.store.add_months().await.unwrap();
    assert_eq!(months.left, []);
    months.added
}

/// Of the months without a partition: the name, the end of what is wrong, and whether rows are refused.
fn left(months: &Months) -> Vec<(&str, &str, bool)> {
    const PROBLEMS: [&str; 3] = [
        "in the default partition",
        "already exists (SQLSTATE 42P07)",
        "(SQLSTATE 55P03)",
    ];
    let left = months.left.iter().map(|month| {
        let problem = PROBLEMS.iter().find(|end| month.problem.ends_with(*end));
        let problem = problem.unwrap_or_else(|| panic!("{month:?}"));
        (month.partition.as_str(), *problem, month.refuses_rows)
    });
    left.collect()
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
    assert_eq!(bed.store.add_months().await.unwrap(), Months::default());
}

#[tokio::test]
async fn a_table_that_verifyd_made_becomes_the_first_partition() {
    let bed = Bed::postgres().await;
    assert_eq!(bed.store.add_months().await.unwrap(), Months::default());
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
    let months = partitioned(&bed).await;
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
    assert_eq!(partitioned(&bed).await, none());
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
    let months = bed.store.add_months().await.unwrap();
    assert_eq!(&months.added, std::slice::from_ref(last));
    assert_eq!(
        left(&months),
        [(before_last.as_str(), "in the default partition", false)]
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
    assert_eq!(partitioned(&bed).await.len(), 12);
}

#[tokio::test]
async fn a_month_that_cannot_be_added_costs_the_others_nothing() {
    let bed = Bed::postgres().await;
    let plan = bed.store.partition_plan().await.unwrap().months;
    let (next, taken) = (&plan[0], &plan[3]);
    bed.exec(&format!("CREATE TABLE {taken} (of_application int)"))
        .await;
    bed.store.partition_by_month().await.unwrap();
    let months = bed.store.add_months().await.unwrap();
    assert_eq!(months.added.len(), 11);
    let name_is_taken = "already exists (SQLSTATE 42P07)";
    assert_eq!(left(&months), [(taken.as_str(), name_is_taken, false)]);
    assert!(months.left[0].remedy.starts_with("Rename"), "{months:?}");

    // Without a default partition the next month is needed, later ones are not yet.
    bed.exec(&format!(
        "DROP TABLE operation_runs_default, {next}; CREATE TABLE {next} (of_application int)"
    ))
    .await;
    let months = bed.store.add_months().await.unwrap();
    assert_eq!(
        left(&months),
        [
            (next.as_str(), name_is_taken, true),
            (taken.as_str(), name_is_taken, false)
        ]
    );

    // Both wait for the same table: one timeout for all.
    bed.exec(&format!("DROP TABLE {next}, {taken}")).await;
    let mut reader = bed.pg().begin().await.unwrap();
    sqlx::query("LOCK TABLE operation_runs IN ACCESS SHARE MODE")
        .execute(&mut *reader)
        .await
        .unwrap();
    let months = bed.store.add_months().await.unwrap();
    let mut names = left(&months);
    names.sort_unstable();
    let contended = "(SQLSTATE 55P03)";
    assert_eq!(
        names,
        [
            (next.as_str(), contended, true),
            (taken.as_str(), contended, false)
        ]
    );
    reader.rollback().await.unwrap();
    let months = bed.store.add_months().await.unwrap();
    assert_eq!(
        (months.added.len(), months.left.len()),
        (2, 0),
        "{months:?}"
    );
}

/// Gives the id of a run to another one, in the partition of a later month.
async fn repeat(bed: &Bed, run: RunId, status: &str) {
    bed.exec(&format!(
        "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at)
         VALUES ({run}, 1, 7, '{RUN_TYPE}', '{status}', '{}', now() + interval '40 days')",
        quoted(&context(1))
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_share_an_id_cost_nobody_anything() {
    let bed = Bed::partitioned().await;
    let done = bed.completed(&succeeded()).await;
    let runs = bed.many_queued(3).await;
    let (waiting, held, running) = (runs[0], runs[1], runs[2]);
    assert_eq!(bed.sweep().await.due, [waiting, held, running]);
    let claim = bed.claim(held, "w1").await;
    let taken = "status = 'running', started_at = now()";
    bed.save(running, taken).await;
    let repeated = [done, waiting, held, running];
    for (run, status) in repeated
        .into_iter()
        .zip(["queued", "queued", "running", "running"])
    {
        repeat(&bed, run, status).await;
    }

    // Nobody can tell whose the claim is.
    assert!(!bed.store.complete(&claim, &succeeded()).await.unwrap());
    assert!(!bed.release(&claim, AttemptEnd::Error, None).await);
    let queued_or_running = "operation_runs WHERE status IN ('queued', 'running')";
    assert_eq!(bed.count(queued_or_running).await, 7);
    // No connection has an active run by them, and none of them is waited for.
    let unless_active = NewRun {
        unless_active: Some(ConnectionId(1)),
        ..new_run(1)
    };
    let recorded = bed.store.record(&unless_active).await.unwrap();
    assert!(recorded.created);
    let bare = bed.queued().await;
    let healthy = [recorded.run_id, bare];
    let counts = bed.store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.running), (2, 0));
    let waiting_longest = bed.store.longest_waiting(&Binding::EVERYTHING, 10).await;
    assert_eq!(waiting_longest.unwrap().len(), 2);
    let next = bed.store.oldest_run_of_each_tenant(None, &[], 10).await;
    let next: Vec<RunId> = next.unwrap().runs.iter().map(|oldest| oldest.run).collect();
    assert_eq!(next, [recorded.run_id]);
    let shown: Vec<RunId> = healthy.into_iter().rev().collect();
    let shown = [shown, repeated.into_iter().rev().collect()].concat();
    assert_eq!(bed.listed().await, shown);
    assert_eq!(bed.run(done).await.status, RunStatus::Queued);
    assert_eq!(sharing(&bed).await, repeated);

    // Sweeps end the lease that nobody can use any more, and go on.
    bed.store.mark_undispatched(&repeated).await.unwrap();
    for run in repeated {
        bed.age_run(run, "started_at", 3600).await;
    }
    for due in [vec![bare], vec![]] {
        let swept = bed.sweep().await;
        assert_eq!((swept.reclaimed, swept.due), (vec![], due));
    }
    let open = "verifyd.run_attempts WHERE ended_at IS NULL";
    assert_eq!(bed.count(open).await, 0);
    let _tried = bed.store.try_writing().await.unwrap();
    let me = worker("w2");
    bed.store.heartbeat(&heartbeat("w2")).await.unwrap();
    let runs = repeated.iter().chain(&healthy);
    let claims = join_all(runs.map(|run| bed.store.claim(*run, &me, &POLICY))).await;
    let claimed = claims
        .into_iter()
        .filter_map(|answer| answer.unwrap().claimed());
    let claimed: Vec<RunId> = claimed.map(|claim| claim.run.id).collect();
    assert_eq!(claimed, healthy);
    for run in repeated {
        let answer = bed.store.claim(run, &me, &ISOLATED).await.unwrap();
        assert!(answer.claimed().is_none(), "{run}");
    }
    bed.age_run(done, "completed_at", 20 * DAY).await;
    let policy = PrunePolicy {
        older_than: Duration::from_secs(u64::from(10 * DAY)),
        batch: 100,
    };
    let pruned = bed.store.prune(&policy, None).await.unwrap();
    assert_eq!(pruned.runs, 0);

    // What is proposed mends it: then each is worked on.
    let invalid = bed.store.invalid_runs(1_000, 1_000).await.unwrap();
    let named: Vec<_> = invalid
        .iter()
        .map(|run| (run.operation_run_id, run.column))
        .collect();
    let newest_first = repeated.into_iter().rev().map(|run| (run, "id"));
    assert_eq!(named, newest_first.collect::<Vec<_>>());
    // Those that are not completed are found however many runs are newer.
    let active = bed.store.invalid_runs(1, 1_000).await.unwrap();
    assert_eq!(active, invalid);
    for run in &invalid {
        assert!(run.problem.starts_with("2 runs have it"), "{run:?}");
        let remedy = run.remedy.as_deref().unwrap();
        bed.exec(remedy.rsplit(": ").next().unwrap()).await;
    }
    assert_eq!(bed.store.invalid_runs(1_000, 1_000).await.unwrap(), []);
    assert_eq!(sharing(&bed).await, []);
    let swept = bed.sweep().await;
    assert_eq!(swept.reclaimed, [held, running]);
    assert_eq!(swept.due, [waiting, held, running]);
    assert_eq!(bed.run(done).await.status, RunStatus::Completed);
    let pruned = bed.store.prune(&policy, None).await.unwrap();
    assert_eq!(pruned.runs, 1);
}

/// The copies of the first one count as it does.
#[tokio::test]
async fn the_triggers_of_partitions_are_named() {
    let bed = replaced(&["operation_runs"], BY_MONTH).await;
    bed.connection(7).await;
    bed.exec(
        "CREATE FUNCTION accept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
         CREATE TRIGGER of_all BEFORE UPDATE ON operation_runs FOR EACH ROW EXECUTE FUNCTION accept();
         CREATE TRIGGER of_no_row BEFORE UPDATE ON runs_0 EXECUTE FUNCTION refuse()",
    )
    .await;
    for partition in ["runs_default", "runs_0", "runs_1", "runs_2"] {
        bed.exec(&format!(
            "CREATE TRIGGER of_partition BEFORE UPDATE ON {partition} FOR EACH ROW EXECUTE FUNCTION refuse()"
        ))
        .await;
    }
    let refused = bed.store.try_writing().await.unwrap_err().to_string();
    let named = "claiming a run: not today (SQLSTATE P0001) (triggers: of_all, of_partition)";
    assert!(refused.ends_with(named), "{refused}");
}

/// Nobody can tell whose the wait is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_shares_its_id_waits_for_no_time() {
    let bed = Bed::partitioned().await;
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let an_hour = Some(Duration::from_secs(3600));
    assert!(bed.release(&held, AttemptEnd::Error, an_hour).await);
    let waits = async || {
        let record = read_run(bed.store.as_ref(), &Binding::EVERYTHING, run).await;
        record.unwrap().wait.is_some()
    };
    assert!(waits().await);
    bed.exec(
        "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at, started_at)
         SELECT id, workspace_id, tenant_id, type, status, context, created_at + interval '40 days', started_at
         FROM operation_runs",
    )
    .await;
    assert_eq!(sharing(&bed).await, [run]);
    assert!(!waits().await);
}

/// The runs that are said to share their id, by the list and by each of them.
async fn sharing(bed: &Bed) -> Vec<RunId> {
    let filter = RunFilter {
        limit: 1000,
        ..RunFilter::default()
    };
    let mut sharing = Vec::new();
    for listed in bed.store.runs(&filter).await.unwrap() {
        assert_eq!(bed.run(listed.id).await.shares_id, listed.shares_id);
        sharing.extend(listed.shares_id.then_some(listed.id));
    }
    sharing.reverse();
    sharing
}

/// Does what is proposed for the id that several runs have. Returns what was said about it.
async fn delete_one(bed: &Bed) -> String {
    let invalid = bed.store.invalid_runs(1_000, 1_000).await.unwrap();
    let [repeated] = &invalid[..] else {
        panic!("{invalid:?}")
    };
    let remedy = repeated.remedy.as_deref().unwrap();
    bed.exec(remedy.rsplit(": ").next().unwrap()).await;
    repeated.problem.clone()
}

/// Those in two partitions have the same place there, those in one of them the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_runs_that_share_an_id_one_is_deleted() {
    let bed = Bed::partitioned().await;
    bed.exec("ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_pkey")
        .await;
    let run = bed.queued().await;
    repeat(&bed, run, "queued").await;
    let places = "SELECT count(DISTINCT CAST(ctid AS text)) FROM operation_runs";
    assert_eq!(bed.number(places).await, 1);
    delete_one(&bed).await;
    assert_eq!(bed.count("operation_runs").await, 1);
    bed.exec(
        "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at)
         SELECT id, workspace_id, tenant_id, type, status, context, created_at FROM operation_runs",
    )
    .await;
    delete_one(&bed).await;
    assert_eq!(bed.count("operation_runs").await, 1);
    assert_eq!(bed.store.invalid_runs(1_000, 1_000).await.unwrap(), []);
}

/// As in another application's table whose key is an index that takes NULL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_share_an_id_and_have_no_time_are_told_apart() {
    let bed = Bed::partitioned().await;
    bed.exec("ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_pkey")
        .await;
    bed.exec("ALTER TABLE operation_runs ALTER COLUMN created_at DROP NOT NULL")
        .await;
    let run = bed.queued().await;
    bed.exec(&format!(
        "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at)
         SELECT {run}, 1, 7, '{RUN_TYPE}', 'queued', '{}', NULL FROM generate_series(1, 2)",
        quoted(&context(1))
    ))
    .await;
    for left in [2, 1] {
        let problem = delete_one(&bed).await;
        assert!(problem.contains("no time"), "{problem}");
        assert_eq!(bed.count("operation_runs").await, left);
    }
    assert_eq!(bed.store.invalid_runs(1_000, 1_000).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_without_statistics_is_searched_by_the_index_of_ids() {
    let bed = Bed::partitioned().await;
    let month = "SELECT 'operation_runs_' || to_char(now() AT TIME ZONE 'UTC' + interval '40 days', 'YYYY_MM')";
    let month = bed.text(month).await;
    bed.exec(&format!(
        "ALTER TABLE {month} SET (autovacuum_enabled = false);
         INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
         SELECT 1, 7, '{RUN_TYPE}', 'queued', '{}', now() + interval '40 days' FROM generate_series(1, 1000)",
        quoted(&context(1))
    ))
    .await;
    bed.complete(RunId(500), &succeeded()).await;
    // Sessions tell what they have read when they end.
    bed.store.close().await;
    let read = |indexes: &str| {
        format!(
            "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
             WHERE relname = '{month}' AND indexrelname {indexes} '%_pkey'"
        )
    };
    let (of_ids, others) = (read("LIKE"), read("NOT LIKE"));
    until("it is known what was read", async || {
        bed.number(&of_ids).await > 0
    })
    .await;
    assert_eq!(bed.number(&others).await, 0);
}
