//! The parameters of a claim, and what it reads of a run, for both databases.

use super::from_row::from_row;
use super::tolerant_decoding::{Request, Text, Time};
use crate::domain::run::{ClaimedRun, ContextProblem, RunRequest};
use crate::domain::{RunId, TenantId, WorkerId, WorkspaceId};
use crate::ports::claims::{Claim, ClaimPolicy, ContextSize};
use crate::ports::starting_point::StartingPoint;
use crate::ports::store_error::StoreError;
use std::collections::HashMap;

/// A call of `claim`.
pub(super) struct ClaimRequest {
    pub run: RunId,
    pub worker: WorkerId,
    pub policy: ClaimPolicy,
}

/// The connections that the checks of these claims are about.
pub(super) fn connections(claims: &[Option<Claim>]) -> Vec<i64> {
    let requests = claims.iter().flatten().map(|claim| &claim.run.request);
    let ids = requests.filter_map(|request| Some(request.provider_connection_id?.0));
    ids.collect::<std::collections::BTreeSet<i64>>()
        .into_iter()
        .collect()
}

/// Adds the starting points of the checks, read on the connection of the claim. Where one could not be read
/// the check reads it, and reports the error.
pub(super) fn add_starting_points(
    claims: &mut [Option<Claim>],
    found: Vec<Result<StartingPoint, StoreError>>,
) {
    let found: HashMap<i64, StartingPoint> = found
        .into_iter()
        .flatten()
        .map(|start| (start.connection.id.0, start))
        .collect();
    for claim in claims.iter_mut().flatten() {
        let id = claim.run.request.provider_connection_id;
        claim.start = id.and_then(|id| found.get(&id.0).cloned());
    }
}

from_row! {
    /// A run that was taken. Its context is not among it: see [`ContextRow`].
    #[derive(Debug)]
    pub(super) struct TakenRow {
        pub id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        created_at: Option<Time>,
    }
}

from_row! {
    /// The context of a run, as far as it fits. Its state is `fits`, `null`, `large`, `huge` or `unreadable`;
    /// a small one can be read and written in a batch.
    #[derive(Debug)]
    pub(super) struct ContextRow {
        context: Option<Request>,
        context_state: Text,
        context_is_small: bool,
    }
}

impl TakenRow {
    pub fn with(self, request: RunRequest) -> ClaimedRun {
        ClaimedRun {
            id: RunId(self.id),
            workspace_id: self.workspace_id.map(WorkspaceId),
            tenant_id: self.tenant_id.map(TenantId),
            request,
            created_at: self.created_at.and_then(Time::known),
        }
    }
}

impl ContextRow {
    /// Returns the request, and how the completion treats the context. `limit`: largest size in bytes.
    pub fn read(self, limit: i64) -> (RunRequest, ContextSize) {
        let too_large = |dropped| {
            RunRequest::unreadable(ContextProblem::TooLarge {
                limit: limit.unsigned_abs(),
                dropped,
            })
        };
        let size = match self.context_is_small {
            true => ContextSize::Small,
            false => ContextSize::Large,
        };
        match (self.context_state.0.as_str(), self.context) {
            ("huge", _) => (too_large(true), ContextSize::Huge),
            ("large", _) => (too_large(false), size),
            ("fits", Some(context)) => (context.0, size),
            ("null", _) => {
                let null = ContextProblem::NotAnObject("null");
                (RunRequest::unreadable(null), size)
            }
            _ => (unreadable(), size),
        }
    }
}

/// A context that the database cannot show.
pub(super) fn unreadable() -> RunRequest {
    RunRequest::unreadable(ContextProblem::Unreadable)
}
