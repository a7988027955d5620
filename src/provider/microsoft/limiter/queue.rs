//! Requests that wait for a permit, in the order in which they get one.
//!
//! A check that has begun goes first: where all checks got on at the same pace, a low rate would let none of them end
//! before its deadline. Among the checks that have begun, and among the others, the order is round robin by tenant. Of
//! both no more wait than get permits soon, so that a throttled application leaves slots to others.

use crate::domain::TenantId;
use std::collections::{HashSet, VecDeque};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

/// Of so many permits one is for a check that has got none yet. Most checks make fewer requests than that, so those that
/// have begun end all the same.
const FIRST_REQUESTS: u32 = 8;

/// How many requests a check makes, as long as none has ended.
const EXPECTED_REQUESTS: f64 = 4.0;

/// A request that waits.
pub(super) struct Waiter {
    pub tenant: TenantId,
    /// The check that it belongs to.
    pub check: Uuid,
    /// The check's deadline: the newest check has the latest one.
    pub deadline: Instant,
    /// Gives it a permit. Where this is dropped, the check is released: it gives its slot back.
    pub permit: oneshot::Sender<()>,
}

/// Waiting requests of all tenants.
#[derive(Default)]
pub(super) struct WaitingRequests {
    begun: RoundRobin,
    first: RoundRobin,
    given: u32,
    /// Requests of a check: a moving average of about the last 16 that have ended, and were not cut short.
    average: Option<f64>,
}

impl WaitingRequests {
    /// Adds a request; `begun`: whether its check has got a permit before.
    pub fn push(&mut self, waiter: Waiter, begun: bool) {
        match begun {
            true => self.begun.push(waiter),
            false => self.first.push(waiter),
        }
    }

    /// Takes the request that is next out. The other requests of its check have begun with it.
    pub fn pop(&mut self) -> Option<Waiter> {
        self.given = self.given.wrapping_add(1);
        let is_for_first = self.given.is_multiple_of(FIRST_REQUESTS) || self.begun.is_empty();
        let next = match is_for_first {
            true => self.first.pop(),
            false => None,
        };
        let Some(waiter) = next else {
            return self.begun.pop();
        };
        for other in self.first.take_check(waiter.check) {
            self.begun.push(other);
        }
        Some(waiter)
    }

    /// Counts a check that has ended, and has made so many requests.
    pub fn count_check(&mut self, requests: u32) {
        let before = self.requests_per_check();
        self.average = Some(before + (f64::from(requests) - before) / 16.0);
    }

    /// Returns how many requests a check makes: modules differ.
    pub fn requests_per_check(&self) -> f64 {
        self.average.unwrap_or(EXPECTED_REQUESTS)
    }

    /// Releases checks that so many permits do not suffice for: the newest of the tenant with the most checks first.
    /// One that has begun and one that has not may wait all the same.
    pub fn release_beyond(&mut self, permits: f64) {
        self.forget_cancelled();
        let checks = permits / self.requests_per_check();
        self.begun
            .release_while(|begun| begun.len() as f64 > permits);
        self.first
            .release_while(|first| first.checks() as f64 > checks);
    }

    /// Releases all checks that wait.
    pub fn release_all(&mut self) {
        self.begun = RoundRobin::default();
        self.first = RoundRobin::default();
    }

    /// Forgets requests that nobody waits for any more.
    pub fn forget_cancelled(&mut self) {
        self.begun.forget_cancelled();
        self.first.forget_cancelled();
    }

    pub fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.first.is_empty()
    }

    pub fn len(&self) -> usize {
        self.begun.len() + self.first.len()
    }
}

/// The requests of each tenant that has any, in round-robin order: none gets two permits while another one waits.
#[derive(Default)]
struct RoundRobin(VecDeque<VecDeque<Waiter>>);

impl RoundRobin {
    fn push(&mut self, waiter: Waiter) {
        let mut tenants = self.0.iter_mut();
        match tenants.find(|of_tenant| of_tenant[0].tenant == waiter.tenant) {
            Some(of_tenant) => of_tenant.push_back(waiter),
            None => self.0.push_back([waiter].into()),
        }
    }

    fn pop(&mut self) -> Option<Waiter> {
        let mut of_tenant = self.0.pop_front()?;
        let waiter = of_tenant.pop_front();
        if !of_tenant.is_empty() {
            self.0.push_back(of_tenant);
        }
        waiter
    }

    /// Takes all requests of a check out.
    fn take_check(&mut self, check: Uuid) -> Vec<Waiter> {
        let mut taken = Vec::new();
        for of_tenant in &mut self.0 {
            let all = std::mem::take(of_tenant).into_iter();
            let (its, others): (VecDeque<_>, _) = all.partition(|waiter| waiter.check == check);
            taken.extend(its);
            *of_tenant = others;
        }
        self.forget_empty();
        taken
    }

    /// Releases checks while there are too many, and more than one. The oldest of all stays however many requests it
    /// makes: else a large one would never end.
    fn release_while(&mut self, are_too_many: impl Fn(&Self) -> bool) {
        while self.checks() > 1 && are_too_many(self) {
            // Of equals the last one.
            let largest = self.0.iter().max_by_key(|of_tenant| {
                let newest = of_tenant.iter().map(|waiter| waiter.deadline).max();
                (checks(of_tenant), newest)
            });
            let newest =
                largest.and_then(|of_tenant| of_tenant.iter().max_by_key(|waiter| waiter.deadline));
            let Some(check) = newest.map(|waiter| waiter.check) else {
                return;
            };
            drop(self.take_check(check));
        }
    }

    fn forget_cancelled(&mut self) {
        for of_tenant in &mut self.0 {
            of_tenant.retain(|waiter| !waiter.permit.is_closed());
        }
        self.forget_empty();
    }

    fn forget_empty(&mut self) {
        self.0.retain(|of_tenant| !of_tenant.is_empty());
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn len(&self) -> usize {
        self.0.iter().map(VecDeque::len).sum()
    }

    fn checks(&self) -> usize {
        self.0.iter().map(checks).sum()
    }
}

/// Returns how many checks these requests belong to.
fn checks(of_tenant: &VecDeque<Waiter>) -> usize {
    let checks: HashSet<Uuid> = of_tenant.iter().map(|waiter| waiter.check).collect();
    checks.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot::error::TryRecvError;

    /// Adds a request, and returns what keeps it waiting. A check with a greater number is newer.
    fn wait(
        queue: &mut WaitingRequests,
        tenant: i64,
        check: u128,
        begun: bool,
    ) -> oneshot::Receiver<()> {
        let (permit, waiting) = oneshot::channel();
        let waiter = Waiter {
            tenant: TenantId(tenant),
            check: Uuid::from_u128(check),
            deadline: Instant::now() + Duration::from_secs(check as u64),
            permit,
        };
        queue.push(waiter, begun);
        waiting
    }

    fn popped(queue: &mut WaitingRequests) -> Vec<(i64, u128)> {
        std::iter::from_fn(|| queue.pop())
            .map(|waiter| (waiter.tenant.0, waiter.check.as_u128()))
            .collect()
    }

    #[test]
    fn a_tenant_with_a_thousand_requests_does_not_keep_another_one_waiting() {
        for begun in [true, false] {
            let mut queue = WaitingRequests::default();
            let many: Vec<_> = (0..1_000)
                .map(|check| wait(&mut queue, 1, check, begun))
                .collect();
            let one = wait(&mut queue, 2, 5_000, begun);
            assert_eq!(queue.len(), 1_001);
            let position = popped(&mut queue).iter().position(|next| next.0 == 2);
            assert_eq!(position, Some(1), "{begun}");
            drop((many, one));
        }
    }

    #[test]
    fn a_check_that_has_begun_goes_first_and_a_new_one_is_not_forgotten() {
        let mut queue = WaitingRequests::default();
        let begun: Vec<_> = (0..20)
            .map(|check| wait(&mut queue, 1, check, true))
            .collect();
        let first = wait(&mut queue, 2, 99, false);
        let position = popped(&mut queue).iter().position(|next| next.0 == 2);
        assert_eq!(position, Some(FIRST_REQUESTS as usize - 1));
        drop((begun, first));
    }

    /// Its requests are sent at the same time.
    #[test]
    fn all_requests_of_a_check_begin_with_the_first_one() {
        let mut queue = WaitingRequests::default();
        let waiting: Vec<_> = [(1, 10), (1, 10), (2, 20), (2, 20), (2, 20)]
            .map(|(tenant, check)| wait(&mut queue, tenant, check, false))
            .into();
        let order = [(1, 10), (1, 10), (2, 20), (2, 20), (2, 20)];
        assert_eq!(popped(&mut queue), order);
        assert!(queue.is_empty());
        drop(waiting);
    }

    fn are_released(waiting: &mut [oneshot::Receiver<()>]) -> Vec<bool> {
        let answers = waiting.iter_mut().map(oneshot::Receiver::try_recv);
        answers
            .map(|answer| answer == Err(TryRecvError::Closed))
            .collect()
    }

    #[test]
    fn checks_beyond_what_permits_suffice_for_are_released() {
        let mut queue = WaitingRequests::default();
        let mut begun: Vec<_> = [(1, 10), (1, 11), (1, 12), (2, 20)]
            .map(|(tenant, check)| wait(&mut queue, tenant, check, true))
            .into();
        // No check has ended: each is expected to make four requests.
        let mut first: Vec<_> = [(3, 30), (4, 40), (4, 41)]
            .map(|(tenant, check)| wait(&mut queue, tenant, check, false))
            .into();
        queue.release_beyond(11.0);
        assert_eq!(are_released(&mut begun), [false; 4]);
        assert_eq!(are_released(&mut first), [false, false, true]);
        queue.release_beyond(2.0);
        assert_eq!(are_released(&mut begun), [false, true, true, false]);
        assert_eq!(queue.len(), 3);
        queue.release_beyond(0.0);
        assert_eq!(queue.len(), 2, "one of each kind");
    }

    /// Else a check of many requests would always be released, and one whose tenant has got the last permit.
    #[test]
    fn the_oldest_check_is_not_released_however_many_requests_it_makes() {
        let mut queue = WaitingRequests::default();
        let waiting = [(1, 10), (1, 10), (1, 10), (1, 10), (2, 20)];
        let mut begun: Vec<_> = waiting
            .map(|(tenant, check)| wait(&mut queue, tenant, check, true))
            .into();
        // The other tenant gets the next permit.
        drop(queue.pop());
        queue.release_beyond(3.0);
        assert_eq!(
            are_released(&mut begun[1..]),
            [false, false, false, true],
            "{:?}",
            popped(&mut queue)
        );
    }

    /// A check sends its first requests at the same time.
    #[test]
    fn of_checks_that_have_not_begun_as_many_wait_as_get_all_their_permits() {
        let mut queue = WaitingRequests::default();
        let waiting = [10, 10, 10, 20, 20, 20, 30, 30, 30];
        let mut first: Vec<_> = waiting
            .map(|check| wait(&mut queue, 1, check, false))
            .into();
        // Four requests are expected of each.
        queue.release_beyond(8.0);
        let released = are_released(&mut first);
        assert_eq!(released, waiting.map(|check| check == 30));
    }

    #[test]
    fn what_nobody_waits_for_is_forgotten() {
        let mut queue = WaitingRequests::default();
        drop(wait(&mut queue, 1, 1, false));
        drop(wait(&mut queue, 2, 2, true));
        let kept = wait(&mut queue, 2, 3, true);
        queue.forget_cancelled();
        assert_eq!(queue.len(), 1);
        assert_eq!(popped(&mut queue), [(2, 3)]);
        drop(kept);
    }
}
