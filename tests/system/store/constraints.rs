//! What the tables that verifyd owns refuse, whoever writes.

use crate::store::bed::Bed;
use crate::store::fixtures::{at_once, blocked, context, quoted, report_of, succeeded};
use serde_json::{Value, json};
use std::time::Duration;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunId, RunStatus, TenantId};
use verifyd::ports::probe::{RefusedClaim, Writing};
use verifyd::ports::store::AttemptEnd;

async fn refused(bed: &Bed, change: &str) -> bool {
    match bed.try_exec(change).await {
        Ok(()) => false,
        Err(sqlx::Error::Database(e)) if e.is_check_violation() => true,
        Err(other) => panic!("{other}"),
    }
}

fn blocked_context() -> Value {
    let completion = blocked();
    let by = completion.blocked.as_ref().unwrap();
    let mut context = context(1);
    context["verification_report"] = report_of(&completion);
    context["reason_code"] = json!(by.reason_code.code());
    context["next_steps"] = json!([]);
    context
}

pub async fn no_blocked_run_without_a_report(bed: &Bed) {
    let run = bed.queued().await;
    let complete = |context: &Value| {
        format!(
            "UPDATE operation_runs SET status = 'completed', outcome = 'blocked', \
             completed_at = '2026-01-01T00:00:00.000Z', context = '{}' WHERE id = {run}",
            quoted(context)
        )
    };
    let whole = blocked_context();
    for member in ["verification_report", "reason_code", "next_steps"] {
        let mut context = whole.clone();
        context.as_object_mut().unwrap().remove(member);
        assert!(refused(bed, &complete(&context)).await, "without {member}");
        context[member] = Value::Null;
        assert!(refused(bed, &complete(&context)).await, "{member} is null");
    }
    for member in [
        "schema_version",
        "generated_at",
        "fingerprint",
        "summary",
        "checks",
        "flow",
    ] {
        let mut context = whole.clone();
        let report = context["verification_report"].as_object_mut().unwrap();
        report.remove(member);
        assert!(refused(bed, &complete(&context)).await, "without {member}");
    }
    for odd in [json!([]), json!("text"), Value::Null] {
        assert!(refused(bed, &complete(&odd)).await, "{odd}");
    }
    assert!(!refused(bed, &complete(&whole)).await);
}

pub async fn no_half_completed_run(bed: &Bed) {
    let run = bed.queued().await;
    for change in [
        "status = 'completed'",
        "status = 'completed', outcome = 'failed'",
        "status = 'completed', completed_at = created_at",
        "status = 'completed', outcome = 'fine', completed_at = created_at",
        "status = 'running', outcome = 'failed'",
        "status = 'paused'",
    ] {
        let change = format!("UPDATE operation_runs SET {change} WHERE id = {run}");
        assert!(refused(bed, &change).await, "{change}");
    }
}

pub async fn other_types_are_free(bed: &Bed) {
    let run = bed.insert("backup.restore", "paused", &json!([])).await;
    for change in [
        "status = 'completed', outcome = 'blocked'",
        "status = 'x', outcome = 'y'",
    ] {
        bed.exec(&format!(
            "UPDATE operation_runs SET {change} WHERE id = {run}"
        ))
        .await;
    }
    let turned = format!("UPDATE operation_runs SET type = '{RUN_TYPE}' WHERE id = {run}");
    assert!(refused(bed, &turned).await);
}

/// What a trigger of the application does with a row: as a statement of PL/pgSQL, and as what RAISE of SQLite takes.
type Answer = (&'static str, &'static str);

const REFUSES: Answer = ("RAISE EXCEPTION ''not today''", "ABORT, 'not today'");
const KEEPS: Answer = ("RETURN NULL", "IGNORE");

/// Adds a trigger of the application that answers such changes of runs so. Returns the statement that drops it. Each
/// trigger has its own name, as in `failing_batches`.
async fn add_rule(bed: &Bed, number: usize, change: &str, answer: Answer) -> String {
    let name = format!("a_rule_{number}");
    let (of_postgres, of_sqlite) = answer;
    let (create, on) = if bed.is_postgres() {
        let create = format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {of_postgres}; END'; \
             CREATE TRIGGER {name} BEFORE UPDATE ON operation_runs FOR EACH ROW WHEN ({change}) \
             EXECUTE FUNCTION {name}()"
        );
        (create, " ON operation_runs")
    } else {
        let create = format!(
            "CREATE TRIGGER {name} BEFORE UPDATE ON operation_runs WHEN {change} \
             BEGIN SELECT RAISE({of_sqlite}); END"
        );
        (create, "")
    };
    bed.exec(&create).await;
    format!("DROP TRIGGER {name}{on}")
}

/// What the test of writing says under such a rule.
async fn said_under(bed: &Bed, number: usize, change: &str, answer: Answer) -> Option<String> {
    let drop_rule = add_rule(bed, number, change, answer).await;
    let tried = bed.store.try_writing().await;
    bed.exec(&drop_rule).await;
    tried.err().map(|error| error.to_string())
}

/// For how long the runs have waited that are tried.
const WAITED: Duration = Duration::from_secs(3_600);

async fn refused_claims(bed: &Bed) -> Vec<RefusedClaim> {
    let mut found = Vec::new();
    let mut report = |refused| found.push(refused);
    bed.store.refused_claims(WAITED, &mut report).await.unwrap();
    found
}

/// Queued runs, two of the tenant 7 and one of the tenant 8, that were recorded long ago.
async fn long_recorded(bed: &Bed) -> [RunId; 3] {
    let mut runs = [RunId(0); 3];
    for (run, tenant) in runs.iter_mut().zip([7, 7, 8]) {
        bed.exec(&format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at) \
             VALUES (1, {tenant}, '{RUN_TYPE}', 'queued', '{{}}', '2020-01-01T00:00:00Z')"
        ))
        .await;
        *run = RunId(bed.number("SELECT max(id) FROM operation_runs").await);
    }
    runs
}

/// A run waits from when it is due.
pub async fn claims_of_runs_that_were_released_are_tried_once_they_have_waited(bed: &Bed) {
    let [ahead, refused, over] = long_recorded(bed).await;
    for run in [ahead, over] {
        let held = bed.claim(run, "w1").await;
        let wait = Some(Duration::from_secs(7_200));
        assert!(bed.release(&held, AttemptEnd::Throttled, wait).await);
    }
    add_rule(bed, 0, "new.status = 'running'", REFUSES).await;
    let (deliveries, row) = (bed.own("run_deliveries"), format!("run_id = {over}"));
    // Its wait has just ended.
    bed.age(&deliveries, "not_before", &row, 7_200).await;
    for tried in [vec![refused], vec![refused, over]] {
        let found = refused_claims(bed).await;
        let runs: Vec<RunId> = found.iter().map(|refused| refused.run).collect();
        assert_eq!(runs, tried);
        bed.age(&deliveries, "not_before", &row, 3_600).await;
    }
}

/// Of each tenant the oldest run is tried, and nothing of that is left.
pub async fn refused_claims_of_runs_that_wait_are_found(bed: &Bed) {
    let waiting = long_recorded(bed).await;
    // It has not waited.
    bed.queued_for(9, 1).await;
    assert!(refused_claims(bed).await.is_empty());
    let change = "new.status = 'running' AND new.tenant_id <> 8";
    let mut rules = vec![(REFUSES, "not today"), (KEEPS, "keeps the row")];
    if !bed.is_postgres() {
        rules.push((("", "ROLLBACK, 'ended'"), "ended"));
        // It accepts all, and no claim fires it.
        bed.exec("CREATE TRIGGER on_insert AFTER INSERT ON operation_runs BEGIN SELECT 1; END")
            .await;
    }
    for (number, (answer, said)) in rules.into_iter().enumerate() {
        let drop_rule = add_rule(bed, number, change, answer).await;
        let found = refused_claims(bed).await;
        bed.exec(&drop_rule).await;
        let [refused] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (refused.run, refused.tenant),
            (waiting[0], Some(TenantId(7)))
        );
        let error = refused.error.to_string();
        assert!(error.contains("claiming a run: "), "{error}");
        assert!(error.contains(said), "{error}");
        let triggers = format!(" (triggers: a_rule_{number})");
        assert!(error.ends_with(&triggers), "{error}");
    }
    // What the claim returns does not show it.
    let (create, on) = if bed.is_postgres() {
        let create = "CREATE FUNCTION puts_back() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RETURN old; END'; \
             CREATE TRIGGER puts_back BEFORE UPDATE ON operation_runs FOR EACH ROW \
             WHEN (new.status = 'running') EXECUTE FUNCTION puts_back()";
        (create, " ON operation_runs")
    } else {
        let create = "CREATE TRIGGER puts_back AFTER UPDATE ON operation_runs WHEN new.status = 'running' \
             BEGIN UPDATE operation_runs SET status = 'queued', started_at = NULL WHERE id = new.id; END";
        (create, "")
    };
    bed.exec(create).await;
    let found = refused_claims(bed).await;
    bed.exec(&format!("DROP TRIGGER puts_back{on}")).await;
    let runs: Vec<RunId> = found.iter().map(|refused| refused.run).collect();
    assert_eq!(runs, [waiting[0], waiting[2]]);
    for refused in found {
        let error = refused.error.to_string();
        let said = "claiming a run: a trigger changes what is written to operation_runs: status, started_at";
        assert!(error.contains(said), "{error}");
    }
    for run in waiting {
        assert_eq!(bed.run(run).await.status, RunStatus::Queued);
    }
    assert_eq!(bed.count(&bed.own("run_attempts")).await, 0);
}

/// Nothing is refused.
async fn accepts_all(bed: &Bed) -> bool {
    matches!(
        bed.store.try_writing().await.unwrap(),
        Writing::Accepted { .. }
    )
}

/// What is found while a trigger of the application refuses such new runs, none of which verifyd can record.
async fn tried_without_recording(bed: &Bed, number: usize, new: &str) -> Writing {
    let name = format!("a_rule_{number}");
    let (create, on) = if bed.is_postgres() {
        let create = format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''not today''; END'; \
             CREATE TRIGGER {name} BEFORE INSERT ON operation_runs FOR EACH ROW WHEN ({new}) \
             EXECUTE FUNCTION {name}()"
        );
        (create, " ON operation_runs")
    } else {
        let create = format!(
            "CREATE TRIGGER {name} BEFORE INSERT ON operation_runs WHEN {new} \
             BEGIN SELECT RAISE(ABORT, 'not today'); END"
        );
        (create, "")
    };
    bed.exec(&create).await;
    let tried = bed.store.try_writing().await;
    bed.exec(&format!("DROP TRIGGER {name}{on}")).await;
    let tried = tried.unwrap();
    if let Writing::NotRecording(error) | Writing::NotTried(error) = &tried {
        let said = error.to_string();
        assert!(said.contains("recording a check: not today"), "{said}");
    }
    tried
}

/// What a check writes besides its run is tried, too, and what is stored of the tenant stays as it is.
pub async fn what_a_rule_of_the_application_refuses_of_permissions_is_found_by_trying(bed: &Bed) {
    bed.connection(7).await;
    bed.exec(
        "INSERT INTO tenant_permissions (tenant_id, permission_key, status) VALUES (7, 'A.Read', 'granted')",
    )
    .await;
    let stored = bed.content("tenant_permissions").await;
    let own =
        ["tenant_inventory", "latest_reports", "connection_facts"].map(|table| bed.own(table));
    let rules = [
        (
            "tenant_permissions",
            "BEFORE INSERT",
            "new.status = 'missing'",
        ),
        (
            "tenant_permissions",
            "BEFORE UPDATE",
            "new.status = 'granted'",
        ),
        (own[0].as_str(), "BEFORE INSERT", "new.source IS NOT NULL"),
        (own[1].as_str(), "BEFORE INSERT", "new.outcome IS NOT NULL"),
        (own[2].as_str(), "BEFORE INSERT", "new.tenant_id = 7"),
    ];
    let steps = [
        "writing the inventory of a tenant (tenant_permissions): ",
        "writing the inventory of a tenant (tenant_permissions): ",
        "writing the inventory of a tenant (tenant_permissions): ",
        "completing a run: ",
        "keeping the facts of a connection: ",
    ];
    for (number, ((table, event, change), step)) in rules.into_iter().zip(steps).enumerate() {
        let name = format!("a_rule_{number}");
        let (create, on) = if bed.is_postgres() {
            let create = format!(
                "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN RAISE EXCEPTION ''not today''; END'; \
                 CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW WHEN ({change}) \
                 EXECUTE FUNCTION {name}()"
            );
            (create, format!(" ON {table}"))
        } else {
            let create = format!(
                "CREATE TRIGGER {name} {event} ON {table} WHEN {change} \
                 BEGIN SELECT RAISE(ABORT, 'not today'); END"
            );
            (create, String::new())
        };
        bed.exec(&create).await;
        let tried = bed.store.try_writing().await;
        bed.exec(&format!("DROP TRIGGER {name}{on}")).await;
        let said = tried.unwrap_err().to_string();
        assert!(
            said.contains(&format!("{step}not today")),
            "{table}: {said}"
        );
    }
    assert!(accepts_all(bed).await);
    assert_eq!(bed.content("tenant_permissions").await, stored);
    for table in &own {
        assert_eq!(bed.count(table).await, 0, "{table}");
    }
}

/// Nothing of what is tried is left.
pub async fn what_a_rule_of_the_application_refuses_is_found_by_trying(bed: &Bed) {
    const RUNNING: &str = "new.status = 'running'";
    const COMPLETED: &str = "new.status = 'completed'";
    const BLOCKED: &str = "new.outcome = 'blocked'";
    const QUEUED: &str = "old.status = 'running' AND new.status = 'queued'";
    let tried = bed.store.try_writing().await.unwrap();
    assert!(matches!(tried, Writing::NothingTried), "{tried:?}");
    // Without a connection nothing is recorded, and what is queued is only claimed.
    let queued = bed.queued().await;
    let tried = bed.store.try_writing().await.unwrap();
    assert!(matches!(tried, Writing::OnlyClaimed), "{tried:?}");
    let said = said_under(bed, 0, RUNNING, REFUSES).await;
    assert!(said.is_some_and(|said| said.contains("claiming a run: not today")));
    assert_eq!(said_under(bed, 1, COMPLETED, REFUSES).await, None);
    assert_eq!(bed.run(queued).await.status, RunStatus::Queued);

    bed.connection(7).await;
    let rules = [
        (RUNNING, REFUSES, "claiming a run: not today"),
        (RUNNING, KEEPS, "claiming a run: a trigger keeps the row"),
        (QUEUED, REFUSES, "releasing a run: not today"),
        (COMPLETED, REFUSES, "completing a run: not today"),
        (BLOCKED, REFUSES, "completing a run: not today"),
    ];
    for (number, (change, answer, step)) in rules.into_iter().enumerate() {
        let said = said_under(bed, 2 + number, change, answer).await;
        let said = said.unwrap_or_default();
        assert!(said.contains(step), "{change}: {said}");
    }
    assert!(accepts_all(bed).await);
    // Where only the INSERT is refused, the queued run is worked on all the same. Without one that is not known.
    let tried = tried_without_recording(bed, 10, "new.status = 'queued'").await;
    assert!(matches!(tried, Writing::NotRecording(_)), "{tried:?}");
    assert_eq!(bed.listed().await, [queued]);
    bed.exec(&format!("DELETE FROM operation_runs WHERE id = {queued}"))
        .await;
    let tried = tried_without_recording(bed, 11, "new.status = 'queued'").await;
    assert!(matches!(tried, Writing::NotTried(_)), "{tried:?}");
    for table in ["workers", "run_attempts", "run_deliveries"] {
        assert_eq!(bed.count(&bed.own(table)).await, 0, "{table}");
    }
}

/// What is said where a trigger changes a run, and the completion is accepted all the same.
pub const ACCEPTED: &str = "accepted";

/// Returns what is said while a trigger of this name makes the change to runs that meet the condition.
pub async fn said_while_changed(bed: &Bed, name: &str, condition: &str, change: &str) -> String {
    let (create, on) = if bed.is_postgres() {
        let change = change.replace('\'', "''");
        let create = format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN new.{change}; RETURN new; END'; \
             CREATE TRIGGER {name} BEFORE UPDATE ON operation_runs FOR EACH ROW WHEN ({condition}) \
             EXECUTE FUNCTION {name}()"
        );
        (create, " ON operation_runs")
    } else {
        let create = format!(
            "CREATE TRIGGER {name} AFTER UPDATE ON operation_runs WHEN {condition} \
             BEGIN UPDATE operation_runs SET {change} WHERE id = new.id; END"
        );
        (create, "")
    };
    bed.exec(&create).await;
    let tried = bed.store.try_writing().await;
    bed.exec(&format!("DROP TRIGGER {name}{on}")).await;
    match tried {
        Ok(Writing::Accepted { changed, .. }) => {
            format!("{ACCEPTED}: {}", changed.unwrap_or_default())
        }
        tried => tried.unwrap_err().to_string(),
    }
}

/// A trigger that changes a row raises no error. What a real completion accepts is not refused. In SQLite it can only write
/// the row once more, and guards keep what is completed.
pub async fn what_a_rule_of_the_application_changes_is_found_by_reading_it_back(bed: &Bed) {
    const COMPLETED: &str = "new.status = 'completed'";
    const RUNNING: &str = "new.status = 'running'";
    bed.connection(7).await;
    let of_postgres = [
        (
            COMPLETED,
            "context := old.context",
            "completing a run",
            "context.verification_report",
        ),
        (
            COMPLETED,
            "outcome := 'failed'",
            "completing a run",
            "outcome",
        ),
        (
            "new.outcome = 'succeeded'",
            "failure_summary := NULL",
            ACCEPTED,
            "failure_summary",
        ),
        (
            "new.outcome = 'blocked'",
            "context := jsonb_set(new.context, '{next_steps}', '[]')",
            ACCEPTED,
            "context.next_steps",
        ),
        (
            RUNNING,
            "started_at := NULL",
            "claiming a run",
            "started_at",
        ),
    ];
    let of_sqlite = [(RUNNING, "started_at = NULL", "claiming a run", "started_at")];
    let rules = match bed.is_postgres() {
        true => &of_postgres[..],
        false => &of_sqlite[..],
    };
    for (number, (condition, change, step, column)) in rules.iter().enumerate() {
        let name = format!("changes_{number}");
        let said = said_while_changed(bed, &name, condition, change).await;
        let found = format!(
            "{step}: a trigger changes what is written to operation_runs: {column} (triggers: {name})"
        );
        assert!(said.contains(&found), "{found}: {said}");
    }
    assert!(accepts_all(bed).await);
    assert_eq!(bed.count("operation_runs").await, 0);
}

/// What the completion returns is as it was written. Guards would keep it so.
pub async fn what_a_trigger_takes_back_after_a_completion_is_found(bed: &Bed) {
    bed.connection(7).await;
    bed.unguard().await;
    let rules = [
        (
            "new.status = 'completed'",
            "status = 'queued', outcome = NULL, completed_at = NULL",
            "a trigger keeps the row of operation_runs as it is",
        ),
        (
            "new.outcome = 'succeeded'",
            "outcome = 'failed'",
            "a trigger changes what is written to operation_runs: outcome",
        ),
    ];
    for (number, (condition, change, said)) in rules.into_iter().enumerate() {
        let name = format!("takes_back_{number}");
        let update = format!("UPDATE operation_runs SET {change} WHERE id = new.id");
        let (create, on) = if bed.is_postgres() {
            let create = format!(
                "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN {update}; RETURN NULL; END $$; \
                 CREATE TRIGGER {name} AFTER UPDATE ON operation_runs FOR EACH ROW WHEN ({condition}) \
                 EXECUTE FUNCTION {name}()"
            );
            (create, " ON operation_runs")
        } else {
            let create = format!(
                "CREATE TRIGGER {name} AFTER UPDATE ON operation_runs WHEN {condition} \
                 BEGIN {update}; END"
            );
            (create, "")
        };
        bed.exec(&create).await;
        let tried = bed.store.try_writing().await;
        bed.exec(&format!("DROP TRIGGER {name}{on}")).await;
        let found = tried.unwrap_err().to_string();
        let said = format!("completing a run: {said} (triggers: {name})");
        assert!(found.contains(&said), "{said}: {found}");
    }
    assert!(accepts_all(bed).await);
    assert_eq!(bed.count("operation_runs").await, 0);
}

/// It would stop the runs of all others.
pub async fn a_rule_of_one_tenant_is_not_taken_for_one_of_all(bed: &Bed) {
    for tenant in [8, 7] {
        bed.connection(tenant).await;
    }
    let refused = "new.status = 'running' AND new.tenant_id = 8";
    assert_eq!(said_under(bed, 0, refused, REFUSES).await, None);
    let refused = "new.status = 'running' AND new.tenant_id IN (7, 8)";
    let said = said_under(bed, 1, refused, REFUSES).await;
    assert!(said.is_some_and(|said| said.contains("claiming a run: not today")));
}

/// There are three of them, as many as are tried.
pub async fn a_rule_of_the_oldest_tenants_is_not_taken_for_one_of_all(bed: &Bed) {
    for tenant in [6, 8, 9] {
        bed.connection(tenant).await;
    }
    let mut completion = succeeded();
    completion.connection = Some(bed.connection(7).await);
    bed.completed(&completion).await;
    let refused = "new.status = 'running' AND new.tenant_id <> 7";
    assert_eq!(said_under(bed, 0, refused, REFUSES).await, None);
}

/// Of the same connection, while its runs are worked on.
pub async fn replicas_that_try_writing_at_the_same_time_disturb_nobody(bed: &Bed) {
    let connection = bed.connection(7).await;
    let runs = bed.many_queued(12).await;
    let stores = [bed.store.clone(), bed.replica().await];
    let trying = at_once(
        &stores,
        6,
        |store, _| async move { store.try_writing().await },
    );
    let working = async {
        for run in &runs {
            let mut completion = succeeded();
            completion.connection = Some(connection);
            bed.complete(*run, &completion).await;
        }
    };
    let (tried, ()) = tokio::join!(trying, working);
    for tried in tried {
        // A lock that is not had in time refuses nothing.
        let is_refused = tried.as_ref().is_err_and(|error| !error.is_transient());
        assert!(!is_refused, "{tried:?}");
    }
    assert_eq!(bed.listed().await.len(), runs.len());
    for run in runs {
        let attempts = bed.attempts(run).await;
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        assert!(bed.run(run).await.report().is_some());
    }
}
