//! What all requests share.

use super::certificates::Certificates;
use super::federation::Federation;
use super::options::{SimulatorError, SimulatorOptions};
use super::tenants::Tenants;
use super::tokens::Signer;
use chrono::{DateTime, Utc};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Tells the time.
pub(crate) type Clock = Box<dyn Fn() -> DateTime<Utc> + Send + Sync>;

pub(crate) struct Simulated {
    pub options: SimulatorOptions,
    /// Scheme, host and port of login and Graph: no slash at the end.
    pub origin: String,
    /// The same server under another name, for redirects and links that must not be followed.
    pub foreign_origin: String,
    /// Dates tokens and answers.
    pub clock: Clock,
    /// Signs access tokens.
    pub signer: Signer,
    pub federation: Federation,
    pub certificates: Certificates,
    /// Ends every wait when the simulator stops.
    pub stop: CancellationToken,
    tenants: Mutex<Tenants>,
}

impl Simulated {
    pub(crate) fn new(
        options: SimulatorOptions,
        origin: String,
        port: u16,
        clock: Clock,
    ) -> Result<Self, SimulatorError> {
        let certificates = Certificates::default();
        for pem in &options.certificates_pem {
            certificates.register(pem)?;
        }
        Ok(Self {
            federation: Federation::new(&origin)?,
            signer: Signer::fresh()?,
            options,
            origin,
            foreign_origin: format!("http://localhost:{port}"),
            clock,
            certificates,
            stop: CancellationToken::new(),
            tenants: Mutex::default(),
        })
    }

    /// Never held across a wait.
    pub(crate) fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unix time in seconds.
    pub(crate) fn now(&self) -> i64 {
        (self.clock)().timestamp()
    }

    /// Waits, but not longer than the simulator lives.
    pub(crate) async fn wait(&self, time: Duration) {
        if !time.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}
