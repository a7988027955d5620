//! The measurements, one after the other.

use super::cpu::Cpu;
use super::limit::Load;
use super::timed::Timed;
use super::{Drain, Enqueue, Latency, Measured};
use crate::app::Services;
use crate::cli::args::BenchArgs;
use crate::cli::{serve, simulated};
use crate::domain::access::Binding;
use crate::domain::completion_event::CompletionEvent;
use crate::domain::connection::ProviderConnection;
use crate::domain::{Outcome, RunId, TenantId};
use crate::engine::worker::WorkerError;
use crate::operations::start_check::context_for;
use crate::operations::{CheckRequest, start_check};
use crate::ports::provider::Providers;
use crate::ports::store::{NewRun, RunFilter};
use crate::telemetry::metrics::Metrics;
use anyhow::Context as _;
use indicatif::ProgressBar;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use verifyd_simulator::Scenario;

/// Guards against hanging: so long without any completed run.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Runs recorded and hints sent at a time, in bulk.
const BULK: usize = 1_000;
/// Runs recorded one by one, at most.
const SINGLE: usize = 1_000;
/// Round trips on the idle system.
const ROUND_TRIPS: usize = 20;
/// Between two round trips while runs are drained.
const PROBE: Duration = Duration::from_millis(50);
/// Between two samples of the latency, so that the system is idle.
const PAUSE: Duration = Duration::from_millis(5);

/// What the measurements work with.
pub struct Phases<'a> {
    pub services: &'a Services,
    pub provider: &'a Timed,
    pub metrics: &'a Metrics,
    pub args: &'a BenchArgs,
    /// Fires when the measurement ends, however it does.
    pub end: &'a CancellationToken,
    /// What has to be waited for then.
    pub workers: &'a TaskTracker,
}

/// A worker as `serve` runs it.
struct Working {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Working {
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?.context("the worker")
    }
}

impl Phases<'_> {
    pub async fn all(&self) -> anyhow::Result<Measured> {
        let migrated = self.services.store.migrate().await;
        migrated.context("the tables for the measurement cannot be made")?;
        let connections = self.connections().await?;

        let working = self.work();
        self.warm_up(&connections).await?;
        let latency = self.latency(&connections).await?;
        let idle = self.round_trips().await?;
        working.stop().await?;

        let (enqueue, first) = self.enqueue(&connections).await?;
        let (load, drain) = self.drain(first, idle).await?;
        Ok(Measured {
            latency,
            enqueue,
            drain,
            load,
        })
    }

    fn work(&self) -> Working {
        let services = self.services.clone();
        let worker = services.worker();
        let stop = self.end.child_token();
        let until = stop.clone();
        let task = self
            .workers
            .spawn(async move { serve::work(&services, worker, until).await });
        Working { stop, task }
    }

    async fn connections(&self) -> anyhow::Result<Vec<ProviderConnection>> {
        let store = &self.services.store;
        let mut connections = Vec::new();
        for number in 1..=self.args.tenants {
            let new = simulated::connection(number, "Measured", Scenario::HealthyIntune);
            let id = simulated::add(self.services, &new).await?;
            let (connection, _) = store.connection(id).await?.context("just added")?;
            connections.push(connection);
        }
        Ok(connections)
    }

    /// Checks every connection once: tokens are in memory, and inventories there, as in production.
    async fn warm_up(&self, connections: &[ProviderConnection]) -> anyhow::Result<()> {
        let mut completions = self.services.store.completions();
        for part in connections.chunks(BULK) {
            let runs: Vec<NewRun> = part
                .iter()
                .map(|connection| new_run(&self.services.providers, connection))
                .collect();
            self.record_many(&runs).await?;
        }
        completed(&mut completions, connections.len(), |_| {}).await
    }

    /// One run at a time, from before it is recorded until its completion is committed.
    async fn latency(&self, connections: &[ProviderConnection]) -> anyhow::Result<Latency> {
        let services = self.services;
        let mut completions = services.store.completions();
        let mut samples = Vec::new();
        let progress = ProgressBar::new(self.args.latency_samples.into());
        for i in 0..self.args.latency_samples as usize {
            tokio::time::sleep(PAUSE).await;
            let connection = &connections[i % connections.len()];
            let began = Instant::now();
            let (store, queue) = (services.store.as_ref(), Some(services.queue.as_ref()));
            let request = CheckRequest::of(connection.id);
            let started = start_check(store, queue, &services.providers, &request).await?;
            started.hint?;
            completed(&mut completions, 1, |_| {}).await?;
            samples.push(milliseconds(began));
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(Latency::of(samples))
    }

    /// Records all runs while nobody works on them. Returns the first one's id, too.
    async fn enqueue(
        &self,
        connections: &[ProviderConnection],
    ) -> anyhow::Result<(Enqueue, RunId)> {
        let (store, queue) = (&self.services.store, &self.services.queue);
        let runs: Vec<NewRun> = connections
            .iter()
            .cycle()
            .take(self.args.runs as usize)
            .map(|connection| new_run(&self.services.providers, connection))
            .collect();
        let (single, bulk) = runs.split_at(runs.len().div_ceil(5).min(SINGLE));
        let mut first = None;
        let began = Instant::now();
        for new in single {
            let id = store.record(new).await?.run_id;
            queue.send_runs(&[id]).await?;
            first.get_or_insert(id);
        }
        let single_seconds = began.elapsed().as_secs_f64();
        let began = Instant::now();
        for part in bulk.chunks(BULK) {
            self.record_many(part).await?;
        }
        let bulk_seconds = began.elapsed().as_secs_f64();
        let rates = Enqueue {
            single_per_second: single.len() as f64 / single_seconds,
            bulk_per_second: (!bulk.is_empty()).then(|| bulk.len() as f64 / bulk_seconds),
        };
        Ok((rates, first.context("there is at least one run")?))
    }

    async fn record_many(&self, runs: &[NewRun]) -> anyhow::Result<()> {
        let ids = self.services.store.record_many(runs).await?;
        self.services.queue.send_runs(&ids).await?;
        Ok(())
    }

    /// Starts a worker on everything that was enqueued, and waits until all of it is completed.
    async fn drain(&self, first: RunId, idle: (f64, f64)) -> anyhow::Result<(Load, Drain)> {
        let runs = self.args.runs;
        let mut completions = self.services.store.completions();
        let progress = ProgressBar::new(runs.into());
        let (provider, in_flight) = (self.provider.seconds(), self.run_seconds());
        let cpu = Cpu::read();
        let began = Instant::now();
        let working = self.work();
        let mut probes = (Vec::new(), Vec::new());
        tokio::select! {
            all = completed(&mut completions, runs as usize, |n| progress.inc(n)) => all?,
            probed = self.probe(&mut probes) => probed?,
        }
        let waited = began.elapsed().as_secs_f64();
        let cpu = cpu.zip(Cpu::read()).map(|(before, now)| now.since(before));
        let provider_seconds = self.provider.seconds() - provider;
        progress.finish_and_clear();
        working.stop().await?;
        // What ended just after the last completion was counted is in, too.
        let run_seconds = self.run_seconds() - in_flight;

        let seconds = self.span(first).await?;
        let per_1000 = |seconds: f64| seconds * 1_000.0 / f64::from(runs);
        let load = Load {
            runs,
            runs_per_second: f64::from(runs) / seconds,
            seconds: waited,
            concurrency: self.services.settings.worker.concurrency,
            cores: std::thread::available_parallelism()?.get() as f64,
            run_seconds,
            provider_seconds,
            cpu,
            provider_delay: self.args.provider_delay,
            queue: self.services.queue.kind(),
            database_connections: self.services.settings.database.max_connections,
            database_round_trip: (idle.0, median(probes.0).unwrap_or(idle.0)),
            queue_round_trip: (idle.1, median(probes.1).unwrap_or(idle.1)),
        };
        let drain = Drain {
            runs,
            seconds,
            runs_per_second: load.runs_per_second,
            cpu_seconds_per_1000_runs: cpu.map(|cpu| per_1000(cpu.own)),
            simulator_cpu_seconds_per_1000_runs: cpu.map(|cpu| per_1000(cpu.simulator)),
            in_flight_mean: load.in_flight(),
            shares: load.shares(),
        };
        Ok((load, drain))
    }

    /// From the first start to the last completion, by the database's clock. All must have succeeded:
    /// what fails is another work.
    async fn span(&self, first: RunId) -> anyhow::Result<f64> {
        let mut before = None;
        let (mut started, mut ended) = (None, None);
        loop {
            let filter = RunFilter {
                binding: Binding::EVERYTHING,
                before,
                limit: 500,
                ..RunFilter::default()
            };
            let page = self.services.store.runs(&filter).await?;
            for run in page.iter().filter(|run| run.id >= first) {
                anyhow::ensure!(
                    run.outcome == Some(Outcome::Succeeded),
                    "run {} ended otherwise than the simulator's scenario: {}",
                    run.id,
                    run.reason_code.as_deref().unwrap_or("no reason")
                );
                started = started.into_iter().chain(run.started_at).min();
                ended = ended.into_iter().chain(run.completed_at).max();
            }
            match page.last() {
                Some(last) if last.id > first => before = Some(last.id),
                _ => break,
            }
        }
        let (started, ended) = started
            .zip(ended)
            .context("no run has a start and an end")?;
        // The embedded database counts in milliseconds.
        Ok((ended - started).as_seconds_f64().max(0.001))
    }

    /// Round trips until it is dropped.
    async fn probe(&self, into: &mut (Vec<f64>, Vec<f64>)) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(PROBE).await;
            into.0.push(self.one_database().await?);
            into.1.push(self.one_queue().await?);
        }
    }

    async fn one_database(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.services.store.ping().await?;
        Ok(milliseconds(began))
    }

    async fn one_queue(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.services.queue.ping().await?;
        Ok(milliseconds(began))
    }

    /// Medians of round trips to the database and to the queue.
    async fn round_trips(&self) -> anyhow::Result<(f64, f64)> {
        let (mut database, mut queue) = (Vec::new(), Vec::new());
        for _ in 0..ROUND_TRIPS {
            database.push(self.one_database().await?);
            queue.push(self.one_queue().await?);
        }
        let medians = median(database).zip(median(queue));
        medians.context("no round trip")
    }

    /// From claim to completion, of all runs of this process so far.
    fn run_seconds(&self) -> f64 {
        sum_of(&self.metrics.render(), "verifyd_run_duration_seconds").unwrap_or_default()
    }
}

/// The sum of a histogram without labels, of the text format.
fn sum_of(metrics: &str, name: &str) -> Option<f64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix("_sum ")?.parse().ok())
}

fn new_run(providers: &Providers, connection: &ProviderConnection) -> NewRun {
    NewRun {
        workspace_id: connection.workspace_id,
        tenant_id: Some(TenantId(connection.tenant_id.0)),
        context: context_for(providers, connection, None),
        unless_active: None,
        onboarding_session: None,
    }
}

/// Waits for so many completions of this process.
async fn completed(
    completions: &mut Receiver<CompletionEvent>,
    wanted: usize,
    mut seen: impl FnMut(u64),
) -> anyhow::Result<()> {
    let mut left = wanted as u64;
    while left > 0 {
        let next = tokio::time::timeout(TIMEOUT, completions.recv()).await;
        let next = next.with_context(|| {
            format!("of {wanted} runs {left} are not completed, and none was within {TIMEOUT:?}")
        })?;
        let more = match next {
            Ok(_) => 1,
            Err(RecvError::Lagged(missed)) => missed,
            Err(RecvError::Closed) => anyhow::bail!("the database was closed"),
        };
        left = left.saturating_sub(more);
        seen(more);
    }
    Ok(())
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1_000.0
}

fn median(samples: Vec<f64>) -> Option<f64> {
    (!samples.is_empty()).then(|| Latency::of(samples).p50)
}

/// Times the checks of the provider that the measurement uses.
pub fn timed(services: &mut Services) -> anyhow::Result<Arc<Timed>> {
    let provider = services.providers.get("microsoft");
    let timed = Arc::new(Timed::new(Arc::clone(provider.context("the provider")?)));
    services.providers = crate::ports::provider::Providers::new([
        Arc::clone(&timed) as Arc<dyn crate::ports::provider::Provider>
    ]);
    Ok(timed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_histogram_is_found_among_others() {
        let text = "# TYPE a histogram\na_sum_of 1\nab_sum 2\na_bucket{le=\"1\"} 3\na_sum 4.5\n";
        assert_eq!(sum_of(text, "a"), Some(4.5));
        assert_eq!(sum_of(text, "b"), None);
    }
}
