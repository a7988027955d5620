//! Calls that go to the database together: what arrives while a batch is under way makes up the next
//! one. No timer: a call that comes alone is sent at once, and the more there are at the same time,
//! the less each costs.
//!
//! A batch does the ordinary cases only. Whatever is not ordinary, and every call of a batch that
//! failed, is answered with None: its caller goes alone, so that no row takes others down with it.

use crate::ports::store::StoreError;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Most calls in one batch.
const MOST: usize = 128;

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

    /// The next batch, in the order of arrival, without those whose caller has gone.
    fn next(&self, keys: impl Fn(&C) -> Vec<(&'static str, i64)>) -> Vec<Waiting<C, A>> {
        let mut state = self.lock();
        let mut batch: Vec<Waiting<C, A>> = Vec::new();
        let mut taken = HashSet::new();
        let mut later = VecDeque::new();
        while batch.len() < MOST
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

/// Closes the lane also when its task panics.
struct Lane<'a, C, A> {
    group: &'a Group<C, A>,
    closed: bool,
}

impl<C, A> Drop for Lane<'_, C, A> {
    fn drop(&mut self) {
        if !self.closed {
            self.group.lock().lanes -= 1;
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
            // A task of its own: it must not end with the caller that happened to come first.
            Some(store) => drop(tokio::spawn(async move { lane::<S, C>(&store).await })),
            None => group.lock().lanes -= 1,
        }
    }
    answered.await.ok().flatten()
}

async fn lane<S, C>(store: &S)
where
    S: Places<C::On>,
    C: Together<S>,
{
    let mut lane = Lane {
        group: C::group(store),
        closed: false,
    };
    let mut kept = None;
    let mut batches: u32 = 0;
    while lane.group.goes_on(kept.is_some().then_some(LINGER)).await {
        let mut answers = Vec::new();
        let run = async {
            let on = match kept.take() {
                Some(on) => on,
                None => store.place().await?,
            };
            let batch = lane.group.next(C::keys);
            if batch.is_empty() {
                return Ok((Vec::new(), None));
            }
            let calls: Vec<C>;
            (calls, answers) = batch.into_iter().map(|w| (w.call, w.answer)).unzip();
            metrics::histogram!("verifyd_database_batch_calls", "call" => C::NAME)
                .record(answers.len() as f64);
            C::run(store, on, calls).await
        };
        match store.in_time(run).await {
            Ok((found, on)) => {
                batches = batches.wrapping_add(1);
                kept = on.filter(|_| store.keeps(batches));
                for (answer, found) in answers.into_iter().zip(found) {
                    // The caller may have gone meanwhile.
                    let _ = answer.send(found);
                }
            }
            Err(error) => {
                if answers.is_empty() {
                    // There was nothing to run on: each finds out for itself.
                    answers = lane
                        .group
                        .next(C::keys)
                        .into_iter()
                        .map(|w| w.answer)
                        .collect();
                }
                metrics::counter!("verifyd_database_batches_failed_total", "call" => C::NAME)
                    .increment(1);
                tracing::debug!(call = C::NAME, calls = answers.len(), %error, "a batch failed, each goes alone");
            }
        }
    }
    lane.closed = true;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    /// Doubles numbers. Zero is not ordinary, a negative one spoils its batch.
    struct Doubling {
        me: std::sync::Weak<Self>,
        group: Group<Number, i64>,
        /// One for each batch that may run.
        turns: Semaphore,
        keeps: bool,
        /// How often a place was asked for.
        places: AtomicUsize,
        batches: Mutex<Vec<Vec<i64>>>,
    }

    struct Number(i64);

    impl Batching for Doubling {
        fn me(&self) -> Option<Arc<Self>> {
            self.me.upgrade()
        }

        async fn in_time<T: Send>(
            &self,
            call: impl Future<Output = Result<T, StoreError>> + Send,
        ) -> Result<T, StoreError> {
            call.await
        }
    }

    impl Places<()> for Doubling {
        async fn place(&self) -> Result<(), StoreError> {
            self.places.fetch_add(1, Ordering::Relaxed);
            self.turns.acquire().await.unwrap().forget();
            Ok(())
        }

        fn keeps(&self, _batches: u32) -> bool {
            self.keeps
        }
    }

    impl Together<Doubling> for Number {
        type Answer = i64;
        type On = ();
        const NAME: &'static str = "double";
        const LANES: usize = 1;

        fn keys(&self) -> Vec<(&'static str, i64)> {
            vec![("number", self.0)]
        }

        fn group(store: &Doubling) -> &Group<Self, i64> {
            &store.group
        }

        async fn run(store: &Doubling, (): (), calls: Vec<Self>) -> Ran<Doubling, Self> {
            let numbers: Vec<i64> = calls.iter().map(|n| n.0).collect();
            store.batches.lock().unwrap().push(numbers.clone());
            assert!(!numbers.contains(&-1), "a defect");
            if numbers.iter().any(|n| *n < 0) {
                return Err(StoreError::Refused("negative".into()));
            }
            let answers = numbers.iter().map(|n| (*n != 0).then_some(2 * n)).collect();
            Ok((answers, Some(())))
        }
    }

    fn doubling() -> Arc<Doubling> {
        doubling_that(false)
    }

    fn doubling_that(keeps: bool) -> Arc<Doubling> {
        Arc::new_cyclic(|me| Doubling {
            me: me.clone(),
            group: Group::default(),
            turns: Semaphore::new(0),
            keeps,
            places: AtomicUsize::new(0),
            batches: Mutex::default(),
        })
    }

    /// Asks for all of them before anything runs, and lets it run then.
    async fn ask(store: &Arc<Doubling>, numbers: &[i64]) -> Vec<Option<i64>> {
        let asked =
            futures::future::join_all(numbers.iter().map(|n| together(&**store, Number(*n))));
        let go = async {
            tokio::task::yield_now().await;
            store.turns.add_permits(1_000);
        };
        let within = Duration::from_secs(60);
        let (answers, ()) = tokio::time::timeout(within, async { tokio::join!(asked, go) })
            .await
            .expect("nobody is left without an answer");
        answers
    }

    #[tokio::test]
    async fn what_comes_at_the_same_time_goes_together_and_is_bounded() {
        let store = doubling();
        let numbers: Vec<i64> = (1..=300).collect();
        let answers = ask(&store, &numbers).await;
        assert!(answers.iter().zip(&numbers).all(|(a, n)| *a == Some(2 * n)));
        let sizes: Vec<usize> = store.batches.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [128, 128, 44]);
        // The lane is closed, and opens again.
        assert_eq!(ask(&store, &[7]).await, [Some(14)]);
    }

    #[tokio::test]
    async fn those_that_share_a_key_go_one_after_the_other() {
        let store = doubling();
        assert_eq!(
            ask(&store, &[5, 5, 6, 5]).await,
            [Some(10), Some(10), Some(12), Some(10)]
        );
        assert_eq!(
            *store.batches.lock().unwrap(),
            [vec![5, 6], vec![5], vec![5]]
        );
    }

    #[tokio::test]
    async fn what_is_not_ordinary_and_what_was_in_a_failed_batch_goes_alone() {
        let store = doubling();
        assert_eq!(ask(&store, &[1, 0, 2]).await, [Some(2), None, Some(4)]);
        assert_eq!(ask(&store, &[1, -2, 2]).await, [None, None, None]);
        assert_eq!(ask(&store, &[3]).await, [Some(6)]);
    }

    #[tokio::test]
    async fn a_batch_that_panics_leaves_no_closed_door() {
        let store = doubling();
        assert_eq!(ask(&store, &[4, -1]).await, [None, None]);
        assert_eq!(ask(&store, &[4]).await, [Some(8)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_keeps_its_place_for_a_while() {
        let store = doubling_that(true);
        for number in 1..=5 {
            assert_eq!(ask(&store, &[number]).await, [Some(2 * number)]);
            tokio::time::sleep(LINGER / 2).await;
        }
        assert_eq!(store.places.load(Ordering::Relaxed), 1);
        tokio::time::sleep(2 * LINGER).await;
        assert_eq!(store.group.lock().lanes, 0, "it is closed");
        assert_eq!(ask(&store, &[6, 7]).await, [Some(12), Some(14)]);
        assert_eq!(store.places.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_caller_that_has_gone_before_its_turn_does_nothing() {
        let store = doubling();
        {
            let gone = together(&*store, Number(9));
            tokio::pin!(gone);
            assert!(futures::poll!(gone.as_mut()).is_pending());
        }
        assert_eq!(ask(&store, &[1]).await, [Some(2)]);
        assert_eq!(*store.batches.lock().unwrap(), [vec![1]]);
    }
}
