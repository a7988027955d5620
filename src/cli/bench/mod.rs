//! `verifyd bench`: how fast it is on the user's own servers, and what limits.

mod cpu;
mod limit;
mod outside;
mod phases;
mod place;
mod timed;

use super::args::BenchArgs;
use super::{output, simulated, stop};
use crate::app::Services;
use crate::config::Settings;
use crate::telemetry::metrics;
use anyhow::Context as _;
use futures::FutureExt as _;
use limit::{Load, Shares};
use outside::Outside;
use owo_colors::OwoColorize as _;
use phases::Phases;
use place::Place;
use serde::Serialize;
use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest time for workers to stop when the measurement is ended early.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What was measured.
struct Measured {
    latency: Latency,
    enqueue: Enqueue,
    drain: Drain,
    load: Load,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Enqueue {
    single_per_second: f64,
    /// `null` when there were too few runs.
    bulk_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Drain {
    runs: u32,
    seconds: f64,
    runs_per_second: f64,
    /// `null` where the system does not tell.
    cpu_seconds_per_1000_runs: Option<f64>,
    simulator_cpu_seconds_per_1000_runs: Option<f64>,
    in_flight_mean: f64,
    shares: Shares,
}

impl Latency {
    /// Of at least one sample: the smallest one that so many are not above.
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |percent: usize| samples[(samples.len() * percent).div_ceil(100) - 1];
        Self {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

pub async fn run(settings: Settings, args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let ended = stop::on_signals()?;
    let place = Place::make(settings).await?;
    let end = CancellationToken::new();
    let workers = TaskTracker::new();
    let measured = tokio::select! {
        measured = AssertUnwindSafe(measure(&place, args, &end, &workers)).catch_unwind() => {
            measured.unwrap_or_else(|_| Err(anyhow::anyhow!("a defect: the measurement panicked")))
        }
        () = ended.cancelled() => Err(anyhow::anyhow!("ended by a signal")),
    };
    // What still works would write again what is removed.
    end.cancel();
    workers.close();
    let _ = tokio::time::timeout(STOP_TIMEOUT, workers.wait()).await;
    let removed = place.remove().await;
    let measured = measured?;
    removed?;
    show(&measured, args)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(
    place: &Place,
    args: &BenchArgs,
    end: &CancellationToken,
    workers: &TaskTracker,
) -> anyhow::Result<Measured> {
    let metrics = metrics::install()?;
    let outside = Outside::start(args.provider_delay).await?;
    let mut settings = place.settings.clone();
    simulated::add_cloud(&mut settings, &outside.simulator);
    let mut services = Services::open(settings).await.context(
        "what was made for the measurement cannot be reached (a pooler in between leads to databases \
         that it knows: give the server's own address in DATABASE_URL)",
    )?;
    let provider = phases::timed(&mut services)?;
    if !args.json.json {
        output::note(format!(
            "{} {} and {}, beside whatever is there; a simulated provider.",
            "verifyd bench".bold(),
            services.store.kind(),
            services.queue.kind(),
        ));
    }
    let phases = Phases {
        services: &services,
        provider: &provider,
        metrics: &metrics,
        args,
        end,
        workers,
    };
    let measured = phases.all().await;
    services.store.close().await;
    measured
}

fn show(measured: &Measured, args: &BenchArgs) -> anyhow::Result<()> {
    let Measured {
        latency,
        enqueue,
        drain,
        load,
    } = measured;
    if args.json.json {
        return output::json(&json!({
            "settings": {
                "concurrency": load.concurrency,
                "tenants": args.tenants,
                "latency_samples": args.latency_samples,
                "provider_delay_ms": args.provider_delay.as_secs_f64() * 1_000.0,
                "queue": load.queue,
                "database_connections": load.database_connections,
            },
            "drain": drain,
            "latency_ms": latency,
            "enqueue": enqueue,
            "round_trip_ms": {
                "database": { "idle": load.database_round_trip.0, "loaded": load.database_round_trip.1 },
                "queue": { "idle": load.queue_round_trip.0, "loaded": load.queue_round_trip.1 },
            },
            "limit": { "what": load.limit(), "sentence": load.sentence() },
        }));
    }
    let cpu = match drain.cpu_seconds_per_1000_runs {
        Some(seconds) => format!("{seconds:.2} s of CPU per 1,000 runs"),
        None => "CPU unknown on this system".to_owned(),
    };
    let mut table = output::table(["", ""]);
    table.add_row([
        "Drain".to_owned(),
        format!(
            "{:.0} runs/s ({} runs in {:.2} s, {} at a time), {cpu}",
            drain.runs_per_second, drain.runs, drain.seconds, load.concurrency
        ),
    ]);
    table.add_row([
        "Latency, enqueue to committed".to_owned(),
        format!(
            "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            latency.p50, latency.p90, latency.p99, latency.max
        ),
    ]);
    table.add_row([
        "Enqueue".to_owned(),
        match enqueue.bulk_per_second {
            Some(bulk) => format!(
                "{:.0}/s one by one, {bulk:.0}/s in bulk",
                enqueue.single_per_second
            ),
            None => format!("{:.0}/s one by one", enqueue.single_per_second),
        },
    ]);
    output::line(table);
    output::line(textwrap::fill(
        &load.sentence(),
        textwrap::Options::with_termwidth(),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let latency = Latency::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(latency.p50.round() as u32, 100);
        assert_eq!(latency.p90.round() as u32, 180);
        assert_eq!(latency.p99.round() as u32, 198);
        assert_eq!(latency.max.round() as u32, 200);
        let one = Latency::of(vec![7.0]);
        assert_eq!((one.p50, one.max), (7.0, 7.0));
    }
}
