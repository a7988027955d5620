//! Pauses with jitter, so that many clients do not come back at the same moment.

use std::time::Duration;

/// Returns the pause, longer by up to `share` of it at random, and never longer than `bound`.
pub fn with_jitter(pause: Duration, share: f64, bound: Duration) -> Duration {
    let pause = pause.min(bound);
    let jitter = pause.mul_f64(share * rand::random::<f64>());
    pause.saturating_add(jitter).min(bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn no_pause_exceeds_its_bound() {
        for _ in 0..1_000 {
            let long = with_jitter(seconds(95), 0.2, seconds(100));
            assert!((seconds(95)..=seconds(100)).contains(&long), "{long:?}");
            let huge = with_jitter(seconds(86_400), 0.2, seconds(100));
            assert_eq!(huge, seconds(100));
        }
    }

    #[test]
    fn equal_pauses_end_at_different_times() {
        let pause = || with_jitter(seconds(100), 0.2, seconds(1_000));
        let pauses: Vec<Duration> = std::iter::repeat_with(pause).take(100).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        let jitter = seconds(100)..=seconds(120);
        assert!(pauses.iter().all(|pause| jitter.contains(pause)));
    }

    proptest! {
        #[test]
        fn it_is_at_least_what_was_asked_for_as_far_as_the_bound_allows(
            pause in 0..1_u64 << 40,
            bound in 0..1_u64 << 40,
            share in 0.0..1.0_f64,
        ) {
            let (pause, bound) = (seconds(pause), seconds(bound));
            let wait = with_jitter(pause, share, bound);
            prop_assert!(wait <= bound);
            prop_assert!(wait >= pause.min(bound));
        }
    }
}
