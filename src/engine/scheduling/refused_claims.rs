//! Refused claims: a trigger or a constraint of the application may refuse the claim of a run, or of every run.
//! While no claim is granted, each slot pauses after a refusal, so that neither the server nor its log is
//! flooded. A claim that is granted ends all pauses: one refused run does not delay the others.

use crate::domain::pause::with_jitter;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Shortest and longest pause of a slot.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Time without a refusal after which earlier ones do not count.
const FORGOTTEN_AFTER: Duration = MAX_PAUSE.saturating_mul(2);

/// Share of a pause that is added at random.
const JITTER: f64 = 0.2;

/// Measures for how long claims have been refused and none was granted.
#[derive(Debug, Default)]
pub struct RefusedClaims(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    /// When the first claim was refused after the last one that was granted.
    since: Option<Instant>,
    /// When the latest claim was refused.
    last: Option<Instant>,
    /// How often a granted claim has ended that.
    ended: u64,
}

impl State {
    fn is_refusing(&self) -> bool {
        let is_recent = |last: Instant| last.elapsed() <= FORGOTTEN_AFTER;
        self.since.is_some() && self.last.is_some_and(is_recent)
    }
}

impl RefusedClaims {
    /// Records a refused claim.
    pub fn refused(&self) {
        self.0.send_if_modified(|state| {
            let now = Instant::now();
            if !state.is_refusing() {
                state.since = Some(now);
            }
            state.last = Some(now);
            false
        });
    }

    /// Returns whether a claim was refused a short time ago and none was granted since.
    pub fn is_refusing(&self) -> bool {
        self.0.borrow().is_refusing()
    }

    /// Records a granted claim, which ends all pauses.
    pub fn granted(&self) {
        self.0.send_if_modified(|state| {
            let ends = state.since.take().is_some();
            state.ended += u64::from(ends);
            ends
        });
    }

    /// Waits after a refusal, for as long as claims have been refused until now: exponential backoff. Returns
    /// whether a claim was granted meanwhile.
    pub async fn pause(&self) -> bool {
        let mut state = self.0.subscribe();
        let (since, ended) = {
            let now = state.borrow();
            (now.since, now.ended)
        };
        let Some(since) = since else { return true };
        let pause = with_jitter(since.elapsed().max(MIN_PAUSE), JITTER, MAX_PAUSE);
        let granted = state.wait_for(|now| now.ended != ended);
        tokio::time::timeout(pause, granted).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_a_bound_while_no_claim_is_granted() {
        let claims = RefusedClaims::default();
        let mut pauses = Vec::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(600) {
            claims.refused();
            let begins = Instant::now();
            assert!(!claims.pause().await);
            pauses.push(begins.elapsed());
        }
        assert!(pauses.iter().all(|pause| *pause >= MIN_PAUSE));
        // The clock counts milliseconds.
        let bound = MAX_PAUSE + Duration::from_millis(1);
        assert!(pauses.iter().all(|pause| *pause <= bound), "{pauses:?}");
        assert!(pauses.len() < 80, "{}", pauses.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_granted_claim_ends_all_pauses() {
        let claims = RefusedClaims::default();
        claims.refused();
        tokio::time::advance(Duration::from_secs(600)).await;
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let (first, other, ()) = tokio::join!(claims.pause(), claims.pause(), async {
            tokio::time::sleep(second).await;
            claims.granted();
        });
        assert!(first && other && !claims.is_refusing());
        assert_eq!(began.elapsed().as_secs(), 1);
        assert!(claims.pause().await, "there is nothing to wait for");
        // The next refusal begins anew.
        claims.refused();
        let began = Instant::now();
        assert!(!claims.pause().await);
        assert!(began.elapsed() < second);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_long_ago_do_not_count() {
        for (quiet, is_refusing) in [(MAX_PAUSE, true), (2 * FORGOTTEN_AFTER, false)] {
            let claims = RefusedClaims::default();
            claims.refused();
            tokio::time::advance(quiet).await;
            assert_eq!(claims.is_refusing(), is_refusing, "{quiet:?}");
            claims.refused();
            let began = Instant::now();
            assert!(!claims.pause().await);
            assert_eq!(began.elapsed() >= MAX_PAUSE, is_refusing, "{quiet:?}");
        }
    }
}
