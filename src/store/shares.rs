//! Shares of the pool for calls that run triggers of the application, which may have each of them wait.
//!
//! Each kind of call (claims; completions and releases) has a share of its own, so that one kind does not wait for
//! the other, and both leave connections to everything else. Requeues need none: a process sends one at a time, and
//! limits its statements.
//!
//! Within a share, calls that wait leave connections to the others. Only a call whose short try the server has
//! cancelled is [long](Length::Long), and these have half of the share. A run that its batch leaves undecided goes by
//! itself until one of its calls gets through (of completions and releases: a completion), so it makes other runs wait in
//! one batch only. Rules of an application mostly hold all runs of a tenant: once a call of one has waited, the tenant's
//! calls of this kind go by themselves and are long, until one of them is quick.

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
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Longest time for a statement that may wait for a rule of the application while others wait for its end, in
/// milliseconds.
const SHORT_STATEMENT_MS: u32 = 500;

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

/// Limits the statements of this transaction to half a second. SQLite has no such limit.
pub(super) async fn limit_statements(tx: &mut dyn SqlConnection) -> Result<(), StoreError> {
    let limit = LIMIT_STATEMENTS.bind(i64::from(SHORT_STATEMENT_MS));
    limit.execute(tx).await?;
    Ok(())
}

/// How long a call may wait. A call takes a permit for its length and for each one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// A batch, or a call by itself with [limited statements](limit_statements).
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

/// The connections that calls of one kind may have at the same time.
pub(super) struct Share {
    /// The permits for each [`Length`].
    limits: [Arc<Semaphore>; 3],
    /// How long a call waits for its permits.
    timeout: Duration,
    /// Whether calls that are not short wait in the order of their arrival, as long as their callers do.
    serves_in_order: bool,
    by_itself: Mutex<HashMap<RunId, ByItself>>,
    /// The tenants whose calls wait, and since when no more was learnt of them.
    waiting: Mutex<HashMap<(CallKind, TenantId), Instant>>,
}

/// A run whose calls go by themselves.
struct ByItself {
    /// When the latest call began, or got its permit.
    tried: Instant,
    /// Whether its short try was cancelled.
    is_long: bool,
}

/// Held until the call has returned its connection.
#[must_use]
pub(super) struct Permit {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Share {
    /// A share of so many connections, but of one at least, half of them (rounded up) for long calls.
    pub fn new(connections: u32, timeout: Duration) -> Self {
        let connections = connections.max(1);
        let limits = [connections, connections.div_ceil(2), 1];
        Self {
            limits: limits.map(|most| Arc::new(Semaphore::new(most as usize))),
            timeout,
            serves_in_order: false,
            by_itself: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// The same, where long and large calls are served in the order of their arrival, without a timeout. Calls that come
    /// again would be served in any order, some of many too late, and none behind others that go on waiting.
    pub fn serving_in_order(self) -> Self {
        Self {
            serves_in_order: true,
            ..self
        }
    }

    /// Waits until a call may have a connection. The scarcest permit comes first, so that calls which wait for it take no
    /// connection from the others.
    pub async fn permit(&self, length: Length) -> Result<Permit, StoreError> {
        let acquired = async {
            let mut permits = Vec::new();
            for limit in self.limits[..=length as usize].iter().rev() {
                permits.push(Arc::clone(limit).acquire_owned().await?);
            }
            Ok::<_, AcquireError>(Permit { _permits: permits })
        };
        let mut acquired = pin!(acquired);
        let permit = match tokio::time::timeout(self.timeout, acquired.as_mut()).await {
            Ok(permit) => permit,
            Err(_) if self.serves_in_order && length != Length::Short => {
                log_limited!(
                    warn,
                    "calls that take long have all connections for such calls; waiting for one"
                );
                acquired.await
            }
            Err(_) => return Err(StoreError::TooManyCalls),
        };
        permit.map_err(|_| StoreError::TooManyCalls)
    }

    /// Sends a call of a run by itself. A short try that the server cancels is repeated as a long one: a cancelled
    /// statement has changed nothing.
    pub async fn send<T, F>(&self, of: RunCall, call: impl Fn(Length) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let run = of.run;
        let mut length = match of.is_large {
            true => Length::Large,
            false => self.remember(run),
        };
        loop {
            let permit = self.permit(length).await?;
            // Another call of the tenant may have waited since this one began.
            if length == Length::Short && self.tenant_waits(of.kind, of.tenant) {
                length = Length::Long;
                continue;
            }
            if length == Length::Long {
                // It may have waited for longer than a run is remembered.
                self.remember(run);
            }
            let began = Instant::now();
            let answer = call(length).await;
            drop(permit);
            if let Some(has_waited) = has_waited(length, &answer, began.elapsed()) {
                self.learn(of, has_waited);
            }
            match answer {
                Err(error) if length == Length::Short && is_cancelled(&error) => {
                    self.remember_as_long(run);
                    length = Length::Long;
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

    /// Has calls of this run go by themselves, if there is room. Returns how long the next one may wait.
    pub fn remember(&self, run: RunId) -> Length {
        let mut runs = self.by_itself.lock();
        let tried = Instant::now();
        if let Some(known) = runs.get_mut(&run) {
            known.tried = tried;
            return match known.is_long {
                true => Length::Long,
                false => Length::Short,
            };
        }
        if runs.len() >= MAX_REMEMBERED {
            runs.retain(|_, known| known.tried.elapsed() < FORGET_AFTER);
        }
        if runs.len() < MAX_REMEMBERED {
            let is_long = false;
            runs.insert(run, ByItself { tried, is_long });
        }
        Length::Short
    }

    /// Has the next call of this run begin as a short one: it is of another kind than the one that waited.
    pub fn begin_short(&self, run: RunId) {
        if let Some(known) = self.by_itself.lock().get_mut(&run) {
            known.is_long = false;
        }
    }

    /// Returns whether a call of this tenant waited, and none was quick since.
    pub fn tenant_waits(&self, kind: CallKind, tenant: Option<TenantId>) -> bool {
        let waiting = self.waiting.lock();
        tenant
            .and_then(|tenant| waiting.get(&(kind, tenant)))
            .is_some_and(|known| known.elapsed() < FORGET_AFTER)
    }

    /// Returns the tenants whose calls wait.
    pub fn waiting_tenants(&self, kind: CallKind) -> Vec<i64> {
        let waiting = self.waiting.lock();
        let waiting = waiting
            .iter()
            .filter(|((of, _), known)| *of == kind && known.elapsed() < FORGET_AFTER);
        waiting.map(|((_, tenant), _)| tenant.0).collect()
    }

    fn learn(&self, of: RunCall, has_waited: bool) {
        let Some(tenant) = of.tenant else { return };
        let mut waiting = self.waiting.lock();
        if !has_waited {
            waiting.remove(&(of.kind, tenant));
            return;
        }
        if waiting.len() >= MAX_REMEMBERED {
            waiting.retain(|_, known| known.elapsed() < FORGET_AFTER);
        }
        if waiting.len() < MAX_REMEMBERED {
            waiting.insert((of.kind, tenant), Instant::now());
        }
    }

    fn remember_as_long(&self, run: RunId) {
        if let Some(known) = self.by_itself.lock().get_mut(&run) {
            known.is_long = true;
        }
    }
}

/// Whether the server has cancelled the statement.
fn is_cancelled(error: &StoreError) -> bool {
    // query_canceled
    matches!(error, StoreError::Contended(_)) && error.sqlstate() == Some("57014")
}

/// Whether a call has waited. `None`: it tells nothing of its tenant's calls. A large one takes long by itself; a short
/// one that got through may have begun before another one waited.
fn has_waited<T>(length: Length, answer: &Result<T, StoreError>, took: Duration) -> Option<bool> {
    match (length, answer) {
        (Length::Large, _) | (Length::Short, Ok(_)) => None,
        (_, Err(error)) => is_cancelled(error).then_some(true),
        (Length::Long, Ok(_)) => Some(took.as_millis() >= u128::from(SHORT_STATEMENT_MS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store_error::{Code, Detail};
    use futures::poll;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const RUN: RunId = RunId(7);
    const TENANT: Option<TenantId> = Some(TenantId(8));

    /// A completion of [`RUN`], which is of no tenant.
    const CALL: RunCall = RunCall {
        kind: CallKind::Completion,
        run: RUN,
        tenant: None,
        is_large: false,
    };

    fn is_refused(permit: Result<Permit, StoreError>) -> bool {
        matches!(permit, Err(StoreError::TooManyCalls))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_a_permit_only_for_a_time() {
        let share = Share::new(0, TIMEOUT);
        let first = share.permit(Length::Short).await.unwrap();
        assert!(is_refused(share.permit(Length::Short).await));
        drop(first);
        let _again = share.permit(Length::Large).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_not_short_are_served_in_order() {
        for length in [Length::Long, Length::Large] {
            let share = Share::new(1, TIMEOUT).serving_in_order();
            let first = share.permit(Length::Long).await.unwrap();
            let mut second = pin!(share.permit(length));
            let waiting = tokio::time::timeout(9 * TIMEOUT, second.as_mut()).await;
            assert!(waiting.is_err(), "it is not refused");
            let mut third = pin!(share.permit(Length::Long));
            assert!(poll!(third.as_mut()).is_pending());
            drop(first);
            let second = second.await.unwrap();
            assert!(poll!(third.as_mut()).is_pending());
            assert!(is_refused(share.permit(Length::Short).await));
            drop(second);
            assert!(third.await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_calls_that_wait_for_each_other_take_no_connection() {
        let share = Share::new(3, TIMEOUT);
        let _large = share.permit(Length::Large).await.unwrap();
        let (others, long, small) = tokio::join!(
            futures::future::join_all((0..9).map(|_| share.permit(Length::Large))),
            share.permit(Length::Long),
            share.permit(Length::Short)
        );
        assert!(others.into_iter().all(is_refused));
        assert!(long.is_ok() && small.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn long_calls_leave_connections_to_short_ones() {
        for (connections, most) in [(2, 1), (3, 2), (5, 3), (8, 4)] {
            let share = Share::new(connections, TIMEOUT);
            let long = (0..connections).map(|_| share.permit(Length::Long));
            let long = futures::future::join_all(long).await;
            assert_eq!(long.iter().filter(|permit| permit.is_ok()).count(), most);
            assert!(share.permit(Length::Short).await.is_ok(), "{connections}");
        }
    }

    /// The answer of a call that the server cancels unless it is as long as this one, and the lengths of its tries.
    async fn lengths_of_tries(share: &Share, enough: Length) -> (bool, Vec<Length>) {
        let lengths = Mutex::new(Vec::new());
        let call = |length| {
            lengths.lock().push(length);
            std::future::ready(match length == enough {
                true => Ok(()),
                false => Err(StoreError::Contended(Detail::said("(SQLSTATE 57014)"))),
            })
        };
        let is_answered = share.send(CALL, call).await.is_ok();
        (is_answered, lengths.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_goes_by_itself_until_a_call_gets_through() {
        use Length::{Large, Long, Short};
        let share = Share::new(3, TIMEOUT);
        assert!(!share.sends_by_itself(RUN));
        let tries = lengths_of_tries(&share, Short).await;
        assert_eq!(tries, (true, vec![Short]));
        assert!(!share.sends_by_itself(RUN));
        // None is enough.
        let tries = lengths_of_tries(&share, Large).await;
        assert_eq!(tries, (false, vec![Short, Long]));
        assert!(share.sends_by_itself(RUN));
        let tries = lengths_of_tries(&share, Long).await;
        assert_eq!(tries, (true, vec![Long]), "it is long from the beginning");
        assert!(!share.sends_by_itself(RUN));
        // Without an answer nothing is known of the run.
        let unanswered = |_| {
            let error = StoreError::Unavailable("no answer".into());
            std::future::ready(Err::<(), _>(error))
        };
        assert!(share.send(CALL, unanswered).await.is_err());
        assert!(!share.sends_by_itself(RUN));
    }

    /// Or else it would be refused with others in each batch.
    #[tokio::test(start_paused = true)]
    async fn a_run_whose_row_a_trigger_keeps_goes_by_itself() {
        for (code, goes_by_itself) in [(Some(Code::Trigger), true), (None, false)] {
            let share = Share::new(3, TIMEOUT);
            let call = |_| {
                let why = Detail::new("kept", code.clone());
                std::future::ready(Err::<(), _>(StoreError::Refused(why)))
            };
            assert!(share.send(CALL, call).await.is_err());
            assert_eq!(share.sends_by_itself(RUN), goes_by_itself);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_waits_for_a_permit_is_not_forgotten() {
        let share = Share::new(1, TIMEOUT).serving_in_order();
        share.remember(RUN);
        share.remember_as_long(RUN);
        let other = share.permit(Length::Long).await.unwrap();
        let (tries, ()) = tokio::join!(lengths_of_tries(&share, Length::Large), async {
            tokio::time::sleep(FORGET_AFTER).await;
            drop(other);
        });
        assert_eq!(tries, (false, vec![Length::Long]));
        assert!(share.sends_by_itself(RUN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_never_gets_through_is_forgotten() {
        let share = Share::new(3, TIMEOUT);
        lengths_of_tries(&share, Length::Large).await;
        tokio::time::advance(FORGET_AFTER).await;
        assert!(!share.sends_by_itself(RUN));
    }

    /// The lengths of the tries of a call that the server cancels while it is short, and that takes this time while it is
    /// not.
    async fn tries_of(share: &Share, call: RunCall, takes: Duration) -> Vec<Length> {
        let lengths = Mutex::new(Vec::new());
        let answer = share.send(call, |length| {
            lengths.lock().push(length);
            async move {
                if length == Length::Short {
                    tokio::time::sleep(SHORT).await;
                    return Err(StoreError::Contended(Detail::said("(SQLSTATE 57014)")));
                }
                tokio::time::sleep(takes).await;
                Ok(())
            }
        });
        answer.await.unwrap();
        lengths.into_inner()
    }

    const SHORT: Duration = Duration::from_millis(SHORT_STATEMENT_MS as u64);

    #[tokio::test(start_paused = true)]
    async fn calls_of_a_tenant_are_long_from_the_first_that_waits_to_the_first_that_is_quick() {
        use Length::{Long, Short};
        let share = Share::new(3, TIMEOUT);
        let of_tenant = |run| RunCall {
            run: RunId(run),
            tenant: TENANT,
            ..CALL
        };
        let waits = || share.tenant_waits(CallKind::Completion, TENANT);
        for (run, takes, tries, still_waits) in [
            (1, 20 * SHORT, vec![Short, Long], true),
            (2, 20 * SHORT, vec![Long], true),
            (3, SHORT / 5, vec![Long], false),
            (4, SHORT / 5, vec![Short, Long], false),
            (5, SHORT, vec![Short, Long], true),
        ] {
            assert_eq!(
                tries_of(&share, of_tenant(run), takes).await,
                tries,
                "{run}"
            );
            assert_eq!(waits(), still_waits, "{run}");
        }
        // Neither another kind of call nor another tenant.
        assert!(!share.tenant_waits(CallKind::Release, TENANT));
        assert!(!share.tenant_waits(CallKind::Completion, None));
        assert_eq!(share.waiting_tenants(CallKind::Completion), [8]);
        assert!(share.waiting_tenants(CallKind::Release).is_empty());
        tokio::time::advance(FORGET_AFTER).await;
        assert!(!waits() && share.waiting_tenants(CallKind::Completion).is_empty());
    }

    /// It takes long by itself.
    #[tokio::test(start_paused = true)]
    async fn a_large_call_tells_nothing_of_its_tenant() {
        let share = Share::new(3, TIMEOUT);
        let call = RunCall {
            tenant: TENANT,
            is_large: true,
            ..CALL
        };
        assert_eq!(tries_of(&share, call, 20 * SHORT).await, [Length::Large]);
        assert!(!share.tenant_waits(CallKind::Completion, TENANT));
    }
}
