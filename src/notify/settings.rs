//! Section `[webhooks]`.

use crate::domain::circuit::CircuitPolicy;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

/// How webhooks are sent. The defaults are in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Messages that this process sends at the same time.
    pub concurrency: usize,
    /// Messages to one endpoint at the same time; one while its last attempt failed.
    pub concurrency_per_endpoint: usize,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest time for one attempt.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Time between two looks for due deliveries.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// Attempts after which a message is given up.
    pub max_attempts: u32,
    /// Pause before the second attempt; four times as long before each further one...
    #[serde(with = "humantime_serde")]
    pub retry_base_delay: Duration,
    /// ...and never longer than this.
    #[serde(with = "humantime_serde")]
    pub retry_max_delay: Duration,
    /// A message that has been pending for this time is given up, however often it was tried.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    /// Failures in a row after which an endpoint's circuit opens.
    pub circuit_failures: u32,
    /// Pause before the first probe of an open circuit; twice as long before each further one...
    #[serde(with = "humantime_serde")]
    pub circuit_pause: Duration,
    /// ...and never longer than this.
    #[serde(with = "humantime_serde")]
    pub circuit_max_pause: Duration,
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

    /// Returns the number of messages to one endpoint at the same time: never more than half of all, so
    /// that no endpoint holds every slot.
    pub fn per_endpoint(&self) -> usize {
        self.concurrency_per_endpoint
            .min(self.concurrency / 2)
            .max(1)
    }

    /// Returns when circuits open and probe. The pauses have a random part of up to a fifth, so that
    /// circuits that opened at the same time do not probe at the same time.
    pub fn circuit(&self) -> CircuitPolicy {
        let chance = 1.0 + 0.2 * rand::random::<f64>();
        CircuitPolicy {
            open_after: self.circuit_failures,
            pause: self.circuit_pause.mul_f64(chance),
            max_pause: self.circuit_max_pause.mul_f64(chance),
        }
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

    /// Returns the pause after attempt `tries` (from 1), without its random part.
    pub fn pause_after(&self, tries: u32) -> Duration {
        let factor = 4_u32.saturating_pow(tries.saturating_sub(1));
        self.retry_base_delay
            .saturating_mul(factor)
            .min(self.retry_max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(concurrency: usize, concurrency_per_endpoint: usize) -> WebhookSettings {
        let seconds = Duration::from_secs;
        WebhookSettings {
            concurrency,
            concurrency_per_endpoint,
            connect_timeout: seconds(1),
            request_timeout: seconds(1),
            poll_interval: seconds(1),
            max_attempts: 3,
            retry_base_delay: seconds(5),
            retry_max_delay: seconds(3600),
            give_up_after: seconds(86_400),
            circuit_failures: 5,
            circuit_pause: seconds(30),
            circuit_max_pause: seconds(900),
            keep_delivered: seconds(1),
            keep_failed: seconds(1),
            loopback_hosts: String::new(),
        }
    }

    #[test]
    fn no_endpoint_holds_every_slot() {
        for (all, each, wanted) in [(16, 4, 4), (4, 4, 2), (2, 2, 1), (1, 1, 1), (5, 5, 2)] {
            assert_eq!(settings(all, each).per_endpoint(), wanted, "{all}, {each}");
        }
    }

    #[test]
    fn pauses_of_circuits_are_longer_by_a_fifth_at_most() {
        for _ in 0..100 {
            let circuit = settings(16, 4).circuit();
            assert_eq!(circuit.open_after, 5);
            assert!((30.0..=36.0).contains(&circuit.pause.as_secs_f64()));
            assert!((900.0..=1080.0).contains(&circuit.max_pause.as_secs_f64()));
        }
    }
}
