//! Tests batching with a store that doubles numbers.

mod waiting;

use super::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Doubles numbers. Zero is left undecided, a negative one spoils its batch, and [`ALONE`] goes by itself.
struct Doubling {
    me: std::sync::Weak<Self>,
    batcher: Batcher<Number, i64>,
    /// One for each batch that may run.
    permits: Semaphore,
    keeps: bool,
    /// How often a connection was acquired.
    acquired: AtomicUsize,
    /// Whether the next connection is refused.
    refuses: AtomicBool,
    batches: Mutex<Vec<Vec<i64>>>,
    /// Lets go of a batch that hangs.
    hanging: Notify,
}

/// The batch with it gets no answer.
const HANGS: i64 = 1_000;

/// It is in no batch.
const ALONE: i64 = 2_000;

struct Number(i64);

impl Batching for Doubling {
    type Connection = ();

    fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    async fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }

    async fn acquire(&self) -> Result<(), StoreError> {
        self.acquired.fetch_add(1, Ordering::Relaxed);
        if self.refuses.swap(false, Ordering::Relaxed) {
            return Err(StoreError::Unavailable("no connection".into()));
        }
        self.permits.acquire().await.unwrap().forget();
        Ok(())
    }

    fn keeps_connection(&self, _batches: u32) -> bool {
        self.keeps
    }
}

impl BatchedCall<Doubling> for Number {
    type Answer = i64;
    const NAME: &'static str = "double";

    fn key(&self) -> i64 {
        self.0
    }

    fn batcher(store: &Doubling) -> &Batcher<Self, i64> {
        &store.batcher
    }

    fn goes_by_itself(&self, _: &Doubling) -> bool {
        self.0 == ALONE
    }

    async fn run(store: &Doubling, (): (), calls: Vec<Self>) -> BatchResult<Doubling, Self> {
        let numbers: Vec<i64> = calls.iter().map(|n| n.0).collect();
        store.batches.lock().push(numbers.clone());
        assert!(!numbers.contains(&-1), "a defect");
        if numbers.contains(&HANGS) {
            store.hanging.notified().await;
        }
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
        batcher: Batcher::default(),
        permits: Semaphore::new(0),
        keeps,
        acquired: AtomicUsize::new(0),
        refuses: AtomicBool::new(false),
        batches: Mutex::default(),
        hanging: Notify::new(),
    })
}

/// Submits all calls before any of them runs.
async fn ask(store: &Arc<Doubling>, numbers: &[i64]) -> Vec<Option<i64>> {
    let asked = futures::future::join_all(numbers.iter().map(|n| submit(&**store, Number(*n))));
    let go = async {
        tokio::task::yield_now().await;
        store.permits.add_permits(1_000);
    };
    let within = Duration::from_secs(60);
    let (answers, ()) = tokio::time::timeout(within, async { tokio::join!(asked, go) })
        .await
        .expect("nobody is left without an answer");
    answers
}

#[tokio::test]
async fn concurrent_calls_share_batches_of_bounded_size() {
    let store = doubling();
    let numbers: Vec<i64> = (1..=300).collect();
    let answers = ask(&store, &numbers).await;
    assert!(answers.iter().zip(&numbers).all(|(a, n)| *a == Some(2 * n)));
    let sizes: Vec<usize> = store.batches.lock().iter().map(Vec::len).collect();
    assert_eq!(sizes, [128, 128, 44]);
    // The task has ended, and another one starts.
    assert_eq!(ask(&store, &[7]).await, [Some(14)]);
}

#[tokio::test]
async fn calls_that_share_a_key_are_in_different_batches() {
    let store = doubling();
    assert_eq!(
        ask(&store, &[5, 5, 6, 5]).await,
        [Some(10), Some(10), Some(12), Some(10)]
    );
    assert_eq!(*store.batches.lock(), [vec![5, 6], vec![5], vec![5]]);
}

#[tokio::test]
async fn undecided_calls_and_those_of_a_failed_batch_are_given_back() {
    let store = doubling();
    assert_eq!(ask(&store, &[1, 0, 2]).await, [Some(2), None, Some(4)]);
    assert_eq!(ask(&store, &[1, -2, 2]).await, [None, None, None]);
    assert_eq!(ask(&store, &[3]).await, [Some(6)]);
}

#[tokio::test]
async fn a_call_that_goes_by_itself_is_in_no_batch() {
    let store = doubling();
    assert_eq!(ask(&store, &[1, ALONE, 2]).await, [Some(2), None, Some(4)]);
    assert_eq!(*store.batches.lock(), [vec![1, 2]]);
}

/// Or else one batch after the other waits for one.
#[tokio::test]
async fn all_calls_are_given_back_where_there_is_no_connection() {
    let store = doubling();
    store.refuses.store(true, Ordering::Relaxed);
    let numbers: Vec<i64> = (1..=300).collect();
    let answers = ask(&store, &numbers).await;
    assert!(answers.iter().all(Option::is_none));
    assert_eq!(store.acquired.load(Ordering::Relaxed), 1);
    assert_eq!(ask(&store, &[7]).await, [Some(14)]);
}

#[test]
fn the_largest_batch_follows_the_time_that_batches_take() {
    let batcher = Batcher::<Number, i64>::default();
    let largest = || batcher.state.lock().largest;
    for (cancelled, then) in [(40, 20), (1, 20)] {
        batcher.shrink(cancelled);
        assert_eq!(largest(), then, "{cancelled} cancelled");
    }
    for (calls, took, then) in [
        (19, Duration::ZERO, 20),
        (20, QUICK, 20),
        (20, Duration::ZERO, 40),
        (40, Duration::ZERO, 80),
        (80, Duration::ZERO, MAX_BATCH_SIZE),
    ] {
        batcher.grow(calls, took);
        assert_eq!(largest(), then, "{calls} in {took:?}");
    }
}

#[tokio::test]
async fn after_a_batch_that_panics_calls_are_sent_again() {
    let store = doubling();
    assert_eq!(ask(&store, &[4, -1]).await, [None, None]);
    assert_eq!(ask(&store, &[4]).await, [Some(8)]);
}

/// More than one batch, and one of the same key.
fn with_some_behind(first: i64) -> Vec<i64> {
    let mut numbers: Vec<i64> = (1..=300).collect();
    numbers.insert(0, first);
    numbers.push(1);
    numbers
}

/// Asserts the answers of the failed batch and of those behind it.
fn assert_only_the_first_batch_failed(numbers: &[i64], answers: &[Option<i64>]) {
    let (failed, behind) = answers.split_at(MAX_BATCH_SIZE);
    assert!(failed.iter().all(Option::is_none), "{failed:?}");
    for (number, answer) in numbers[MAX_BATCH_SIZE..].iter().zip(behind) {
        assert_eq!(*answer, Some(2 * number));
    }
}

#[tokio::test]
async fn behind_a_batch_that_panics_the_next_one_starts() {
    let store = doubling();
    let numbers = with_some_behind(-1);
    let answers = ask(&store, &numbers).await;
    assert_only_the_first_batch_failed(&numbers, &answers);
    assert_eq!(store.batches.lock().len(), 3);
    assert!(!store.batcher.state.lock().has_task);
}

#[tokio::test]
async fn behind_a_batch_that_fails_the_next_one_starts() {
    let store = doubling();
    let numbers = with_some_behind(-2);
    let answers = ask(&store, &numbers).await;
    assert_only_the_first_batch_failed(&numbers, &answers);
    assert!(!store.batcher.state.lock().has_task);
}

/// As when its connection passes nothing any more: time stands still but where everybody waits.
#[tokio::test(start_paused = true)]
async fn behind_a_batch_that_gets_no_answer_another_task_goes_on() {
    let store = doubling();
    let numbers = with_some_behind(HANGS);
    let asked = futures::future::join_all(
        numbers[MAX_BATCH_SIZE..]
            .iter()
            .map(|n| submit(&*store, Number(*n))),
    );
    let hanging = futures::future::join_all(
        numbers[..MAX_BATCH_SIZE]
            .iter()
            .map(|n| submit(&*store, Number(*n))),
    );
    tokio::pin!(hanging);
    store.permits.add_permits(1_000);
    assert!(futures::poll!(hanging.as_mut()).is_pending());
    let answers = tokio::time::timeout(2 * TAKEOVER_AFTER, asked)
        .await
        .expect("what waits behind it is sent");
    for (number, answer) in numbers[MAX_BATCH_SIZE..].iter().zip(answers) {
        assert_eq!(answer, Some(2 * number));
    }
    assert!(futures::poll!(hanging.as_mut()).is_pending());
    store.hanging.notify_one();
    let answers = hanging.await;
    assert!(answers.iter().zip(&numbers).all(|(a, n)| *a == Some(2 * n)));
    assert!(!store.batcher.state.lock().has_task);
}

/// The task runs where the first caller was, which ends.
#[test]
fn the_calls_of_a_cancelled_task_are_given_back() {
    let store = doubling();
    let numbers = with_some_behind(HANGS);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    for begun in [true, false] {
        let there = runtime();
        let mut asked = Box::pin(futures::future::join_all(
            numbers.iter().map(|n| submit(&*store, Number(*n))),
        ));
        there.block_on(async {
            assert!(futures::poll!(asked.as_mut()).is_pending());
            if begun {
                store.permits.add_permits(1);
                while store.batches.lock().is_empty() {
                    tokio::task::yield_now().await;
                }
            }
        });
        drop(there);
        let here = runtime();
        let answers = here.block_on(async {
            let within = Duration::from_secs(120);
            tokio::time::timeout(within, asked)
                .await
                .expect("nobody is left without an answer")
        });
        assert!(answers.iter().all(Option::is_none));
        here.block_on(async {
            assert_eq!(ask(&store, &[7]).await, [Some(14)]);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_keeps_its_connection_for_a_while() {
    let store = doubling_that(true);
    for number in 1..=5 {
        assert_eq!(ask(&store, &[number]).await, [Some(2 * number)]);
        tokio::time::sleep(LINGER / 2).await;
    }
    assert_eq!(store.acquired.load(Ordering::Relaxed), 1);
    tokio::time::sleep(2 * LINGER).await;
    assert!(!store.batcher.state.lock().has_task, "it has ended");
    assert_eq!(ask(&store, &[6, 7]).await, [Some(12), Some(14)]);
    assert_eq!(store.acquired.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_caller_that_has_gone_before_its_batch_does_nothing() {
    let store = doubling();
    {
        let gone = submit(&*store, Number(9));
        tokio::pin!(gone);
        assert!(futures::poll!(gone.as_mut()).is_pending());
    }
    assert_eq!(ask(&store, &[1]).await, [Some(2)]);
    assert_eq!(*store.batches.lock(), [vec![1]]);
}

/// Doubles numbers in a database with one connection, as the store's writer has it. A negative number
/// panics in the middle of its transaction.
struct InDatabase {
    me: std::sync::Weak<Self>,
    pool: sqlx::SqlitePool,
    batcher: Batcher<InTransaction, i64>,
}

struct InTransaction(i64);

impl Batching for InDatabase {
    type Connection = sqlx::Transaction<'static, sqlx::Sqlite>;

    fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    async fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }

    async fn acquire(&self) -> Result<Self::Connection, StoreError> {
        Ok(self.pool.begin().await.unwrap())
    }

    fn keeps_connection(&self, _batches: u32) -> bool {
        false
    }
}

impl BatchedCall<InDatabase> for InTransaction {
    type Answer = i64;
    const NAME: &'static str = "double";

    fn key(&self) -> i64 {
        self.0
    }

    fn batcher(store: &InDatabase) -> &Batcher<Self, i64> {
        &store.batcher
    }

    async fn run(
        _: &InDatabase,
        mut tx: sqlx::Transaction<'static, sqlx::Sqlite>,
        calls: Vec<Self>,
    ) -> BatchResult<InDatabase, Self> {
        let mut answers = Vec::with_capacity(calls.len());
        for Self(number) in calls {
            let doubled: i64 = sqlx::query_scalar("SELECT 2 * CAST($1 AS bigint)")
                .bind(number)
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            assert!(number >= 0, "a defect");
            answers.push(Some(doubled));
        }
        tx.commit().await.unwrap();
        Ok((answers, None))
    }
}

#[tokio::test]
async fn a_batch_that_panics_in_its_transaction_gives_the_connection_back() {
    let pool = sqlx::sqlite::SqlitePoolOptions::new()
        .test_before_acquire(false)
        .max_connections(1)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    let store = Arc::new_cyclic(|me: &std::sync::Weak<InDatabase>| InDatabase {
        me: me.clone(),
        pool,
        batcher: Batcher::default(),
    });
    let numbers = with_some_behind(-7);
    let asked =
        futures::future::join_all(numbers.iter().map(|n| submit(&*store, InTransaction(*n))));
    let answers = tokio::time::timeout(Duration::from_secs(60), asked)
        .await
        .expect("nobody is left without an answer");
    assert_only_the_first_batch_failed(&numbers, &answers);
}
