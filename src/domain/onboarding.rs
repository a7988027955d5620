//! Onboarding sessions: each points to a run.
//!
//! `state` belongs to the application. verifyd writes two of its members and keeps every other one, byte for
//! byte.

use super::ids::{ConnectionId, RunId, SessionId, TenantId, WorkspaceId};
use super::json::{self, Json};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Member of `state`: the session's current run.
const RUN_MEMBER: &str = "verification_operation_run_id";
/// Member of `state`: the connection of that run.
const CONNECTION_MEMBER: &str = "provider_connection_id";

/// One row of `tenant_onboarding_sessions`.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OnboardingSession {
    pub id: SessionId,
    pub workspace_id: Option<WorkspaceId>,
    /// `None` while the tenant is unknown.
    pub tenant_id: Option<TenantId>,
    /// `null` where it cannot be read.
    pub state: Json,
    /// Why `state` cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Why a session cannot point to a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("onboarding session {0}: no such onboarding session")]
    Missing(SessionId),
    /// Does not name the owner, so that ids of other tenants stay unknown.
    #[error(
        "onboarding session {0} is not of the connection's workspace and tenant; allowed is one of \
         the same workspace, and of the same tenant or of none"
    )]
    Foreign(SessionId),
    #[error("onboarding session {0}: its state cannot be read: {1}")]
    Unreadable(SessionId, String),
}

impl OnboardingSession {
    /// The row as JSON, all of it parsed: for a process that reads no other one meanwhile.
    pub fn parsed(&self) -> serde_json::Result<Value> {
        let mut row = serde_json::to_value(Self {
            state: Json::default(),
            ..self.clone()
        })?;
        row["state"] = self.state.value();
        Ok(row)
    }

    /// Returns the run that the session points to.
    pub fn run(&self) -> Option<RunId> {
        integer(&self.state, RUN_MEMBER).map(RunId)
    }

    /// Returns the connection of the session.
    pub fn connection(&self) -> Option<ConnectionId> {
        integer(&self.state, CONNECTION_MEMBER).map(ConnectionId)
    }

    /// Returns whether a run of this workspace and tenant may belong to the session. A session without a
    /// tenant accepts runs of every tenant of its workspace; one without a workspace accepts none.
    pub fn admits(&self, workspace: Option<WorkspaceId>, tenant: Option<TenantId>) -> bool {
        self.workspace_id.is_some()
            && self.workspace_id == workspace
            && (self.tenant_id.is_none() || self.tenant_id == tenant)
    }
}

/// The run that a session points to before the pointer moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointed {
    pub run: RunId,
    /// `None` when the run does not exist.
    pub connection: Option<ConnectionId>,
}

/// Returns whether the pointer moves to `run`. A run that was recorded for this session never replaces one
/// that was recorded after it. An active run that was found does, unless the present one is newer and of the
/// same connection.
pub fn moves(
    current: Option<Pointed>,
    run: RunId,
    connection: ConnectionId,
    created: bool,
) -> bool {
    match current {
        Some(current) if current.run > run => match current.connection {
            None => true,
            Some(_) if created => false,
            Some(there) => there != connection,
        },
        _ => true,
    }
}

fn integer(state: &Json, name: &str) -> Option<i64> {
    let member = json::member(state.text(), name)?;
    serde_json::from_str(member).ok().or_else(|| {
        let text: String = serde_json::from_str(member).ok()?;
        text.parse().ok()
    })
}

/// Sets both members in the text of `state` and keeps everything else as it is written. A state that is no
/// object is replaced by one.
pub fn point(state: &str, run: RunId, connection: ConnectionId) -> serde_json::Result<String> {
    let state = with_member(state, CONNECTION_MEMBER, connection.0)?;
    with_member(&state, RUN_MEMBER, run.0)
}

fn with_member(text: &str, name: &str, value: i64) -> serde_json::Result<String> {
    let whole: &RawValue = serde_json::from_str(text)?;
    if !whole.get().starts_with('{') {
        return Ok(json!({ name: value }).to_string());
    }
    let members = json::members(text)?;
    // Start and end of a part of `text`.
    let begin = |part: &str| part.as_ptr().addr() - text.as_ptr().addr();
    let end = |part: &str| begin(part) + part.len();
    let value = value.to_string();
    let mut edited = text.to_owned();
    let mut found = false;
    // From the end, so that earlier positions stay valid.
    for (key, old) in members.iter().rev() {
        if json::is_named(key, name) {
            edited.replace_range(begin(old.get())..end(old.get()), &value);
            found = true;
        }
    }
    if !found {
        let (at, comma) = match members.last() {
            Some((_, last)) => (end(last.get()), ","),
            None => (begin(whole.get()) + 1, ""),
        };
        edited.insert_str(at, &format!("{comma}{}:{value}", json!(name)));
    }
    Ok(edited)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pointed(state: &str) -> String {
        point(state, RunId(12), ConnectionId(3)).unwrap()
    }

    #[test]
    fn members_are_set_where_they_stand() {
        for (before, after) in [
            (
                "{}",
                r#"{"provider_connection_id":3,"verification_operation_run_id":12}"#,
            ),
            (
                " { } ",
                r#" {"provider_connection_id":3,"verification_operation_run_id":12 } "#,
            ),
            (
                r#"{"verification_operation_run_id": null, "step" : 1.50e+2 }"#,
                r#"{"verification_operation_run_id": 12, "step" : 1.50e+2,"provider_connection_id":3 }"#,
            ),
            (
                "{\"a\":{\"provider_connection_id\":9},\n\t\"provider_connection_id\" : \"7\",\"b\":\"\\u00e9\\/\"}",
                "{\"a\":{\"provider_connection_id\":9},\n\t\"provider_connection_id\" : 3,\"b\":\"\\u00e9\\/\",\"verification_operation_run_id\":12}",
            ),
            // Parsers differ in which of two equal members they use.
            (
                r#"{"provider_connection_id":1,"x":12345678901234567890123,"provider_connection_id":[2]}"#,
                r#"{"provider_connection_id":3,"x":12345678901234567890123,"provider_connection_id":3,"verification_operation_run_id":12}"#,
            ),
            // The same name, written otherwise.
            (
                r#"{"provider\u005fconnection_id":1,"verification_operation_run_id":2}"#,
                r#"{"provider\u005fconnection_id":3,"verification_operation_run_id":12}"#,
            ),
            (
                r#"{"\ud800":1}"#,
                r#"{"\ud800":1,"provider_connection_id":3,"verification_operation_run_id":12}"#,
            ),
            (
                "null",
                r#"{"provider_connection_id":3,"verification_operation_run_id":12}"#,
            ),
            (
                "[1]",
                r#"{"provider_connection_id":3,"verification_operation_run_id":12}"#,
            ),
        ] {
            assert_eq!(pointed(before), after);
            assert_eq!(pointed(after), after, "again");
        }
        assert!(point("{", RunId(1), ConnectionId(1)).is_err());
        assert!(point("{} {}", RunId(1), ConnectionId(1)).is_err());
    }

    proptest! {
        #[test]
        fn every_other_member_is_kept(
            state in prop::collection::btree_map("[a-z\"\\\\é]{0,6}", any::<f64>().prop_map(|n| json!([n, "x"])), 0..8),
            run in 1i64.., connection in 1i64..,
            pretty in any::<bool>(),
        ) {
            let before = json!(state);
            let text = if pretty { format!("{before:#}") } else { before.to_string() };
            let text = point(&text, RunId(run), ConnectionId(connection)).unwrap();
            let mut after: Value = serde_json::from_str(&text).unwrap();
            let members = after.as_object_mut().unwrap();
            prop_assert_eq!(members.remove(RUN_MEMBER), Some(json!(run)));
            prop_assert_eq!(members.remove(CONNECTION_MEMBER), Some(json!(connection)));
            prop_assert_eq!(after, before);
        }
    }

    #[test]
    fn a_pointer_moves_forward() {
        let (one, two) = (ConnectionId(1), ConnectionId(2));
        let there = |run, connection| {
            Some(Pointed {
                run: RunId(run),
                connection,
            })
        };
        for created in [true, false] {
            assert!(moves(None, RunId(5), one, created));
            assert!(moves(there(4, Some(two)), RunId(5), one, created));
            assert!(moves(there(5, Some(one)), RunId(5), one, created));
            // It points to a run that does not exist.
            assert!(moves(there(9, None), RunId(5), one, created));
            assert!(!moves(there(9, Some(one)), RunId(5), one, created));
        }
        assert!(!moves(there(9, Some(two)), RunId(5), one, true));
        assert!(moves(there(9, Some(two)), RunId(5), one, false));
    }

    #[test]
    fn a_session_admits_its_own_workspace_and_tenant() {
        let session = |workspace_id, tenant_id| OnboardingSession {
            id: SessionId(1),
            workspace_id,
            tenant_id,
            problem: None,
            state: Json::of(
                r#"{"verification_operation_run_id": "7", "provider_connection_id": 2.5}"#,
            ),
        };
        let (w1, w2) = (Some(WorkspaceId(1)), Some(WorkspaceId(2)));
        let (t1, t2) = (Some(TenantId(1)), Some(TenantId(2)));
        assert!(session(w1, t1).admits(w1, t1));
        assert!(session(w1, None).admits(w1, t2));
        assert!(!session(w1, t1).admits(w1, t2));
        assert!(!session(w1, t1).admits(w2, t1));
        assert!(!session(w1, t1).admits(w1, None));
        assert!(!session(None, None).admits(None, t1));
        assert_eq!(session(w1, t1).run(), Some(RunId(7)));
        assert_eq!(session(w1, t1).connection(), None);
    }

    #[test]
    fn a_long_state_is_printed_as_a_short_one_is() {
        for length in [1, json::SMALL] {
            let text = format!(r#"{{"a": "{}", "b": [1e400]}}"#, "x".repeat(length));
            let session = OnboardingSession {
                id: SessionId(1),
                workspace_id: None,
                tenant_id: None,
                problem: None,
                state: Json::of(&text),
            };
            assert_eq!(session.parsed().unwrap()["state"]["b"], json!(["1e400"]));
        }
    }
}
