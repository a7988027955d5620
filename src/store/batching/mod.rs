//! Batching: calls that arrive while a batch is under way make up the next one. No timer: a call that
//! comes by itself is sent at once, and the more there are at the same time, the less each costs.
//!
//! A call that its batch does not decide, and every call of a batch that failed, is answered with
//! `None`: its caller sends it by itself, so that no row takes others down with it.
//!
//! A batch that fails never keeps the calls behind it waiting. After an error or a panic the task sends
//! the next batch at once. While a batch gets no answer, another task takes over what waits. A task that
//! is cancelled gives the calls back: each is sent by itself.

use crate::ports::store_error::StoreError;
use futures::FutureExt as _;
use std::collections::{HashSet, VecDeque};
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Most calls in one batch.
const MAX_BATCH_SIZE: usize = 128;

/// A batch that has run for so long has lost its connection, most likely: another task then sends
/// what waits behind it. A batch waits for a lock a quarter of a second at most.
const TAKEOVER_AFTER: Duration = Duration::from_secs(2);

/// How long a task with nothing to do keeps its connection: runs that come one by one shall not wait
/// for the pool, which asks a connection that is given back whether it answers.
const LINGER: Duration = Duration::from_millis(100);

/// A store that batches calls.
pub(super) trait Batching: Send + Sync + Sized + 'static {
    /// What a batch runs on: a connection, or a transaction.
    type Connection: Send;

    /// Itself, for the tasks that send batches.
    fn shared(&self) -> Option<Arc<Self>>;

    /// The call, within the time that the database could need.
    fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Waits for a free connection. Which calls make up the batch is decided when it is there: so those
    /// whose callers have gone meanwhile do nothing, and those that have come meanwhile need not wait
    /// again.
    fn acquire(&self) -> impl Future<Output = Result<Self::Connection, StoreError>> + Send;

    /// Whether a task keeps its connection after so many batches, if it can be used again.
    fn keeps_connection(&self, batches: u32) -> bool;
}

/// A kind of call that is sent in batches.
pub(super) trait BatchedCall<S: Batching>: Sized + Send + 'static {
    type Answer: Send + 'static;
    /// For the metrics.
    const NAME: &'static str;

    /// What no two calls of a batch may have in common.
    fn keys(&self) -> Vec<(&'static str, i64)>;

    fn batcher(store: &S) -> &Batcher<Self, Self::Answer>;

    /// One transaction for all of them. An answer for each, in their order, and the connection if it can
    /// be used again.
    fn run(
        store: &S,
        connection: S::Connection,
        calls: Vec<Self>,
    ) -> impl Future<Output = BatchResult<S, Self>> + Send;
}

pub(super) type BatchResult<S, C> = Result<
    (
        Vec<Option<<C as BatchedCall<S>>::Answer>>,
        Option<<S as Batching>::Connection>,
    ),
    StoreError,
>;

/// The calls of one kind that wait for the next batch.
pub(super) struct Batcher<C, A> {
    state: Mutex<State<C, A>>,
    /// A call has come and started no task.
    arrived: Notify,
}

struct State<C, A> {
    waiting: VecDeque<Waiting<C, A>>,
    /// Whether a task sends what waits.
    has_task: bool,
}

/// Where the answers to the calls of a batch go, in their order.
type Answers<A> = Vec<oneshot::Sender<Option<A>>>;

struct Waiting<C, A> {
    call: C,
    answer: oneshot::Sender<Option<A>>,
}

impl<C, A> Default for Batcher<C, A> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                has_task: false,
            }),
            arrived: Notify::new(),
        }
    }
}

impl<C, A> Batcher<C, A> {
    fn lock(&self) -> MutexGuard<'_, State<C, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where its answer will come, and whether a task is to be started.
    fn add(&self, call: C) -> (oneshot::Receiver<Option<A>>, bool) {
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        state.waiting.push_back(Waiting { call, answer });
        let starts = !std::mem::replace(&mut state.has_task, true);
        drop(state);
        if !starts {
            self.arrived.notify_one();
        }
        (answered, starts)
    }

    /// Whether anything waits, or comes before the task has waited for so long. If not, the task ends.
    async fn goes_on(&self, linger: Option<Duration>) -> bool {
        if let Some(linger) = linger {
            let comes = async {
                // What has arrived may be a call that is done by now.
                while self.lock().waiting.is_empty() {
                    self.arrived.notified().await;
                }
            };
            let _ = tokio::time::timeout(linger, comes).await;
        }
        self.hand_over()
    }

    /// Ends the task, and gives back what waits.
    fn close(&self) -> VecDeque<Waiting<C, A>> {
        let mut state = self.lock();
        state.has_task = false;
        std::mem::take(&mut state.waiting)
    }

    /// Whether anything waits for a task. If not, there is none any more.
    fn hand_over(&self) -> bool {
        let mut state = self.lock();
        state.has_task = !state.waiting.is_empty();
        state.has_task
    }

    /// The next batch, in the order of arrival, without those whose caller has gone.
    fn next(&self, keys: impl Fn(&C) -> Vec<(&'static str, i64)>) -> Vec<Waiting<C, A>> {
        let mut state = self.lock();
        let mut batch: Vec<Waiting<C, A>> = Vec::new();
        let mut taken = HashSet::new();
        let mut later = VecDeque::new();
        while batch.len() < MAX_BATCH_SIZE
            && let Some(next) = state.waiting.pop_front()
        {
            if next.answer.is_closed() {
                continue;
            }
            let keys = keys(&next.call);
            if keys.iter().any(|key| taken.contains(key)) {
                later.push_back(next);
            } else {
                taken.extend(keys);
                batch.push(next);
            }
        }
        later.append(&mut state.waiting);
        state.waiting = later;
        batch
    }
}

/// The task that sends batch after batch. It counts from its creation, also while it has not begun.
struct BatchTask<S: Batching, C: BatchedCall<S>> {
    store: Arc<S>,
    is_counted: bool,
    call: PhantomData<fn(C)>,
}

/// Ends also when its task is cancelled. Calls that nobody would send are given back.
impl<S: Batching, C: BatchedCall<S>> Drop for BatchTask<S, C> {
    fn drop(&mut self) {
        if self.is_counted {
            let left = self.batcher().close();
            if !left.is_empty() {
                tracing::debug!(
                    call = C::NAME,
                    calls = left.len(),
                    "a batching task was cancelled; sending each call by itself"
                );
            }
        }
    }
}

/// Sends the call in a batch with others of its kind. `None`: send it by itself.
pub(super) async fn submit<S, C>(store: &S, call: C) -> Option<C::Answer>
where
    S: Batching,
    C: BatchedCall<S>,
{
    let batcher = C::batcher(store);
    let (answered, starts) = batcher.add(call);
    if starts {
        match store.shared() {
            Some(store) => BatchTask::<S, C>::start(store),
            None => drop(batcher.close()),
        }
    }
    answered.await.ok().flatten()
}

impl<S: Batching, C: BatchedCall<S>> BatchTask<S, C> {
    /// Starts a task that the batcher counts already. Not within the caller that happened to come
    /// first: the task must not end with it.
    fn start(store: Arc<S>) {
        let task = Self {
            store,
            is_counted: true,
            call: PhantomData,
        };
        drop(tokio::spawn(task.run()));
    }

    fn batcher(&self) -> &Batcher<C, C::Answer> {
        C::batcher(&self.store)
    }

    /// Sends batches until nothing waits, or until another task has taken over.
    async fn run(mut self) {
        let mut kept = None;
        let mut batches: u32 = 0;
        while self.is_counted && self.goes_on(kept.is_some()).await {
            let acquired = async {
                match kept.take() {
                    Some(connection) => Ok(connection),
                    None => self.store.acquire().await,
                }
            };
            let connection = match unpanicked(self.store.with_timeout(acquired)).await {
                Ok(connection) => connection,
                Err(error) => {
                    // There was no connection: each finds out for itself.
                    let (_, answers) = self.next();
                    if !answers.is_empty() {
                        Self::failed(answers.len(), &error);
                    }
                    continue;
                }
            };
            let (calls, answers) = self.next();
            if answers.is_empty() {
                continue;
            }
            metrics::histogram!("verifyd_database_batch_calls", "call" => C::NAME)
                .record(answers.len() as f64);
            match self.send(connection, calls).await {
                Ok((found, connection)) => {
                    batches = batches.wrapping_add(1);
                    kept = connection.filter(|_| self.store.keeps_connection(batches));
                    for (answer, found) in answers.into_iter().zip(found) {
                        // The caller may have gone meanwhile.
                        let _ = answer.send(found);
                    }
                }
                // Their callers learn it as the answers are dropped.
                Err(error) => Self::failed(answers.len(), &error),
            }
        }
    }

    /// Runs one batch. When it takes too long, another task goes on with what waits.
    async fn send(&mut self, connection: S::Connection, calls: Vec<C>) -> BatchResult<S, C> {
        let store = Arc::clone(&self.store);
        let mut batch = pin!(unpanicked(
            store.with_timeout(C::run(&store, connection, calls))
        ));
        tokio::select! {
            biased;
            ran = &mut batch => return ran,
            () = tokio::time::sleep(TAKEOVER_AFTER) => {}
        }
        self.is_counted = false;
        if self.batcher().hand_over() {
            Self::start(Arc::clone(&store));
        }
        batch.await
    }

    async fn goes_on(&mut self, lingers: bool) -> bool {
        let goes_on = self.batcher().goes_on(lingers.then_some(LINGER)).await;
        self.is_counted = goes_on;
        goes_on
    }

    fn next(&self) -> (Vec<C>, Answers<C::Answer>) {
        let batch = self.batcher().next(C::keys);
        batch.into_iter().map(|w| (w.call, w.answer)).unzip()
    }

    fn failed(calls: usize, error: &StoreError) {
        metrics::counter!("verifyd_database_batches_failed_total", "call" => C::NAME).increment(1);
        tracing::debug!(call = C::NAME, calls, %error, "a batch failed; sending each call by itself");
    }
}

/// A panic as an error: its text may quote a row, so it is not passed on.
async fn unpanicked<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::Refused("a batch panicked".into())),
    }
}

#[cfg(test)]
mod tests;
