//! Runs that this process has completed recently. A further hint for one of them needs no claim.
//!
//! Hints are repeated, and arrive after fair queuing has chosen their run. A completed run stays completed,
//! but its id may be used again: after TRUNCATE, or in a restored database. So several hints share one query,
//! whether any of these runs is queued, which costs a fraction of a claim.

use crate::domain::RunId;
use crate::ports::store::Store;
use moka::future::Cache;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// How long a run is remembered.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Largest number of runs that are remembered.
const MAX_KEPT: u64 = 16_384;

/// How long hints are gathered for one query.
const GATHERED_FOR: Duration = Duration::from_millis(25);

/// The runs that were completed recently, and the query that their hints share.
#[derive(Debug)]
pub struct RecentlyCompleted {
    store: Arc<dyn Store>,
    runs: Cache<RunId, ()>,
    /// The query that is about to be sent.
    next_query: Mutex<Option<Arc<Query>>>,
}

/// Asks which of these runs are queued.
#[derive(Debug, Default)]
struct Query {
    runs: Mutex<Vec<RunId>>,
    queued: OnceCell<HashSet<RunId>>,
}

impl RecentlyCompleted {
    /// Creates an empty list.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let runs = Cache::builder()
            .max_capacity(MAX_KEPT)
            .time_to_live(KEPT_FOR);
        Self {
            store,
            runs: runs.build(),
            next_query: Mutex::default(),
        }
    }

    /// Records that a run has been completed.
    pub async fn insert(&self, run: RunId) {
        self.runs.insert(run, ()).await;
    }

    /// Returns whether a run was completed here recently and no other run of this id is queued. Returns false
    /// without an answer of the database, so that the claim decides.
    pub async fn needs_no_claim(&self, run: RunId) -> bool {
        self.runs.contains_key(&run) && !self.queued_again(run).await
    }

    async fn queued_again(&self, run: RunId) -> bool {
        let query = {
            let mut next = self.next_query.lock();
            let query = next.get_or_insert_default();
            query.runs.lock().push(run);
            Arc::clone(query)
        };
        let ask = async || {
            tokio::time::sleep(GATHERED_FOR).await;
            // What comes after this is part of another query.
            self.next_query
                .lock()
                .take_if(|next| Arc::ptr_eq(next, &query));
            let runs = query.runs.lock().clone();
            let queued = self.store.still_queued(&runs).await;
            queued.unwrap_or(runs).into_iter().collect()
        };
        query.queued.get_or_init(ask).await.contains(&run)
    }
}
