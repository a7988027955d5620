//! Which error says what, and what none of them says.

use crate::store::bed::{Bed, settings};
use crate::store::fixtures::{
    POLICY, SWEEP, failed, heartbeat, new_connection, new_run, report_of, sealed, succeeded, worker,
};
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::RunId;
use verifyd::domain::connection::CredentialBinding;
use verifyd::ports::store::StoreError;

/// Before `migrate`: not transient, and the table is named.
pub async fn an_unmigrated_database_is_a_schema_error(bed: &Bed) {
    let empty = bed.empty_sibling().await;
    let claimed = empty.store.claim(RunId(1), &worker("w1"), &POLICY).await;
    for error in [
        claimed.err().unwrap(),
        empty.store.sweep(&SWEEP).await.err().unwrap(),
        empty.store.heartbeat(&heartbeat("w1")).await.err().unwrap(),
        empty.store.counts().await.err().unwrap(),
    ] {
        assert!(matches!(error, StoreError::Schema(_)), "{error}");
        assert!(!error.is_transient());
    }
    let error = empty.store.run(RunId(1)).await.unwrap_err();
    assert!(error.to_string().contains("operation_runs"), "{error}");
}

/// A lock that is not granted in time, and one transaction's failure leaves the store usable.
pub async fn a_lock_that_is_not_granted_is_contention(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let mut impatient = settings(&bed.url());
    impatient.statement_timeout = Duration::from_secs(3);
    let store = verifyd::store::connect(&impatient).await.unwrap();
    let lock = bed.lock_run(run).await;
    for _ in 0..3 {
        let error = store.complete(&held, &succeeded()).await.unwrap_err();
        assert!(matches!(error, StoreError::Contended(_)), "{error}");
        assert!(error.is_transient());
    }
    lock.release().await;
    assert!(store.complete(&held, &succeeded()).await.unwrap());
}

/// A completion is a future that may be dropped at any point: the transaction is rolled back.
pub async fn a_dropped_call_leaves_nothing_behind(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let lock = bed.lock_run(run).await;
    let (dropped, completion) = (failed(), succeeded());
    let waiting = bed.store.complete(&held, &dropped);
    let answer = tokio::time::timeout(Duration::from_millis(200), waiting).await;
    assert!(answer.is_err());
    lock.release().await;
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    assert_eq!(bed.run(run).await.report(), Some(&report_of(&completion)));
}

/// A refusal names the constraint, never the row.
pub async fn a_refusal_does_not_quote_the_row(bed: &Bed) {
    let id = bed.connection_with(7, "canary-payload").await;
    let seal = |binding: CredentialBinding| Ok(sealed(binding.connection_id, "canary-payload"));
    // Another row with the same key, made to collide by a trigger of the database's own kind.
    bed.collide_credentials(id).await;
    let mut named = new_connection(7);
    named.display_name = Some("canary-name".into());
    let refused = bed
        .store
        .add_connection(&named, Some(&seal), operator())
        .await;
    let error = refused.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("provider_credentials"), "{text}");
    }
    assert_eq!(bed.count("provider_connections").await, 1);
}

/// Also of codes that may pass, and of a table of the trigger's own. A lock that the trigger meets may be granted later.
pub async fn what_a_trigger_raises_is_a_refusal_whatever_its_code(bed: &Bed) {
    let connection = bed.connection(7).await;
    let held = bed.queued().await;
    if !bed.is_postgres() {
        bed.exec(
            "CREATE TRIGGER refuses BEFORE INSERT ON operation_runs BEGIN SELECT RAISE(ABORT, 'not today'); END",
        )
        .await;
        let refused = bed.store.record(&new_run(connection.0)).await.unwrap_err();
        assert!(refused.is_of_function() && refused.lacks().is_some());
        return;
    }
    let function = async |statements: &str| {
        bed.exec(&format!(
            "CREATE OR REPLACE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN {statements}; RETURN new; END $$"
        ))
        .await;
    };
    function("NULL").await;
    bed.exec("CREATE TRIGGER refuses BEFORE INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION refuses()")
        .await;
    for (statements, code) in [
        ("RAISE 'not today' USING errcode = '55P03'", "55P03"),
        ("RAISE 'not today' USING errcode = '25006'", "25006"),
        ("RAISE 'not today' USING errcode = '57P03'", "57P03"),
        ("PERFORM FROM audit_of_nobody", "42P01"),
    ] {
        function(statements).await;
        let refused = bed.store.record(&new_run(connection.0)).await.unwrap_err();
        assert_eq!(refused.sqlstate(), Some(code), "{refused}");
        let rule = "The database refuses this to verifyd";
        assert_eq!(refused.lacks(), Some(rule), "{refused}");
        assert!(!matches!(refused, StoreError::Schema(_)), "{refused}");
        assert_eq!(
            refused.refusal(),
            format!("SQLSTATE {code}, function refuses")
        );
    }
    let lock = bed.lock_run(held).await;
    let waits = format!("PERFORM FROM operation_runs WHERE id = {held} FOR UPDATE NOWAIT");
    function(&waits).await;
    let met = bed.store.record(&new_run(connection.0)).await.unwrap_err();
    lock.release().await;
    assert_eq!(met.sqlstate(), Some("55P03"), "{met}");
    assert!(met.lacks().is_none() && met.is_refusal(), "{met}");
}
