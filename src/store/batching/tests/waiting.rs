//! Tests what becomes of the calls of a batch of which some wait, fail or panic, as in PostgreSQL: with a share of
//! connections, and with limits of statements. The clock is moved on where all wait.

use crate::domain::{RunId, TenantId};
use crate::ports::store_error::{Detail, StoreError};
use crate::store::batching::{BatchResult, BatchedCall, Batcher, Batching, MAX_BATCH_SIZE, submit};
use crate::store::shares::{CallKind, CallTry, Length, Permit, RunCall, Share};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Time of a call or batch that nothing has wait, the limits of a statement by itself and in a batch, and how long a trigger has
/// calls wait.
const QUICK: Duration = Duration::from_millis(5);
const SHORT: Duration = Duration::from_millis(250);
const BATCH: Duration = Duration::from_secs(1);
const TRIGGER: Duration = Duration::from_secs(20);

const CONNECTIONS: u32 = 5;

/// What a call meets. All but the healthy ones are of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Passes,
    /// For this time.
    Waits(Duration),
    Fails,
    Panics,
}

const WAITS: Rule = Rule::Waits(TRIGGER);

/// Three such calls get through in one batch, but none as a short one.
const IS_SLOW: Rule = Rule::Waits(Duration::from_millis(300));

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

    fn takes(self) -> Duration {
        match self.rule {
            Rule::Waits(time) => time,
            _ => Duration::ZERO,
        }
    }
}

struct Scene {
    me: Weak<Self>,
    kind: CallKind,
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
        let tenant = Some(TenantId(self.tenant()));
        store.share.sends_by_itself(RunId(self.run))
            || store.kind == CallKind::Completion && store.share.tenant_waits(store.kind, tenant)
    }

    async fn permit(store: &Scene) -> Result<Option<Permit>, StoreError> {
        store.share.permit(Length::Short).await.map(Some)
    }

    async fn run(store: &Scene, connection: Used, calls: Vec<Self>) -> BatchResult<Scene, Self> {
        let skipped = match store.kind {
            CallKind::Claim => store.share.waiting_tenants(store.kind),
            _ => Vec::new(),
        };
        let is_skipped = |call: &Self| skipped.contains(&call.tenant());
        let sent = || calls.iter().filter(|call| !is_skipped(call));
        let meets = |rule| sent().any(|call| call.rule == rule);
        assert!(!meets(Rule::Panics), "a defect");
        if meets(Rule::Fails) {
            return Err(StoreError::Refused("not today".into()));
        }
        let takes = sent().map(|call| call.takes()).sum::<Duration>();
        if takes > BATCH {
            sleep(BATCH).await;
            store.cancelled.fetch_add(1, Ordering::Relaxed);
            return Err(cancelled());
        }
        sleep(QUICK + takes).await;
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
    fn new(kind: CallKind) -> Arc<Self> {
        let share = Share::new(CONNECTIONS, Duration::from_secs(5));
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            kind,
            batcher: Batcher::default(),
            share: match kind {
                CallKind::Completion => share.serving_in_order(),
                _ => share,
            },
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

    async fn by_itself(&self, call: Call, sent: CallTry) -> Result<i64, StoreError> {
        let _used = self.connection();
        sent.record_lock();
        if matches!(call.rule, Rule::Fails | Rule::Panics) {
            return Err(StoreError::Refused("not today".into()));
        }
        if sent.length == Length::Short && call.takes() > SHORT {
            sleep(SHORT).await;
            return Err(cancelled());
        }
        sleep(QUICK + call.takes()).await;
        Ok(call.run)
    }

    async fn ask(self: Arc<Self>, call: Call) -> Answered {
        let began = Instant::now();
        let answer = match submit(&*self, call).await {
            Some(answer) => Ok(answer),
            None => {
                let of = RunCall {
                    kind: self.kind,
                    run: RunId(call.run),
                    tenant: Some(TenantId(call.tenant())),
                    is_large: false,
                };
                let by_itself = |sent| self.by_itself(call, sent);
                self.share.send(of, |_| true, by_itself).await
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

const KINDS: [CallKind; 2] = [CallKind::Claim, CallKind::Completion];

#[tokio::test(start_paused = true)]
async fn healthy_calls_are_answered_soon_whatever_those_of_their_batch_meet() {
    for kind in KINDS {
        for (rule, count, healthy, limit) in [
            (WAITS, 1, 60, SOON),
            (WAITS, 20, 200, SOON),
            (WAITS, 100, 100, SOON),
            (WAITS, 200, 0, SOON),
            (WAITS, 40, 600, SOON),
            (IS_SLOW, 20, 200, SOON),
            (Rule::Fails, 1, 200, SHORT),
            (Rule::Fails, 100, 100, SHORT),
            (Rule::Panics, 1, 200, SHORT),
            (Rule::Panics, 100, 100, SHORT),
        ] {
            let scene = Scene::new(kind);
            let answers = scene.begin(rule, count, healthy).join_all().await;
            assert_eq!(healthy_within(limit, &answers), healthy, "{rule:?} {count}");
            for other in answers.iter().filter(|a| a.rule != Rule::Passes) {
                match (&other.answer, rule) {
                    (Ok(_), Rule::Waits(time)) => assert!(other.after > time),
                    (Err(StoreError::TooManyCalls), Rule::Waits(_)) => {
                        assert_eq!(kind, CallKind::Claim);
                    }
                    (Err(_), Rule::Fails | Rule::Panics) => {}
                    (answer, rule) => panic!("{rule:?}: {answer:?}"),
                }
            }
            // Also those that queued already when it was learnt of their tenant are in no batch.
            assert!(scene.cancelled.load(Ordering::Relaxed) <= 2);
            assert!(scene.most_used.load(Ordering::Relaxed) <= CONNECTIONS);
            assert!(scene.is_idle());
        }
    }
}

/// Also while all connections for calls that wait are taken.
#[tokio::test(start_paused = true)]
async fn a_tenant_has_the_calls_of_others_wait_once() {
    for (kind, rule, healthy) in KINDS
        .into_iter()
        .flat_map(|kind| [WAITS, IS_SLOW].map(|rule| (kind, rule)))
        .flat_map(|(kind, rule)| [0, 20].map(|healthy| (kind, rule, healthy)))
    {
        let scene = Scene::new(kind);
        let mut waiting = scene.begin(rule, 20, healthy);
        sleep(SOON).await;
        let cancelled = scene.cancelled.load(Ordering::Relaxed);
        let mut again = scene.begin(rule, 20, 200);
        sleep(SHORT).await;
        let mut answers = Vec::new();
        while let Some(answer) = again.try_join_next() {
            answers.push(answer.unwrap());
        }
        assert_eq!(healthy_within(SHORT, &answers), 200);
        let has_waited = answers.iter().any(|answer| answer.rule == WAITS);
        assert!(!has_waited, "a call that waits has an answer");
        again.shutdown().await;
        waiting.shutdown().await;
        assert_eq!(scene.cancelled.load(Ordering::Relaxed), cancelled);
    }
}

/// 128 of them would take longer than a batch may.
#[tokio::test(start_paused = true)]
async fn batches_become_so_small_that_a_rule_of_all_rows_lets_them_through() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        let rule = Rule::Waits(Duration::from_millis(10));
        for _ in 0..2 {
            let answers = scene.begin(rule, 1_500, 0).join_all().await;
            assert!(answers.iter().all(|call| call.answer.is_ok()));
        }
        assert_eq!(scene.cancelled.load(Ordering::Relaxed), 1);
        assert!(scene.share.waiting_tenants(kind).is_empty());
        // They are as large as ever again where nothing takes time.
        scene.begin(Rule::Passes, 0, 1_000).join_all().await;
        assert_eq!(scene.batcher.state.lock().largest, MAX_BATCH_SIZE);
    }
}

/// Others pass in a batch of any size.
#[tokio::test(start_paused = true)]
async fn a_batch_of_one_call_that_waits_makes_no_other_smaller() {
    let scene = Scene::new(CallKind::Claim);
    let mut waiting = scene.begin(WAITS, 1, 0);
    sleep(BATCH + QUICK).await;
    assert_eq!(scene.cancelled.load(Ordering::Relaxed), 1);
    assert_eq!(scene.batcher.state.lock().largest, MAX_BATCH_SIZE);
    waiting.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn callers_that_go_leave_connections_and_order_behind() {
    for after in [QUICK, BATCH + SHORT / 2, BATCH + SHORT + QUICK, SOON] {
        let scene = Scene::new(CallKind::Claim);
        let mut gone = scene.begin(WAITS, 200, 20);
        sleep(after).await;
        gone.shutdown().await;
        // A batch that is under way has a task of its own.
        sleep(BATCH + QUICK).await;
        assert!(scene.is_idle(), "{after:?}");
        let answers = scene.begin(Rule::Passes, 0, 200).join_all().await;
        assert_eq!(healthy_within(SHORT, &answers), 200, "{after:?}");
    }
}
