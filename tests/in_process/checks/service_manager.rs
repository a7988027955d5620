//! The service manager learns of a process what `/healthz` says. The test plays systemd: `sd_notify(3)`.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;
use test_support::waiting::PATIENCE;
use test_support::world::World;
use test_support::{own_process, test_name};
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;
use verifyd::cli::service_manager;
use verifyd::telemetry::metrics::Metrics;

const SOCKET: &str = "NOTIFY_SOCKET";

async fn next_message(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
    let length = received.expect("a message").unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_process_sends_no_watchdog_notification() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let environment = [
        (SOCKET, socket.as_os_str()),
        ("WATCHDOG_USEC", OsStr::new("100000")),
    ];
    if !own_process::entered(
        test_name!(a_stuck_process_sends_no_watchdog_notification),
        &environment,
    ) {
        return;
    }
    let socket = UnixDatagram::bind(std::env::var_os(SOCKET).unwrap()).unwrap();
    let world = World::new().await;
    let worker = world.services.worker();
    let stopping = CancellationToken::new();
    let metrics = Metrics::detached();
    let mut health = world.services.health(&worker, metrics, stopping.clone());
    // The worker was never started, so its loops make no progress.
    Arc::get_mut(&mut health).unwrap().stuck_after = Duration::ZERO;
    let end = CancellationToken::new();
    let reporting = tokio::spawn(service_manager::report(health, end.clone()));
    assert_eq!(next_message(&socket).await, "READY=1\n");
    // The first watchdog notification would come before the status.
    let status = next_message(&socket).await;
    assert!(status.starts_with("STATUS=not ready: "), "{status}");
    // A process that stops is not stuck.
    stopping.cancel();
    while next_message(&socket).await != "WATCHDOG=1\n" {}
    end.cancel();
    reporting.await.unwrap();
}
