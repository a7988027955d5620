//! The sections `[worker]`, `[reconciler]` and `[links]`. The defaults are in `config/default.toml`.

use crate::domain::groups::WorkspaceGroups;
use crate::domain::link::{LinkBases, LinkContext};
use crate::ports::provider::Provider;
use serde::Deserialize;
use std::time::Duration;

/// Section `[worker]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSettings {
    /// Runs that this process works on at a time.
    pub concurrency: usize,
    /// Largest number of counted attempts.
    pub max_attempts: u32,
    /// Limit of an attempt's check. Its completion may take [longer](Self::lease).
    #[serde(with = "humantime_serde")]
    pub run_deadline: Duration,
    /// Longest time of a run over all attempts, including waits that the provider asks for.
    #[serde(with = "humantime_serde")]
    pub total_deadline: Duration,
    /// Time between heartbeats.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// Time without a heartbeat after which other workers take a worker's runs.
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    /// After the signal to stop: time for runs in flight to finish.
    #[serde(with = "humantime_serde")]
    pub grace_period: Duration,
    /// All groups of workspaces but the default one.
    pub groups: WorkspaceGroups,
    /// The name of the group whose runs this worker processes.
    pub group: String,
}

/// Heartbeats of a consumer of hints after which it counts as dead. Others take its hints after six of
/// them, so a consumer that can recover has done so several times by then.
const CONSUMER_HEARTBEATS: u32 = 24;

/// Heartbeats without progress of a loop of the process after which only a restart helps: with the defaults twelve times
/// what others wait before they take its runs.
const STUCK_HEARTBEATS: u32 = 36;

/// What a loop of the process may take at least: a sweep without an answer is given up after a minute.
const MIN_STUCK_AFTER: Duration = Duration::from_secs(90);

/// `run_deadline`s that an attempt's lease lasts at most: the first is for the check, the last for releasing a run whose
/// completion has failed. In those between, the finished check of each of a worker's slots is written even where rules of
/// the application have each completion wait: with the defaults 72 of them, two at a time, as long as a statement may
/// take, are 18 minutes.
const LEASE_DEADLINES: u32 = 20;

impl WorkerSettings {
    /// Returns how long the lease of an attempt lasts at most. It ends earlier when its worker's heartbeat stops.
    pub fn lease(&self) -> Duration {
        LEASE_DEADLINES * self.run_deadline
    }

    /// Returns the time without activity after which the consumer of hints ends the process, while its
    /// queue is available. A consumer sends its heartbeats in whole seconds.
    pub fn consumer_dead_after(&self) -> Duration {
        CONSUMER_HEARTBEATS * self.heartbeat_interval.max(Duration::from_secs(1))
    }

    /// Returns the time without activity after which the consumer counts as stalled: runs are then
    /// taken from the database.
    pub fn consumer_stalled_after(&self) -> Duration {
        self.consumer_dead_after() / 2
    }

    /// Returns the time without progress after which the process is stuck. The reconciler pauses between its sweeps.
    pub fn stuck_after(&self, sweep_interval: Duration) -> Duration {
        (STUCK_HEARTBEATS * self.heartbeat_interval).max(MIN_STUCK_AFTER + 2 * sweep_interval)
    }

    /// Returns the time without a heartbeat after which a worker drops its own runs, before others may take
    /// them.
    pub fn self_fence_after(&self) -> Duration {
        self.dead_after.mul_f64(0.8)
    }
}

/// Section `[reconciler]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcilerSettings {
    /// Time between sweeps.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// A queued run is delivered again when its last delivery is older than this.
    #[serde(with = "humantime_serde")]
    pub redeliver_after: Duration,
}

/// Section `[links]`: where the surrounding application has its pages, for next steps.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// Path or `https` address of the list of connections.
    pub connections: String,
    /// Address of the page of a connection; `{id}` is replaced by its id.
    pub connection: String,
    /// Address of the page of a run; `{id}` is replaced by its id.
    pub run: String,
    /// Where the page of admin consent leads back to; empty for none.
    pub consent_redirect: String,
}

impl LinkSettings {
    /// Returns what links are made of, as far as the application's pages and a cloud's addresses tell.
    pub fn context(&self, provider: Option<&dyn Provider>, cloud: Option<&str>) -> LinkContext {
        let bases = provider
            .and_then(|p| p.link_bases(cloud).or_else(|| p.link_bases(None)))
            .unwrap_or_else(|| LinkBases {
                portal: "https://entra.microsoft.com".to_owned(),
                ..LinkBases::default()
            });
        LinkContext {
            connections: self.connections.clone(),
            connection: self.connection.clone(),
            run: self.run.clone(),
            portal: bases.portal,
            login: bases.login,
            graph: bases.graph,
            consent_redirect: Some(self.consent_redirect.clone()).filter(|url| !url.is_empty()),
            ..LinkContext::default()
        }
    }
}
