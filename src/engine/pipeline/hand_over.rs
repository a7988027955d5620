//! Leaves runs of other groups of workspaces to their workers.
//!
//! Only the database tells such a run from one whose hint was repeated. So the hints of all runs that were not claimed are
//! looked at. Those that come while a call is under way share the next one: they take one connection from the others,
//! however many they are.

use crate::domain::RunId;
use crate::ports::store::Store;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The hints of runs that were not claimed.
#[derive(Debug)]
pub(super) struct HandOvers {
    store: Arc<dyn Store>,
    /// The call that is about to be sent.
    next_call: Mutex<Option<Arc<Call>>>,
    /// Held while a call is under way.
    one_at_a_time: tokio::sync::Mutex<()>,
}

/// Hands over those of these runs that are of another group.
#[derive(Debug, Default)]
struct Call {
    runs: Mutex<Vec<RunId>>,
    handed_over: OnceCell<HashSet<RunId>>,
}

impl HandOvers {
    /// Creates an empty list.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            next_call: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
        }
    }

    /// Leaves a run of another group to that group. Returns whether it is one.
    pub async fn hand_over(&self, run: RunId) -> bool {
        let call = {
            let mut next = self.next_call.lock();
            let call = next.get_or_insert_default();
            call.runs.lock().push(run);
            Arc::clone(call)
        };
        let send = async || {
            let _sending = self.one_at_a_time.lock().await;
            // What comes after this is part of another call.
            self.next_call
                .lock()
                .take_if(|next| Arc::ptr_eq(next, &call));
            let runs = call.runs.lock().clone();
            let handed_over = self.store.hand_over(&runs).await;
            let handed_over = handed_over.unwrap_or_else(|error| {
                tracing::debug!(%error, "cannot hand runs over; the sweeps of their groups find them later");
                Vec::new()
            });
            handed_over.into_iter().collect()
        };
        call.handed_over.get_or_init(send).await.contains(&run)
    }
}
