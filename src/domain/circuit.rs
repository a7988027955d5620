//! The circuit of a webhook endpoint. After several failures in a row, or when the receiver asks to wait, it opens:
//! deliveries wait, and after each pause one of them, the probe, is sent until one succeeds.

use serde::Serialize;
use std::time::Duration;

/// When a circuit opens, and when it sends a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitPolicy {
    /// Failures in a row after which it opens.
    pub open_after: u32,
    /// Pause before the first probe; twice as long before each further one...
    pub pause: Duration,
    /// ...and never longer than this.
    pub max_pause: Duration,
    /// Longest pause that a receiver may ask for.
    pub max_asked: Duration,
}

/// The recorded state of an endpoint's circuit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    /// Failed attempts since the last one that succeeded.
    pub failures: u32,
    /// Pauses since it opened; 0 while it is closed.
    pub pauses: u32,
}

/// The effect of a failed attempt on a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// It stays as it is: closed, or open because of another attempt.
    Unchanged,
    /// It opens, and sends a probe after this pause.
    Opens(Duration),
    /// The probe failed; the next one is sent after this pause.
    StaysOpen(Duration),
    /// It is open because of another attempt; no probe is sent within this time.
    Waits(Duration),
}

impl Circuit {
    fn is_open(self) -> bool {
        self.pauses > 0
    }

    /// Counts a failure. `is_probe`: whether the attempt was the probe of an open circuit. `asked`: how long
    /// the receiver asks to wait. That holds for all its deliveries, so the circuit opens at once.
    pub fn fail(
        &mut self,
        is_probe: bool,
        asked: Duration,
        policy: &CircuitPolicy,
    ) -> AfterFailure {
        self.failures = self.failures.saturating_add(1);
        let asked = asked.min(policy.max_asked);
        let is_asked = !asked.is_zero();
        let fails_often = self.failures >= policy.open_after;
        let was_open = self.is_open();
        if was_open && !is_probe {
            // Attempts that were under way when it opened add no more information than this.
            return match is_asked {
                true => AfterFailure::Waits(asked),
                false => AfterFailure::Unchanged,
            };
        }
        if !(was_open || fails_often || is_asked) {
            return AfterFailure::Unchanged;
        }
        // Pauses that the receiver asked for double none of these.
        let doublings = self.failures.saturating_sub(policy.open_after);
        let factor = 2_u32.saturating_pow(doublings.min(self.pauses));
        let own = policy.pause.saturating_mul(factor).min(policy.max_pause);
        self.pauses = self.pauses.saturating_add(1);
        let pause = match is_asked && !fails_often {
            true => asked,
            false => own.max(asked),
        };
        match was_open {
            true => AfterFailure::StaysOpen(pause),
            false => AfterFailure::Opens(pause),
        }
    }
}

/// What an endpoint's circuit lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// All deliveries.
    Closed,
    /// No deliveries; they are recorded and wait.
    Open,
    /// One delivery, the probe.
    HalfOpen,
}

impl std::fmt::Display for CircuitState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: CircuitPolicy = CircuitPolicy {
        open_after: 3,
        pause: Duration::from_secs(10),
        max_pause: Duration::from_secs(35),
        max_asked: Duration::from_secs(3600),
    };

    fn fail(circuit: &mut Circuit, is_probe: bool) -> AfterFailure {
        circuit.fail(is_probe, Duration::ZERO, &POLICY)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_its_pauses_grow_to_their_limit() {
        let mut circuit = Circuit::default();
        assert_eq!(fail(&mut circuit, false), AfterFailure::Unchanged);
        assert_eq!(fail(&mut circuit, false), AfterFailure::Unchanged);
        assert!(!circuit.is_open());
        let seconds = Duration::from_secs;
        assert_eq!(fail(&mut circuit, false), AfterFailure::Opens(seconds(10)));
        for pause in [20, 35, 35] {
            // One that was under way when it opened.
            assert_eq!(fail(&mut circuit, false), AfterFailure::Unchanged);
            let after = fail(&mut circuit, true);
            assert_eq!(after, AfterFailure::StaysOpen(seconds(pause)));
        }
        circuit.pauses = u32::MAX;
        assert_eq!(
            fail(&mut circuit, true),
            AfterFailure::StaysOpen(seconds(35))
        );
    }

    #[test]
    fn it_waits_as_long_as_the_receiver_asks_for_within_its_limit() {
        // At the first failure as long as asked, at the third not for less than its own pause.
        for (before, asked, pause) in [
            (0, 5, 5),
            (0, 86_400, 3600),
            (2, 5, 10),
            (2, 20, 20),
            (2, 86_400, 3600),
        ] {
            let mut circuit = Circuit {
                failures: before,
                pauses: 0,
            };
            let after = circuit.fail(false, Duration::from_secs(asked), &POLICY);
            assert_eq!(after, AfterFailure::Opens(Duration::from_secs(pause)));
        }
    }

    #[test]
    fn pauses_that_were_asked_for_double_none_of_its_own() {
        let seconds = Duration::from_secs;
        let mut circuit = Circuit::default();
        let pauses = [1, 1, 10, 20, 35];
        for (tried, pause) in pauses.into_iter().enumerate() {
            let after = circuit.fail(tried > 0, seconds(1), &POLICY);
            let (AfterFailure::Opens(waits) | AfterFailure::StaysOpen(waits)) = after else {
                panic!("{after:?}")
            };
            assert_eq!(waits, seconds(pause), "{tried}");
        }
    }

    #[test]
    fn an_attempt_under_way_and_a_probe_have_it_wait_as_long_as_asked() {
        let seconds = Duration::from_secs;
        let mut circuit = Circuit::default();
        let after = circuit.fail(false, seconds(100), &POLICY);
        assert_eq!(after, AfterFailure::Opens(seconds(100)));
        let after = circuit.fail(false, seconds(200), &POLICY);
        assert_eq!(after, AfterFailure::Waits(seconds(200)));
        assert_eq!(circuit.pauses, 1);
        let after = circuit.fail(true, seconds(300), &POLICY);
        assert_eq!(after, AfterFailure::StaysOpen(seconds(300)));
    }
}
