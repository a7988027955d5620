//! `verifyd simulate`

use super::args::SimulateArgs;
use super::{output, stop};
use crate::domain::text_decoding;
use crate::files;
use anyhow::Context as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use verifyd_simulator::{
    FEDERATED_SUBJECT, RunningSimulator, Simulator, SimulatorOptions, ThrottleLimits,
};

/// Largest file with a certificate, as for a connection.
const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;

/// The simulator's federated tokens are good for an hour.
const TOKEN_RENEWAL: Duration = Duration::from_secs(30 * 60);

pub async fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signals()?;
    let mut certificates_pem = Vec::with_capacity(args.certificates.len());
    for file in &args.certificates {
        let at = || format!("--certificate {}", file.display());
        let bytes = files::read(file, MAX_CERTIFICATE_BYTES).with_context(at)?;
        let pem = text_decoding::decode(&bytes).with_context(at)?;
        certificates_pem.push(pem.to_string());
    }
    let simulator = Simulator::start(SimulatorOptions {
        port: args.port,
        latency: args.latency,
        certificates_pem,
        throttle: ThrottleLimits::of_application(args.application_limit),
        ..SimulatorOptions::default()
    })
    .await?;
    output::line(&simulator.base_url);
    output::note(format!(
        "Microsoft Entra and Graph are imitated at {0}; a worker uses it with\n  \
         VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN={0}\n  \
         VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH={0}\n  \
         VERIFYD__MICROSOFT__CLOUDS__SIMULATED__PORTAL=https://entra.microsoft.com\n\
         and connections added with --cloud simulated. Scenarios: {0}/__simulator/scenarios",
        simulator.base_url
    ));
    if let Some(file) = &args.federated_token_file {
        write_token(&simulator, file)?;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(TOKEN_RENEWAL) => {
                if let Some(file) = &args.federated_token_file {
                    write_token(&simulator, file)?;
                }
            }
        }
    }
    simulator.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// Replaces the file in one step, as the kubelet does.
pub fn write_token(simulator: &RunningSimulator, file: &Path) -> anyhow::Result<()> {
    let at = || format!("--federated-token-file {}", file.display());
    let token = simulator.issue_federated_token(FEDERATED_SUBJECT)?;
    let next = file.with_extension("next");
    std::fs::write(&next, token).with_context(at)?;
    std::fs::rename(&next, file).with_context(at)?;
    Ok(())
}
