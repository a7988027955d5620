//! `verifyd serve`

use super::doctor::writing;
use super::{remedy, service_manager, stop};
use crate::app::Services;
use crate::config::Settings;
use crate::debug::{self, Socket};
use crate::engine::worker::{Worker, WorkerError};
use crate::http;
use crate::ports::store::{Store, StoreError};
use crate::telemetry::build_info::BUILD;
use crate::telemetry::log_filter::LogFilter;
use crate::telemetry::{metrics, traces};
use anyhow::Context as _;
use futures::FutureExt as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Pause before a part that panicked is started again.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);

/// Time after the end of the worker: for the last answers (5 s), the last spans (5 s), and to close connections (3 s).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(13);

pub async fn run(settings: Settings, log_filter: Arc<LogFilter>) -> anyhow::Result<ExitCode> {
    let signalled = stop::on_signals()?;
    // Also fired by a part of the worker that fails.
    let stop = signalled.child_token();
    // Unhandled, the signal would end the process.
    let show_state = signal(SignalKind::user_defined1())?;
    let metrics = metrics::install()?;
    let listener = http::bind(&settings.http)
        .await
        .with_context(|| format!("{}{}", remedy::LISTEN, settings.http.listen))?;
    let listening = listener.local_addr()?;
    let http_settings = settings.http.clone();
    let socket = bind_socket(&settings.debug.socket).await;
    let services = Services::open(settings).await?;
    let checked = services.outbound.check_authorities();
    checked.context("cannot set up outbound calls")?;
    let version = services.store.schema_version().await?;
    let wanted = services.store.wanted_schema_version();
    anyhow::ensure!(
        version.is_some_and(|v| v >= wanted),
        "the database's schema has version {}, this build needs {wanted}: run `verifyd migrate`",
        version.map_or_else(|| "none".to_owned(), |v| v.to_string()),
    );
    let findings = services.store.inspect().await?;
    if let Some(unfit) = remedy::unfit(findings.iter()) {
        anyhow::bail!(unfit);
    }
    require_writable(services.store.as_ref()).await?;
    if let Some(refusal) = writing::refusal(services.store.as_ref()).await {
        anyhow::bail!("{refusal}");
    }
    if services.queue.kind() == "in_process" && services.store.kind() == "postgres" {
        tracing::warn!(
            "no redis.url: hints stay in this process, and runs recorded elsewhere are found by a \
             notification of the database or by the sweep"
        );
    }
    let credentials = &services.settings.credentials;
    if services.vault.key_ids().is_empty() && credentials.laravel_keys.is_empty() {
        tracing::warn!(
            "no credentials.keys and no credentials.keys_file: no stored credential can be decrypted, so runs that \
             need one end with credential_undecryptable"
        );
    }
    if let Some(proxy) = services.outbound.proxy() {
        tracing::info!(
            %proxy,
            set_by = services.settings.origin("outbound.proxy"),
            no_proxy = services.settings.outbound.no_proxy,
            "outbound calls use a proxy"
        );
    }

    let worker = services.worker();
    let traces = traces::start(
        &services.settings.traces,
        &services.outbound,
        &worker.state.id.to_string(),
    )
    .context("cannot set up traces")?;
    let health = services.health(&worker, metrics, stop.clone());
    let observed = services.observed(&worker, log_filter, stop.clone());
    let api = services.api();
    // The endpoints answer until the very end, so that a drain can be watched.
    let closing = CancellationToken::new();
    let pages = services.pages(stop.clone());
    let router = http::router(Arc::clone(&health), api).merge(http::pages::router(pages));
    let serving = http::serve(listener, router, &http_settings, closing.clone());
    let serving = tokio::spawn(serving);
    let debugging = debug::serve(observed, show_state, socket, closing.clone());
    let debugging = tokio::spawn(debugging);
    tracing::info!(
        worker = %worker.state.id,
        version = BUILD.version,
        commit = BUILD.commit,
        database = services.store.kind(),
        queue = services.queue.kind(),
        concurrency = worker.state.settings.concurrency,
        %listening,
        "ready for runs"
    );
    let ended = CancellationToken::new();
    let reporting = tokio::spawn(service_manager::report(health, ended.clone()));
    let following = {
        let (reads, state) = (Arc::clone(&services.reads), Arc::clone(&worker.state));
        let until = stop.clone();
        restarted("look at the read replica", stop.clone(), move || {
            Arc::clone(&reads).follow(Arc::clone(&state), until.clone())
        })
    };
    let following = tokio::spawn(following);
    let worked = work(&services, worker, stop).await;
    closing.cancel();
    let close = async {
        let served = serving.await;
        if let Some(traces) = traces {
            traces.flush().await;
        }
        served?.context("the HTTP endpoints")?;
        // Whatever these wait for, the last answers and spans have had their time.
        let (reads, store) = (&services.reads, &services.store);
        let _ = tokio::join!(following, debugging, reads.close(), store.close());
        ended.cancel();
        reporting.await?;
        anyhow::Ok(())
    };
    match tokio::time::timeout(CLOSE_TIMEOUT, close).await {
        Ok(closed) => closed?,
        Err(_) => tracing::warn!("connections do not close; ending the process"),
    }
    match worked {
        Err(WorkerError::Overdue) if signalled.is_cancelled() => {
            tracing::warn!("the stop took too long; others take over what has not ended");
        }
        worked => worked.context("the worker has stopped; restart it")?,
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Refuses to start on a file that may only be read. A server that may only be read may be written later, after a
/// failover, and a file that another process has locked, too.
async fn require_writable(store: &dyn Store) -> anyhow::Result<()> {
    if store.kind() != "sqlite" {
        return Ok(());
    }
    match store.check_writable().await {
        Ok(()) | Err(StoreError::Contended(_)) => Ok(()),
        Err(error) => Err(error).context("nothing can be served"),
    }
}

/// The socket for `verifyd debug`, if there is to be one. Runs do not depend on it, so a path that cannot be used does
/// not end the start.
async fn bind_socket(path: &Path) -> Option<Socket> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let bound = Socket::bind(path).await;
    bound
        .inspect_err(|error| {
            tracing::error!(path = %path.display(), %error, "cannot bind debug.socket; going on without it");
        })
        .ok()
}

/// Runs the worker, the publisher of completion events and the webhook sender until `stop`, or until the
/// worker cannot go on. Ends in time after `stop`, whatever a part of them waits for.
pub async fn work(
    services: &Services,
    worker: Worker,
    stop: CancellationToken,
) -> Result<(), WorkerError> {
    let (state, stopped) = (Arc::clone(&worker.state), stop.clone());
    let working = work_and_drain(services, worker, stop);
    tokio::select! {
        worked = working => worked,
        () = state.stop_is_overdue(&stopped) => Err(WorkerError::Overdue),
    }
}

async fn work_and_drain(
    services: &Services,
    worker: Worker,
    stop: CancellationToken,
) -> Result<(), WorkerError> {
    let stop_publishing = CancellationToken::new();
    let publisher = services.completion_event_publisher();
    let publishing = tokio::spawn(publisher.run(stop_publishing.clone()));
    let sending = {
        let (services, until) = (services.clone(), stop.clone());
        restarted("webhook sender", stop.clone(), move || {
            services.webhook_sender().run(until.clone())
        })
    };
    let sending = tokio::spawn(sending);
    let worked = worker.run(stop.clone()).await;
    // Only now, so that the last completions are published, too.
    stop_publishing.cancel();
    stop.cancel();
    let _ = tokio::join!(publishing, sending);
    worked
}

/// Runs a part to its end. Runs do not depend on it, so a panic does not end the process: after a pause, unless `stop`
/// comes before its end, the part is started again.
async fn restarted<F: Future<Output = ()>>(
    name: &'static str,
    stop: CancellationToken,
    part: impl Fn() -> F,
) {
    // Whatever makes the part may panic, too.
    while AssertUnwindSafe(async { part().await })
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!("the {name} panicked; starting it again unless this process stops");
        let pause = tokio::time::sleep(PAUSE_AFTER_PANIC);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_is_started_again() {
        let stop = CancellationToken::new();
        let started = AtomicU32::new(0);
        let part = || {
            let before = started.fetch_add(1, Ordering::Relaxed);
            assert!(before >= 1, "a defect");
            async move { assert!(before >= 2, "a defect") }
        };
        restarted("part", stop.clone(), part).await;
        assert_eq!(started.load(Ordering::Relaxed), 3);
        // It does not panic any more.
        restarted("part", stop, part).await;
        assert_eq!(started.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_is_not_started_again_after_a_stop() {
        for is_stopped in [true, false] {
            let stop = CancellationToken::new();
            if is_stopped {
                stop.cancel();
            }
            let started = AtomicU32::new(0);
            let part = || async {
                let before = started.fetch_add(1, Ordering::Relaxed);
                assert!(before >= 9, "a defect");
            };
            let stopping = async {
                tokio::time::sleep(PAUSE_AFTER_PANIC / 2).await;
                stop.cancel();
            };
            tokio::join!(restarted("part", stop.clone(), part), stopping);
            assert_eq!(started.load(Ordering::Relaxed), 1);
        }
    }
}
