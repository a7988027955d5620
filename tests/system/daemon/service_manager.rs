//! `serve` under a service manager, which the test plays: `sd_notify(3)`.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::bench::Bench;
use test_support::waiting::until;
use tokio::net::UnixDatagram;
use verifyd_simulator::{Scenario, SimulatorOptions};

/// A socket like that of systemd, and the messages that have arrived there.
struct Manager {
    folder: tempfile::TempDir,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let arrived = Arc::clone(&messages);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let message = String::from_utf8_lossy(&buffer[..length]);
                arrived.lock().unwrap().push(message.trim_end().to_owned());
            }
        });
        Self { folder, messages }
    }

    fn socket(&self) -> String {
        let path = self.folder.path().join("notify");
        path.to_str().unwrap().to_owned()
    }

    /// Where this message stands among all that have arrived.
    fn positions(&self, message: &str) -> Vec<usize> {
        let messages = self.messages.lock().unwrap();
        let all = messages.iter().enumerate();
        let found = all.filter(|(_, arrived)| *arrived == message);
        found.map(|(position, _)| position).collect()
    }

    async fn receives(&self, message: &str, times: usize) {
        until(message, async || self.positions(message).len() >= times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_reports_its_start_its_life_and_its_stop() {
    let options = SimulatorOptions {
        slow_answer: Duration::from_secs(1),
        ..SimulatorOptions::default()
    };
    let mut bench = Bench::unmigrated(options).await;
    let manager = Manager::start();
    // Of every command, but only `serve` reports.
    bench.set("NOTIFY_SOCKET", manager.socket());
    bench.set("WATCHDOG_USEC", "200000");
    let unmigrated = bench.run(&["serve"]);
    assert_eq!(unmigrated.status.code(), Some(1));
    bench.success(&["migrate"]);
    let id = bench.connection(1, &Scenario::Slow.tenant_id(1), "health_check");
    let mut daemon = bench.serve(&[]);
    manager.receives("STATUS=ready", 1).await;
    manager.receives("WATCHDOG=1", 5).await;
    bench.enqueue(id);
    bench.count_is("running", 1).await;
    daemon.terminate();
    manager.receives("STOPPING=1", 1).await;
    let stop = manager.positions("STOPPING=1");
    assert_eq!((manager.positions("READY=1"), stop.len()), (vec![0], 1));
    // The watchdog goes on while the run ends.
    assert!(manager.positions("WATCHDOG=1").last() > stop.first());
}

/// Nobody listens to the socket, as after a crash of the service manager.
#[tokio::test(flavor = "multi_thread")]
async fn serve_works_without_an_answering_service_manager() {
    let mut bench = Bench::new().await;
    bench.set("NOTIFY_SOCKET", "/nowhere/notify");
    let id = bench.healthy(1);
    let mut daemon = bench.serve(&[]);
    bench.enqueue(id);
    bench.all_completed().await;
    daemon.terminate();
}
