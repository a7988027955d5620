//! A database, a queue and a simulator of one's own, and processes of the real binary on them.

use crate::ends_with_test::ends_with_test;
use crate::postgres::TestDatabase;
use crate::redis_server;
use crate::waiting::until;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use verifyd_simulator::{
    RunningSimulator, SIMULATED_SECRET, Scenario, Simulator, SimulatorOptions,
};

pub use crate::waiting::PATIENCE;

/// What this command prints until its end, for which the test does not wait for ever.
fn ended(child: Child, arguments: &[&str]) -> Output {
    let id = child.id();
    let (sender, output) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match output.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            signal(id, "KILL");
            panic!("{arguments:?} did not end");
        }
    }
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// The path of the real binary, which cargo tells the tests of its package.
pub fn binary() -> OsString {
    std::env::var_os("CARGO_BIN_EXE_verifyd").expect("cargo runs this test")
}

/// 32 bytes that nothing else is encrypted with.
pub const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZmNhbmFyeWtleWNhbmFyeTE=";

pub struct Bench {
    pub database: TestDatabase,
    pub queue: String,
    pub redis_url: String,
    /// The binary of commands and processes that start from now on: another version's, where a test says so.
    pub program: OsString,
    /// Stops when it is dropped.
    pub simulator: RunningSimulator,
    /// Everything that any process has printed.
    pub printed: Arc<Mutex<String>>,
    /// Of every process.
    pub environment: BTreeMap<String, String>,
    /// Of `verifyd serve` only: times that are shorter than the defaults must not apply to the commands that
    /// prepare a test. What `environment` says of the same key counts.
    pub serve_environment: BTreeMap<String, String>,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(SimulatorOptions::default()).await
    }

    pub async fn with(options: SimulatorOptions) -> Self {
        Self::with_database(TestDatabase::migrated().await, options).await
    }

    /// On a database of the caller's choice, which is migrated.
    pub async fn on(database: TestDatabase, options: SimulatorOptions) -> Self {
        let bench = Self::with_database(database, options).await;
        bench.success(&["migrate"]);
        bench
    }

    /// On an empty database.
    pub async fn unmigrated(options: SimulatorOptions) -> Self {
        Self::with_database(TestDatabase::create().await, options).await
    }

    async fn with_database(database: TestDatabase, options: SimulatorOptions) -> Self {
        let simulator = Simulator::start(options).await.unwrap();
        let redis_url = redis_server::redis_url();
        let queue = redis_server::random_queue();
        let mut environment = BTreeMap::new();
        let mut set = |key: &str, value: &str| {
            environment.insert(key.to_owned(), value.to_owned());
        };
        set("DATABASE_URL", &database.url());
        set("REDIS_URL", &redis_url);
        set("VERIFYD__REDIS__QUEUE", &queue);
        set("VERIFYD__CREDENTIALS__KEYS", &format!("test:{KEY}"));
        set("VERIFYD__HTTP__LISTEN", "127.0.0.1:0");
        for part in ["LOGIN", "GRAPH"] {
            set(
                &format!("VERIFYD__MICROSOFT__CLOUDS__SIMULATED__{part}"),
                &simulator.base_url,
            );
        }
        set(
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__PORTAL",
            "https://entra.microsoft.com",
        );
        set("VERIFYD__LOG__FORMAT", "json");
        Self {
            database,
            queue,
            redis_url,
            program: binary(),
            simulator,
            printed: Arc::default(),
            environment,
            serve_environment: BTreeMap::new(),
        }
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    /// Runs a command that reads this. On a busy machine it may take long to connect.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .env("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "60s")
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = ended(child, arguments);
        let mut printed = self.printed.lock().unwrap();
        printed.push_str(&String::from_utf8_lossy(&output.stdout));
        printed.push_str(&String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Runs a command that must succeed.
    pub fn success(&self, arguments: &[&str]) -> Output {
        self.success_with(arguments, "")
    }

    fn success_with(&self, arguments: &[&str], input: &str) -> Output {
        let output = self.run_with(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output
    }

    /// Runs a command that must succeed with `--json`, and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.success(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What `doctor` finds of a part that has one line.
    pub fn examined(&self, part: &str) -> Value {
        let output = self.run(&["doctor", "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut parts = answer["parts"].as_array().unwrap().iter();
        let found = parts.find(|line| line["part"] == part).cloned();
        found.unwrap_or_else(|| panic!("{answer}"))
    }

    /// Records a run of this connection by the command line.
    pub fn enqueue(&self, connection: i64) -> i64 {
        let recorded = self.json(&["enqueue", "--connection", &connection.to_string()]);
        recorded["operation_run_id"].as_i64().unwrap()
    }

    /// A token of the API and the pages with these scopes.
    pub fn token(&self, scopes: &[&str]) -> String {
        let mut arguments = vec!["tokens", "create", "--name", "person"];
        arguments.extend(scopes.iter().flat_map(|scope| ["--scope", scope]));
        self.json(&arguments)["token"].as_str().unwrap().to_owned()
    }

    /// A connection of this tenant with which everything is well.
    pub fn healthy(&self, tenant: i64) -> i64 {
        let entra = Scenario::Healthy.tenant_id(u32::try_from(tenant).unwrap());
        self.connection(tenant, &entra, "health_check")
    }

    /// Adds a connection by the command line, with the simulator's secret.
    pub fn connection(&self, tenant: i64, entra_tenant_id: &str, module: &str) -> i64 {
        self.connection_of((1, tenant), entra_tenant_id, module, SIMULATED_SECRET)
    }

    /// The same of this workspace and tenant, with this secret.
    pub fn connection_of(
        &self,
        (workspace, tenant): (i64, i64),
        entra_tenant_id: &str,
        module: &str,
        secret: &str,
    ) -> i64 {
        let (workspace, tenant) = (workspace.to_string(), tenant.to_string());
        let added = self.success_with(
            &[
                "connections",
                "add",
                "--workspace",
                &workspace,
                "--tenant",
                &tenant,
                "--entra-tenant-id",
                entra_tenant_id,
                "--client-id",
                "5c000000-0000-4000-8000-c00000000001",
                "--cloud",
                "simulated",
                "--module",
                module,
                "--secret-stdin",
                "--json",
            ],
            secret,
        );
        let added: Value = serde_json::from_slice(&added.stdout).unwrap();
        let id = added["provider_connection_id"].as_i64().unwrap();
        self.age_connection(id);
        id
    }

    /// As if the connection and its credential had been there since yesterday: a check repeats a sign-in that is
    /// refused while they are new. On PostgreSQL only.
    fn age_connection(&self, id: i64) {
        if self.environment["DATABASE_URL"].starts_with("sqlite:") {
            return;
        }
        let statement = format!(
            "UPDATE provider_connections SET created_at = now() - interval '1 day' WHERE id = {id};
             UPDATE provider_credentials SET created_at = now() - interval '1 day',
                 updated_at = now() - interval '1 day' WHERE provider_connection_id = {id}"
        );
        let aged = async {
            let mut sql = self.sql().await;
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut sql)
                .await
        };
        // The caller may be within a runtime, and needs not be.
        std::thread::scope(|scope| {
            let update = scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().build().unwrap().block_on(aged)
            });
            update.join().unwrap().unwrap();
        });
    }

    /// Starts `verifyd serve` and waits until it is ready for runs.
    pub fn serve(&self, extra: &[(&str, &str)]) -> Daemon {
        let mut command = ends_with_test("KILL");
        command.arg(&self.program);
        self.serve_by(command, extra)
    }

    /// The same in a process whose allocations fail, which ends it, beyond so many bytes. What it has mapped to write
    /// to counts, touched or not: so its allocator maps nothing in advance, and its threads are few on any machine, unless
    /// the test sets how many.
    pub fn serve_within(&self, bytes: u64) -> Daemon {
        let mut command = ends_with_test("KILL");
        command
            .args(["prlimit", &format!("--data={bytes}")])
            .arg(&self.program);
        let threads = "TOKIO_WORKER_THREADS";
        let set = self.environment.get(threads);
        let extra = [
            ("MIMALLOC_ARENA_EAGER_COMMIT", "0"),
            (threads, set.map_or("2", String::as_str)),
        ];
        self.serve_by(command, &extra)
    }

    fn serve_by(&self, mut command: Command, extra: &[(&str, &str)]) -> Daemon {
        let mut child = command
            .arg("serve")
            .env_clear()
            .envs(&self.serve_environment)
            .envs(&self.environment)
            .envs(extra.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let stderr = child.stderr.take().unwrap();
        let (seen, printed) = (Arc::clone(&lines), Arc::clone(&self.printed));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                printed.lock().unwrap().push_str(&line);
                printed.lock().unwrap().push('\n');
                seen.lock().unwrap().push(line);
            }
        });
        let mut daemon = Daemon {
            child,
            lines,
            reader: Some(reader),
            listening: String::new(),
            worker: String::new(),
        };
        let ready = daemon.wait_for("ready for runs");
        let ready: Value = serde_json::from_str(&ready).unwrap();
        daemon.listening = ready["listening"].as_str().unwrap().to_owned();
        daemon.worker = ready["worker"].as_str().unwrap().to_owned();
        daemon
    }

    /// The database's URL for this role.
    pub fn url_of(&self, role: &str) -> String {
        let mut url: url::Url = self.database.url().parse().unwrap();
        url.set_username(role).unwrap();
        url.set_password(None).unwrap();
        url.into()
    }

    /// Sets a variable of every process that starts from now on.
    pub fn set(&mut self, variable: &str, value: impl Into<String>) {
        self.environment.insert(variable.to_owned(), value.into());
    }

    /// Grants the rights of `deploy/postgres-grants.sql`.
    pub async fn grant(&self) {
        self.execute(include_str!("../../../deploy/postgres-grants.sql"))
            .await;
    }

    /// From now on commands and processes connect as this role.
    pub fn become_role(&mut self, role: &str) {
        self.set("DATABASE_URL", self.url_of(role));
    }

    /// From now on commands and processes use the Redis server of this URL.
    pub fn use_redis(&mut self, url: String) {
        self.set("REDIS_URL", url.as_str());
        self.redis_url = url;
    }

    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect(&self.database.url()).await.unwrap()
    }

    /// Runs statements as another application might.
    pub async fn execute(&self, statements: &str) {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
        statements.execute(&mut self.sql().await).await.unwrap();
    }

    /// Records so many runs of each of these connections, without hints.
    pub async fn record(&self, connections: &[i64], of_each: i64) -> Vec<i64> {
        let recorded = record(&mut self.sql().await, connections, of_each).await;
        recorded.unwrap()
    }

    /// The number of rows of a table, or of those that a condition behind its name chooses.
    pub async fn count(&self, rows: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {rows}");
        self.numbers(&count).await[0]
    }

    /// Runs a statement as another application might, and returns the numbers of its first column.
    pub async fn numbers(&self, statement: &str) -> Vec<i64> {
        numbers(&mut self.sql().await, statement).await.unwrap()
    }

    /// Waits until the first number of the statement is as wanted, as long as it moves: a long queue takes
    /// its time on a busy machine.
    pub async fn until(&self, statement: &str, wanted: impl Fn(i64) -> bool) {
        let mut moved = (Instant::now(), None);
        let mut sql = self.sql().await;
        loop {
            let number = match numbers(&mut sql, statement).await {
                Ok(found) => found[0],
                // Connections are cut here and there.
                Err(_) => {
                    sql = self.sql().await;
                    numbers(&mut sql, statement).await.unwrap()[0]
                }
            };
            if wanted(number) {
                return;
            }
            if moved.1 != Some(number) {
                moved = (Instant::now(), Some(number));
            }
            assert!(
                moved.0.elapsed() < PATIENCE,
                "still {number}: {statement}\n{}",
                self.printed_last()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends hints with the published script: one for each entry.
    pub async fn hint(&self, runs: &[i64]) {
        redis_server::hint(&self.redis_url, &self.queue, runs).await;
    }

    /// Waits until no hint waits in the queue.
    pub async fn until_taken(&self) {
        let mut redis = redis_server::connection(&self.redis_url).await;
        let active = format!("{}:active", self.queue);
        until("the hints are taken", async || {
            redis_server::command::<u64>(&mut redis, &["LLEN", &active]).await == 0
        })
        .await;
    }

    /// Waits until no run of verifyd's is left to do.
    pub async fn all_completed(&self) {
        let open = "SELECT count(*) FROM operation_runs
            WHERE type = 'provider.connection.check' AND status <> 'completed'";
        self.until(open, |n| n == 0).await;
    }

    /// Waits until this many runs have this status.
    pub async fn count_is(&self, status: &str, wanted: i64) {
        let statement = format!("SELECT count(*) FROM operation_runs WHERE status = '{status}'");
        self.until(&statement, |n| n == wanted).await;
    }

    /// The last lines that any process has printed.
    fn printed_last(&self) -> String {
        let printed = self.printed.lock().unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        lines[lines.len().saturating_sub(200)..].join("\n")
    }
}

/// Records so many runs of each of these connections, as another application inserts bare rows inside its
/// own transaction.
pub async fn record(
    sql: &mut PgConnection,
    connections: &[i64],
    of_each: i64,
) -> sqlx::Result<Vec<i64>> {
    let insert = "
        INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
        SELECT c.workspace_id, c.tenant_id, 'provider.connection.check', 'queued',
               jsonb_build_object(
                   'provider', 'microsoft', 'module', c.module, 'provider_connection_id', c.id,
                   'target_scope', jsonb_build_object('entra_tenant_id', c.entra_tenant_id)),
               now()
        FROM provider_connections c, generate_series(1, $2)
        WHERE c.id = ANY($1) ORDER BY random()
        RETURNING id";
    sqlx::query_scalar(insert)
        .bind(connections)
        .bind(of_each)
        .fetch_all(sql)
        .await
}

async fn numbers(sql: &mut PgConnection, statement: &str) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(statement.to_owned()))
        .fetch_all(sql)
        .await
}

/// A process of `verifyd serve`. Killed when it is dropped.
pub struct Daemon {
    child: Child,
    pub lines: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    /// Address of the health endpoints.
    pub listening: String,
    /// Its name in `verifyd.workers`.
    pub worker: String,
}

impl Daemon {
    /// The first line that contains the text.
    pub fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines.lock().unwrap().clone();
            if let Some(line) = lines.iter().find(|l| l.contains(text)) {
                return line.clone();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "ended with {ended:?}: {}",
                lines.join("\n")
            );
            assert!(Instant::now() < until, "never said {text:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Kills the process, and waits for its end.
    pub fn kill(&mut self) {
        self.signal("KILL");
        assert_eq!(self.ended(), None);
    }

    /// Asks the process to stop. It must end well.
    pub fn terminate(&mut self) {
        self.signal("TERM");
        assert_eq!(self.ended(), Some(0));
    }

    /// The exit code; `None` when a signal ended it.
    pub fn ended(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status.code();
            }
            assert!(Instant::now() < until, "the process does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it has ended, by whatever reason.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the process says that it can claim runs.
    pub async fn ready(&self) {
        until("it is ready for runs", async || {
            self.get("/readyz").await.0 == 200
        })
        .await;
    }

    /// `GET path`: status code and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.listening))
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The metric of this name, which has no labels; 0 before it is there.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, all) = self.get("/metrics").await;
        all.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
