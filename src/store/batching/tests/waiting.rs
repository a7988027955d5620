//! Tests what becomes of the calls of a batch of which some wait, fail or panic, as in PostgreSQL: with a share of
//! connections, and with limits of statements. The clock is moved on where all wait.

use crate::domain::{RunId, TenantId};
use crate::ports::store_error::{Detail, StoreError};
use crate::store::batching::{BatchResult, BatchedCall, Batcher, Batching, submit};
use crate::store::shares::{CallKind, Length, Permit, RunCall, Share};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Time of a call that nothing has wait, the limits of a statement by itself and in a batch, and how long a trigger has
/// calls wait.
const QUICK: Duration = Duration::from_millis(5);
const SHORT: Duration = Duration::from_millis(500);
const BATCH: Duration = Duration::from_secs(1);
const TRIGGER: Duration = Duration::from_secs(20);

const CONNECTIONS: u32 = 5;

/// What a call meets. All but the healthy ones are of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Passes,
    Waits,
    Fails,
    Panics,
}

#[derive(Clone, Copy)]
struct Call {
    run: i64,
    rule: Rule,
}

impl Call {
    fn tenant(self) -> i64 {
        match self.rule {
            Rule::Passes => 7,
            _ => 8,
        }
    }
}

struct Scene {
    me: Weak<Self>,
    batcher: Batcher<Call, i64>,
    share: Share,
    used: Arc<AtomicU32>,
    most_used: AtomicU32,
    /// Batches that the server has cancelled.
    cancelled: AtomicU32,
    runs: AtomicI64,
}

/// A connection that is used.
struct Used(Arc<AtomicU32>);

impl Drop for Used {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn cancelled() -> StoreError {
    StoreError::Contended(Detail::said("(SQLSTATE 57014)"))
}

impl Batching for Scene {
    type Connection = Used;

    fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    async fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }

    async fn acquire(&self) -> Result<Used, StoreError> {
        Ok(self.connection())
    }

    fn keeps_connection(&self, _batches: u32) -> bool {
        false
    }
}

impl BatchedCall<Scene> for Call {
    type Answer = i64;
    const NAME: &'static str = "waiting";

    fn key(&self) -> i64 {
        self.run
    }

    fn batcher(store: &Scene) -> &Batcher<Self, i64> {
        &store.batcher
    }

    fn goes_by_itself(&self, store: &Scene) -> bool {
        store.share.sends_by_itself(RunId(self.run))
    }

    async fn permit(store: &Scene) -> Result<Option<Permit>, StoreError> {
        store.share.permit(Length::Short).await.map(Some)
    }

    async fn run(store: &Scene, connection: Used, calls: Vec<Self>) -> BatchResult<Scene, Self> {
        let skipped = store.share.waiting_tenants(CallKind::Claim);
        let is_skipped = |call: &Self| skipped.contains(&call.tenant());
        let meets = |rule| {
            let mut sent = calls.iter().filter(|call| !is_skipped(call));
            sent.any(|call| call.rule == rule)
        };
        assert!(!meets(Rule::Panics), "a defect");
        if meets(Rule::Fails) {
            return Err(StoreError::Refused("not today".into()));
        }
        if meets(Rule::Waits) {
            sleep(BATCH).await;
            store.cancelled.fetch_add(1, Ordering::Relaxed);
            return Err(cancelled());
        }
        sleep(QUICK).await;
        let answers = calls.iter().map(|c| (!is_skipped(c)).then_some(c.run));
        Ok((answers.collect(), Some(connection)))
    }
}

/// An answered call, and after how long.
struct Answered {
    rule: Rule,
    answer: Result<i64, StoreError>,
    after: Duration,
}

impl Scene {
    fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            batcher: Batcher::default(),
            share: Share::new(CONNECTIONS, Duration::from_secs(5)),
            used: Arc::default(),
            most_used: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            runs: AtomicI64::new(0),
        })
    }

    fn connection(&self) -> Used {
        let used = 1 + self.used.fetch_add(1, Ordering::Relaxed);
        self.most_used.fetch_max(used, Ordering::Relaxed);
        Used(Arc::clone(&self.used))
    }

    async fn by_itself(&self, call: Call, length: Length) -> Result<i64, StoreError> {
        let _used = self.connection();
        match (call.rule, length) {
            (Rule::Passes, _) => sleep(QUICK).await,
            (Rule::Waits, Length::Short) => {
                sleep(SHORT).await;
                return Err(cancelled());
            }
            (Rule::Waits, _) => sleep(TRIGGER).await,
            (Rule::Fails | Rule::Panics, _) => {
                return Err(StoreError::Refused("not today".into()));
            }
        }
        Ok(call.run)
    }

    async fn ask(self: Arc<Self>, call: Call) -> Answered {
        let began = Instant::now();
        let answer = match submit(&*self, call).await {
            Some(answer) => Ok(answer),
            None => {
                let of = RunCall {
                    kind: CallKind::Claim,
                    run: RunId(call.run),
                    tenant: Some(TenantId(call.tenant())),
                    is_large: false,
                };
                let by_itself = |length| self.by_itself(call, length);
                self.share.send(of, by_itself).await
            }
        };
        Answered {
            rule: call.rule,
            answer,
            after: began.elapsed(),
        }
    }

    /// Makes calls in the same moment, those that meet a rule among the others.
    fn begin(self: &Arc<Self>, rule: Rule, count: usize, healthy: usize) -> JoinSet<Answered> {
        let mut calls = JoinSet::new();
        let all = count + healthy;
        for number in 0..all {
            // Spread evenly.
            let is_of_rule = (number + 1) * count / all > number * count / all;
            let call = Call {
                run: self.runs.fetch_add(1, Ordering::Relaxed),
                rule: if is_of_rule { rule } else { Rule::Passes },
            };
            calls.spawn(Arc::clone(self).ask(call));
        }
        calls
    }

    fn is_idle(&self) -> bool {
        self.used.load(Ordering::Relaxed) == 0 && !self.batcher.state.lock().has_task
    }
}

/// Asserts that each healthy call has its answer within this time, and returns how many there are.
fn healthy_within(limit: Duration, answers: &[Answered]) -> usize {
    let healthy = answers.iter().filter(|a| a.rule == Rule::Passes);
    let healthy: Vec<&Answered> = healthy.collect();
    for call in &healthy {
        assert!(
            call.answer.is_ok() && call.after <= limit,
            "{:?}",
            call.after
        );
    }
    healthy.len()
}

/// More than one batch, which takes its time, and then tries by themselves, which take theirs.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn healthy_calls_are_answered_soon_whatever_those_of_their_batch_meet() {
    for (rule, count, healthy, limit) in [
        (Rule::Waits, 1, 60, SOON),
        (Rule::Waits, 20, 200, SOON),
        (Rule::Waits, 100, 100, SOON),
        (Rule::Waits, 200, 0, SOON),
        (Rule::Fails, 1, 200, SHORT),
        (Rule::Fails, 100, 100, SHORT),
        (Rule::Panics, 1, 200, SHORT),
        (Rule::Panics, 100, 100, SHORT),
    ] {
        let scene = Scene::new();
        let answers = scene.begin(rule, count, healthy).join_all().await;
        assert_eq!(healthy_within(limit, &answers), healthy, "{rule:?} {count}");
        for other in answers.iter().filter(|a| a.rule != Rule::Passes) {
            match &other.answer {
                Ok(_) => assert!(other.rule == Rule::Waits && other.after > TRIGGER),
                Err(StoreError::TooManyCalls) => assert_eq!(other.rule, Rule::Waits),
                Err(error) => assert_ne!(other.rule, Rule::Waits, "{error}"),
            }
        }
        assert!(scene.most_used.load(Ordering::Relaxed) <= CONNECTIONS);
        assert!(scene.is_idle());
    }
}

/// Also while all connections for calls that wait are taken.
#[tokio::test(start_paused = true)]
async fn a_tenant_has_the_calls_of_others_wait_once() {
    for healthy in [0, 20] {
        let scene = Scene::new();
        let mut waiting = scene.begin(Rule::Waits, 20, healthy);
        sleep(SOON).await;
        let cancelled = scene.cancelled.load(Ordering::Relaxed);
        let mut again = scene.begin(Rule::Waits, 20, 200);
        sleep(SHORT).await;
        let mut answers = Vec::new();
        while let Some(answer) = again.try_join_next() {
            answers.push(answer.unwrap());
        }
        assert_eq!(healthy_within(SHORT, &answers), 200);
        assert_eq!(answers.len(), 200, "a call that waits has an answer");
        again.shutdown().await;
        waiting.shutdown().await;
        assert_eq!(scene.cancelled.load(Ordering::Relaxed), cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_go_leave_connections_and_order_behind() {
    for after in [QUICK, BATCH + SHORT / 2, BATCH + SHORT + QUICK, SOON] {
        let scene = Scene::new();
        let mut gone = scene.begin(Rule::Waits, 200, 20);
        sleep(after).await;
        gone.shutdown().await;
        // A batch that is under way has a task of its own.
        sleep(BATCH + QUICK).await;
        assert!(scene.is_idle(), "{after:?}");
        let answers = scene.begin(Rule::Passes, 0, 200).join_all().await;
        assert_eq!(healthy_within(SHORT, &answers), 200, "{after:?}");
    }
}
