//! Onboarding sessions, and the run that each points to.

use crate::store::bed::Bed;
use crate::store::fixtures::{at_once, bound, new_run, succeeded};
use serde_json::{Value, json};
use verifyd::domain::access::Binding;
use verifyd::domain::{ConnectionId, RunId, SessionId, TenantId, WorkspaceId};
use verifyd::ports::store::{ForSession, NewRun, Recorded, StoreError};

const SESSION: SessionId = SessionId(40);

/// In the workspace and tenant of `new_run`.
async fn session(bed: &Bed, state: &str) {
    session_of(bed, 40, 1, "7", state).await;
}

async fn session_of(bed: &Bed, id: i64, workspace: i64, tenant: &str, state: &str) {
    bed.exec(&format!(
        "INSERT INTO tenant_onboarding_sessions (id, workspace_id, tenant_id, state) \
         VALUES ({id}, {workspace}, {tenant}, '{state}')"
    ))
    .await;
}

/// Asked for by somebody who may reach everything.
fn everywhere(id: SessionId) -> ForSession {
    let reach = Binding::EVERYTHING;
    ForSession { id, reach }
}

fn for_session(connection: i64) -> NewRun {
    NewRun {
        unless_active: Some(ConnectionId(connection)),
        onboarding_session: Some(everywhere(SESSION)),
        ..new_run(connection)
    }
}

async fn record(bed: &Bed, new: &NewRun) -> Recorded {
    bed.store.record(new).await.unwrap()
}

async fn pointer(bed: &Bed) -> (Option<RunId>, Option<ConnectionId>) {
    let session = bed.store.onboarding_session(SESSION).await;
    let session = session.unwrap().unwrap();
    (session.run(), session.connection())
}

async fn complete(bed: &Bed, run: RunId) {
    bed.complete(run, &succeeded()).await;
}

pub async fn recording_points_the_session_to_the_run(bed: &Bed) {
    let state = r#"{"step": 3, "verification_operation_run_id": null, "notes": {"é": [1.50, "\\u00e9\\/", 12345678901234567890123]}}"#;
    session(bed, state).await;
    let others = "tenant_onboarding_sessions WHERE state IS NULL";
    assert_eq!(bed.count(others).await, 0);
    let text = "SELECT CAST(state AS text) FROM tenant_onboarding_sessions WHERE id = 40";
    let before = bed.text(text).await;
    let first = record(bed, &for_session(1)).await;
    assert!(first.created);
    assert_eq!(
        pointer(bed).await,
        (Some(first.run_id), Some(ConnectionId(1)))
    );
    // With both members taken out again, it is what it was.
    let after = bed.text(text).await;
    let run = format!("\"verification_operation_run_id\": {}", first.run_id);
    let restored = after.replace(&run, "\"verification_operation_run_id\": null");
    let restored = restored
        .replace(", \"provider_connection_id\": 1", "")
        .replace("\"provider_connection_id\": 1, ", "")
        .replace(",\"provider_connection_id\":1", "");
    assert_eq!(restored, before);
    let found = bed.store.onboarding_session(SESSION).await;
    let found = found.unwrap().unwrap();
    assert_eq!(found.workspace_id, Some(WorkspaceId(1)));
    assert_eq!(found.tenant_id, Some(TenantId(7)));
    assert_eq!(found.state.value()["step"], json!(3));
    assert_eq!(
        bed.store.onboarding_session(SessionId(9)).await.unwrap(),
        None
    );

    // An active run is returned, and stays the pointer.
    let again = record(bed, &for_session(1)).await;
    assert_eq!((again.run_id, again.created), (first.run_id, false));
    assert_eq!(pointer(bed).await.0, Some(first.run_id));
    complete(bed, first.run_id).await;
    // A run that was not started for the session does not move it, one that was does.
    record(bed, &new_run(1)).await;
    assert_eq!(pointer(bed).await.0, Some(first.run_id));
    let taken = record(bed, &for_session(1)).await;
    assert!(!taken.created);
    assert_eq!(pointer(bed).await.0, Some(taken.run_id));
    let other = record(bed, &for_session(2)).await;
    assert!(other.created);
    assert_eq!(
        pointer(bed).await,
        (Some(other.run_id), Some(ConnectionId(2)))
    );
    // Back to the connection whose older run is still active: it was asked for just now.
    let back = record(bed, &for_session(1)).await;
    assert_eq!((back.run_id, back.created), (taken.run_id, false));
    assert_eq!(
        pointer(bed).await,
        (Some(taken.run_id), Some(ConnectionId(1)))
    );
}

/// Whoever is bound to a tenant reaches no session without one, though the session would take the run.
pub async fn a_session_out_of_reach_does_not_exist(bed: &Bed) {
    session_of(bed, 40, 1, "NULL", "{}").await;
    let ask = |reach| NewRun {
        onboarding_session: Some(ForSession { id: SESSION, reach }),
        ..for_session(1)
    };
    for reach in [bound(1, Some(7)), bound(1, Some(8)), bound(2, None)] {
        let refused = bed.store.record(&ask(reach)).await;
        let Err(StoreError::Refused(why)) = &refused else {
            panic!("{refused:?}");
        };
        let wanted = "onboarding session 40: no such onboarding session";
        assert_eq!(why.text, wanted);
        let runs = "operation_runs";
        assert_eq!(bed.count(runs).await, 0, "nothing is recorded");
        assert_eq!(pointer(bed).await, (None, None));
    }
    let run = record(bed, &ask(bound(1, None))).await.run_id;
    assert_eq!(pointer(bed).await, (Some(run), Some(ConnectionId(1))));
}

pub async fn a_session_of_others_is_refused_and_nothing_recorded(bed: &Bed) {
    session_of(bed, 41, 2, "7", "{}").await;
    session_of(bed, 42, 1, "8", "{}").await;
    session_of(bed, 43, 2, "NULL", "{}").await;
    let active = record(bed, &new_run(2)).await.run_id;
    for (id, connection) in [(41, 1), (42, 1), (43, 1), (44, 1), (42, 2)] {
        let new = NewRun {
            onboarding_session: Some(everywhere(SessionId(id))),
            ..for_session(connection)
        };
        let refused = bed.store.record(&new).await;
        let Err(StoreError::Refused(why)) = &refused else {
            panic!("{id}: {refused:?}");
        };
        let named = format!("onboarding session {id}");
        assert!(why.text.contains(&named), "{why}");
    }
    let mut nameless = for_session(1);
    nameless.context = json!({});
    session(bed, "{}").await;
    assert!(matches!(
        bed.store.record(&nameless).await,
        Err(StoreError::Refused(_))
    ));
    let moved = "tenant_onboarding_sessions WHERE CAST(state AS text) <> '{}'";
    assert_eq!(bed.count(moved).await, 0);
    assert_eq!(bed.listed().await, [active]);
}

/// It begins before there is a tenant.
pub async fn a_session_without_a_tenant_takes_those_of_its_workspace(bed: &Bed) {
    session_of(bed, 40, 1, "NULL", "{}").await;
    let run = record(bed, &for_session(1)).await.run_id;
    assert_eq!(pointer(bed).await.0, Some(run));
}

pub async fn an_active_run_of_another_tenant_is_not_returned(bed: &Bed) {
    let theirs = bed.queued_for(8, 1).await;
    let ours = record(
        bed,
        &NewRun {
            onboarding_session: None,
            ..for_session(1)
        },
    )
    .await;
    assert!(ours.created);
    assert_ne!(ours.run_id, theirs);
}

pub async fn a_pointer_to_what_is_newer_stays(bed: &Bed) {
    let older = record(bed, &new_run(1)).await.run_id;
    let newer = record(bed, &new_run(1)).await.run_id;
    complete(bed, newer).await;
    for (state, wanted) in [
        (json!({"verification_operation_run_id": newer}), newer),
        // Readers of JSON differ in what they make of numbers.
        (
            json!({"verification_operation_run_id": newer.to_string()}),
            newer,
        ),
        (json!({"verification_operation_run_id": 987_654}), older),
        (
            json!({"verification_operation_run_id": {"id": newer}}),
            older,
        ),
        (json!([newer]), older),
        (Value::Null, older),
    ] {
        bed.exec("DELETE FROM tenant_onboarding_sessions").await;
        session(bed, &state.to_string()).await;
        let returned = record(bed, &for_session(1)).await;
        assert_eq!((returned.run_id, returned.created), (older, false));
        assert_eq!(pointer(bed).await.0, Some(wanted), "{state}");
    }
}

/// Whoever commits last: the pointer ends at the newest run.
pub async fn fifty_starts_for_one_session_end_at_the_newest_run(bed: &Bed) {
    session(bed, r#"{"a": {"b": 1}}"#).await;
    let stores = [bed.store.clone(), bed.replica().await];
    let runs = at_once(&stores, 50, |store, n| async move {
        let recorded = store.record(&for_session(1 + n as i64)).await;
        recorded.unwrap().run_id
    })
    .await;
    let newest = *runs.iter().max().unwrap();
    let request = bed.run(newest).await.request();
    assert_eq!(
        pointer(bed).await,
        (Some(newest), request.provider_connection_id)
    );
    let found = bed.store.onboarding_session(SESSION).await;
    assert_eq!(found.unwrap().unwrap().state.value()["a"], json!({"b": 1}));
}

/// Another application's table may keep its JSON as text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_column_is_edited_as_text() {
    let bed = Bed::empty_postgres().await;
    bed.exec(
        "CREATE TABLE tenant_onboarding_sessions \
             (id bigint PRIMARY KEY, workspace_id bigint, tenant_id bigint, state json)",
    )
    .await;
    bed.store.migrate().await.unwrap();
    assert_eq!(bed.store.inspect().await.unwrap(), []);
    session(
        &bed,
        "{ \"provider_connection_id\" : \"9\",\n  \"n\": 1.50, \"n\": \"\\u00e9\" }",
    )
    .await;
    let run = record(&bed, &for_session(1)).await.run_id;
    let text = bed
        .text("SELECT state::text FROM tenant_onboarding_sessions WHERE id = 40")
        .await;
    assert_eq!(
        text,
        format!(
            "{{ \"provider_connection_id\" : 1,\n  \"n\": 1.50, \"n\": \"\\u00e9\",\
             \"verification_operation_run_id\":{run} }}"
        )
    );
}

/// A state that another application has made too large, deep, or full of numbers that take megabytes.
pub async fn a_state_that_cannot_be_read_is_named(bed: &Bed) {
    session(bed, &format!(r#"{{"x": "{}"}}"#, "a".repeat(1_048_576))).await;
    let numbers = vec!["1e100000"; 2_000].join(",");
    session_of(bed, 41, 1, "7", &format!("[{numbers}]")).await;
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let deep = format!(r#"{{"verification_operation_run_id": 12, "x": {deep}}}"#);
    session_of(bed, 42, 1, "7", &deep).await;
    let found = async |id| {
        let found = bed.store.onboarding_session(SessionId(id)).await;
        found.unwrap().unwrap()
    };
    let large = found(40).await;
    assert_eq!(large.state.value(), Value::Null);
    let problem = large.problem.unwrap();
    assert!(problem.contains("at most 1048576 bytes"), "{problem}");
    if bed.is_postgres() {
        assert_eq!(found(41).await.problem, Some(problem));
        // As deep as it is taken; walking through it would end the server's stack.
        let pad = "a".repeat(3_000);
        let deepest = format!(
            r#"{{"pad": "{pad}", "x": {}{}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        session_of(bed, 43, 1, "7", &deepest).await;
        let problem = found(43).await.problem;
        let wanted = "it is nested too deep, allowed: 1,000 levels";
        assert_eq!(problem.as_deref(), Some(wanted));
    }
    let deep = found(42).await;
    assert_eq!((deep.run(), deep.problem), (Some(RunId(12)), None));
    let refused = bed.store.record(&for_session(1)).await;
    assert!(
        matches!(&refused, Err(StoreError::Refused(why)) if why.text.contains("too large")),
        "{refused:?}"
    );
    let new = NewRun {
        onboarding_session: Some(everywhere(SessionId(42))),
        ..new_run(1)
    };
    let run = record(bed, &new).await.run_id;
    assert_eq!(found(42).await.connection(), Some(ConnectionId(1)));
    assert!(run.0 > 0);
}
