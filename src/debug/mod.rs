//! Looks into a running process: what each slot does, and the filter of its log lines.
//!
//! SIGUSR1 has the state logged. A Unix socket answers `verifyd debug`, to root and the user of the process only.

mod socket;
mod state;

pub use socket::{Answer, Request, Socket, ask};
pub use state::{Connections, DebugState, QueueState, Slots};
pub(crate) use state::{calls, connections};

use crate::engine::reconciler::ReconcilerState;
use crate::engine::worker::WorkerState;
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use crate::telemetry::log_filter::LogFilter;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Section `[debug]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebugSettings {
    /// Path of the socket; empty for none. Loading fills it from the environment.
    pub socket: PathBuf,
}

/// The process that is looked into.
#[derive(Debug)]
pub struct Observed {
    pub store: Arc<dyn Store>,
    pub queue: Arc<dyn Queue>,
    pub worker: Arc<WorkerState>,
    pub reconciler: Arc<ReconcilerState>,
    pub log_filter: Arc<LogFilter>,
    pub started: Instant,
    /// Set while the process drains.
    pub stopping: CancellationToken,
}

impl Observed {
    async fn answer(&self, request: Request) -> Answer {
        let changed = match request {
            Request::State => return Answer::State(Box::new(self.state().await)),
            Request::LogFilter {
                add: Some(directives),
                seconds,
            } => (self.log_filter).change(&directives, Duration::from_secs(seconds)),
            Request::LogFilter { add: None, .. } => self.log_filter.reset(),
        };
        match changed {
            Ok(()) => Answer::LogFilter(self.log_filter.state()),
            Err(error) => Answer::Refused(error.to_string()),
        }
    }
}

/// Logs the state at each `signal`, and answers at the socket, if there is one, until `stop`.
pub async fn serve(
    observed: Arc<Observed>,
    mut signal: Signal,
    socket: Option<Socket>,
    stop: CancellationToken,
) {
    let logging = async {
        while signal.recv().await.is_some() {
            observed.state().await.log();
        }
    };
    let answering = async {
        if let Some(socket) = &socket {
            socket.answer(&observed).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = async { tokio::join!(logging, answering) } => {}
    }
}
