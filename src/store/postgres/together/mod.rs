//! Calls that go to the server together: what arrives while a batch is under way makes up the next
//! one. No timer: a call that comes alone is sent at once, and the more there are at the same time,
//! the less each costs.
//!
//! A batch does the ordinary cases only, and never waits for a lock that somebody else holds on a run.
//! Whatever is not ordinary, and every call of a batch that failed, is answered with None: its caller
//! goes alone, so that no row takes others down with it.

mod claims;
mod completions;
mod connections;

pub(super) use claims::ClaimRequest;
pub(super) use completions::CompletionRequest;
pub(super) use connections::StartRequest;

use super::{InTx, PostgresStore};
use crate::ports::store::StoreError;
use crate::store::error::from_sqlx;
use sqlx::{Connection as _, PgConnection};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Most calls in one batch.
const MOST: usize = 128;

/// Connections that the pool must have for lanes to keep theirs.
const KEEPING_TAKES: u32 = 8;

/// Batches for which a connection is kept at most.
const KEPT_FOR: u32 = 256;

/// What a batch sets besides the limits of every transaction.
///
/// It does not wait for long where somebody holds a row that one of its calls needs: then each goes
/// alone, and only that one waits.
///
/// Plans are made once, and always for long tables: one that was made while a table was short would
/// read all of it for ever. (A plan that cannot do without reading a table costs so much on paper that
/// it would be compiled.)
pub(super) const SETTINGS: &str = "SET LOCAL lock_timeout = 250; \
                                   SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
                                   SET LOCAL plan_cache_mode = force_generic_plan";

/// The status of a run, as a text that no index is about. A batch knows its runs by their ids. A server
/// whose statistics are of a time when hardly anything was queued takes the index of what is queued for a
/// short one, and would look for them by reading all of it, however long it is by now.
macro_rules! status {
    () => {
        "r.status || ''"
    };
}

use status;

/// A kind of call that can go with others of its kind.
pub(super) trait Together: Sized + Send + 'static {
    type Answer: Send + 'static;
    /// For the metrics.
    const NAME: &'static str;
    /// Batches at the same time.
    const LANES: usize;

    /// What no two calls of a batch may have in common.
    fn keys(&self) -> Vec<(&'static str, i64)>;

    fn group(store: &PostgresStore) -> &Group<Self>;

    /// One transaction for all of them. An answer for each, in their order.
    fn run(
        store: &PostgresStore,
        connection: &mut PgConnection,
        calls: Vec<Self>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Answer>>, StoreError>> + Send;
}

/// The calls of one kind that wait.
pub(super) struct Group<C: Together> {
    state: Mutex<State<C>>,
}

struct State<C: Together> {
    waiting: VecDeque<Waiting<C>>,
    lanes: usize,
}

struct Waiting<C: Together> {
    call: C,
    answer: oneshot::Sender<Option<C::Answer>>,
}

impl<C: Together> Default for Group<C> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                lanes: 0,
            }),
        }
    }
}

impl<C: Together> Group<C> {
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch, in the order of arrival, without those whose caller has gone. None: nothing
    /// waits, and the lane is closed.
    fn next(&self) -> Option<Vec<Waiting<C>>> {
        let mut state = self.lock();
        let mut batch: Vec<Waiting<C>> = Vec::new();
        let mut taken = std::collections::HashSet::new();
        let mut later = VecDeque::new();
        while batch.len() < MOST
            && let Some(next) = state.waiting.pop_front()
        {
            if next.answer.is_closed() {
                continue;
            }
            let keys = next.call.keys();
            if keys.iter().any(|key| taken.contains(key)) {
                later.push_back(next);
            } else {
                taken.extend(keys);
                batch.push(next);
            }
        }
        later.append(&mut state.waiting);
        state.waiting = later;
        if batch.is_empty() {
            state.lanes -= 1;
            return None;
        }
        Some(batch)
    }
}

/// Closes the lane also when its task panics.
struct Lane<'a, C: Together>(&'a Group<C>, bool);

impl<C: Together> Drop for Lane<'_, C> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.lock().lanes -= 1;
        }
    }
}

impl PostgresStore {
    /// Sends the call with others of its kind. None: go alone.
    pub(super) async fn together<C: Together>(&self, call: C) -> Option<C::Answer> {
        let (answer, answered) = oneshot::channel();
        let opens = {
            let mut state = C::group(self).lock();
            state.waiting.push_back(Waiting { call, answer });
            let opens = state.lanes < C::LANES;
            state.lanes += usize::from(opens);
            opens
        };
        if opens {
            match self.me.upgrade() {
                // A task of its own: it must not end with the caller that happened to come first.
                Some(store) => drop(tokio::spawn(async move { store.lane::<C>().await })),
                None => C::group(self).lock().lanes -= 1,
            }
        }
        answered.await.ok().flatten()
    }

    async fn lane<C: Together>(&self) {
        let mut lane = Lane(C::group(self), false);
        let mut kept = None;
        let mut batches = 0;
        while let Some(batch) = lane.0.next() {
            let (calls, answers): (Vec<C>, Vec<_>) =
                batch.into_iter().map(|w| (w.call, w.answer)).unzip();
            metrics::histogram!("verifyd_database_batch_calls", "call" => C::NAME)
                .record(answers.len() as f64);
            let run = async {
                let mut connection = match kept.take() {
                    Some(connection) => connection,
                    None => self.pool.acquire().await.map_err(from_sqlx)?,
                };
                let answers = C::run(self, &mut connection, calls).await?;
                batches += 1;
                if self.may_keep(batches) {
                    kept = Some(connection);
                }
                Ok::<_, StoreError>(answers)
            };
            match self.in_time(run).await {
                Ok(found) => {
                    for (answer, found) in answers.into_iter().zip(found) {
                        // The caller may have gone meanwhile.
                        let _ = answer.send(found);
                    }
                }
                Err(error) => {
                    metrics::counter!("verifyd_database_batches_failed_total", "call" => C::NAME)
                        .increment(1);
                    tracing::debug!(call = C::NAME, calls = answers.len(), %error, "a batch failed, each goes alone");
                }
            }
        }
        lane.1 = true;
    }

    /// Whether a lane keeps its connection for the next batch: the pool asks one that is given back
    /// whether it answers. Not where there are hardly more than lanes, and not for ever, so that an old
    /// one is replaced.
    fn may_keep(&self, batches: u32) -> bool {
        self.pool.options().get_max_connections() >= KEEPING_TAKES
            && !batches.is_multiple_of(KEPT_FOR)
    }

    /// A transaction for a batch.
    async fn begin_together<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<InTx<'c>, StoreError> {
        connection
            .begin_with(self.begin_together.clone())
            .await
            .map_err(from_sqlx)
    }
}
