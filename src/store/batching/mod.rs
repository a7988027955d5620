//! Batching: calls that arrive while a batch is under way make up the next one. There is no timer: a single
//! call is sent at once, and the more calls arrive at the same time, the less each costs.
//!
//! A call that its batch does not decide, and every call of a batch that failed, is answered with `None`: its
//! caller sends it separately, so that no row makes other calls fail. So is one that goes by itself when the batch is formed.
//!
//! A batch that fails never keeps the calls behind it waiting. After an error or a panic the task sends the
//! next batch at once. While a batch gets no answer, another task takes over the waiting calls. A task that
//! is cancelled returns the calls to their callers, which send them separately.
//!
//! Where rules of the application take some time for each row, a batch may be too large for the limit of a statement.
//! The largest size is halved after a batch that the server has cancelled, and doubled after a quick one.

use super::shares::{Permit, is_cancelled};
use crate::ports::store_error::StoreError;
use futures::FutureExt as _;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Largest number of calls in one batch.
const MAX_BATCH_SIZE: usize = 128;

/// Time within which a batch ends that may be twice as large, and not reach the limit of its statements: see
/// `DatabaseSettings::batch_timeout`.
const QUICK: Duration = Duration::from_millis(250);

/// Time after which another task sends the calls that wait behind a batch: its connection is most likely
/// lost. A batch waits at most a quarter of a second for a lock.
const TAKEOVER_AFTER: Duration = Duration::from_secs(2);

/// Time for which an idle task keeps its connection, so that runs that come one by one do not wait for the
/// pool, which tests every connection that is returned.
const LINGER: Duration = Duration::from_millis(100);

/// A store that batches calls.
pub(super) trait Batching: Send + Sync + Sized + 'static {
    /// The connection or transaction that a batch uses.
    type Connection: Send;

    /// Itself, for the tasks that send batches.
    fn shared(&self) -> Option<Arc<Self>>;

    /// The call, within the time that the database could need.
    fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Waits for a free connection. The batch is put together afterwards: calls whose callers have gone are
    /// left out, and calls that came meanwhile are included.
    fn acquire(&self) -> impl Future<Output = Result<Self::Connection, StoreError>> + Send;

    /// Returns whether a task keeps its connection after this number of batches, if it is still usable.
    fn keeps_connection(&self, batches: u32) -> bool;
}

/// A kind of call that is sent in batches.
pub(super) trait BatchedCall<S: Batching>: Sized + Send + 'static {
    type Answer: Send + 'static;
    /// For the metrics.
    const NAME: &'static str;

    /// Returns the key that no two calls of a batch have in common.
    fn key(&self) -> i64;

    fn batcher(store: &S) -> &Batcher<Self, Self::Answer>;

    /// Returns whether this call goes in no batch, because it might have the others wait.
    fn goes_by_itself(&self, _store: &S) -> bool {
        false
    }

    /// Waits until a batch of these may have a connection. The permit is held as long as the connection.
    fn permit(_store: &S) -> impl Future<Output = Result<Option<Permit>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

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
    /// Largest number of calls in the next batch.
    largest: usize,
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
                largest: MAX_BATCH_SIZE,
            }),
            arrived: Notify::new(),
        }
    }
}

impl<C, A> Batcher<C, A> {
    /// Returns where the answer will arrive, and whether a task has to be started.
    fn add(&self, call: C) -> (oneshot::Receiver<Option<A>>, bool) {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state.lock();
        state.waiting.push_back(Waiting { call, answer });
        let starts = !std::mem::replace(&mut state.has_task, true);
        drop(state);
        if !starts {
            self.arrived.notify_one();
        }
        (answered, starts)
    }

    /// Returns whether a call waits, or arrives within `linger`. If not, the task ends.
    async fn waits_for_call(&self, linger: Option<Duration>) -> bool {
        if let Some(linger) = linger {
            let comes = async {
                // The call that arrived may be taken already.
                while self.state.lock().waiting.is_empty() {
                    self.arrived.notified().await;
                }
            };
            let _ = tokio::time::timeout(linger, comes).await;
        }
        self.hand_over()
    }

    /// Ends the task, and gives back what waits.
    fn close(&self) -> VecDeque<Waiting<C, A>> {
        let mut state = self.state.lock();
        state.has_task = false;
        std::mem::take(&mut state.waiting)
    }

    /// Has all that wait sent separately. Returns how many there are.
    fn give_back(&self) -> usize {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        waiting.len()
    }

    /// Whether anything waits for a task. If not, there is none any more.
    fn hand_over(&self) -> bool {
        let mut state = self.state.lock();
        state.has_task = !state.waiting.is_empty();
        state.has_task
    }

    /// Halves the largest batch after one of so many calls that the server has cancelled. One of a single call says
    /// nothing of the size.
    fn shrink(&self, calls: usize) {
        let mut state = self.state.lock();
        if calls > 1 {
            state.largest = state.largest.min(calls.div_ceil(2));
        }
    }

    /// Doubles the largest batch after a quick one of so many calls that got through, if it was as large as it might be.
    fn grow(&self, calls: usize, took: Duration) {
        let mut state = self.state.lock();
        if calls == state.largest && took < QUICK {
            state.largest = (2 * calls).min(MAX_BATCH_SIZE);
        }
    }

    /// Returns the next batch, in the order of arrival, without calls whose callers have gone, or that go by themselves.
    fn next(
        &self,
        key: impl Fn(&C) -> i64,
        goes_by_itself: impl Fn(&C) -> bool,
    ) -> Vec<Waiting<C, A>> {
        let mut state = self.state.lock();
        let mut batch: Vec<Waiting<C, A>> = Vec::new();
        let mut taken = HashSet::new();
        let mut later = VecDeque::new();
        while batch.len() < state.largest
            && let Some(next) = state.waiting.pop_front()
        {
            if next.answer.is_closed() || goes_by_itself(&next.call) {
                continue;
            }
            if taken.insert(key(&next.call)) {
                batch.push(next);
            } else {
                later.push_back(next);
            }
        }
        later.append(&mut state.waiting);
        state.waiting = later;
        batch
    }
}

/// The task that sends one batch after another. It counts from its creation, even before it begins.
struct BatchTask<S: Batching, C: BatchedCall<S>> {
    store: Arc<S>,
    is_counted: bool,
    call: PhantomData<fn(C)>,
}

/// Also when its task is cancelled: calls that nobody would send are returned to their callers.
impl<S: Batching, C: BatchedCall<S>> Drop for BatchTask<S, C> {
    fn drop(&mut self) {
        if self.is_counted {
            let left = self.batcher().close();
            if !left.is_empty() {
                tracing::debug!(
                    call = C::NAME,
                    calls = left.len(),
                    "batching task cancelled; sending its calls separately"
                );
            }
        }
    }
}

/// Sends the call in a batch with others of its kind. `None`: send it separately.
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
    /// Starts a task that the batcher counts already. It is independent of the caller that came first, whose
    /// end must not end the task.
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
        while self.is_counted && self.waits_for_call(kept.is_some()).await {
            let acquired = async {
                if let Some(kept) = kept.take() {
                    return Ok::<_, StoreError>(kept);
                }
                let permit = C::permit(&self.store).await?;
                Ok((self.store.acquire().await?, permit))
            };
            let acquired = unpanicked(self.store.with_timeout(acquired)).await;
            let (connection, permit) = match acquired {
                Ok(acquired) => acquired,
                Err(error) => {
                    // There was no connection: each finds out for itself.
                    let calls = self.batcher().give_back();
                    if calls > 0 {
                        Self::failed(calls, &error);
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
            let began = Instant::now();
            match self.send(connection, calls).await {
                Ok((found, connection)) => {
                    batches = batches.wrapping_add(1);
                    self.batcher().grow(answers.len(), began.elapsed());
                    kept = connection
                        .filter(|_| self.store.keeps_connection(batches))
                        .map(|connection| (connection, permit));
                    for (answer, found) in answers.into_iter().zip(found) {
                        // The caller may have gone meanwhile.
                        let _ = answer.send(found);
                    }
                }
                // The callers see it when the answers are dropped.
                Err(error) => {
                    if is_cancelled(&error) {
                        self.batcher().shrink(answers.len());
                    }
                    Self::failed(answers.len(), &error);
                }
            }
        }
    }

    /// Runs one batch. When it takes too long, another task continues with the waiting calls.
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

    async fn waits_for_call(&mut self, lingers: bool) -> bool {
        let waits_for_call = self
            .batcher()
            .waits_for_call(lingers.then_some(LINGER))
            .await;
        self.is_counted = waits_for_call;
        waits_for_call
    }

    fn next(&self) -> (Vec<C>, Answers<C::Answer>) {
        let goes_by_itself = |call: &C| call.goes_by_itself(&self.store);
        let batch = self.batcher().next(C::key, goes_by_itself);
        batch.into_iter().map(|w| (w.call, w.answer)).unzip()
    }

    fn failed(calls: usize, error: &StoreError) {
        metrics::counter!("verifyd_database_batches_failed_total", "call" => C::NAME).increment(1);
        tracing::debug!(call = C::NAME, calls, %error, "batch failed; sending its calls separately");
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
