//! Holds requests to Graph back while Microsoft throttles their application across its directories.
//!
//! Nothing is held back before the first such refusal, and the database is not asked. From then on each request needs
//! a permit of the application's budget, which all replicas share in the database: see `domain::budget`. A process
//! takes the permits of a second at a time, and gives them to its checks in the order of [`queue`]. A check that would
//! wait for long gives its slot back, and its run comes again when the budget has permits for it: see [`reservations`].

mod answered;
mod gauges;
mod queue;
mod refusals;
mod reservations;
#[cfg(test)]
mod tests;

pub(super) use refusals::ThrottleScope;

use super::fault::{Fault, Later, LaterCause};
use crate::domain::budget::{Budget, BudgetKey, MAX_PAUSE, Permits, SETTLING_TIME, Throttling};
use crate::domain::{Reason, TenantId};
use crate::ports::budgets::{BudgetStore, PermitRequest};
use crate::ports::log_throttle::log_limited;
use crate::ports::provider::Disposition;
use answered::AnsweredRequests;
use chrono::{DateTime, Utc};
use gauges::{Rates, WaitingGauge};
use moka::future::Cache;
use parking_lot::Mutex;
use queue::{Waiter, WaitingRequests};
use refusals::Refusals;
use reservations::Reservations;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
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

/// Time for which permits are taken.
const SECOND: Duration = Duration::from_secs(1);

/// Longest time for which a permit is valid: another replica may have learnt of a pause.
const LONGEST_VALIDITY: Duration = Duration::from_secs(5);

/// The largest part of the time that a check has left which it keeps when it gives up.
const RESERVE: Duration = Duration::from_millis(500);

const REMARK: &str = "verifyd holds requests of this application back, because Microsoft throttles it across its \
                      directories.";

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
        check: WaitingCheck,
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
            check,
            has_begun: AtomicBool::new(false),
            sent: AtomicU32::new(0),
            reservation: OnceLock::new(),
        }
    }
}

/// A check that may have to wait for permits.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitingCheck {
    pub id: Uuid,
    pub tenant: TenantId,
    /// Whether it is not the first attempt at its run.
    pub is_repeated: bool,
}

/// Requests of one check to Graph, in one directory.
pub(super) struct LimitedRequests {
    limiter: Option<Arc<Limiter>>,
    directory: Uuid,
    check: WaitingCheck,
    /// Whether one of them was sent, or one of those that they add to.
    has_begun: AtomicBool,
    /// How many were sent.
    sent: AtomicU32,
    /// When the run comes again. None of its requests waits any more.
    reservation: OnceLock<Instant>,
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

    /// Waits until a request may be sent: for the first one `longest_wait` at most, for others until the end of the
    /// deadline. The check gives its slot back at once in a long pause, where more requests wait than get permits soon,
    /// and where its tenant's runs that were released come first.
    pub async fn permit(&self, deadline: Instant) -> Result<(), Fault> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        if limiter.is_limited.load(Ordering::Relaxed) && !limiter.permits(self, deadline).await {
            metrics::counter!("verifyd_provider_budget_timeouts_total").increment(1);
            let mut fault = Fault::new(Reason::Throttled);
            fault.remark = Some(REMARK.into());
            fault.later = Some(Box::new(limiter.later(self)));
            return Err(fault);
        }
        self.begin();
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Counts the requests of a check that has ended, unless it was cut short: others make more.
    pub fn ended(&self, disposition: Disposition) {
        if let Some(limiter) = &self.limiter
            && disposition == Disposition::Finished
        {
            let sent = self.sent.load(Ordering::Relaxed);
            limiter.state.lock().waiting.count_check(sent);
        }
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
    reservations: Reservations,
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
    /// Waits for a permit of this check. False: none comes in time.
    async fn permits(self: &Arc<Self>, requests: &LimitedRequests, deadline: Instant) -> bool {
        let check = &requests.check;
        let has_begun = requests.has_begun.load(Ordering::Relaxed);
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
                return true;
            }
            let is_paused = state.paused_until.is_some_and(|end| end > soon);
            let is_late = state.next.is_some_and(|next| next > until);
            let is_new = !has_begun && !check.is_repeated;
            if is_paused
                || is_late
                || requests.reservation.get().is_some()
                || (is_new && state.reservations.has(check.tenant, now))
            {
                return false;
            }
            let (permit, permitted) = oneshot::channel();
            let waiter = Waiter {
                tenant: check.tenant,
                check: check.id,
                deadline,
                permit,
            };
            let was_empty = state.waiting.is_empty();
            state.waiting.push(waiter, has_begun);
            let interval = state.interval_of_share();
            let permits = self.longest_wait.div_duration_f64(interval);
            state.waiting.release_beyond(permits);
            self.start(&mut state);
            if was_empty {
                self.changed.notify_one();
            }
            permitted
        };
        let _waiting = WaitingGauge::new();
        matches!(timeout_at(until, permitted).await, Ok(Ok(())))
    }

    /// Returns when the run of this check comes again: the same for all its requests.
    fn later(&self, requests: &LimitedRequests) -> Later {
        let now = Instant::now();
        let reservation = requests.reservation.get_or_init(|| {
            let mut state = self.state.lock();
            let earliest = state.next.max(Some(now + self.longest_wait)).unwrap_or(now);
            let interval = state.interval_of_share();
            let interval = interval.mul_f64(state.waiting.requests_per_check());
            let tenant = requests.check.tenant;
            state.reservations.reserve(tenant, earliest, interval)
        });
        Later {
            wait: reservation.saturating_duration_since(now),
            cause: LaterCause::Budget,
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
                let mut before = std::mem::take(&mut *state);
                while let Some(waiter) = before.waiting.pop() {
                    let _ = waiter.permit.send(());
                }
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
            // A run may come somewhat after its reservation: a permit is valid until the next one of this replica.
            let validity = self.interval_of_share().clamp(SECOND, LONGEST_VALIDITY);
            if now > next + validity {
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
            if waiter.permit.send(()).is_ok() {
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
        if pause > longest {
            self.waiting.release_all();
        }
    }

    fn use_permits(&mut self, permits: Permits, now: Instant) {
        self.next = self.next.max(Some(now + permits.starts_in));
        self.left = permits.count;
        self.interval = permits.interval();
        self.taken = Some(permits);
    }

    /// Returns the time from one permit to the next where all replicas use theirs.
    fn interval_of_share(&self) -> Duration {
        self.taken.map_or(SECOND, |taken| taken.interval_of_share())
    }

    /// Takes an equal share of the budget as it was last, for a second.
    fn take_share(&mut self, now: Instant) {
        let interval = self.interval_of_share();
        let count = SECOND.as_nanos() / interval.as_nanos().max(1);
        self.left = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        self.interval = interval;
        self.next = self.next.max(Some(now));
    }
}
