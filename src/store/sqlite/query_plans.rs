//! The indexes that SQLite takes for statements of both databases.

use crate::domain::ConnectionId;
use crate::domain::access::Binding;
use crate::ports::acknowledgements::AcknowledgementFilter;
use crate::store::acknowledgements::FROM_RUNS;
use crate::store::filters::push_acknowledgement_filter;
use crate::store::groups::DUE_RUNS;
use crate::store::migrations;
use crate::store::overview::longest_due;
use crate::store::refusals::REFUSED;
use crate::store::statement::{Sql, Statement};
use crate::store::sweep::WITHOUT_LEASE;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};

/// How SQLite runs the statement, on empty tables without statistics.
async fn plan_of(statement: impl Into<Statement>) -> String {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    for (_, _, migration) in migrations::sqlite() {
        let migrated = sqlx::raw_sql(migration).execute(&mut connection).await;
        migrated.unwrap();
    }
    let explain = format!("EXPLAIN QUERY PLAN {}", statement.into().sqlite);
    let explain = sqlx::query(AssertSqlSafe(explain));
    let steps = explain.fetch_all(&mut connection).await.unwrap();
    let steps: Vec<String> = steps.iter().map(|step| step.get("detail")).collect();
    steps.join("\n")
}

#[tokio::test]
async fn acknowledgements_of_a_connection_are_found_by_the_index_of_its_runs() {
    let filter = AcknowledgementFilter {
        connection: Some(ConnectionId(7)),
        limit: 10,
        ..AcknowledgementFilter::default()
    };
    let is_active = Sql {
        postgres: "",
        sqlite: "",
    };
    let mut page = Statement::from(FROM_RUNS);
    push_acknowledgement_filter(&mut page, &filter, is_active);
    let plan = plan_of(page).await;
    let search = "SEARCH r USING INDEX operation_runs_check_by_connection (<expr>=?)";
    assert!(plan.contains(search), "{plan}");
}

#[tokio::test]
async fn refused_runs_are_found_by_the_index_of_refused_attempts() {
    let plan = plan_of(REFUSED).await;
    let scan = "SCAN f USING INDEX verifyd_run_attempts_refused";
    let reads_all = |step: &str| step == "SCAN r" || step.starts_with("SCAN r ");
    assert!(
        plan.contains(scan) && !plan.lines().any(reads_all),
        "{plan}"
    );
    let search = "SEARCH r USING INDEX operation_runs_check_active (status=?)";
    assert_eq!(plan.matches(search).count(), 2, "{plan}");
}

#[tokio::test]
async fn runs_that_are_not_completed_are_found_by_their_index() {
    let search = "SEARCH r USING INDEX operation_runs_check_active (status=? AND id>?";
    for (statement, searches) in [
        (WITHOUT_LEASE.into(), 1),
        (longest_due(&Binding::EVERYTHING, 1), 2),
        (DUE_RUNS.all.into(), 2),
        (DUE_RUNS.in_group.into(), 2),
    ] {
        let plan = plan_of(statement).await;
        assert_eq!(plan.matches(search).count(), searches, "{plan}");
    }
}
