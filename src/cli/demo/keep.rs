//! `verifyd demo --keep`: shows the data on pages until it is stopped.

use super::connections::CONNECTIONS;
use super::{Demo, watch};
use crate::cli::{output, simulated};
use crate::domain::access::{Binding, Scope};
use crate::domain::connection::ConnectionStatus;
use crate::domain::{ConnectionId, RunId};
use crate::http;
use crate::http::health::Health;
use crate::operations::acknowledge::{Request, acknowledge};
use crate::operations::connections::set_credential;
use crate::operations::tokens::{TokenRequest, create_token};
use crate::operations::{CheckRequest, OperationError, start_check};
use crate::view::RunView;
use anyhow::Context as _;
use chrono::TimeDelta;
use owo_colors::OwoColorize as _;
use secrecy::{ExposeSecret as _, SecretString};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use verifyd_simulator::Scenario;

/// Pause between two checks while the pages are open, so that there is something to follow.
const PAUSE: Duration = Duration::from_secs(15);

/// A connection whose provider answers slowly, so that its checks can be watched.
const SLOW: &str = "Old Mill Brewery";

impl Demo<'_> {
    /// Checks everything several times more, with changes in between, so that the pages have a past
    /// to show.
    pub(super) async fn history(&self) -> anyhow::Result<()> {
        let slow = self.add_slow().await?;
        for _ in 0..3 {
            self.round().await?;
        }
        // The missing secret is added, and another one expires.
        self.set_secret(place("Forest Paper")?, TimeDelta::days(90))
            .await?;
        self.set_secret(place("Northern Schools")?, TimeDelta::days(-1))
            .await?;
        self.round().await?;
        self.accept(place("Summit Railways")?).await?;
        // One that is on its way when the first page is opened.
        self.check(slow).await?;
        Ok(())
    }

    async fn add_slow(&self) -> anyhow::Result<ConnectionId> {
        let number = u32::try_from(CONNECTIONS.len() + 1)?;
        let new = simulated::connection(number, SLOW, Scenario::Slow);
        Ok(simulated::add(self.services, &new).await?)
    }

    async fn check(&self, connection: ConnectionId) -> Result<RunId, OperationError> {
        let services = self.services;
        let (store, queue) = (services.store.as_ref(), Some(services.queue.as_ref()));
        let request = CheckRequest::of(connection);
        let started = start_check(store, queue, &services.providers, &request).await?;
        Ok(started.recorded.run_id)
    }

    /// Checks all connections once and waits for that.
    async fn round(&self) -> anyhow::Result<()> {
        let mut runs = Vec::new();
        for connection in self.services.store.connections(None, None, 1_000).await? {
            if connection.status == ConnectionStatus::Enabled {
                runs.push(self.check(connection.id).await?);
            }
        }
        watch(self.services, &runs, Instant::now()).await?;
        Ok(())
    }

    async fn set_secret(&self, id: ConnectionId, expires_in: TimeDelta) -> anyhow::Result<()> {
        let (store, vault) = (self.services.store.as_ref(), self.services.vault.as_ref());
        let expires_at = self.services.clock.now() + expires_in;
        let secret = simulated::secret();
        set_credential(
            store,
            vault,
            id,
            &secret,
            Some(expires_at),
            &simulated::demo(),
        )
        .await?;
        Ok(())
    }

    /// Acknowledges everything that is wrong with the latest run of a connection.
    async fn accept(&self, id: ConnectionId) -> anyhow::Result<()> {
        let store = self.services.store.as_ref();
        let now = self.services.clock.now();
        let latest = store.latest_report(id).await?.context("no report yet")?;
        let run = store.run(latest.operation_run_id).await?;
        let run = run.context("the run of the latest report is gone")?;
        let view = RunView::of(&run, &[], now);
        let Some(report) = view.report.readable() else {
            anyhow::bail!("the report of run {} cannot be read", run.id);
        };
        for problem in report.problems.iter().filter(|p| p.acknowledgeable) {
            let request = Request {
                run: run.id,
                reach: Binding::EVERYTHING,
                check_key: problem.check.key.clone(),
                reason: "The licences are ordered; they arrive with the new contract.".to_owned(),
                by: Some("Kim of the service desk".to_owned()),
                through: simulated::demo(),
                expires_at: Some(now + TimeDelta::days(30)),
            };
            acknowledge(store, &request, now).await?;
        }
        Ok(())
    }

    /// Serves the pages until a signal; meanwhile a connection is checked now and then.
    pub(super) async fn keep(
        &self,
        listener: TcpListener,
        health: Arc<Health>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let address = listener.local_addr()?;
        let token = self.token().await?;
        let pages = self.services.pages(stop.clone());
        let router = http::router(health, self.services.api());
        let router = router.merge(http::pages::router(pages));
        let settings = &self.services.settings.http;
        let serving = tokio::spawn(http::serve(listener, router, settings, stop.clone()));
        output::line(format!(
            "\n{}\n\n  {}\n\nThe link logs in by itself; elsewhere log in with this token, which \
             is worth nothing after the demo:\n\n  {}\n\n{}",
            "The pages with all of this:".bold(),
            format!("http://{address}/login#token={}", token.expose_secret()).cyan(),
            token.expose_secret(),
            "Ctrl-C ends it.".dimmed(),
        ));
        let connections = self.services.store.connections(None, None, 1_000).await?;
        for connection in connections.iter().rev().cycle() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
            match self.check(connection.id).await {
                // It was disabled from the beginning, or is since then.
                Ok(_) | Err(OperationError::Unusable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        serving.await?.context("the pages")?;
        Ok(())
    }

    /// Creates a token with all scopes, for as long as the demo's database exists.
    async fn token(&self) -> Result<SecretString, OperationError> {
        let request = TokenRequest {
            name: "demo".to_owned(),
            scopes: Scope::ALL.to_vec(),
            binding: Binding::EVERYTHING,
            expires_at: None,
        };
        let now = self.services.clock.now();
        let (_, token) = create_token(
            self.services.store.as_ref(),
            request,
            &simulated::demo(),
            now,
        )
        .await?;
        Ok(token)
    }
}

/// The connection of this part: they are numbered in the order of the table.
fn place(name: &str) -> anyhow::Result<ConnectionId> {
    let at = CONNECTIONS.iter().position(|part| part.name == name);
    Ok(ConnectionId(
        i64::try_from(at.context("no such part")?)? + 1,
    ))
}

/// Binds before anything else, so that a port that is taken shows at once.
pub(super) async fn bind(listen: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen)
        .await
        .with_context(|| format!("--listen {listen}: choose another one, such as 127.0.0.1:0"))
}
