//! verifyd in one process: embedded database, in-process queue, simulator.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use std::sync::LazyLock;
use std::time::Duration;
use verifyd::app::Services;
use verifyd::config::{Settings, Sources};
use verifyd::domain::access::{Binding, Scope};
use verifyd::domain::acknowledgement::{Actor, Surface};
use verifyd::domain::audit::Origin;
use verifyd::domain::connection::{ConnectionStatus, NewConnection, ProviderConnection};
use verifyd::domain::credential::Credential;
use verifyd::domain::run::OperationRun;
use verifyd::domain::{ConnectionId, RunId, RunStatus, TenantId, WorkspaceId, token};
use verifyd::engine::lease::send_heartbeat;
use verifyd::engine::worker::Worker;
use verifyd::operations::start_check::context_for;
use verifyd::ports::access::NewToken;
use verifyd::ports::store::NewRun;
use verifyd::provider::microsoft::CloudSettings;
use verifyd_simulator::{
    RunningSimulator, SIMULATED_SECRET, Scenario, Simulator, SimulatorOptions,
};

/// A run, with all of its JSON parsed.
#[derive(Clone, Debug)]
pub struct ParsedRun {
    pub context: Value,
    pub failure_summary: Value,
    row: OperationRun,
}

impl From<OperationRun> for ParsedRun {
    fn from(row: OperationRun) -> Self {
        Self {
            context: row.context.value(),
            failure_summary: row.failure_summary.value(),
            row,
        }
    }
}

impl PartialEq for ParsedRun {
    fn eq(&self, other: &Self) -> bool {
        let all = |run: &Self| (run.row.parsed().expect("JSON"), run.shares_id);
        all(self) == all(other)
    }
}

impl std::ops::Deref for ParsedRun {
    type Target = OperationRun;
    fn deref(&self) -> &OperationRun {
        &self.row
    }
}

impl ParsedRun {
    /// The stored verification report, when there is one.
    pub fn report(&self) -> Option<&Value> {
        let report = self.context.get("verification_report");
        report.filter(|report| !report.is_null())
    }
}

/// A world that ends with its test.
pub struct World {
    pub services: Services,
    pub simulator: RunningSimulator,
    pub folder: tempfile::TempDir,
}

/// Pauses short enough for tests. Limits only guard against hanging: on a busy machine an answer takes
/// its time. What is about a provider that never answers shortens them: [`impatient`].
pub fn settings(folder: &std::path::Path, simulator: &RunningSimulator) -> Settings {
    let mut settings = Settings::load(Sources::default()).unwrap();
    settings.database.url =
        SecretString::from(format!("sqlite://{}", folder.join("verifyd.db").display()));
    settings.database.acquire_timeout = Duration::from_secs(300);
    // Workers of tests send one heartbeat. However busy the machine is, that lasts for a test.
    settings.worker.dead_after = Duration::from_secs(600);
    let microsoft = &mut settings.microsoft;
    microsoft.pauses.first = Duration::from_millis(20);
    microsoft.pauses.longest = Duration::from_millis(200);
    microsoft.request_timeout = Duration::from_secs(120);
    microsoft.clouds.insert(
        "simulated".to_owned(),
        CloudSettings {
            login: simulator.base_url.clone(),
            graph: simulator.base_url.clone(),
            portal: "https://entra.microsoft.com".to_owned(),
        },
    );
    settings
}

/// Has a world use this PostgreSQL database, which its test migrates. There, no key is created.
pub fn use_postgres(settings: &mut Settings, url: String) {
    settings.database.url = SecretString::from(url);
    let keys = json!([format!("test:{}", crate::bench::KEY)]);
    settings.credentials.keys = serde_json::from_value(keys).unwrap();
}

/// A provider that does not answer is soon left.
pub fn impatient(settings: &mut Settings) {
    settings.microsoft.request_timeout = Duration::from_secs(4);
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let simulator = Simulator::start(SimulatorOptions::default()).await.unwrap();
        let mut settings = settings(folder.path(), &simulator);
        change(&mut settings);
        let services = Services::open(settings).await.unwrap();
        Self {
            services,
            simulator,
            folder,
        }
    }

    /// A connection of workspace 1 and this tenant, with the simulator's secret.
    pub async fn connection(
        &self,
        tenant: i64,
        entra_tenant_id: &str,
        module: &str,
    ) -> ConnectionId {
        self.connection_with(
            tenant,
            entra_tenant_id,
            module,
            Some(Credential::ClientSecret {
                secret: SecretString::from(SIMULATED_SECRET),
                client_id: None,
            }),
        )
        .await
    }

    pub async fn connection_with(
        &self,
        tenant: i64,
        entra_tenant_id: &str,
        module: &str,
        credential: Option<Credential>,
    ) -> ConnectionId {
        let new = NewConnection {
            workspace_id: WorkspaceId(1),
            tenant_id: TenantId(tenant),
            provider: "microsoft".into(),
            display_name: Some(format!("Tenant {tenant}")),
            entra_tenant_id: entra_tenant_id.into(),
            client_id: format!("5c000000-0000-4000-8000-c{tenant:011}"),
            cloud: "simulated".into(),
            module: Some(module.into()),
        };
        let vault = &self.services.vault;
        let store = &self.services.store;
        match credential {
            None => store.add_connection(&new, None, operator()).await.unwrap(),
            Some(credential) => {
                let seal = |binding| vault.seal(binding, &credential, None);
                let added = store.add_connection(&new, Some(&seal), operator());
                added.await.unwrap()
            }
        }
    }

    /// A connection of this tenant to a directory of its own where nothing is wrong, for `health_check`.
    pub async fn healthy(&self, tenant: u32) -> ConnectionId {
        let directory = Scenario::Healthy.tenant_id(tenant);
        self.connection(tenant.into(), &directory, "health_check")
            .await
    }

    /// Changes columns of a connection's row, as another application might.
    pub async fn set(&self, id: ConnectionId, columns: &str) {
        self.sql(&format!(
            "UPDATE provider_connections SET {columns} WHERE id = {id}"
        ))
        .await;
    }

    pub async fn disable(&self, id: ConnectionId) {
        let disabled = ConnectionStatus::Disabled;
        let changed = self
            .services
            .store
            .set_connection_status(id, disabled, operator());
        assert!(changed.await.unwrap());
    }

    /// A token of the API and the pages with these scopes.
    pub async fn token(&self, name: &str, scopes: &[Scope], binding: Binding) -> String {
        let text = token::fresh().unwrap();
        let text = text.expose_secret();
        let new = NewToken {
            name: name.into(),
            hash: token::hash(text).unwrap(),
            scopes: scopes.to_vec(),
            binding,
            expires_at: None,
        };
        let added = self.services.store.add_token(&new, operator()).await;
        added.unwrap();
        text.to_owned()
    }

    pub async fn row(&self, id: ConnectionId) -> ProviderConnection {
        self.services.store.connection(id).await.unwrap().unwrap().0
    }

    /// Records a run of this connection with its context changed at will.
    pub async fn record(&self, id: ConnectionId, change: impl FnOnce(&mut NewRun)) -> RunId {
        let connection = self.row(id).await;
        let mut new = NewRun {
            workspace_id: connection.workspace_id,
            tenant_id: Some(connection.tenant_id),
            context: context_for(&self.services.providers, &connection, None),
            unless_active: None,
            onboarding_session: None,
        };
        change(&mut new);
        self.services.store.record(&new).await.unwrap().run_id
    }

    /// A worker that may claim runs.
    pub async fn worker(&self) -> Worker {
        self.worker_with(|_| {}).await
    }

    /// The same, of changed services.
    pub async fn worker_with(&self, change: impl FnOnce(&mut Services)) -> Worker {
        let mut services = self.services.clone();
        change(&mut services);
        let worker = services.worker();
        send_heartbeat(self.services.store.as_ref(), &worker.state)
            .await
            .unwrap();
        worker
    }

    /// A statement on the embedded database, as another application might make it.
    pub async fn sql(&self, statement: &str) {
        use sqlx::Connection as _;
        let path = self.folder.path().join("verifyd.db");
        let mut connection =
            sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display()))
                .await
                .unwrap();
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    pub async fn run(&self, id: RunId) -> ParsedRun {
        self.services.store.run(id).await.unwrap().unwrap().into()
    }

    /// Waits until the run is completed; guards against hanging only.
    pub async fn completed(&self, id: RunId) -> ParsedRun {
        tokio::time::timeout(Duration::from_secs(180), async {
            loop {
                let run = self.run(id).await;
                if run.status == RunStatus::Completed {
                    return run;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the run is completed")
    }
}

/// Somebody at the command line.
pub fn operator() -> &'static Origin {
    static OPERATOR: LazyLock<Origin> = LazyLock::new(|| {
        let actor = Actor {
            surface: Surface::Cli,
            token_id: None,
            name: "operator, uid 1000".into(),
        };
        actor.into()
    });
    &OPERATOR
}

/// The reach of a workspace, or of one tenant in it.
pub fn bound(workspace: i64, tenant: Option<i64>) -> Binding {
    Binding {
        workspace_id: Some(WorkspaceId(workspace)),
        tenant_id: tenant.map(TenantId),
    }
}

/// The reason codes of all checks of these statuses.
pub fn reasons(run: &ParsedRun, statuses: &[&str]) -> Vec<String> {
    run.report()
        .and_then(|r| r["checks"].as_array())
        .map(|checks| {
            checks
                .iter()
                .filter(|c| statuses.contains(&c["status"].as_str().unwrap_or_default()))
                .filter_map(|c| c["reason_code"].as_str().map(ToOwned::to_owned))
                .collect()
        })
        .unwrap_or_default()
}

/// One check of the run's report.
pub fn check(run: &ParsedRun, key: &str) -> Value {
    run.report().unwrap()["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["key"] == key)
        .cloned()
        .unwrap_or_else(|| panic!("the report has no check {key}"))
}
