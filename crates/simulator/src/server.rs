//! Starting, routing and stopping.

use super::calls::{Calls, Endpoint};
use super::options::{SimulatorError, SimulatorOptions};
use super::state::Simulated;
use super::{control, graph, login};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, get, post};
use chrono::{DateTime, Utc};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The largest request that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// How long answers under way may take when the simulator is shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The simulator, not yet running.
#[derive(Debug)]
pub struct Simulator;

impl Simulator {
    /// Listens on loopback and answers until it is shut down or dropped.
    ///
    /// # Errors
    /// When the address is not a loopback one, the port is taken, a certificate of the options
    /// cannot be used, or no signing key can be made.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    pub async fn start(options: SimulatorOptions) -> Result<RunningSimulator, SimulatorError> {
        Self::start_with_clock(options, Utc::now).await
    }

    /// Starts a simulator that dates tokens and answers by `clock`. Waits take real time.
    ///
    /// # Errors
    /// As for [`Simulator::start`].
    pub async fn start_with_clock(
        options: SimulatorOptions,
        clock: impl Fn() -> DateTime<Utc> + Send + Sync + 'static,
    ) -> Result<RunningSimulator, SimulatorError> {
        if !options.address.is_loopback() {
            return Err(SimulatorError::NotLoopback(options.address));
        }
        let listen = |source| SimulatorError::Listen {
            address: options.address,
            port: options.port,
            source,
        };
        let listener = TcpListener::bind(SocketAddr::new(options.address, options.port))
            .await
            .map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let base_url = format!("http://{address}");
        let shared = Arc::new(Simulated::new(
            options,
            base_url.clone(),
            address.port(),
            Box::new(clock),
        )?);
        let stop = shared.stop.clone();
        let stopping = stop.clone();
        let server =
            axum::serve(listener, router(Arc::clone(&shared))).with_graceful_shutdown(async move {
                stopping.cancelled().await;
            });
        let task = tokio::spawn(async move { server.await });
        tracing::debug!(%address, "simulator is listening");
        Ok(RunningSimulator {
            base_url,
            address,
            shared,
            stop: stop.clone(),
            task,
            _stop_on_drop: stop.drop_guard(),
        })
    }
}

fn router(shared: Arc<Simulated>) -> Router {
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(login::token))
        .route("/v1.0/{*path}", any(graph::answer))
        .route("/healthz", get(control::healthz))
        .route("/__simulator/scenarios", get(control::scenarios))
        .route("/__simulator/calls/{tenant}", get(control::calls))
        .route("/__simulator/certificates", post(control::register))
        .route(
            "/__simulator/federated-token",
            get(control::federated_token),
        )
        .route("/__simulator/trap/{tenant}", any(control::trap))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(shared)
}

/// A simulator that answers. Dropping it stops it.
pub struct RunningSimulator {
    /// Base address of login and of Graph, without a slash at the end:
    /// `http://127.0.0.1:PORT`. Tokens are good for exactly this address.
    pub base_url: String,
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Simulated>,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
    _stop_on_drop: DropGuard,
}

impl std::fmt::Debug for RunningSimulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningSimulator")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

impl RunningSimulator {
    /// How often what was called for this tenant.
    pub fn calls(&self, tenant_id: &str) -> Calls {
        self.shared.tenants().calls(&tenant_id.to_ascii_lowercase())
    }

    /// How often this was called for this tenant.
    pub fn calls_of(&self, tenant_id: &str, endpoint: Endpoint) -> u64 {
        self.calls(tenant_id).of(endpoint)
    }

    /// How many calls of Graph were above a limit of [`SimulatorOptions::throttle`].
    pub fn throttled(&self) -> u64 {
        self.shared.tenants().throttled()
    }

    /// Registers a certificate (PEM, RSA) for every app and returns its `x5t#S256`.
    ///
    /// # Errors
    /// When the text is not such a certificate.
    pub fn register_certificate(&self, pem: &str) -> Result<String, SimulatorError> {
        self.shared.certificates.register(pem)
    }

    /// A token of the external issuer that every app trusts for the subject
    /// [`FEDERATED_SUBJECT`](super::FEDERATED_SUBJECT); good for an hour.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_federated_token(&self, subject: &str) -> Result<String, SimulatorError> {
        self.shared.federation.issue(subject, self.shared.now())
    }

    /// Stops listening, lets answers under way end within two seconds, and returns when the port
    /// is free.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        match tokio::time::timeout(SHUTDOWN_GRACE, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "simulator ended with an error"),
            Ok(Err(error)) => tracing::warn!(%error, "simulator's task failed"),
            Err(_elapsed) => {
                self.task.abort();
                let _ = (&mut self.task).await;
            }
        }
    }
}
