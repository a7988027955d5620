//! Holds requests to Graph back while Microsoft throttles their application across its directories.
//!
//! Nothing is held back before the first such refusal, and the database is not asked. From then on each request needs
//! a permit of the application's budget, which all replicas share in the database: see `domain::budget`. A process
//! takes the permits of a second at a time, and gives them to its checks in the order of [`queue`].

mod answered;
mod gauges;
mod queue;
mod refusals;
#[cfg(test)]
mod tests;

use super::fault::{Fault, Later};
use crate::domain::budget::{Budget, BudgetKey, MAX_PAUSE, Permits, SETTLING_TIME, Throttling};
use crate::domain::{Reason, TenantId};
use crate::ports::budgets::{BudgetStore, PermitRequest};
use crate::ports::log_throttle::log_limited;
use answered::AnsweredRequests;
use chrono::{DateTime, Utc};
use gauges::{Rates, WaitingGauge};
use moka::future::Cache;
use parking_lot::Mutex;
use queue::{Waiter, WaitingRequests};
use refusals::Refusals;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

/// Applications whose limiters are kept in memory, and for how long after their last check. One that is forgotten
/// has no limit until the next refusal.
const KNOWN_APPLICATIONS: u64 = 10_000;
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);

/// Longest time for one question to the database.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for which a process goes on by itself where the database does not answer: longer than a question takes then, in
/// which no permits are given.
const TIME_ALONE: Duration = Duration::from_secs(10);

/// Time after which a process that sends nothing asks whether the budget is over.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Time for which permits are taken, and after which one that was not used is void.
const SECOND: Duration = Duration::from_secs(1);

/// The largest part of the time that a check has left which it keeps when it gives up.
const RESERVE: Duration = Duration::from_millis(500);

const REMARK: &str = "verifyd holds requests of this application back, because Microsoft throttles it across its \
                      directories.";

/// Whom a refusal is about, as Graph says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThrottleScope {
    /// The application in all its directories.
    Application,
    /// One directory.
    Directory,
}

impl ThrottleScope {
    /// Reads `x-ms-throttle-scope`: `Tenant_Application/ReadWrite/…`; `None`: it names nothing that is known.
    pub fn parse(value: &str) -> Option<Self> {
        let scope = value.split('/').next().unwrap_or_default();
        let scope = scope.trim().to_ascii_lowercase();
        if scope.starts_with("tenant") {
            return Some(Self::Directory);
        }
        scope.contains("application").then_some(Self::Application)
    }
}

/// The limiters of all applications.
pub(super) struct Limiters {
    /// `None`: nothing is limited.
    store: Option<Arc<dyn BudgetStore>>,
    longest_wait: Duration,
    known: Cache<BudgetKey, Arc<Limiter>>,
    rates: Arc<Rates>,
}

impl Limiters {
    /// Creates limiters that limit nothing yet. `longest_wait`: what a check waits at most for its first request, and
    /// for a pause.
    pub fn new(longest_wait: Duration) -> Self {
        Self {
            store: None,
            longest_wait,
            known: Cache::builder()
                .max_capacity(KNOWN_APPLICATIONS)
                .time_to_idle(KEPT_FOR)
                .build(),
            rates: Arc::default(),
        }
    }

    /// From now on applications have budgets, which `store` shares between replicas.
    pub fn share(&mut self, store: Arc<dyn BudgetStore>) {
        self.rates.show();
        WaitingGauge::show_none();
        self.store = Some(store);
    }

    /// Returns the requests of a check in this directory.
    pub async fn requests(
        &self,
        cloud: &str,
        client_id: Uuid,
        directory: Uuid,
        tenant: TenantId,
        check: Uuid,
    ) -> LimitedRequests {
        let limiter = match &self.store {
            None => None,
            Some(store) => {
                let key = BudgetKey {
                    cloud: cloud.to_owned(),
                    client_id,
                };
                let made = async {
                    Arc::new(Limiter {
                        key: key.clone(),
                        store: Arc::clone(store),
                        longest_wait: self.longest_wait,
                        rates: Arc::clone(&self.rates),
                        is_limited: AtomicBool::new(false),
                        changed: Arc::default(),
                        state: Mutex::default(),
                    })
                };
                Some(self.known.get_with_by_ref(&key, made).await)
            }
        };
        LimitedRequests {
            limiter,
            directory,
            tenant,
            check,
            has_begun: AtomicBool::new(false),
        }
    }
}

/// Requests of one check to Graph, in one directory.
pub(super) struct LimitedRequests {
    limiter: Option<Arc<Limiter>>,
    directory: Uuid,
    tenant: TenantId,
    check: Uuid,
    /// Whether one of them was sent.
    has_begun: AtomicBool,
}

impl std::fmt::Debug for LimitedRequests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.limiter.as_ref().map(|limiter| &limiter.key);
        f.debug_struct("LimitedRequests")
            .field("application", &key)
            .finish_non_exhaustive()
    }
}

impl LimitedRequests {
    /// Counts the check as begun: these requests add to what it has read elsewhere.
    pub fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Waits until a request may be sent. A check that has sent none gives its slot back soon, as any does in a long
    /// pause; else one that has begun waits for its turn for as long as its deadline allows.
    pub async fn permit(&self, deadline: Instant) -> Result<(), Fault> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        if limiter.is_limited.load(Ordering::Relaxed) {
            let has_begun = self.has_begun.load(Ordering::Relaxed);
            let waited = limiter
                .wait(self.tenant, self.check, has_begun, deadline)
                .await;
            if let Err(later) = waited {
                let mut fault = Fault::new(Reason::Throttled);
                fault.remark = Some(REMARK.into());
                fault.later = Some(later);
                return Err(fault);
            }
        }
        self.begin();
        Ok(())
    }

    /// Counts an answer that is no refusal.
    pub fn answered(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.answered(self.directory);
        }
    }

    /// Notes that the provider has refused a request for now, and for how long it asks to wait.
    pub fn throttled(&self, scope: Option<ThrottleScope>, pause: Option<Duration>) {
        if let Some(limiter) = &self.limiter {
            limiter.throttled(self.directory, scope, pause.unwrap_or_default());
        }
    }
}

/// Gives the permits of one application to the requests of this process.
struct Limiter {
    key: BudgetKey,
    store: Arc<dyn BudgetStore>,
    longest_wait: Duration,
    rates: Arc<Rates>,
    /// Read before each request.
    is_limited: AtomicBool,
    /// Wakes the task that gives permits.
    changed: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answered: AnsweredRequests,
    waiting: WaitingRequests,
    /// The task that gives permits, for as long as there is a limit.
    task: Option<AbortHandle>,
    refusals: Refusals,
    /// A throttling that the database does not know of, by its `Throttling::unpermitted_per_minute`.
    unrecorded: Option<u32>,
    /// When the database was asked last.
    asked_at: Option<Instant>,
    /// Until when it is not asked, because it did not answer.
    alone_until: Option<Instant>,
    /// Until when refusals belong to the last throttling.
    settled_at: Option<Instant>,
    /// Until when the provider has asked to wait.
    paused_until: Option<Instant>,
    /// The permits that were taken last.
    taken: Option<Permits>,
    /// Those of them that are left, when the next one may be used, and the time from one to the next.
    left: u32,
    next: Option<Instant>,
    interval: Duration,
    /// Permits that were used since then: of the last second or longer.
    used: u32,
    used_since: Option<Instant>,
}

/// What the task that gives permits does next.
enum Step {
    Ask(PermitRequest),
    Wait(Instant),
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if *self.is_limited.get_mut() {
            self.rates.set(&self.key, None);
        }
    }
}

impl Limiter {
    /// Waits for a permit; returns when to come again where none comes in time.
    async fn wait(
        self: &Arc<Self>,
        tenant: TenantId,
        check: Uuid,
        has_begun: bool,
        deadline: Instant,
    ) -> Result<(), Later> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let soon = now + self.longest_wait;
        let mut until = now + left - RESERVE.min(left / 10);
        if !has_begun {
            until = until.min(soon);
        }
        let permitted = {
            let mut state = self.state.lock();
            if !self.is_limited.load(Ordering::Relaxed) {
                return Ok(());
            }
            let is_paused = state.paused_until.is_some_and(|end| end > soon);
            if let Some(next) = state.next.filter(|next| is_paused || *next > until) {
                metrics::counter!("verifyd_provider_budget_timeouts_total").increment(1);
                return Err(self.later(next - now, is_paused));
            }
            let (permit, permitted) = oneshot::channel();
            let waiter = Waiter {
                tenant,
                check,
                permit,
            };
            let is_first = state.waiting.is_empty();
            state.waiting.push(waiter, has_begun);
            self.start(&mut state);
            if is_first {
                self.changed.notify_one();
            }
            permitted
        };
        let _waiting = WaitingGauge::new();
        let later = match timeout_at(until, permitted).await {
            Ok(Ok(Err(pause))) => self.later(pause, true),
            // Where the sender is gone, nothing is limited any more.
            Ok(_) => return Ok(()),
            Err(_) => {
                let next = self.state.lock().next.unwrap_or(until);
                self.later(next.saturating_duration_since(Instant::now()), false)
            }
        };
        metrics::counter!("verifyd_provider_budget_timeouts_total").increment(1);
        Err(later)
    }

    /// When a check may come again. `asked`: whether the provider has named that time.
    fn later(&self, wait: Duration, asked: bool) -> Later {
        Later {
            wait: wait.max(self.longest_wait),
            asked,
        }
    }

    fn answered(&self, directory: Uuid) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.answered.count(now);
        // Else the request may have been sent before the last refusal.
        if state.settled_at.is_none_or(|settled| now >= settled) {
            state.refusals.answered(directory);
        }
    }

    fn throttled(self: &Arc<Self>, directory: Uuid, scope: Option<ThrottleScope>, pause: Duration) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if !state.refusals.is_of_application(directory, scope, now) {
            return;
        }
        let pause = pause.min(MAX_PAUSE);
        let had_limit = self.is_limited.swap(true, Ordering::Relaxed);
        state.left = 0;
        state.pause(now, pause, self.longest_wait);
        if state.settled_at.is_none_or(|settled| now >= settled) {
            state.settled_at = Some(now + pause + SETTLING_TIME);
            let unpermitted_per_minute = match had_limit {
                true => 0,
                false => state.answered.per_minute(now, pause),
            };
            state.add_unrecorded(unpermitted_per_minute);
            if state.taken.is_none() {
                // Until the database answers.
                let throttling = Throttling {
                    unpermitted_per_minute,
                    pause,
                };
                let start = DateTime::<Utc>::UNIX_EPOCH;
                let mut budget = Budget::after(None, throttling, start);
                state.taken = Some(budget.take(0, 1, start));
            }
        }
        if !had_limit {
            log_limited!(
                warn,
                cloud = self.key.cloud,
                client_id = %self.key.client_id,
                "Microsoft throttles the application; holding its requests back"
            );
        }
        self.start(&mut state);
        self.changed.notify_one();
    }

    /// Starts the task that gives permits, unless it runs.
    fn start(self: &Arc<Self>, state: &mut State) {
        if state.task.as_ref().is_none_or(AbortHandle::is_finished) {
            let limiter = Arc::downgrade(self);
            let task = tokio::spawn(Self::give_permits(limiter, Arc::clone(&self.changed)));
            state.task = Some(task.abort_handle());
        }
    }

    /// Gives permits until there is no limit, or no limiter, any more.
    async fn give_permits(limiter: Weak<Self>, changed: Arc<Notify>) {
        while let Some(limiter) = limiter.upgrade() {
            let step = limiter.state.lock().step(Instant::now());
            match step {
                Step::Ask(request) => {
                    if limiter.ask(&request).await.is_break() {
                        return;
                    }
                }
                Step::Wait(until) => {
                    drop(limiter);
                    let _ = timeout_at(until, changed.notified()).await;
                }
            }
        }
    }

    /// Takes permits from the budget. Breaks where there is no limit any more.
    async fn ask(&self, request: &PermitRequest) -> ControlFlow<()> {
        let asked = timeout(ANSWER_TIMEOUT, self.store.permits(&self.key, request)).await;
        let now = Instant::now();
        let mut state = self.state.lock();
        match asked {
            Ok(Ok(Some(permits))) => {
                // A refusal that arrived meanwhile voids them.
                if state.unrecorded.is_none() {
                    state.use_permits(permits, now);
                    state.pause(now, permits.pause, self.longest_wait);
                }
                drop(state);
                self.rates.set(&self.key, Some(permits.per_minute));
                ControlFlow::Continue(())
            }
            Ok(Ok(None)) => {
                if state.unrecorded.is_some() {
                    return ControlFlow::Continue(());
                }
                self.is_limited.store(false, Ordering::Relaxed);
                // Whoever waits may send.
                let before = std::mem::take(&mut *state);
                state.answered = before.answered;
                state.refusals = before.refusals;
                self.rates.set(&self.key, None);
                drop(state);
                log_limited!(
                    info,
                    cloud = self.key.cloud,
                    client_id = %self.key.client_id,
                    "requests of the application are not held back any more"
                );
                ControlFlow::Break(())
            }
            failed => {
                if let Some(throttling) = request.throttling {
                    state.add_unrecorded(throttling.unpermitted_per_minute);
                }
                state.alone_until = Some(now + TIME_ALONE);
                drop(state);
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer within the timeout".to_owned(),
                };
                log_limited!(
                    warn,
                    %error,
                    "cannot take permits from the budget of an application; going on with an equal share"
                );
                ControlFlow::Continue(())
            }
        }
    }
}

impl State {
    /// Gives the permits that are due, and returns what follows.
    fn step(&mut self, now: Instant) -> Step {
        loop {
            self.waiting.forget_cancelled();
            let alone_until = self.alone_until.filter(|end| now < *end);
            if self.unrecorded.is_some() && alone_until.is_none() {
                return Step::Ask(self.request(now));
            }
            if self.waiting.is_empty() {
                let idle_until = self.asked_at.map_or(now, |asked| asked + IDLE_TIME);
                return match alone_until {
                    Some(end) => Step::Wait(end),
                    None if now < idle_until => Step::Wait(idle_until),
                    None => Step::Ask(self.request(now)),
                };
            }
            let next = self.next.unwrap_or(now);
            if now > next + SECOND {
                self.left = 0;
            }
            if self.left == 0 {
                if alone_until.is_none() {
                    return Step::Ask(self.request(now));
                }
                self.take_share(now);
                continue;
            }
            if now < next {
                return Step::Wait(alone_until.map_or(next, |end| next.min(end)));
            }
            let Some(waiter) = self.waiting.pop() else {
                continue;
            };
            if waiter.permit.send(Ok(())).is_ok() {
                self.left -= 1;
                self.used = self.used.saturating_add(1);
                self.next = Some(next + self.interval);
            }
        }
    }

    /// Returns the request for as many permits as are waited for, and as many as were used within a second: the
    /// requests of the next one then need not ask one by one.
    fn request(&mut self, now: Instant) -> PermitRequest {
        self.asked_at = Some(now);
        let used = self.used;
        let since = *self.used_since.get_or_insert(now);
        if now >= since + SECOND {
            self.used = 0;
            self.used_since = Some(now);
        }
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let pause = self
            .paused_until
            .map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
        let throttling = self.unrecorded.take();
        PermitRequest {
            wanted: if waiting == 0 { 0 } else { waiting.max(used) },
            throttling: throttling.map(|unpermitted_per_minute| Throttling {
                unpermitted_per_minute,
                pause,
            }),
        }
    }

    /// Has a throttling recorded with the next question.
    fn add_unrecorded(&mut self, unpermitted_per_minute: u32) {
        self.unrecorded = self.unrecorded.max(Some(unpermitted_per_minute));
    }

    /// Gives no permit during this pause. Nobody waits for one that is longer than `longest`.
    fn pause(&mut self, now: Instant, pause: Duration, longest: Duration) {
        self.paused_until = self.paused_until.max(Some(now + pause));
        self.next = self.next.max(self.paused_until);
        if pause <= longest {
            return;
        }
        while let Some(waiter) = self.waiting.pop() {
            let _ = waiter.permit.send(Err(pause));
        }
    }

    fn use_permits(&mut self, permits: Permits, now: Instant) {
        self.next = self.next.max(Some(now + permits.starts_in));
        self.left = permits.count;
        self.interval = permits.interval();
        self.taken = Some(permits);
    }

    /// Takes an equal share of the budget as it was last, for a second.
    fn take_share(&mut self, now: Instant) {
        let interval = self.taken.map_or(SECOND, |taken| taken.interval_of_share());
        let count = SECOND.as_nanos() / interval.as_nanos().max(1);
        self.left = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        self.interval = interval;
        self.next = self.next.max(Some(now));
    }
}
