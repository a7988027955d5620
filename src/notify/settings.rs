//! Section `[webhooks]`.

use crate::domain::circuit::CircuitPolicy;
use crate::domain::pause::with_jitter;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Failures in a row after which an endpoint's circuit opens: fewer would open it for a restart of the receiver.
const CIRCUIT_FAILURES: u32 = 5;

/// Largest random part of a pause, as a share of it.
pub(super) const JITTER: f64 = 0.2;

/// How webhooks are sent. The defaults are in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Messages that this process sends at the same time.
    pub concurrency: usize,
    /// Longest time for one attempt.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Attempts after which a message is given up.
    pub max_attempts: u32,
    /// A message that has been pending for this time is given up, however often it was tried.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    /// How long delivered messages are kept...
    #[serde(with = "humantime_serde")]
    pub keep_delivered: Duration,
    /// ...and those that were given up.
    #[serde(with = "humantime_serde")]
    pub keep_failed: Duration,
    /// Hosts on loopback that may be called, also without TLS; separated by commas.
    pub loopback_hosts: String,
}

impl WebhookSettings {
    /// Returns the time after which a sender is regarded as lost, and what it was sending is due again.
    pub fn lease(&self) -> Duration {
        2 * self.request_timeout + Duration::from_secs(5)
    }

    /// Returns the limit for opening a connection: a part of the attempt.
    pub fn connect_timeout(&self) -> Duration {
        self.request_timeout / 3
    }

    /// Returns the number of messages to one endpoint at the same time, so that no endpoint holds every slot. To one
    /// whose last attempt failed it is only one.
    pub fn per_endpoint(&self) -> usize {
        (self.concurrency / 4).max(1)
    }

    /// Returns when circuits open and probe. The first pause has jitter, and with it those that are multiples of it, so
    /// that circuits that opened at the same time probe at different times.
    pub fn circuit(&self) -> CircuitPolicy {
        let max_pause = 60 * self.request_timeout;
        CircuitPolicy {
            open_after: CIRCUIT_FAILURES,
            pause: with_jitter(2 * self.request_timeout, JITTER, max_pause),
            max_pause,
            max_asked: self.max_retry_delay(),
        }
    }

    /// Returns the longest pause between two attempts: a message has time for several within its age.
    pub fn max_retry_delay(&self) -> Duration {
        self.give_up_after / 4
    }

    /// Returns the hosts of `loopback_hosts`, each as it stands in a URL.
    pub fn loopback_hosts(&self) -> BTreeSet<String> {
        self.loopback_hosts
            .split(',')
            .map(|host| host.trim().to_ascii_lowercase())
            .filter(|host| !host.is_empty())
            .map(|host| match host.parse::<Ipv6Addr>() {
                Ok(address) => format!("[{address}]"),
                Err(_) => host,
            })
            .collect()
    }

    /// Returns the pause after attempt `tries` (from 1), without jitter.
    pub fn pause_after(&self, tries: u32) -> Duration {
        let factor = 4_u32.saturating_pow(tries.saturating_sub(1));
        (self.request_timeout / 3)
            .saturating_mul(factor)
            .min(self.max_retry_delay())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::circuit::{AfterFailure, Circuit};

    fn settings(concurrency: usize) -> WebhookSettings {
        let seconds = Duration::from_secs;
        WebhookSettings {
            concurrency,
            request_timeout: seconds(15),
            max_attempts: 3,
            give_up_after: seconds(86_400),
            keep_delivered: seconds(1),
            keep_failed: seconds(1),
            loopback_hosts: String::new(),
        }
    }

    #[test]
    fn no_endpoint_holds_every_slot() {
        for (all, each) in [(16, 4), (4, 1), (2, 1), (1, 1)] {
            assert_eq!(settings(all).per_endpoint(), each, "{all}");
        }
    }

    #[test]
    fn retries_grow_from_a_third_of_an_attempt_to_a_quarter_of_the_age() {
        let pauses: Vec<u64> = [1, 2, 3, 6, 7, 8, 9, 60]
            .map(|tries| settings(16).pause_after(tries).as_secs())
            .into();
        assert_eq!(pauses, [5, 20, 80, 5_120, 20_480, 21_600, 21_600, 21_600]);
    }

    #[test]
    fn pauses_of_circuits_are_longer_by_a_fifth_and_keep_their_bound() {
        for _ in 0..100 {
            let policy = settings(16).circuit();
            assert_eq!(policy.open_after, 5);
            assert!((30.0..=36.0).contains(&policy.pause.as_secs_f64()));
            for (pauses, asked) in [(0, 86_400), (4, 0), (5, 0), (5, 86_400), (60, 0)] {
                let mut circuit = Circuit {
                    failures: 4 + pauses,
                    pauses,
                };
                let after = circuit.fail(true, Duration::from_secs(asked), &policy);
                let (AfterFailure::Opens(pause) | AfterFailure::StaysOpen(pause)) = after else {
                    panic!("{after:?}")
                };
                let bound = if asked > 0 { 21_600 } else { 900 };
                assert!(pause <= Duration::from_secs(bound), "{pauses}: {pause:?}");
            }
        }
    }
}
