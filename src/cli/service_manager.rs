//! Reports what `serve` does to the service manager, systemd for example: `sd_notify(3)`. Without `NOTIFY_SOCKET`
//! nothing is reported.

use crate::http::health::Health;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Names the socket of the service manager.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Pause between two readings of the status.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Reports that the process is ready, then watchdog notifications, its status and its stop, until `end`. The
/// notifications go on while the process drains.
pub async fn report(health: Arc<Health>, end: CancellationToken) {
    if std::env::var_os(SOCKET).is_none() {
        return;
    }
    notify(&NotifyState::Ready);
    tokio::select! {
        // First, so that a stop is reported before the end.
        biased;
        _ = async {
            tokio::join!(
                report_stop(&health),
                report_life(&health),
                report_status(&health)
            )
        } => {}
        () = end.cancelled() => {}
    }
}

async fn report_stop(health: &Health) {
    health.stopping.cancelled().await;
    notify(&NotifyState::Stopping);
}

/// Reports twice in each interval of the watchdog that the process is alive, as long as `/healthz` says so, too.
async fn report_life(health: &Health) {
    let pause = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    let Some(pause) = pause.filter(|pause| !pause.is_zero()) else {
        return;
    };
    loop {
        match health.stuck() {
            None => notify(&NotifyState::Watchdog),
            Some(why) => tracing::error!(
                why,
                "the process is stuck; without watchdog notifications the service manager restarts it"
            ),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Reports what `/readyz` says, whenever it has changed.
async fn report_status(health: &Arc<Health>) {
    let mut reported = String::new();
    loop {
        let status = health.status().await;
        if status != reported {
            notify(&NotifyState::Status(&status));
            reported = status;
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// Sends one message. A service manager that does not read it holds up this task only.
fn notify(state: &NotifyState<'_>) {
    let sent = tokio::task::block_in_place(|| sd_notify::notify(std::slice::from_ref(state)));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot report to the service manager");
    }
}
