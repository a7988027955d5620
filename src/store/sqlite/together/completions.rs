//! `running` → `completed`, many in one transaction: a group commit.

use crate::domain::completion::Completion;
use crate::domain::completion_event::CompletionEvent;
use crate::domain::{ConnectionId, RunId};
use crate::ports::store::{Claim, StoreError};
use crate::store::completion::{
    InventoryRow, Json, context_defaults, context_members, failure_summary, kept_bytes, notice,
};
use crate::store::sqlite::bounds::MERGED_BYTES;
use crate::store::sqlite::{SqliteStore, Tx};
use crate::store::together::{Group, Ran, Together};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// What is written, made ready by the caller: nothing but an inventory that has changed is serialised
/// while the transaction is open.
pub(in crate::store::sqlite) struct CompletionRequest {
    pub run: RunId,
    pub attempt: i32,
    pub token: String,
    pub outcome: &'static str,
    pub context: Members,
    pub failures: Json,
    /// Members that are set where they are missing.
    pub defaults: Json,
    /// Bytes of a context that stays.
    pub kept: i64,
    pub inventory: Option<InventoryRow>,
    pub connection: Option<ConnectionId>,
    /// `changed` is not known yet.
    pub notice: CompletionEvent,
}

/// Members of the run's `context` that are set.
pub(in crate::store::sqlite) struct Members(Vec<(&'static str, Json)>);

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl CompletionRequest {
    pub fn new(claim: &Claim, completion: &Completion) -> Result<Self, StoreError> {
        Ok(Self {
            run: claim.run.id,
            attempt: claim.attempt,
            token: claim.token.to_string(),
            outcome: completion.outcome.as_str(),
            context: Members(context_members(completion)?),
            failures: failure_summary(completion)?,
            defaults: context_defaults(completion)?,
            kept: kept_bytes(claim.context, MERGED_BYTES),
            inventory: completion
                .inventory
                .as_ref()
                .map(|refresh| InventoryRow::new(claim.run.id, refresh)),
            connection: completion.connection,
            notice: notice(claim, completion, true),
        })
    }
}

impl Together<SqliteStore> for CompletionRequest {
    /// Whether it is completed now; if not, somebody else's token is the current one.
    type Answer = bool;
    type On = Tx;
    const NAME: &'static str = "complete";
    const LANES: usize = 1;

    /// Each row is written by one of them.
    fn keys(&self) -> Vec<(&'static str, i64)> {
        let tenant = self.inventory.as_ref().map(|i| ("tenant", i.tenant));
        let connection = self.connection.map(|c| ("connection", c.0));
        [Some(("run", self.run.0)), tenant, connection]
            .into_iter()
            .flatten()
            .collect()
    }

    fn group(store: &SqliteStore) -> &Group<Self, Self::Answer> {
        &store.completing
    }

    async fn run(store: &SqliteStore, tx: Tx, calls: Vec<Self>) -> Ran<SqliteStore, Self> {
        let completed = store.complete_all(tx, &calls).await?;
        let answers = match completed {
            Some(completed) => completed.into_iter().map(Some).collect(),
            None => calls.iter().map(|_| None).collect(),
        };
        Ok((answers, None))
    }
}
