//! Shares of the pool for calls that run triggers of the application, which may have each of them wait.
//!
//! Each kind of call (claims; completions and releases) has a share of its own, so that one kind does not wait for
//! the other, and both leave connections to everything else. Requeues need none: a process sends one at a time, and
//! limits its statements.
//!
//! Within a share, calls that wait leave connections to the others. Only a call whose short try the server has
//! cancelled is [long](Length::Long), and these have half of the share. A run that its batch leaves undecided goes by
//! itself until one of its calls gets through (of completions and releases: a completion), so it makes other runs wait in
//! one batch only. Rules of an application mostly hold all runs of a tenant: once the server has cancelled a call of one,
//! the tenant's calls of this kind go by themselves, with short tries one after the other, until one gets through. The
//! server measures that: a client's time grows with its distance.

use super::dialect::each;
use super::sql::both;
use super::sql_store::SqlConnection;
use super::statement::Sql;
use crate::domain::{RunId, TenantId};
use crate::ports::log_throttle::log_limited;
use crate::ports::store_error::StoreError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Longest time for a statement of a short try, in milliseconds. Claims wait as long for a lock, which begins later: the
/// server cancels the statement first, whatever a rule waits for.
const SHORT_STATEMENT_MS: u32 = 250;

/// `$1`: milliseconds.
const LIMIT_STATEMENTS: Sql = both!(each!(
    "SELECT set_config('statement_timeout', least(setting::bigint, $1)::text, true)
     FROM pg_settings WHERE name = 'statement_timeout'",
    "SELECT $1"
));

/// Time after a run's latest call, which did not get through, or a tenant's, which waited, after which it goes in
/// batches again.
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);

/// Largest number of runs, and of tenants, that a share remembers.
const MAX_REMEMBERED: usize = 4_096;

/// Limits the statements of this transaction to so many milliseconds. SQLite has no such limit.
pub(super) async fn limit_statements(
    tx: &mut dyn SqlConnection,
    milliseconds: u32,
) -> Result<(), StoreError> {
    let limit = LIMIT_STATEMENTS.bind(i64::from(milliseconds));
    limit.execute(tx).await?;
    Ok(())
}

/// How long a call may wait. A call takes a permit for its length and for each one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// A batch, or a call by itself with [limited statements](CallTry::limit_statements).
    Short,
    /// For a statement's longest time.
    Long,
    /// The same, of a context that is not small: it takes much of the server's memory, so there is one at a time.
    Large,
}

/// A rule of the application that has calls of one kind wait may let those of another one through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CallKind {
    Claim,
    Completion,
    Release,
}

/// A call that goes by itself.
#[derive(Clone, Copy)]
pub(super) struct RunCall {
    pub kind: CallKind,
    pub run: RunId,
    pub tenant: Option<TenantId>,
    /// Whether the context is not small.
    pub is_large: bool,
}

/// One try of a call.
#[derive(Clone)]
pub(super) struct CallTry {
    pub length: Length,
    /// When it had locked its run.
    locked: Arc<OnceLock<Instant>>,
}

/// The connections that calls of one kind may have at the same time.
pub(super) struct Share {
    /// The permits for each [`Length`].
    limits: [Arc<Semaphore>; 3],
    /// How long a call waits for its turn and its permits, in all.
    timeout: Duration,
    /// Whether calls that are not short, or in turn, wait in the order of their arrival, as long as their callers do.
    serves_in_order: bool,
    by_itself: Mutex<HashMap<RunId, ByItself>>,
    waiting: Mutex<HashMap<(CallKind, TenantId), WaitingTenant>>,
    /// Half of the connections that long calls leave, for short calls of tenants whose calls wait.
    short_of_waiting: Semaphore,
}

/// A run whose calls go by themselves.
struct ByItself {
    /// When the latest call got its permit.
    tried: Instant,
    /// Whether its short try was cancelled.
    is_long: bool,
}

/// A tenant whose calls wait.
struct WaitingTenant {
    /// When the latest call that waited had ended.
    waited: Instant,
    /// One for the tenant's short calls, which so go one after the other.
    turn: Arc<Semaphore>,
}

/// Held until the short call of a tenant whose calls wait has ended.
struct Turn<'a> {
    _permits: (OwnedSemaphorePermit, SemaphorePermit<'a>),
}

/// Held until the call has returned its connection.
#[must_use]
pub(super) struct Permit {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl CallTry {
    pub fn of(length: Length) -> Self {
        let locked = Arc::default();
        Self { length, locked }
    }

    /// Limits the statements of the call's transaction, if it is a short one.
    pub async fn limit_statements(&self, tx: &mut dyn SqlConnection) -> Result<(), StoreError> {
        match self.length {
            Length::Short => limit_statements(tx, SHORT_STATEMENT_MS).await,
            Length::Long | Length::Large => Ok(()),
        }
    }

    /// Notes that the call has locked its run: no rule of the application had it wait before, and what it waits for now
    /// is most likely one.
    pub fn record_lock(&self) {
        self.locked.get_or_init(Instant::now);
    }
}

impl Share {
    /// A share of so many connections, but of one at least. Half of them are for long calls, half of the others for short
    /// ones of tenants whose calls wait; of three or more, one at least is left to healthy calls.
    pub fn new(connections: u32, timeout: Duration) -> Self {
        let connections = connections.max(1) as usize;
        let long = (connections / 2).max(1);
        let short_of_waiting = ((connections - long) / 2).max(1);
        Self {
            limits: [connections, long, 1].map(|most| Arc::new(Semaphore::new(most))),
            timeout,
            serves_in_order: false,
            by_itself: Mutex::default(),
            waiting: Mutex::default(),
            short_of_waiting: Semaphore::new(short_of_waiting),
        }
    }

    /// The same, where calls in turn, long and large ones are served in the order of their arrival, without a timeout. Calls
    /// that come again would be served in any order, some of many too late, and none behind others that go on waiting.
    pub fn serving_in_order(self) -> Self {
        Self {
            serves_in_order: true,
            ..self
        }
    }

    /// Waits until a call may have a connection.
    pub async fn permit(&self, length: Length) -> Result<Permit, StoreError> {
        let deadline = Instant::now() + self.timeout;
        self.permit_until(deadline, length, false).await
    }

    /// The same, until then. The scarcest permit comes first, so that calls which wait for it take no connection from the
    /// others.
    async fn permit_until(
        &self,
        deadline: Instant,
        length: Length,
        has_turn: bool,
    ) -> Result<Permit, StoreError> {
        let permits = async {
            let mut permits = Vec::new();
            for limit in self.limits[..=length as usize].iter().rev() {
                permits.push(Arc::clone(limit).acquire_owned().await?);
            }
            Ok(Permit { _permits: permits })
        };
        let is_served = has_turn || length != Length::Short;
        self.wait_until(deadline, is_served, permits).await
    }

    /// Waits until the deadline, or for what is served in order as long as the caller does.
    async fn wait_until<T>(
        &self,
        deadline: Instant,
        is_served: bool,
        acquired: impl Future<Output = Result<T, AcquireError>>,
    ) -> Result<T, StoreError> {
        let mut acquired = pin!(acquired);
        let acquired = match tokio::time::timeout_at(deadline, acquired.as_mut()).await {
            Ok(acquired) => acquired,
            Err(_) if self.serves_in_order && is_served => {
                log_limited!(
                    warn,
                    "calls that take long have the turn or the connections of another one, which waits"
                );
                acquired.await
            }
            Err(_) => return Err(StoreError::TooManyCalls),
        };
        acquired.map_err(|_| StoreError::TooManyCalls)
    }

    /// Sends a call of a run by itself. A short try that the server cancels is repeated as a long one: a cancelled
    /// statement has changed nothing. `has_written`: whether the answer is that of a call that has.
    pub async fn send<T, F>(
        &self,
        of: RunCall,
        has_written: impl Fn(&T) -> bool,
        call: impl Fn(CallTry) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let run = of.run;
        let mut length = match of.is_large {
            true => Length::Large,
            false => self.length_of(run),
        };
        let mut deadline = Instant::now() + self.timeout;
        loop {
            let arrived = Instant::now();
            let turn = match length {
                Length::Short => self.turn(of, deadline).await?,
                Length::Long | Length::Large => None,
            };
            if self.serves_in_order {
                // That had no limit, and its tenant may wait no more.
                deadline += arrived.elapsed();
            }
            let permit = self.permit_until(deadline, length, turn.is_some());
            let permit = permit.await?;
            // Another call of the tenant may have waited since this one began.
            if length == Length::Short && turn.is_none() && self.tenant_waits(of.kind, of.tenant) {
                continue;
            }
            // Not before: it may not have been sent, or have waited for longer than a run is remembered.
            if length != Length::Large {
                self.remember(run, length);
            }
            let began = Instant::now();
            let sent = CallTry::of(length);
            let answer = call(sent.clone()).await;
            // Before another call has the connection.
            self.learn(of, &sent, answer.as_ref().map(&has_written));
            drop((permit, turn));
            match answer {
                Err(error) if length == Length::Short && is_cancelled(&error) => {
                    self.remember(run, Length::Long);
                    length = Length::Long;
                    // The try was no wait.
                    deadline += began.elapsed();
                }
                Err(error) => {
                    // What got no answer may not have reached the server: nothing is known of the run.
                    if error.detail().is_none_or(|why| why.code.is_none()) {
                        self.by_itself.lock().remove(&run);
                    }
                    return Err(error);
                }
                Ok(answer) => {
                    self.by_itself.lock().remove(&run);
                    return Ok(answer);
                }
            }
        }
    }

    /// Returns whether calls of this run go by themselves.
    pub fn sends_by_itself(&self, run: RunId) -> bool {
        let runs = self.by_itself.lock();
        runs.get(&run)
            .is_some_and(|known| known.tried.elapsed() < FORGET_AFTER)
    }

    /// Returns how long the next call of this run may wait.
    fn length_of(&self, run: RunId) -> Length {
        match self.by_itself.lock().get(&run) {
            Some(known) if known.is_long => Length::Long,
            _ => Length::Short,
        }
    }

    /// Has calls of this run go by themselves, if there is room, the next one of this length.
    pub fn remember(&self, run: RunId, length: Length) {
        let mut runs = self.by_itself.lock();
        if runs.len() >= MAX_REMEMBERED && !runs.contains_key(&run) {
            runs.retain(|_, known| known.tried.elapsed() < FORGET_AFTER);
            if runs.len() >= MAX_REMEMBERED {
                return;
            }
        }
        let (tried, is_long) = (Instant::now(), length == Length::Long);
        runs.insert(run, ByItself { tried, is_long });
    }

    /// Has the next call of this run begin as a short one: it is of another kind than the one that waited.
    pub fn begin_short(&self, run: RunId) {
        if let Some(known) = self.by_itself.lock().get_mut(&run) {
            known.is_long = false;
        }
    }

    /// Returns whether a call of this tenant waited, and none got through since.
    pub fn tenant_waits(&self, kind: CallKind, tenant: Option<TenantId>) -> bool {
        self.turn_of_waiting(kind, tenant).is_some()
    }

    /// Returns what the short calls of this tenant take in turn, if its calls wait.
    fn turn_of_waiting(&self, kind: CallKind, tenant: Option<TenantId>) -> Option<Arc<Semaphore>> {
        let waiting = self.waiting.lock();
        let known = waiting.get(&(kind, tenant?))?;
        (known.waited.elapsed() < FORGET_AFTER).then(|| Arc::clone(&known.turn))
    }

    /// Waits until it is the turn of a short call whose tenant's calls wait. None: they do not, or no more.
    async fn turn(&self, of: RunCall, deadline: Instant) -> Result<Option<Turn<'_>>, StoreError> {
        let turn = async {
            while let Some(line) = self.turn_of_waiting(of.kind, of.tenant) {
                let of_tenant = Arc::clone(&line).acquire_owned().await?;
                // Meanwhile they may wait no more, or again: then in another line.
                let now = self.turn_of_waiting(of.kind, of.tenant);
                if now.is_some_and(|now| Arc::ptr_eq(&now, &line)) {
                    let of_all = self.short_of_waiting.acquire().await?;
                    let permits = (of_tenant, of_all);
                    return Ok(Some(Turn { _permits: permits }));
                }
            }
            Ok(None)
        };
        self.wait_until(deadline, true, turn).await
    }

    /// Returns the tenants whose calls wait.
    pub fn waiting_tenants(&self, kind: CallKind) -> Vec<i64> {
        let waiting = self.waiting.lock();
        let waiting = waiting
            .iter()
            .filter(|((of, _), known)| *of == kind && known.waited.elapsed() < FORGET_AFTER);
        waiting.map(|((_, tenant), _)| tenant.0).collect()
    }

    /// Learns from a call whether its tenant's calls wait. One that has locked no run, or written nothing, has met no
    /// rule; a large one takes long by itself; a long one may have waited.
    fn learn(&self, of: RunCall, sent: &CallTry, has_written: Result<bool, &StoreError>) {
        let (Some(tenant), Some(locked)) = (of.tenant, sent.locked.get()) else {
            return;
        };
        let has_waited = match (sent.length, has_written) {
            (Length::Short | Length::Long, Err(error)) if is_cancelled(error) => true,
            (Length::Short, Ok(true)) => false,
            _ => return,
        };
        let tenant = (of.kind, tenant);
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        match waiting.get_mut(&tenant) {
            Some(known) if has_waited => known.waited = now,
            // It may have locked its run before another one had waited.
            Some(known) if known.waited <= *locked => drop(waiting.remove(&tenant)),
            None if has_waited => {
                if waiting.len() >= MAX_REMEMBERED {
                    waiting.retain(|_, known| known.waited.elapsed() < FORGET_AFTER);
                }
                if waiting.len() < MAX_REMEMBERED {
                    let (waited, turn) = (now, Arc::new(Semaphore::new(1)));
                    waiting.insert(tenant, WaitingTenant { waited, turn });
                }
            }
            _ => {}
        }
    }
}

/// Whether the server has cancelled the statement.
pub(super) fn is_cancelled(error: &StoreError) -> bool {
    // query_canceled
    matches!(error, StoreError::Contended(_)) && error.sqlstate() == Some("57014")
}

#[cfg(test)]
mod tests;
