//! The simulator on threads of its own, so that what it uses can be told from what verifyd uses.

use super::cpu::SIMULATOR;
use std::time::Duration;
use tokio::runtime::Runtime;
use verifyd_simulator::{RateLimit, RunningSimulator, Simulator, SimulatorOptions, ThrottleLimits};

/// A provider that answers everybody, at any rate.
#[derive(Debug)]
pub struct Outside {
    pub simulator: RunningSimulator,
    threads: Option<Runtime>,
}

impl Outside {
    pub async fn start(delay: Duration) -> anyhow::Result<Self> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .thread_name(SIMULATOR)
            .enable_all()
            .build()?;
        let any_rate = RateLimit {
            calls: u32::MAX,
            window: Duration::from_secs(1),
        };
        let simulator = threads
            .spawn(Simulator::start(SimulatorOptions {
                latency: delay,
                throttle: ThrottleLimits {
                    identity: any_rate,
                    intune: any_rate,
                    application: any_rate,
                },
                ..SimulatorOptions::default()
            }))
            .await??;
        Ok(Self {
            simulator,
            threads: Some(threads),
        })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Waiting for threads is not allowed where this may be dropped.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
