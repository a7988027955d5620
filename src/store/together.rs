//! Calls that go to the database together: what arrives while a batch is under way makes up the next
//! one. No timer: a call that comes alone is sent at once, and the more there are at the same time,
//! the less each costs.
//!
//! A batch does the ordinary cases only. Whatever is not ordinary, and every call of a batch that
//! failed, is answered with None: its caller goes alone, so that no row takes others down with it.
//!
//! A batch that fails never keeps the calls behind it waiting. After an error or a panic the lane
//! sends the next batch at once. While a batch gets no answer, another lane takes over what waits.
//! A lane whose task is cancelled gives the calls back: each goes alone.

use crate::ports::store::StoreError;
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

/// A batch that has run for so long has lost its connection, most likely: another lane then sends
/// what waits behind it. A batch waits for a lock a quarter of a second at most.
const TAKEOVER_AFTER: Duration = Duration::from_secs(2);

/// How long a lane with nothing to do keeps what it runs on: runs that come one by one shall not wait
/// for the pool, which asks a connection that is given back whether it answers.
const LINGER: Duration = Duration::from_millis(100);

/// A store that sends calls together.
pub(super) trait Batching: Send + Sync + Sized + 'static {
    /// Itself, for the tasks that run the batches.
    fn me(&self) -> Option<Arc<Self>>;

    /// The call, within the time that the database could need.
    fn in_time<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;
}

/// A store whose batches run on an `On`: a connection, or a transaction.
pub(super) trait Places<On>: Batching {
    /// One that is free. Which calls go together is decided when it is there: so those whose callers
    /// have gone meanwhile do nothing, and those that have come meanwhile need not wait again.
    fn place(&self) -> impl Future<Output = Result<On, StoreError>> + Send;

    /// Whether a lane keeps it after so many batches, if it can be used again.
    fn keeps(&self, batches: u32) -> bool;
}

/// A kind of call that can go with others of its kind.
pub(super) trait Together<S: Places<Self::On>>: Sized + Send + 'static {
    type Answer: Send + 'static;
    type On: Send;
    /// For the metrics.
    const NAME: &'static str;
    /// Batches at the same time.
    const LANES: usize;

    /// What no two calls of a batch may have in common.
    fn keys(&self) -> Vec<(&'static str, i64)>;

    fn group(store: &S) -> &Group<Self, Self::Answer>;

    /// One transaction for all of them. An answer for each, in their order, and what it ran on if
    /// that can be used again.
    fn run(store: &S, on: Self::On, calls: Vec<Self>) -> impl Future<Output = Ran<S, Self>> + Send;
}

pub(super) type Ran<S, C> = Result<
    (
        Vec<Option<<C as Together<S>>::Answer>>,
        Option<<C as Together<S>>::On>,
    ),
    StoreError,
>;

/// The calls of one kind that wait.
pub(super) struct Group<C, A> {
    state: Mutex<State<C, A>>,
    /// A call has come and opened no lane.
    arrived: Notify,
}

struct State<C, A> {
    waiting: VecDeque<Waiting<C, A>>,
    lanes: usize,
}

/// Where the answers to the calls of a batch go, in their order.
type Answers<A> = Vec<oneshot::Sender<Option<A>>>;

struct Waiting<C, A> {
    call: C,
    answer: oneshot::Sender<Option<A>>,
}

impl<C, A> Default for Group<C, A> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                lanes: 0,
            }),
            arrived: Notify::new(),
        }
    }
}

impl<C, A> Group<C, A> {
    fn lock(&self) -> MutexGuard<'_, State<C, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where its answer will come, and whether a lane is to be opened, of at most so many.
    fn add(&self, call: C, lanes: usize) -> (oneshot::Receiver<Option<A>>, bool) {
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        state.waiting.push_back(Waiting { call, answer });
        let opens = state.lanes < lanes;
        state.lanes += usize::from(opens);
        drop(state);
        if !opens {
            self.arrived.notify_one();
        }
        (answered, opens)
    }

    /// Whether anything waits, or comes before the lane has waited for so long. If not, it is closed.
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
        let mut state = self.lock();
        let goes_on = !state.waiting.is_empty();
        state.lanes -= usize::from(!goes_on);
        goes_on
    }

    /// Closes a lane. What waits is given back when there is no other lane to send it.
    fn close(&self) -> VecDeque<Waiting<C, A>> {
        let mut state = self.lock();
        state.lanes -= 1;
        if state.lanes == 0 {
            std::mem::take(&mut state.waiting)
        } else {
            VecDeque::new()
        }
    }

    /// Closes a lane that goes on without being counted. Whether another one is to be opened in its
    /// place, which is counted then.
    fn hand_over(&self) -> bool {
        let mut state = self.lock();
        let opens = !state.waiting.is_empty();
        state.lanes -= usize::from(!opens);
        opens
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

/// One lane: its task sends batch after batch. It counts as open from its creation, also while its
/// task has not begun.
struct Lane<S: Places<C::On>, C: Together<S>> {
    store: Arc<S>,
    is_open: bool,
    call: PhantomData<fn(C)>,
}

/// Closes the lane also when its task is cancelled. Calls that nobody would send then go alone.
impl<S: Places<C::On>, C: Together<S>> Drop for Lane<S, C> {
    fn drop(&mut self) {
        if self.is_open {
            let left = self.group().close();
            if !left.is_empty() {
                tracing::debug!(
                    call = C::NAME,
                    calls = left.len(),
                    "a lane was cancelled, each goes alone"
                );
            }
        }
    }
}

/// Sends the call with others of its kind. None: go alone.
pub(super) async fn together<S, C>(store: &S, call: C) -> Option<C::Answer>
where
    S: Places<C::On>,
    C: Together<S>,
{
    let group = C::group(store);
    let (answered, opens) = group.add(call, C::LANES);
    if opens {
        match store.me() {
            Some(store) => Lane::<S, C>::open(store),
            None => drop(group.close()),
        }
    }
    answered.await.ok().flatten()
}

impl<S: Places<C::On>, C: Together<S>> Lane<S, C> {
    /// Starts the task of a lane that the group counts already. A task of its own: it must not end
    /// with the caller that happened to come first.
    fn open(store: Arc<S>) {
        let lane = Self {
            store,
            is_open: true,
            call: PhantomData,
        };
        drop(tokio::spawn(lane.run()));
    }

    fn group(&self) -> &Group<C, C::Answer> {
        C::group(&self.store)
    }

    /// Sends batches until nothing waits, or until another lane has taken over.
    async fn run(mut self) {
        let mut kept = None;
        let mut batches: u32 = 0;
        while self.is_open && self.goes_on(kept.is_some()).await {
            let place = async {
                match kept.take() {
                    Some(on) => Ok(on),
                    None => self.store.place().await,
                }
            };
            let on = match unpanicked(self.store.in_time(place)).await {
                Ok(on) => on,
                Err(error) => {
                    // There was nothing to run on: each finds out for itself.
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
            match self.send(on, calls).await {
                Ok((found, on)) => {
                    batches = batches.wrapping_add(1);
                    kept = on.filter(|_| self.store.keeps(batches));
                    for (answer, found) in answers.into_iter().zip(found) {
                        // The caller may have gone meanwhile.
                        let _ = answer.send(found);
                    }
                }
                // Their callers hear of it as the answers are dropped.
                Err(error) => Self::failed(answers.len(), &error),
            }
        }
    }

    /// Runs one batch. When it takes too long, another lane goes on with what waits.
    async fn send(&mut self, on: C::On, calls: Vec<C>) -> Ran<S, C> {
        let store = Arc::clone(&self.store);
        let mut batch = pin!(unpanicked(store.in_time(C::run(&store, on, calls))));
        tokio::select! {
            biased;
            ran = &mut batch => return ran,
            () = tokio::time::sleep(TAKEOVER_AFTER) => {}
        }
        self.is_open = false;
        if self.group().hand_over() {
            Self::open(Arc::clone(&store));
        }
        batch.await
    }

    async fn goes_on(&mut self, lingers: bool) -> bool {
        let goes_on = self.group().goes_on(lingers.then_some(LINGER)).await;
        self.is_open = goes_on;
        goes_on
    }

    fn next(&self) -> (Vec<C>, Answers<C::Answer>) {
        let batch = self.group().next(C::keys);
        batch.into_iter().map(|w| (w.call, w.answer)).unzip()
    }

    fn failed(calls: usize, error: &StoreError) {
        metrics::counter!("verifyd_database_batches_failed_total", "call" => C::NAME).increment(1);
        tracing::debug!(call = C::NAME, calls, %error, "a batch failed, each goes alone");
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
#[path = "together_tests.rs"]
mod tests;
