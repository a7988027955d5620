//! `verifyd demo`: everything in one process, without any installation.

mod connections;
mod keep;

use super::args::DemoArgs;
use super::{exit, output, render, simulate, simulated, stop};
use crate::app::Services;
use crate::config::{Settings, Sources};
use crate::credentials::credential_from_pem;
use crate::domain::connection::ConnectionStatus;
use crate::domain::credential::Credential;
use crate::domain::run::OperationRun;
use crate::domain::{Reason, RunId, RunStatus};
use crate::operations::start_check::context_for;
use crate::ports::store::NewRun;
use crate::telemetry::metrics;
use crate::view::{ReportView, RunView};
use anyhow::Context as _;
use chrono::{DateTime, TimeDelta};
use connections::{CONNECTIONS, DemoConnection, Flaw, SignsInBy};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize as _;
use secrecy::SecretString;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use verifyd_simulator::{Expectation, RunningSimulator, Simulator, SimulatorOptions};

/// Rows of the table of results.
pub(super) const ROWS: usize = CONNECTIONS.len();

/// Guards against hanging; the demo takes a few seconds.
const TIMEOUT: Duration = Duration::from_secs(120);

pub async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let kept = match args.keep {
        true => Some((keep::bind(args.listen).await?, stop::on_signals()?)),
        false => None,
    };
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let simulator = Simulator::start(SimulatorOptions::default()).await?;
    let services = Services::open(settings(folder.path(), &simulator)?).await?;
    output::note(format!(
        "{} An embedded database, an in-process queue and a simulated Microsoft cloud; nothing \
         leaves this machine.",
        "verifyd demo".bold()
    ));

    let demo = Demo::set(&services, &simulator, folder.path())?;
    let stop = CancellationToken::new();
    let worker = services.worker();
    let health = services.health(&worker, metrics::install()?, stop.clone());
    let worker = tokio::spawn(worker.run(stop.clone()));
    let began = Instant::now();
    let mut ids = Vec::with_capacity(CONNECTIONS.len());
    for (i, part) in CONNECTIONS.iter().enumerate() {
        ids.push(demo.enqueue(i, part).await.context(part.name)?);
    }
    let finished = watch(&services, &ids, began).await?;
    let took = began.elapsed();

    let as_expected = show_table(&finished);
    let shown = &finished[args.show - 1];
    output::line(format!(
        "\n{}\n",
        format!("The report of row {}, as `runs show` prints it:", args.show).bold()
    ));
    output::line(render::run(&RunView::of(shown, &[], services.clock.now())).trim_end());
    output::line(format!(
        "\n{} runs in {:.1} s, {as_expected} as expected.",
        finished.len(),
        took.as_secs_f64(),
    ));
    if let Some((listener, ended)) = kept {
        output::note(
            "\nChecking everything four times more, so that the pages have a past to show.",
        );
        demo.history().await?;
        demo.keep(listener, health, ended).await?;
    }
    stop.cancel();
    worker.await?.context("the worker")?;
    services.store.close().await;
    simulator.shutdown().await;
    Ok(exit::passed(as_expected == finished.len()))
}

/// Returns the built-in defaults, independent of the environment, with the simulator as another cloud.
fn settings(folder: &Path, simulator: &RunningSimulator) -> anyhow::Result<Settings> {
    let mut settings = Settings::load(Sources::default())?;
    settings.database.url =
        SecretString::from(format!("sqlite://{}", folder.join("demo.db").display()));
    // Every credential of the demo is new, and none of them is on its way: it would only be waited for.
    settings.microsoft.pauses.longest = Duration::from_millis(500);
    simulated::add_cloud(&mut settings, simulator);
    Ok(settings)
}

/// Creates the connections of the demo.
struct Demo<'a> {
    services: &'a Services,
    certificate: Credential,
    federated: Credential,
}

impl<'a> Demo<'a> {
    fn set(
        services: &'a Services,
        simulator: &RunningSimulator,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
        let certificate = rcgen::CertificateParams::new(["demo.verifyd.invalid".to_owned()])?
            .self_signed(&key)?;
        simulator.register_certificate(&certificate.pem())?;
        let token_file = folder.join("federated-token");
        simulate::write_token(simulator, &token_file)?;
        Ok(Self {
            services,
            certificate: credential_from_pem(
                &format!("{}{}", key.serialize_pem(), certificate.pem()),
                services.clock.now(),
            )?,
            federated: Credential::FederatedTokenFile { path: token_file },
        })
    }

    fn credential(&self, part: &DemoConnection) -> Option<Credential> {
        if part.flaw == Some(Flaw::NoCredential) {
            return None;
        }
        Some(match part.signs_in_by {
            SignsInBy::Secret => simulated::secret(),
            SignsInBy::Certificate => self.certificate.clone(),
            SignsInBy::FederatedToken => self.federated.clone(),
        })
    }

    /// Adds the connection and records a run, as an application would.
    async fn enqueue(&self, i: usize, part: &DemoConnection) -> anyhow::Result<RunId> {
        let store = &self.services.store;
        let number = u32::try_from(i + 1)?;
        let mut new = simulated::connection(number, part.name, part.scenario);
        new.credential = self.credential(part);
        new.expires_at = (part.flaw == Some(Flaw::CredentialExpired))
            .then(|| self.services.clock.now() - TimeDelta::days(12));
        let id = simulated::add(self.services, &new).await?;
        if part.flaw == Some(Flaw::Disabled) {
            store
                .set_connection_status(id, ConnectionStatus::Disabled, &simulated::demo())
                .await?;
        }
        let (connection, _) = store.connection(id).await?.context("just added")?;
        let mut context = context_for(&self.services.providers, &connection, None);
        if part.flaw == Some(Flaw::TargetMalformed) {
            context["target_scope"]["entra_tenant_id"] = json!("contoso.example");
        }
        let recorded = store
            .record(&NewRun {
                workspace_id: simulated::WORKSPACE,
                tenant_id: Some(connection.tenant_id),
                context,
                unless_active: None,
                onboarding_session: None,
            })
            .await?;
        self.services.queue.send_runs(&[recorded.run_id]).await?;
        Ok(recorded.run_id)
    }
}

/// Waits until all runs are completed, with a progress bar.
async fn watch(
    services: &Services,
    ids: &[RunId],
    began: Instant,
) -> anyhow::Result<Vec<OperationRun>> {
    let progress = ProgressBar::new(ids.len() as u64).with_style(ProgressStyle::with_template(
        "{bar:40.cyan/blue} {pos}/{len} checked ({elapsed})",
    )?);
    loop {
        let mut runs = Vec::with_capacity(ids.len());
        for id in ids {
            runs.push(
                services
                    .store
                    .run(*id)
                    .await?
                    .context("a run no longer exists")?,
            );
        }
        let done = runs
            .iter()
            .filter(|r| r.status == RunStatus::Completed)
            .count();
        progress.set_position(done as u64);
        if done == ids.len() {
            progress.finish_and_clear();
            return Ok(runs);
        }
        anyhow::ensure!(
            began.elapsed() < TIMEOUT,
            "{} of {} runs are not completed after {TIMEOUT:?}",
            ids.len() - done,
            ids.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Prints a row for each run. Returns how many ended as they should.
fn show_table(finished: &[OperationRun]) -> usize {
    let mut table = output::table([
        "",
        "Connection",
        "Signs in by",
        "Outcome",
        "Overall",
        "What is wrong",
        "As expected",
    ]);
    let mut as_expected = 0;
    for (i, (run, part)) in finished.iter().zip(CONNECTIONS).enumerate() {
        let view = RunView::of(run, &[], DateTime::UNIX_EPOCH);
        let report = view.report.readable();
        let (overall, wrong) = report.map_or((String::new(), "no report".to_owned()), summary);
        let right = report.is_some_and(|report| ended_as(run, report, &part.expected()));
        as_expected += usize::from(right);
        table.add_row([
            (i + 1).to_string(),
            part.name.to_owned(),
            part.signs_in_by.to_string(),
            render::outcome(run.status, run.outcome),
            render::overall(&overall),
            wrong,
            if right {
                "✓".green().to_string()
            } else {
                format!("{} {:?}", "✗".red(), part.expected())
            },
        ]);
    }
    output::line(table);
    as_expected
}

/// Overall and the main reason.
fn summary(report: &ReportView) -> (String, String) {
    let wrong = report
        .main_problem()
        .and_then(|check| check.reason_code)
        .map(|reason| match report.problems.len() {
            1 => reason.to_string(),
            n => format!("{reason} (+{})", n - 1),
        });
    (report.overall.to_string(), wrong.unwrap_or_default())
}

fn ended_as(run: &OperationRun, report: &ReportView, expected: &Expectation) -> bool {
    let found: Vec<_> = report
        .problems
        .iter()
        .filter_map(|c| c.check.reason_code)
        .map(Reason::code)
        .collect();
    run.outcome
        .is_some_and(|it| it.as_str() == expected.outcome)
        && report.overall.as_str() == expected.overall
        && expected.reasons.iter().all(|r| found.contains(r))
        && expected.reasons.is_empty() == found.is_empty()
}
