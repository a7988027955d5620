//! The commands and their arguments.

mod acknowledgements;
mod audit;
mod debug;
mod modules;
#[cfg(test)]
mod tests;
mod tokens;
mod webhooks;

pub use acknowledgements::*;
pub use audit::*;
pub use debug::*;
pub use modules::*;
pub use tokens::*;
pub use webhooks::*;

use crate::config::{Overrides, read_option};
use crate::domain::time_input;
use crate::domain::{ConnectionId, Outcome, RunId, RunStatus, SessionId, TenantId, WorkspaceId};
use crate::ports::audit::KEPT_AT_LEAST;
use crate::ports::overview::{ConnectionCursor, ConnectionSort};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::any::TypeId;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Checks whether a customer's provider connection really works.
#[derive(Debug, Parser)]
#[command(
    name = "verifyd",
    version,
    about,
    max_term_width = 100,
    propagate_version = true
)]
pub struct Cli {
    /// Configuration file (TOML), over the built-in defaults; VERIFYD_CONFIG names one, too
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Filter for log lines, in place of log.filter, e.g. debug or info,sqlx=warn
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,

    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the arguments of this process. Ends it where they are wrong, or ask for help.
    pub fn from_process() -> Self {
        let matches = with_negative_values(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Takes `-1` behind an option for its value, `-1d` where a time is read, and `-1_57` where a cursor is. The value's
/// parser refuses it with what is allowed; otherwise it would be an unknown option.
fn with_negative_values(command: clap::Command) -> clap::Command {
    let hyphenated = [
        TypeId::of::<std::time::Duration>(),
        TypeId::of::<chrono::DateTime<chrono::Utc>>(),
        TypeId::of::<Expiry>(),
        TypeId::of::<ConnectionCursor>(),
    ];
    command
        .mut_args(|arg| {
            let takes_values = arg.get_action().takes_values();
            let value = arg.get_value_parser().type_id();
            arg.allow_negative_numbers(takes_values)
                .allow_hyphen_values(hyphenated.iter().any(|id| value == *id))
        })
        .mut_subcommands(with_negative_values)
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything in one process: simulator, embedded database, fifteen connections, a report
    #[cfg(feature = "simulator")]
    Demo(DemoArgs),
    /// Measure drain, latency and enqueue rate on your own database and queue, beside your data
    #[cfg(feature = "simulator")]
    Bench(BenchArgs),
    /// Run the daemon: workers, reconciler, health endpoints and metrics
    Serve(ServeArgs),
    /// Create verifyd's tables, or bring them up to date
    Migrate(MigrateArgs),
    /// Test what serve needs, and show what to do; exit code 1 if serve could not work
    Doctor(JsonArg),
    /// Record a check of a connection and send its hint
    Enqueue(EnqueueArgs),
    /// List and show runs and their reports
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Acknowledge checks of completed runs: add, list and withdraw acknowledgements
    #[command(subcommand)]
    Acknowledgements(AcknowledgementsCommand),
    /// The same as `acknowledgements add`
    #[command(hide = true)]
    Acknowledge(AcknowledgeArgs),
    /// Look at onboarding sessions
    #[command(subcommand)]
    Onboarding(OnboardingCommand),
    /// Manage provider connections and their credentials
    #[command(subcommand)]
    Connections(ConnectionsCommand),
    /// List, show and validate modules: what connections are checked for
    #[command(subcommand)]
    Modules(ModulesCommand),
    /// Compare a module with the stored inventories: which connections it would break, and why
    ///
    /// Exit code 0: none would break; 1: some would; 2: an error
    Plan(PlanArgs),
    /// Manage webhooks, which report completed runs to other applications
    #[command(subcommand)]
    Webhooks(WebhooksCommand),
    /// Manage the tokens of the API
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Show the audit trail: who changed tokens, connections, credentials, acknowledgements and webhooks
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Delete completed runs that are old, never the latest report of a connection
    Prune(PruneArgs),
    /// Work with verification reports in files
    #[command(subcommand)]
    Report(ReportCommand),
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask a running daemon whether it is alive; exit code 0 if so
    Healthcheck(HealthcheckArgs),
    /// Show version, commit, compiler and features of this program
    Version(JsonArg),
    /// Look into a running daemon, over its socket
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Gather what explains a failure into a file, without secrets and tenants
    SupportBundle(SupportBundleArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(ManArgs),
    /// Serve an imitation of Microsoft Entra and Graph on loopback
    #[cfg(feature = "simulator")]
    Simulate(SimulateArgs),
}

impl Command {
    /// The settings that this command's flags set.
    pub fn overrides(&self) -> Overrides {
        match self {
            Self::Serve(serve) => Overrides::default()
                .with_optional("--listen", "http.listen", serve.listen)
                .with_optional("--concurrency", "worker.concurrency", serve.concurrency),
            #[cfg(feature = "simulator")]
            Self::Bench(bench) => Overrides::default().with_optional(
                "--concurrency",
                "worker.concurrency",
                bench.concurrency,
            ),
            Self::Debug(debug) => debug.socket().overrides(),
            Self::SupportBundle(bundle) => bundle.socket.overrides(),
            _ => Overrides::default(),
        }
    }

    /// Whether it reads or changes what is there: it finds nothing in a new database, and creates none.
    pub fn needs_database(&self) -> bool {
        match self {
            Self::Runs(_)
            | Self::Enqueue(_)
            | Self::Acknowledgements(_)
            | Self::Acknowledge(_)
            | Self::Onboarding(_)
            | Self::Plan(_)
            | Self::Audit(_)
            | Self::Prune(_) => true,
            Self::Connections(command) => !matches!(command, ConnectionsCommand::Add(_)),
            Self::Webhooks(command) => !matches!(command, WebhooksCommand::Add(_)),
            Self::Tokens(command) => !matches!(command, TokensCommand::Create(_)),
            _ => false,
        }
    }

    /// The members of the API, by which operations name what they refuse, and this command's arguments for them.
    /// Any other is `--` and its name with dashes.
    pub fn arguments(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Acknowledge(_) | Self::Acknowledgements(_) => &[
                ("acknowledged_by", "--by"),
                ("check_key", "<CHECK>"),
                ("expires_at", "--expires"),
                ("withdrawn_by", "--by"),
            ],
            Self::Connections(_) => &[("connection", "<ID>")],
            Self::Enqueue(_) => &[("onboarding_session_id", "--onboarding-session")],
            Self::Tokens(_) => &[("expires_at", "--expires"), ("scopes", "--scope")],
            _ => &[],
        }
    }
}

/// A length of time, as people write it.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| {
            "allowed: numbers, each with a unit, such as 90s, 1.5h or 1h 30m; at most 100years"
                .to_owned()
        })
}

/// An age at which entries of the audit trail may be deleted.
fn audit_age(text: &str) -> Result<std::time::Duration, String> {
    let age = duration(text)?;
    match age >= KEPT_AT_LEAST {
        true => Ok(age),
        false => Err("entries of the audit trail are kept for at least 30d".to_owned()),
    }
}

/// Every date that far away is one that the databases know.
const LONGEST: std::time::Duration = std::time::Duration::from_hours(100 * 366 * 24);

/// A whole number of this range.
fn whole_number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse::<T>().ok();
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (from, to) = (range.start(), range.end());
                format!("allowed: a whole number from {from} to {to}")
            })
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    read_option("http.listen", text)
}

fn concurrency(text: &str) -> Result<usize, String> {
    read_option("worker.concurrency", text)
}

/// Seconds to wait for a run: as many as worker.total_deadline can have.
const LONGEST_WAIT: u64 = 7 * 24 * 60 * 60;

#[derive(Debug, Args)]
pub struct JsonArg {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(feature = "simulator")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Row of the table whose whole report is shown at the end
    #[arg(long, value_name = "ROW", default_value_t = 4, value_parser = whole_number(1..=super::demo::ROWS))]
    pub show: usize,
    /// Keep the pages open with all of it, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Where the pages are, with --keep; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464", value_parser = listen)]
    pub listen: SocketAddr,
}

#[cfg(feature = "simulator")]
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Runs to drain
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = whole_number::<u32>(1..=100_000))]
    pub runs: u32,
    /// Runs in flight at the same time, in place of worker.concurrency
    #[arg(long, value_name = "N", value_parser = concurrency)]
    pub concurrency: Option<usize>,
    /// Tenants that the runs are spread over, with a connection each
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = whole_number::<u32>(1..=10_000))]
    pub tenants: u32,
    /// Single runs on an idle system, for the latency
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole_number::<u32>(1..=100_000))]
    pub latency_samples: u32,
    /// Time that the simulated provider adds to every answer, e.g. 100ms
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    pub provider_delay: std::time::Duration,
    #[command(flatten)]
    pub json: JsonArg,
}

#[cfg(feature = "simulator")]
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Port on loopback; 0 takes a free one
    #[arg(long, default_value_t = 8480, value_parser = whole_number(0..=u16::MAX))]
    pub port: u16,
    /// Time added to every answer, e.g. 50ms
    #[arg(long, default_value = "0ms", value_parser = duration)]
    pub latency: std::time::Duration,
    /// Graph requests of each application in 10 s, in all tenants
    #[arg(long, value_name = "N", default_value_t = verifyd_simulator::ThrottleLimits::APPLICATION_CALLS, value_parser = whole_number(1..=u32::MAX))]
    pub application_limit: u32,
    /// Certificate (PEM) to register for all simulated applications; repeatable
    #[arg(long = "certificate", value_name = "FILE")]
    pub certificates: Vec<PathBuf>,
    /// Write a federated token that the simulator accepts to this file, and renew it
    #[arg(long, value_name = "FILE")]
    pub federated_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address of the health endpoints and metrics, in place of http.listen
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen)]
    pub listen: Option<SocketAddr>,
    /// Runs in flight at the same time, in place of worker.concurrency
    #[arg(long, value_name = "N", value_parser = concurrency)]
    pub concurrency: Option<usize>,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Longest time to wait for the database, e.g. 60s
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub wait_for: std::time::Duration,
    /// Add the guards for runs of verifyd's type to operation_runs, even if it is another application's
    #[arg(long)]
    pub enforce: bool,
    /// Partition operation_runs by month, where verifyd made it; the table becomes the first partition
    #[arg(long)]
    pub partition_by_month: bool,
    /// List the migrations that would be applied and what they lock, and change nothing
    #[arg(long, conflicts_with = "enforce")]
    pub plan: bool,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Delete runs that were completed longer ago than this, e.g. 90d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub older_than: std::time::Duration,
    /// Also delete entries of the audit trail that are older than this, at least 30d
    #[arg(long, value_name = "DURATION", value_parser = audit_age)]
    pub audit_older_than: Option<std::time::Duration>,
    /// Count them without deleting
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct EnqueueArgs {
    /// The connection to check
    #[arg(long, value_name = "ID")]
    pub connection: ConnectionId,
    /// Module to check the connection for; the connection's own module if absent
    #[arg(long, value_name = "NAME")]
    pub module: Option<String>,
    /// The onboarding session that the check is for: it is pointed to the run
    #[arg(long, value_name = "ID")]
    pub onboarding_session: Option<SessionId>,
    /// Wait for the report; exit code 0 succeeded, 10 failed, 11 blocked, 12 not completed in time
    #[arg(long, value_name = "SECONDS", value_parser = whole_number(0..=LONGEST_WAIT))]
    pub wait: Option<u64>,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List runs, newest first
    List(RunsListArgs),
    /// Show one run: problems first, then what to do
    Show(RunArgs),
    /// Compare a run's report with the previous one of the same connection
    Diff(RunArgs),
}

#[derive(Debug, Args)]
pub struct RunsListArgs {
    /// queued, running or completed
    #[arg(long)]
    pub status: Option<RunStatus>,
    /// succeeded, failed or blocked
    #[arg(long)]
    pub outcome: Option<Outcome>,
    #[arg(long, value_name = "ID")]
    pub connection: Option<ConnectionId>,
    #[arg(long, value_name = "ID")]
    pub tenant: Option<TenantId>,
    /// Only runs with a smaller id
    #[arg(long, value_name = "ID")]
    pub before: Option<RunId>,
    /// Most runs to list
    #[arg(long, default_value_t = 50, value_parser = whole_number::<u32>(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[arg(value_name = "ID")]
    pub id: RunId,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Subcommand)]
pub enum OnboardingCommand {
    /// Show a session: the run that it points to, and its report
    Show(OnboardingArgs),
}

#[derive(Debug, Args)]
pub struct OnboardingArgs {
    #[arg(value_name = "ID")]
    pub id: SessionId,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Subcommand)]
pub enum ConnectionsCommand {
    /// Add a connection, with its credential if one is given
    Add(ConnectionsAddArgs),
    /// List connections
    List(ConnectionsListArgs),
    /// Show one connection: its credential's kind and expiry, latest report, permissions
    Show(ConnectionArgs),
    /// Disable a connection: its runs end blocked
    Disable(ConnectionArgs),
    /// Enable a connection again
    Enable(ConnectionArgs),
    /// Replace the credential of a connection
    SetCredential(SetCredentialArgs),
    /// Encrypt again, with the key that writes, what another key encrypted
    RotateKeys(RotateKeysArgs),
}

#[derive(Debug, Args)]
pub struct ConnectionsAddArgs {
    #[arg(long, value_name = "N")]
    pub workspace: WorkspaceId,
    #[arg(long, value_name = "N")]
    pub tenant: TenantId,
    #[arg(long, default_value = "microsoft")]
    pub provider: String,
    #[arg(long, value_name = "GUID")]
    pub entra_tenant_id: String,
    /// Application (client) id of the app registration
    #[arg(long, value_name = "GUID")]
    pub client_id: String,
    /// Key of a configured cloud; the provider's default if absent
    #[arg(long, value_name = "NAME")]
    pub cloud: Option<String>,
    /// Module to check the connection for; the provider's default if absent
    #[arg(long, value_name = "NAME")]
    pub module: Option<String>,
    #[arg(long, value_name = "TEXT")]
    pub display_name: Option<String>,
    #[command(flatten)]
    pub credential: CredentialArgs,
    #[command(flatten)]
    pub json: JsonArg,
}

/// Where the credential comes from. A secret is never an argument: other users of the machine
/// can read those.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct CredentialSource {
    /// Read the client secret from standard input
    #[arg(long)]
    pub secret_stdin: bool,
    /// File with certificate and private key: PEM, PKCS#12 (.pfx), or DER with --private-key
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// File with the external issuer's token, read afresh at each sign-in
    #[arg(long, value_name = "FILE")]
    pub federated_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CredentialArgs {
    #[command(flatten)]
    pub source: CredentialSource,
    /// File with the certificate's private key (PEM or DER), where the certificate's file has none
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub private_key: Option<PathBuf>,
    /// File with the password that protects the certificate's file or key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub certificate_password_file: Option<PathBuf>,
    /// Read that password from standard input
    #[arg(
        long,
        requires = "certificate",
        conflicts_with = "certificate_password_file"
    )]
    pub certificate_password_stdin: bool,
    /// When the credential expires, e.g. 2026-12-31 or RFC 3339; a certificate's own date is read from it
    #[arg(long, value_name = "TIME", value_parser = time_input::until)]
    pub expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Debug, Args)]
pub struct ConnectionsListArgs {
    #[arg(long, value_name = "ID")]
    pub tenant: Option<TenantId>,
    /// `id`, or `expiry`: by when their credentials expire, the earliest first
    #[arg(long, value_name = "ORDER", default_value = "id")]
    pub sort: ConnectionSort,
    /// Only connections that come after this in that order: what the page before ends with
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<ConnectionCursor>,
    /// Most connections to list
    #[arg(long, default_value_t = 100, value_parser = whole_number::<u32>(1..=1000))]
    pub limit: u32,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct ConnectionArgs {
    #[arg(value_name = "ID")]
    pub id: ConnectionId,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct SetCredentialArgs {
    #[arg(value_name = "ID")]
    pub id: ConnectionId,
    #[command(flatten)]
    pub credential: CredentialArgs,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Args)]
pub struct RotateKeysArgs {
    /// Also those that a Laravel application encrypted: it can no longer read them afterwards
    #[arg(long)]
    pub laravel_too: bool,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Subcommand)]
pub enum ReportCommand {
    /// Validate a report: schema, counts and fingerprint
    Validate(ValidateArgs),
    /// Print the JSON Schema of verification reports
    Schema,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// JSON file; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the configuration in force, secrets masked
    Print(JsonArg),
    /// Print the commented defaults
    Default,
}

#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Ask whether it is ready, not only alive
    #[arg(long)]
    pub ready: bool,
}
