//! The command line.

mod acknowledgements;
mod args;
mod audit;
#[cfg(feature = "simulator")]
mod bench;
mod config;
mod connections;
mod debug;
#[cfg(feature = "simulator")]
mod demo;
mod doctor;
mod enqueue;
mod generated;
mod healthcheck;
mod migrate;
mod modules;
mod onboarding;
mod origin;
mod output;
mod plan;
mod prune;
mod remedy;
mod render;
mod report;
mod runs;
mod serve;
pub mod service_manager;
#[cfg(feature = "simulator")]
mod simulate;
#[cfg(feature = "simulator")]
mod simulated;
mod stop;
mod support_bundle;
mod tokens;
mod version;
mod webhooks;

use crate::app::{self, Services};
use crate::config::{Settings, Sources};
use crate::operations::OperationError;
use crate::store::STATEMENTS;
use crate::telemetry::logs;
use anyhow::Context as _;
pub use args::Cli;
use args::Command;
use std::num::NonZero;
use std::process::ExitCode;

/// Exit codes of commands, besides an error (1) and wrong usage (2).
mod exit {
    use std::process::ExitCode;

    /// `plan`: the module would break some connections.
    pub const BREAKS: u8 = 1;
    /// `plan`: an error, since 1 has another meaning there.
    pub const PLAN_FAILED: u8 = 2;
    /// `enqueue --wait`: the run failed.
    pub const FAILED: u8 = 10;
    /// `enqueue --wait`: the run is blocked.
    pub const BLOCKED: u8 = 11;
    /// `enqueue --wait`: not completed in time.
    pub const NOT_IN_TIME: u8 = 12;

    /// Of a command that tests something.
    pub fn passed(passed: bool) -> ExitCode {
        if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Where it is set tokio itself reads it.
const RUNTIME_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Threads of the runtime: half of the processors. The others are for the servers that it calls, or for
/// other replicas; and threads that hand each other small pieces of work lose more by it than they gain.
fn runtime_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    processors.div_ceil(2)
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::from_process();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os(RUNTIME_THREADS).is_none() {
        builder.worker_threads(runtime_threads());
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&anyhow::Error::new(error).context("the runtime cannot be started"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // A blocking call that hangs must not keep the process from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(code) => code,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let arguments = cli.command.arguments();
    let result = dispatch(cli).await;
    result.map_err(|error| naming_argument(error, arguments))
}

/// Prints why a command failed, and what mends it.
fn print_error(error: &anyhow::Error) {
    output::error(error);
    if let Some(remedy) = remedy::of(error).or_else(|| remedy::of_schema(error)) {
        output::note(format!("→ {remedy}"));
    }
}

/// Names the argument in place of the member of the API that an operation refused.
fn naming_argument(
    error: anyhow::Error,
    arguments: &[(&'static str, &'static str)],
) -> anyhow::Error {
    let Some(refused) = error.downcast_ref::<OperationError>() else {
        return error;
    };
    let OperationError::Invalid { field, .. } = refused else {
        return error;
    };
    let own = arguments.iter().find(|(member, _)| member == field);
    let argument = own.map_or_else(
        || format!("--{}", field.replace('_', "-")),
        |(_, argument)| (*argument).to_owned(),
    );
    anyhow::anyhow!("{}", refused.to_string().replacen(*field, &argument, 1))
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let logs_chosen = cli.log.is_some();
    let overrides = cli
        .command
        .overrides()
        .with_optional("--log", "log.filter", cli.log);
    let load = || -> anyhow::Result<Settings> {
        Sources::from_process(cli.config.clone(), overrides.clone())
            .and_then(Settings::load)
            .context("the configuration cannot be used")
    };
    let needs_database = cli.command.needs_database();
    let without_warnings_of = |part: &str| -> anyhow::Result<Settings> {
        let settings = load()?;
        if logs_chosen {
            logs::init(&settings.log)?;
        } else {
            logs::init(&settings.log.without_warnings_of(part))?;
        }
        Ok(settings)
    };
    let ready = || -> anyhow::Result<Settings> {
        // A slow statement, with all its text, would bury the result.
        let settings = without_warnings_of(STATEMENTS)?;
        if needs_database {
            app::require_database(&settings)?;
        }
        Ok(settings)
    };
    // It says itself what it waits for.
    let examining = || without_warnings_of("sqlx");
    let services = async || Services::open(ready()?).await;
    match cli.command {
        Command::Report(command) => report::run(&command),
        Command::Modules(command) => modules::run(ready, &command),
        Command::Plan(command) => Ok(plan::run(ready, &command).await),
        #[cfg(feature = "simulator")]
        Command::Simulate(command) => {
            ready()?;
            simulate::run(&command).await
        }
        #[cfg(feature = "simulator")]
        Command::Demo(command) => demo::run(&command).await,
        #[cfg(feature = "simulator")]
        Command::Bench(command) => {
            let mut settings = load()?;
            if !logs_chosen {
                // A line for each run, or the text of a slow statement, would bury the result.
                settings.log.filter = format!("warn,{STATEMENTS}=error");
            }
            logs::init(&settings.log)?;
            bench::run(settings, &command).await
        }
        Command::Debug(command) => debug::run(&ready()?, &command).await,
        Command::SupportBundle(command) => support_bundle::run(examining(), &command).await,
        Command::Completions(command) => generated::completions(&command),
        Command::Man(command) => generated::man(&command),
        Command::Healthcheck(command) => healthcheck::run(&load()?, &command).await,
        Command::Version(command) => version::run(&command),
        Command::Config(command) => config::run(ready, &command),
        Command::Serve(_) => {
            let settings = load()?;
            let log_filter = logs::init(&settings.log)?;
            serve::run(settings, log_filter).await
        }
        Command::Migrate(command) => migrate::run(&ready()?, &command).await,
        Command::Prune(command) => prune::run(&ready()?, &command).await,
        Command::Tokens(command) => tokens::run(&ready()?, &command).await,
        Command::Audit(command) => audit::run(&ready()?, &command).await,
        Command::Doctor(command) => doctor::run(&examining()?, &command).await,
        Command::Connections(command) => connections::run(&services().await?, command).await,
        Command::Enqueue(command) => enqueue::run(&services().await?, &command).await,
        Command::Webhooks(command) => webhooks::run(&services().await?, command).await,
        Command::Runs(command) => runs::run(&services().await?, &command).await,
        Command::Acknowledge(command) => acknowledgements::add(&services().await?, &command).await,
        Command::Acknowledgements(command) => {
            acknowledgements::run(&services().await?, &command).await
        }
        Command::Onboarding(command) => onboarding::run(&services().await?, &command).await,
    }
}
