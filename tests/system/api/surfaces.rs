//! CLI, API, pages and library follow the same rules: each row is a situation (`situations`), each column a surface.
//!
//! Every row is tried on every surface that can express it, each time on rows of its own. A new situation is a
//! new row; a surface that decides something by itself is named by the row and the column that fail.

use crate::api::scene::{ALL, Scene};
use crate::api::situations::{
    ACKNOWLEDGE, CHECKS, Check, Connection, Decision, Doing, Expected, FAILED, OfRun, PASSED, RUNS,
    Reach, Run, Session,
};
use crate::pages::person::{Person, location};
use chrono::DateTime;
use serde_json::{Value, json};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use verifyd::domain::access::Binding;
use verifyd::domain::link::LinkContext;
use verifyd::domain::reason::Reason;
use verifyd::domain::report::{Identity, ReportDraft, Severity};
use verifyd::domain::{ConnectionId, RunId, SessionId};
use verifyd::operations::{CheckRequest, OperationError, find_run};
use verifyd::ports::provider::CheckSpec;
use verifyd::producer::{Producer, ProducerError};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    Cli,
    Api,
    Page,
    Library,
}

const SURFACES: [Surface; 4] = [Surface::Cli, Surface::Api, Surface::Page, Surface::Library];

/// The surfaces over one database, and whoever asks them.
struct Stage {
    scene: Scene,
    producer: Producer,
    next_tenant: AtomicI64,
}

impl Stage {
    async fn new() -> Self {
        let scene = Scene::sqlite().await;
        let producer = Producer::with(&scene.world.services.settings).await;
        Self {
            scene,
            producer: producer.unwrap(),
            next_tenant: AtomicI64::new(1),
        }
    }

    fn tenant(&self) -> i64 {
        self.next_tenant.fetch_add(1, Ordering::Relaxed)
    }

    async fn database(&self) -> sqlx::SqliteConnection {
        use sqlx::Connection as _;
        let path = self.scene.world.folder.path().join("verifyd.db");
        let url = format!("sqlite://{}", path.display());
        sqlx::SqliteConnection::connect(&url).await.unwrap()
    }

    async fn number(&self, query: &str) -> i64 {
        let query = sqlx::AssertSqlSafe(query.to_owned());
        let mut database = self.database().await;
        let found = sqlx::query_scalar(query).fetch_one(&mut database).await;
        found.unwrap()
    }

    /// The recorded context names all that is checked, whatever the connection's row names.
    async fn has_whole_context(&self, run: i64, connection: ConnectionId, module: Option<&str>) {
        let context = "SELECT r.context, c.entra_tenant_id
            FROM operation_runs r JOIN provider_connections c ON c.id = $2 WHERE r.id = $1";
        let (context, directory): (String, String) = sqlx::query_as(context)
            .bind(run)
            .bind(connection.0)
            .fetch_one(&mut self.database().await)
            .await
            .unwrap();
        let context: Value = serde_json::from_str(&context).unwrap();
        let found = (
            &context["provider"],
            &context["module"],
            &context["provider_connection_id"],
            &context["target_scope"]["entra_tenant_id"],
        );
        let expected = (
            &json!("microsoft"),
            &json!(module.unwrap_or("health_check")),
            &json!(connection.0),
            &json!(directory),
        );
        assert_eq!(found, expected, "run {run}");
    }

    async fn newest(&self, table: &str) -> i64 {
        self.number(&format!("SELECT coalesce(max(id), 0) FROM {table}"))
            .await
    }

    /// Entries about acknowledgements that this surface has left.
    async fn entries(&self, surface: Surface) -> i64 {
        let surface = match surface {
            Surface::Cli => "cli",
            Surface::Api => "api",
            Surface::Page => "pages",
            Surface::Library => "library",
        };
        self.number(&format!(
            "SELECT count(*) FROM verifyd_audit_entries \
             WHERE object = 'acknowledgement' AND surface = '{surface}'"
        ))
        .await
    }

    async fn connection(&self, which: Connection, tenant: i64) -> ConnectionId {
        let world = &self.scene.world;
        let id = ConnectionId(self.scene.healthy(tenant).await);
        if matches!(which, Connection::Active | Connection::DisabledAndActive) {
            assert!(self.producer.check(id).await.unwrap().created);
        }
        match which {
            Connection::Enabled | Connection::Active => {}
            Connection::Disabled | Connection::DisabledAndActive => {
                world.disable(id).await;
            }
            Connection::WithoutModule => world.set(id, "module = NULL").await,
            Connection::Unusable => {
                world
                    .sql(&format!(
                        "PRAGMA ignore_check_constraints = ON; \
                         UPDATE provider_connections SET status = 'paused' WHERE id = {id}"
                    ))
                    .await;
            }
            Connection::Missing => return ConnectionId(999_999_999),
        }
        id
    }

    async fn session(&self, which: Session, tenant: i64) -> SessionId {
        let (workspace, tenant, state) = match which {
            Session::OfTheTenant => (1, tenant.to_string(), "'{}'"),
            Session::OfNoTenant => (1, "NULL".to_owned(), "'{}'"),
            Session::OfAnotherTenant => (1, (tenant + 1_000_000).to_string(), "'{}'"),
            Session::OfAnotherWorkspace => (2, tenant.to_string(), "'{}'"),
            Session::Unreadable => (
                1,
                tenant.to_string(),
                "json_object('x', printf('%.*c', 1048576, 'a'))",
            ),
            Session::Missing => return SessionId(999_999_999),
        };
        let insert = format!(
            "INSERT INTO tenant_onboarding_sessions (workspace_id, tenant_id, state) \
             VALUES ({workspace}, {tenant}, {state}) RETURNING id"
        );
        SessionId(self.number(&insert).await)
    }

    async fn run(&self, which: Run, tenant: i64) -> RunId {
        let context = match which {
            Run::Completed => json!({ "verification_report": report() }),
            Run::Queued | Run::WithoutReport => json!({}),
            Run::OfAnotherVersion => {
                json!({ "verification_report": { "schema_version": "9.0.0" } })
            }
            Run::Missing => return RunId(999_999_999),
        };
        let context = context.to_string().replace('\'', "''");
        let (status, outcome, completed_at) = match which {
            Run::Queued => ("queued", "NULL", "NULL"),
            _ => (
                "completed",
                "'failed'",
                "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
            ),
        };
        let insert = format!(
            "INSERT INTO operation_runs \
             (workspace_id, tenant_id, type, status, outcome, context, completed_at) VALUES \
             (1, {tenant}, 'provider.connection.check', '{status}', {outcome}, '{context}', \
             {completed_at}) RETURNING id"
        );
        RunId(self.number(&insert).await)
    }

    /// Runs the command line. Refusals end with 1: 2 is for arguments that cannot be understood.
    async fn cli(&self, arguments: Vec<String>) -> Result<Value, Decision> {
        let arguments = [arguments, vec!["--json".to_owned()]].concat();
        let output = self.scene.cli(arguments).await;
        let said = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            Some(1) if said.contains(": no such ") => Err(Decision::NotFound),
            Some(1) => Err(Decision::Refused(said)),
            code => panic!("exit code {code:?}: {said}"),
        }
    }

    async fn api(
        &self,
        reach: Binding,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Decision> {
        let token = self.scene.token(ALL, reach).await;
        let reply = match body {
            Some(body) => self.scene.post(&token, path, body).await,
            None => self.scene.get(&token, path).await,
        };
        match reply.refusal() {
            (200 | 201, _) => Ok(reply.body),
            (404, "not-found") => Err(Decision::NotFound),
            (404, "no-report") | (409 | 422, _) => Err(Decision::Refused(reply.body.to_string())),
            _ => panic!("{path}: {reply:?}"),
        }
    }

    /// Loads a page, or sends a form of one. Returns where it leads.
    async fn page(
        &self,
        reach: Binding,
        path: &str,
        form: Option<&[(&str, &str)]>,
    ) -> Result<String, Decision> {
        let token = self.scene.token(ALL, reach).await;
        let person = Person::logged_in(&self.scene.base, &token).await;
        let answer = match form {
            None => person.get(path).await,
            Some(form) => {
                let csrf = person.csrf().await;
                let form = [&[("csrf", csrf.as_str())][..], form].concat();
                person.post(path, &form).await
            }
        };
        match answer.status().as_u16() {
            200 => Ok(String::new()),
            303 => Ok(location(&answer).to_owned()),
            404 => {
                let said = answer.text().await.unwrap();
                assert!(said.contains("There is nothing here"), "{path}: {said}");
                Err(Decision::NotFound)
            }
            422 => Err(Decision::Refused(answer.text().await.unwrap())),
            status => panic!("{path}: {status}: {}", answer.text().await.unwrap()),
        }
    }

    /// `None`: the surface has no way to ask for this.
    async fn check(&self, surface: Surface, row: &Check) -> Option<Decision> {
        let tenant = self.tenant();
        let (connection, reach) = (
            self.connection(row.connection, tenant).await,
            row.reach.binding(tenant),
        );
        let session = match row.session {
            Some(session) => Some(self.session(session, tenant).await),
            None => None,
        };
        let before = self.newest("operation_runs").await;
        let run = match surface {
            Surface::Cli if row.reach != Reach::Everything => return None,
            Surface::Cli => {
                let mut arguments = vec![
                    "enqueue".to_owned(),
                    "--connection".to_owned(),
                    connection.to_string(),
                ];
                if let Some(module) = row.module {
                    arguments.extend(["--module".to_owned(), module.to_owned()]);
                }
                if let Some(session) = session {
                    arguments.extend(["--onboarding-session".to_owned(), session.to_string()]);
                }
                let said = self.cli(arguments).await;
                said.map(|said| said["operation_run_id"].as_i64().unwrap())
            }
            Surface::Api => {
                let mut body = json!({});
                if let Some(module) = row.module {
                    body["module"] = json!(module);
                }
                if let Some(session) = session {
                    body["onboarding_session_id"] = json!(session);
                }
                let path = format!("/v1/connections/{connection}/checks");
                let said = self.api(reach, &path, Some(body)).await;
                said.map(|said| said["run"]["operation_run_id"].as_i64().unwrap())
            }
            Surface::Page if row.module.is_some() || session.is_some() => return None,
            Surface::Page => {
                let path = format!("/connections/{connection}/check");
                let led = self.page(reach, &path, Some(&[])).await;
                led.map(|led| led.strip_prefix("/runs/").unwrap().parse().unwrap())
            }
            Surface::Library => {
                let request = CheckRequest {
                    connection,
                    reach,
                    module: row.module.map(ToOwned::to_owned),
                    onboarding_session: session,
                };
                let started = self.producer.start(&request).await;
                started
                    .map(|check| check.run_id.0)
                    .map_err(|error| match error {
                        ProducerError::Operation(error) => decision(&error),
                        error @ ProducerError::Connect(_) => panic!("{error}"),
                    })
            }
        };
        let after = self.newest("operation_runs").await;
        Some(match run {
            Ok(run) if run > before => {
                self.has_whole_context(run, connection, row.module).await;
                Decision::Made
            }
            Ok(_) => Decision::There,
            Err(decision) => {
                assert_eq!(before, after, "a refused check was recorded: {decision:?}");
                decision
            }
        })
    }

    async fn of_run(&self, surface: Surface, row: &OfRun) -> Option<Decision> {
        let tenant = self.tenant();
        let run = self.run(row.run, tenant).await;
        let reach = row.reach.binding(tenant);
        if surface == Surface::Cli && row.reach != Reach::Everything {
            return None;
        }
        let mut acknowledgement = String::new();
        if !matches!(row.doing, Doing::Read | Doing::Acknowledge) {
            self.acknowledge(Surface::Api, run, &ACKNOWLEDGE, Binding::EVERYTHING)
                .await?
                .unwrap();
            let newest = self.newest("verification_check_acknowledgements").await;
            acknowledgement = newest.to_string();
        }
        if row.doing == Doing::WithdrawAgain {
            let path = format!("/v1/acknowledgements/{acknowledgement}/withdrawal");
            let withdrawn = self.api(Binding::EVERYTHING, &path, Some(json!({})));
            withdrawn.await.unwrap();
        }
        let before = self.newest("verification_check_acknowledgements").await;
        let entries = self.entries(surface).await;
        let done = match row.doing {
            Doing::Read => self.read(surface, run, reach).await,
            Doing::Acknowledge | Doing::AcknowledgeAgain => {
                self.acknowledge(surface, run, row, reach).await?
            }
            Doing::Withdraw | Doing::WithdrawAgain => {
                self.withdraw(surface, run, &acknowledgement, reach).await?
            }
        };
        let after = self.newest("verification_check_acknowledgements").await;
        // Exactly one entry of the audit trail for what is done, by this surface.
        let is_change = done.is_ok()
            && (after > before || row.doing == Doing::Withdraw)
            && row.doing != Doing::Read;
        let added = self.entries(surface).await - entries;
        assert_eq!(added, i64::from(is_change), "{surface:?}: {}", row.what);
        Some(match done {
            Ok(()) if after > before => Decision::Made,
            Ok(()) => Decision::There,
            Err(decision) => {
                assert_eq!(before, after, "{decision:?}");
                decision
            }
        })
    }

    async fn read(&self, surface: Surface, run: RunId, reach: Binding) -> Result<(), Decision> {
        match surface {
            Surface::Cli => {
                let arguments = ["runs", "show", &run.to_string()].map(str::to_owned);
                self.cli(arguments.to_vec()).await.map(drop)
            }
            Surface::Api => {
                let path = format!("/v1/runs/{run}");
                // What belongs to a run is within the same reach.
                let diff = self.api(reach, &format!("{path}/diff"), None).await;
                let shown = self.api(reach, &path, None).await;
                match (&diff, &shown) {
                    (Ok(_), Ok(run)) => assert_ne!(run["diff"]["state"], "no_report"),
                    (Err(Decision::Refused(why)), Ok(run)) => {
                        assert!(why.contains("no-report"), "{why}");
                        assert_eq!(run["diff"]["state"], "no_report");
                    }
                    (diff, shown) => assert_eq!(diff, shown),
                }
                shown.map(drop)
            }
            Surface::Page => {
                let path = format!("/runs/{run}");
                let raw = self.page(reach, &format!("{path}/run.json"), None).await;
                let shown = self.page(reach, &path, None).await.map(drop);
                assert_eq!(raw.is_ok(), shown.is_ok());
                shown
            }
            Surface::Library => {
                let store = self.scene.world.services.store.as_ref();
                let found = find_run(store, &reach, run).await;
                found.map(drop).map_err(|error| decision(&error))
            }
        }
    }

    async fn acknowledge(
        &self,
        surface: Surface,
        run: RunId,
        row: &OfRun,
        reach: Binding,
    ) -> Option<Result<(), Decision>> {
        let (key, reason) = (row.check_key, row.reason);
        Some(match surface {
            Surface::Cli => {
                let run = run.to_string();
                let arguments = ["acknowledge", &run, key, "--reason", reason].map(str::to_owned);
                self.cli(arguments.to_vec()).await.map(drop)
            }
            Surface::Api => {
                let path = format!("/v1/runs/{run}/acknowledgements");
                let body = json!({ "check_key": key, "reason": reason });
                self.api(reach, &path, Some(body)).await.map(drop)
            }
            Surface::Page => {
                let path = format!("/runs/{run}/acknowledgements");
                let form = [("check_key", key), ("reason", reason)];
                self.page(reach, &path, Some(&form)).await.map(drop)
            }
            // It is for producers.
            Surface::Library => return None,
        })
    }

    async fn withdraw(
        &self,
        surface: Surface,
        run: RunId,
        id: &str,
        reach: Binding,
    ) -> Option<Result<(), Decision>> {
        Some(match surface {
            Surface::Cli => {
                let arguments = ["acknowledgements", "withdraw", id].map(str::to_owned);
                self.cli(arguments.to_vec()).await.map(drop)
            }
            Surface::Api => {
                let path = format!("/v1/acknowledgements/{id}/withdrawal");
                self.api(reach, &path, Some(json!({}))).await.map(drop)
            }
            Surface::Page => {
                let path = format!("/runs/{run}/acknowledgements/{id}/withdraw");
                self.page(reach, &path, Some(&[])).await.map(drop)
            }
            Surface::Library => return None,
        })
    }
}

fn decision(error: &OperationError) -> Decision {
    match error {
        OperationError::NotFound { .. } => Decision::NotFound,
        OperationError::Unusable { .. }
        | OperationError::NotAcknowledgeable { .. }
        | OperationError::Invalid { .. } => Decision::Refused(error.to_string()),
        OperationError::Store(_) | OperationError::Vault(_) | OperationError::NoRandomness(_) => {
            panic!("{error}")
        }
    }
}

/// A report with a check that failed and one that passed.
fn report() -> Value {
    let spec = |key: &str| CheckSpec {
        key: key.into(),
        title: "A check".into(),
        blocking: true,
        severity: Severity::High,
    };
    let links = LinkContext {
        connections: "/provider-connections".into(),
        connection: "/provider-connections/{id}".into(),
        run: "/operation-runs/{id}".into(),
        portal: "https://entra.microsoft.com".into(),
        login: "https://login.microsoftonline.com".into(),
        graph: "https://graph.microsoft.com".into(),
        ..LinkContext::default()
    };
    let failed = spec(FAILED).fail(Reason::PermissionMissing, &links, Vec::new());
    let finished = ReportDraft {
        identity: Identity::default(),
        generated_at: DateTime::UNIX_EPOCH,
        previous_report_id: None,
        checks: vec![spec(PASSED).pass("It works.", Vec::new()), failed],
    }
    .finish(&[], "/operation-runs/1");
    assert_eq!(finished.replaced, None);
    serde_json::from_str(finished.json.get()).unwrap()
}

/// Compares what was decided with what the row expects; returns what differs.
fn compare(
    what: impl fmt::Display,
    surface: Surface,
    expected: Expected,
    found: Option<Decision>,
) -> Option<String> {
    let found = found?;
    (!expected.fits(&found))
        .then(|| format!("{what}: {surface:?}: {found:?}, expected {expected:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_surface_starts_and_refuses_the_same_checks() {
    let stage = Stage::new().await;
    let mut differences = Vec::new();
    for row in CHECKS {
        for surface in SURFACES {
            let found = stage.check(surface, row).await;
            differences.extend(compare(row.what, surface, row.expected, found));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_surface_shows_workers_to_whoever_reaches_everything() {
    let stage = Stage::new().await;
    let mut differences = Vec::new();
    for (reach, expected) in [
        (Reach::Everything, Expected::There),
        (Reach::Own, Expected::NotFound),
        (Reach::OtherWorkspace, Expected::NotFound),
    ] {
        let binding = reach.binding(1);
        let over_api = stage.api(binding, "/v1/workers", None).await.map(drop);
        let over_page = stage.page(binding, "/workers", None).await.map(drop);
        for (surface, shown) in [(Surface::Api, over_api), (Surface::Page, over_page)] {
            let found = shown.err().unwrap_or(Decision::There);
            let what = format!("workers, {reach:?}");
            differences.extend(compare(what, surface, expected, Some(found)));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_surface_shows_and_acknowledges_the_same_runs() {
    let stage = Stage::new().await;
    let mut differences = Vec::new();
    for row in RUNS {
        for surface in SURFACES {
            let found = stage.of_run(surface, row).await;
            let what = format!("{:?} {}", row.doing, row.what);
            differences.extend(compare(what, surface, row.expected, found));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
