//! The API and the pages over TCP, served as `verifyd serve` serves them, and a caller that holds every
//! answer of the API against the OpenAPI document.

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;
use test_support::postgres::TestDatabase;
use test_support::proxy::Proxy;
use test_support::waiting::until;
pub use test_support::world::bound;
use test_support::world::{World, use_postgres};
use tokio_util::sync::CancellationToken;
use verifyd::app::Services;
use verifyd::config::Settings;
use verifyd::domain::access::{Binding, Scope};
use verifyd::domain::{ConnectionId, RunId};
use verifyd::telemetry::metrics::Metrics;
use verifyd_simulator::Scenario;

pub const ALL: &[Scope] = Scope::ALL;

/// What the server says of itself.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(verifyd::http::api::document);

/// A server that ends with its test.
pub struct Scene {
    pub world: World,
    pub base: String,
    client: reqwest::Client,
    pub stop: CancellationToken,
    /// Method, template and status of every answer so far.
    pub seen: Mutex<BTreeSet<(String, String, u16)>>,
    /// Dropped after everything that is connected to it.
    _database: Option<TestDatabase>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The last part of a problem's type.
    pub fn problem(&self) -> &str {
        let kind = self.body["type"].as_str().unwrap_or_default();
        kind.strip_prefix("urn:verifyd:problem:")
            .unwrap_or_default()
    }

    /// Its status, and which problem it is.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.problem())
    }

    /// What a list shows.
    pub fn items(&self) -> &[Value] {
        self.body["items"].as_array().expect("a list")
    }

    pub fn ids(&self, member: &str) -> Vec<i64> {
        let ids = self.items().iter().map(|item| item[member].as_i64());
        ids.map(Option::unwrap).collect()
    }
}

impl Scene {
    pub async fn postgres() -> Self {
        Self::postgres_with(|_| {}).await
    }

    pub async fn postgres_with(change: impl FnOnce(&mut Settings)) -> Self {
        let database = TestDatabase::migrated().await;
        let url = database.url();
        let change = |settings: &mut Settings| {
            use_postgres(settings, url);
            change(settings);
        };
        Self::on(Some(database), change).await
    }

    /// With a way to the database that can be cut. Only the server waits for a connection for a short
    /// time: whatever prepares the scene must also get one on a busy machine.
    pub async fn behind_a_proxy() -> (Self, Proxy) {
        let mut scene = Self::postgres().await;
        let mut settings = scene.world.services.settings.clone();
        let (proxy, url) = Proxy::before(settings.database.url.expose_secret()).await;
        settings.database.url = SecretString::from(url);
        settings.database.acquire_timeout = Duration::from_millis(500);
        let mut opened = None;
        until("the server gets a connection", async || {
            opened = Services::open(settings.clone()).await.ok();
            opened.is_some()
        })
        .await;
        scene.base = serve(&opened.unwrap(), scene.stop.clone()).await;
        (scene, proxy)
    }

    pub async fn sqlite() -> Self {
        Self::sqlite_with(|_| {}).await
    }

    pub async fn sqlite_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(None, change).await
    }

    async fn on(database: Option<TestDatabase>, change: impl FnOnce(&mut Settings)) -> Self {
        let world = World::with(|settings| {
            settings.http.api.requests_per_minute = 1_000_000;
            settings.http.api.anonymous_requests_per_minute = 1_000_000;
            settings.pages.live.poll_interval = Duration::from_millis(100);
            settings.http.timeouts.request = Duration::from_secs(120);
            change(settings);
        })
        .await;
        if database.is_none() {
            world.services.store.migrate().await.unwrap();
        }
        let stop = CancellationToken::new();
        let base = serve(&world.services, stop.clone()).await;
        Self {
            world,
            base,
            client: reqwest::Client::new(),
            stop,
            seen: Mutex::default(),
            _database: database,
        }
    }

    /// Starts a worker that takes the hints that the API sends.
    pub fn work(&self) {
        let services = self.world.services.clone();
        let worker = services.worker();
        let stop = self.stop.clone();
        tokio::spawn(async move { worker.run(stop).await });
    }

    pub async fn token(&self, scopes: &[Scope], binding: Binding) -> String {
        self.world.token("a test", scopes, binding).await
    }

    /// A connection to the test's database; PostgreSQL only.
    pub async fn connection(&self) -> sqlx::PgConnection {
        use sqlx::Connection as _;
        let url = self.world.services.settings.database.url.expose_secret();
        sqlx::PgConnection::connect(url).await.unwrap()
    }

    /// A statement as another application might make it; returns one number.
    pub async fn sql(&self, statement: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(statement.to_owned()))
            .fetch_one(&mut self.connection().await)
            .await
            .unwrap()
    }

    /// An onboarding session of this workspace and tenant, in the words of SQL.
    pub async fn session(&self, workspace: &str, tenant: &str, state: &str) -> i64 {
        self.sql(&format!(
            "INSERT INTO tenant_onboarding_sessions (workspace_id, tenant_id, state) \
             VALUES ({workspace}, {tenant}, {state}) RETURNING id"
        ))
        .await
    }

    /// A token that may do everything, everywhere.
    pub async fn master(&self) -> String {
        self.token(ALL, Binding::EVERYTHING).await
    }

    /// A connection of this tenant in workspace 1, which the simulator treats as this scenario says.
    pub async fn add(&self, tenant: i64, scenario: Scenario) -> ConnectionId {
        let entra = scenario.tenant_id(u32::try_from(tenant).unwrap());
        let module = scenario.expectation().module;
        self.world.connection(tenant, &entra, module).await
    }

    /// A healthy connection of this tenant in workspace 1.
    pub async fn healthy(&self, tenant: i64) -> i64 {
        self.add(tenant, Scenario::Healthy).await.0
    }

    /// A connection that lacks a permission.
    pub async fn lacking(&self, tenant: i64) -> i64 {
        let scenario = Scenario::ALL
            .iter()
            .find(|s| s.expectation().overall == "needs_attention")
            .unwrap();
        self.add(tenant, *scenario).await.0
    }

    /// Runs a command on the embedded database.
    pub async fn cli(&self, arguments: Vec<String>) -> Output {
        let database = self.world.folder.path().join("verifyd.db");
        let command = tokio::task::spawn_blocking(move || {
            Command::new(env!("CARGO_BIN_EXE_verifyd"))
                .args(arguments)
                .env_clear()
                .env("DATABASE_URL", format!("sqlite://{}", database.display()))
                .output()
                .unwrap()
        });
        command.await.unwrap()
    }

    pub async fn get(&self, token: &str, path: &str) -> Reply {
        self.call(Method::GET, path, token, None, &[]).await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, token, Some(body), &[]).await
    }

    /// Asks for a check of this connection.
    pub async fn start(&self, token: &str, connection: i64, body: Value) -> Reply {
        let path = format!("/v1/connections/{connection}/checks");
        self.post(token, &path, body).await
    }

    /// Starts a check and waits until its run is completed.
    pub async fn checked(&self, token: &str, connection: i64) -> i64 {
        let started = self.start(token, connection, json!({})).await;
        assert_eq!(started.status, 201, "{started:?}");
        let run = started.body["run"]["operation_run_id"].as_i64().unwrap();
        self.world.completed(RunId(run)).await;
        run
    }

    /// Sends a request. The answer fits the OpenAPI document.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut request = self.request(method, path);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request).await
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub fn request_to(&self, method: Method, url: reqwest::Url) -> reqwest::RequestBuilder {
        self.client.request(method, url)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let answer = self.client.execute(request).await.unwrap();
        let status = answer.status();
        let headers = answer.headers().clone();
        let text = answer.text().await.unwrap();
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"))
        };
        let reply = Reply {
            status: status.as_u16(),
            headers,
            body,
        };
        self.fits(&method, &path, &reply);
        reply
    }

    /// Every answer has an id; every error is a problem; every other one is as documented.
    fn fits(&self, method: &Method, path: &str, reply: &Reply) {
        let what = format!("{method} {path}: {reply:?}");
        assert!(!reply.header("x-request-id").is_empty(), "{what}");
        if reply.status >= 400 {
            let kind = reply.header("content-type");
            assert_eq!(kind, "application/problem+json", "{what}");
            assert_eq!(reply.body["status"], reply.status, "{what}");
            assert_eq!(reply.body["instance"], path, "{what}");
            let id = reply.header("x-request-id");
            assert_eq!(reply.body["request_id"], id, "{what}");
            let problem = json!({ "$ref": "#/components/schemas/Problem" });
            assert_fits(&problem, &reply.body, &what);
        }
        let Some(template) = template(path) else {
            return;
        };
        let name = method.as_str().to_ascii_lowercase();
        let operation = &DOCUMENT["paths"][&template][&name];
        if operation.is_null() {
            assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
            return;
        }
        let documented = &operation["responses"][reply.status.to_string()];
        assert!(documented.is_object(), "not documented: {what}");
        let content = documented["content"].as_object();
        match content.into_iter().flatten().next() {
            Some((kind, content)) => {
                assert_eq!(reply.header("content-type"), kind, "{what}");
                assert_fits(&content["schema"], &reply.body, &what);
            }
            None => assert_eq!(reply.body, Value::Null, "{what}"),
        }
        let mut seen = self.seen.lock().unwrap();
        seen.insert((name, template, reply.status));
    }
}

pub async fn serve(services: &Services, stop: CancellationToken) -> String {
    serve_at(services, "127.0.0.1:0".parse().unwrap(), stop).await
}

/// The same on an address that is known before.
pub async fn serve_at(services: &Services, listen: SocketAddr, stop: CancellationToken) -> String {
    let worker = services.worker();
    let health = services.health(&worker, Metrics::detached(), stop.clone());
    let mut settings = services.settings.http.clone();
    settings.listen = listen;
    let listener = verifyd::http::bind(&settings).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let pages = verifyd::http::pages::router(services.pages(stop.clone()));
    let router = verifyd::http::router(health, services.api()).merge(pages);
    tokio::spawn(verifyd::http::serve(listener, router, &settings, stop));
    base
}

/// A path of the document with this id in place of each parameter.
pub fn with_id(template: &str, id: &str) -> String {
    let parts = template.split('/');
    let parts = parts.map(|part| if part.starts_with('{') { id } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// The path of the document that stands for this one.
fn template(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let wanted: Vec<&str> = template.split('/').collect();
        wanted.len() == parts.len()
            && wanted
                .iter()
                .zip(&parts)
                .all(|(w, p)| w == p || w.starts_with('{'))
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.keys().find(|template| fits(template)).cloned()
}

fn assert_fits(schema: &Value, body: &Value, what: &str) {
    let mut whole = schema.clone();
    whole["components"] = DOCUMENT["components"].clone();
    let validator = jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&whole)
        .unwrap();
    let errors: Vec<String> = validator
        .iter_errors(body)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what}\n{}", errors.join("\n"));
}

/// Every operation: method, path, scope.
pub fn operations() -> Vec<(Method, String, Option<Scope>)> {
    let mut all = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            let scope = operation["x-scope"].as_str().map(|s| s.parse().unwrap());
            all.push((method, path.clone(), scope));
        }
    }
    all
}
