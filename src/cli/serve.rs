//! `verifyd serve`

use super::stop;
use crate::app::Services;
use crate::config::Settings;
use crate::http;
use crate::http::health::Health;
use crate::telemetry::metrics;
use anyhow::Context as _;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signals()?;
    let metrics = metrics::install()?;
    let listener = http::bind(&settings.http)
        .await
        .with_context(|| format!("http.listen {}", settings.http.listen))?;
    let listening = listener.local_addr()?;
    let stuck_after = settings.http.stuck_after;
    let services = Services::open(settings).await?;
    let version = services.store.schema_version().await?;
    let wanted = services.store.wanted_schema_version();
    anyhow::ensure!(
        version.is_some_and(|v| v >= wanted),
        "the database's schema has version {}, this build needs {wanted}: run `verifyd migrate`",
        version.map_or_else(|| "none".to_owned(), |v| v.to_string()),
    );
    if services.queue.kind() == "in_process" && services.store.kind() == "postgres" {
        tracing::warn!(
            "no redis.url: hints stay in this process, and runs recorded elsewhere are found by \
             the sweep only; set REDIS_URL when replicas or other applications are to enqueue"
        );
    }

    let engine = services.engine();
    let worker = services.worker(engine.clone());
    let health = Arc::new(Health {
        engine: engine.clone(),
        queue: Arc::clone(&services.queue),
        reconciler: Arc::clone(&worker.reconciler_state),
        metrics,
        stuck_after,
        stopping: stop.clone(),
    });
    // The endpoints answer until the very end, so that a drain can be watched.
    let closing = CancellationToken::new();
    let serving = tokio::spawn(http::serve(listener, health, closing.clone()));
    tracing::info!(
        worker = %engine.worker,
        version = env!("CARGO_PKG_VERSION"),
        database = services.store.kind(),
        queue = services.queue.kind(),
        concurrency = engine.settings.concurrency,
        %listening,
        "ready for runs"
    );
    let worked = worker.run(stop).await;
    closing.cancel();
    serving.await?.context("the health endpoints")?;
    services.store.close().await;
    worked.context("the worker cannot go on; restart it")?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
