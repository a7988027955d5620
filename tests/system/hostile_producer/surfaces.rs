//! Everything that shows runs: every route of the OpenAPI document, every page, the command line.

use crate::api::scene::{operations, with_id};
use crate::pages::person::Person;
use futures::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use test_support::bench::{Bench, PATIENCE};

/// Runs that are shown one by one. Lists have them all.
const SHOWN: usize = 40;

/// Runs that the command line shows one by one.
const COMMANDS: usize = 2;

/// What a token needs that may see all of it.
pub const SCOPES: &[&str] = &["read", "run", "admin", "audit"];

/// Onboarding sessions as another application may write them, with the ids of the first connections: one that is right,
/// one whose state is no object, and one whose state is too large.
pub fn sessions() -> String {
    let large = json!({ "padding": "x".repeat(2 * 1024 * 1024) });
    format!(
        "INSERT INTO tenant_onboarding_sessions (id, workspace_id, tenant_id, state) VALUES
         (1, 1, 1, '{{\"verification_operation_run_id\": 1}}'), (2, 1, NULL, '[null, 1e400]'),
         (3, 1, 3, '{large}')"
    )
}

/// The ids of `sessions`.
const SESSIONS: &[i64] = &[1, 2, 3];

pub struct Visitor {
    person: Person,
    token: String,
    /// What was acknowledged so far.
    pub acknowledgements: Vec<i64>,
}

/// The routes of the pages that are read, as their router has them.
fn pages() -> impl Iterator<Item = &'static str> {
    let router = include_str!("../../../src/http/pages/mod.rs");
    let routes = router.split(".route(").skip(1);
    let read = routes.filter(|route| route.contains("get("));
    read.filter_map(|route| route.split('"').nth(1))
}

/// So many of them, spread over the whole.
fn spread(ids: &[i64], most: usize) -> impl Iterator<Item = i64> {
    let step = ids.len().div_ceil(most).max(1);
    ids.iter().copied().step_by(step)
}

impl Visitor {
    /// Logs in.
    pub async fn new(address: &str, token: &str) -> Self {
        Self {
            person: Person::logged_in(&format!("http://{address}"), token).await,
            token: token.to_owned(),
            acknowledgements: Vec::new(),
        }
    }

    /// Sends it until it is not too often. Its answer must be one, and no error of the server's.
    async fn ask(&self, what: &str, request: RequestBuilder) -> (u16, String) {
        let (status, body) = self.repeat(what, &request, &[429]).await;
        assert!(status < 500, "{what}: {status} {body:.2000}");
        (status, body)
    }

    /// Sends it again as long as it gets one of these answers.
    async fn repeat(&self, what: &str, request: &RequestBuilder, busy: &[u16]) -> (u16, String) {
        let until = Instant::now() + PATIENCE;
        loop {
            let again = request.try_clone().unwrap().timeout(PATIENCE);
            let answer = again.send().await;
            let answer = answer.unwrap_or_else(|e| panic!("{what}: {e:?}"));
            let status = answer.status().as_u16();
            let wait = answer.headers().get("retry-after").cloned();
            let body = answer.bytes().await;
            let body = body.unwrap_or_else(|e| panic!("{what}: {e:?}"));
            let body = String::from_utf8_lossy(&body).into_owned();
            if !busy.contains(&status) || Instant::now() > until {
                return (status, body);
            }
            let wait = wait.and_then(|w| w.to_str().ok()?.parse().ok());
            tokio::time::sleep(Duration::from_secs(wait.unwrap_or(1))).await;
        }
    }

    async fn api(&self, method: &Method, path: &str, body: Option<Value>) -> (u16, String) {
        let request = self.person.request(method.clone(), path);
        let mut request = request.bearer_auth(&self.token);
        if method == Method::POST {
            request = request.header("idempotency-key", uuid::Uuid::new_v4().to_string());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.ask(&format!("{method} {path}"), request).await
    }

    /// Has each of these runs read three times by all visitors at the same moment. Who is refused, as there may be too
    /// many, asks again.
    pub async fn read_at_once(visitors: &[&Self], runs: &[i64]) {
        let paths = runs.iter().flat_map(|run| {
            [
                format!("/v1/runs/{run}"),
                format!("/runs/{run}"),
                format!("/runs/{run}/run.json"),
            ]
        });
        let paths: Vec<String> = paths.collect();
        for _ in 0..3 {
            let requests = visitors
                .iter()
                .flat_map(|visitor| paths.iter().map(move |path| visitor.read(path)));
            join_all(requests).await;
        }
    }

    async fn read(&self, path: &str) {
        let request = self.person.request(Method::GET, path);
        let request = request.bearer_auth(&self.token);
        let (status, body) = self.repeat(path, &request, &[429, 503]).await;
        assert_eq!(status, 200, "{path}: {body:.2000}");
    }

    /// What a page or a route of the API shows.
    pub async fn shown(&self, path: &str) -> String {
        let request = self.person.request(Method::GET, path);
        let (status, body) = self.ask(path, request.bearer_auth(&self.token)).await;
        assert_eq!(status, 200, "{path}: {body:.2000}");
        body
    }

    async fn page(&self, path: &str) -> (u16, String) {
        let request = self.person.request(Method::GET, path);
        self.ask(path, request).await
    }

    /// Acknowledges the first problem of one of these runs, unless none has one.
    async fn acknowledge(&self, runs: &[i64]) -> Option<i64> {
        for run in runs {
            let path = format!("/v1/runs/{run}");
            let (_, shown) = self.api(&Method::GET, &path, None).await;
            let shown: Value = serde_json::from_str(&shown).unwrap_or_default();
            let Some(key) = shown["report"]["report"]["problems"][0]["key"].as_str() else {
                continue;
            };
            let body = json!({ "check_key": key, "reason": "known" });
            let path = format!("{path}/acknowledgements");
            let (_, made) = self.api(&Method::POST, &path, Some(body)).await;
            let made: Value = serde_json::from_str(&made).unwrap_or_default();
            let id = made["acknowledgement"]["id"].as_i64();
            if id.is_some() {
                return id;
            }
        }
        None
    }

    /// Every route and every page, with the ids that there are, and with some that there are not.
    pub async fn everything(&mut self, runs: &[i64], connections: &[i64]) {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let request = self.person.request(Method::GET, path);
            let (status, body) = self.ask(path, request).await;
            assert_eq!(status, 200, "{path}: {body}");
            assert!(
                path != "/metrics" || body.contains("verifyd_runs_queued "),
                "{body}"
            );
        }
        let mut shown: Vec<i64> = spread(runs, SHOWN).collect();
        shown.extend([i64::MIN, -1, 0, i64::MAX]);
        let items = self.items("/v1/runs?limit=7").await;
        self.are_readable(&items, runs).await;
        let listed = items.iter();
        let listed = listed.filter_map(|item| item["operation_run_id"].as_i64());
        let listed: BTreeSet<i64> = listed.collect();
        let made = self.acknowledge(&shown).await;
        self.acknowledgements.extend(made);
        let newest = self.acknowledgements.iter().rev().copied();
        let acknowledgements: Vec<i64> = newest.chain([0]).collect();
        let mut asked = BTreeSet::new();
        for (method, template, _) in operations() {
            let ids: &[i64] = match template.as_str() {
                t if !t.contains('{') => &[0],
                t if t.contains("{run_id}") => &shown,
                t if t.contains("{connection_id}") => connections,
                t if t.contains("{acknowledgement_id}") => &acknowledgements,
                t if t.contains("{onboarding_session_id}") => SESSIONS,
                t => panic!("{t}: with which ids?"),
            };
            // Lists are read to their end. What is said against a run is not to be repeated.
            let few = if method == Method::POST { 2 } else { ids.len() };
            for id in &ids[..few.min(ids.len())] {
                let path = with_id(&template, &id.to_string());
                let body = match template.rsplit('/').next() {
                    Some("checks") => Some(json!({ "onboarding_session_id": id })),
                    Some("acknowledgements") if method == Method::POST => {
                        Some(json!({ "check_key": "no.such.check", "reason": "none" }))
                    }
                    _ => None,
                };
                let (status, answer) = self.api(&method, &path, body).await;
                let problem = match status {
                    404 => serde_json::from_str::<Value>(&answer).unwrap()["type"].clone(),
                    _ => Value::Null,
                };
                let is_report = template.ends_with("/report") || template.ends_with("/diff");
                let is_there = !template.contains("{run_id}") || listed.contains(id);
                let may_be = match problem.as_str() {
                    Some("urn:verifyd:problem:no-report") => is_report && is_there,
                    Some("urn:verifyd:problem:not-found") => {
                        !template.contains("{run_id}") || !is_there
                    }
                    _ => status != 404 && is_there,
                };
                assert!(may_be, "{method} {path}: {status} {answer:.2000}");
                asked.insert((method.to_string(), template.clone()));
            }
        }
        assert_eq!(asked.len(), operations().len(), "{asked:?}");
        for list in [
            "/v1/runs?status=queued",
            "/v1/runs?outcome=blocked",
            "/v1/connections?limit=2",
            "/v1/acknowledgements",
            "/v1/audit?limit=7",
            "/v1/audit?object=acknowledgement",
        ] {
            self.items(list).await;
        }
        self.pages(&shown, connections, &listed).await;
    }

    /// Each of these runs that a list calls readable is.
    async fn are_readable(&self, items: &[Value], runs: &[i64]) {
        let readable = items.iter().filter(|item| item["report"] == "readable");
        let readable = readable.filter_map(|item| item["operation_run_id"].as_i64());
        for run in readable.filter(|run| runs.contains(run)) {
            let shown = self.shown(&format!("/v1/runs/{run}")).await;
            let shown: Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(shown["report"]["state"], "readable", "{shown}");
        }
    }

    /// A list to its end.
    async fn items(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut next = path.to_owned();
        for _ in 0..10_000 {
            let (status, body) = self.api(&Method::GET, &next, None).await;
            assert_eq!(status, 200, "{next}: {body}");
            let mut body: Value = serde_json::from_str(&body).unwrap();
            all.append(body["items"].as_array_mut().unwrap());
            match body["next"].as_str() {
                Some(more) => more.clone_into(&mut next),
                None => return all,
            }
        }
        panic!("{path} has no end");
    }

    /// `listed`: the runs that there are.
    async fn pages(&self, runs: &[i64], connections: &[i64], listed: &BTreeSet<i64>) {
        let texts = |ids: &[i64]| ids.iter().map(i64::to_string).collect::<Vec<_>>();
        for template in pages() {
            let ids = match template {
                t if !t.contains('{') => vec![String::new()],
                "/modules/{key}/plan" => vec!["health_check".to_owned()],
                "/assets/{name}" => vec!["icon.svg".to_owned()],
                "/connections/{id}" => texts(connections),
                "/live/runs/{id}" => texts(&spread(runs, 3).collect::<Vec<_>>()),
                t if t.starts_with("/runs/{id}") => texts(runs),
                t => panic!("{t}: with which ids?"),
            };
            for id in ids {
                let path = with_id(template, &id);
                if path.starts_with("/live") {
                    self.stream(&path).await;
                    continue;
                }
                let (status, page) = self.page(&path).await;
                let is_none = status == 404 && page.contains("There is nothing here");
                let may_be = match template {
                    // Who has logged in is led on.
                    t if t.starts_with("/login") => true,
                    "/connections/{id}" => status == 200 || is_none,
                    t if t.contains("{id}") && !listed.contains(&id.parse().unwrap()) => is_none,
                    _ => status == 200,
                };
                assert!(may_be, "{path}: {status} {page:.2000}");
            }
        }
        for page in [
            "/?period=7d",
            "/connections?name=contoso",
            "/runs?state=queued",
            "/runs?state=failed",
            "/audit?connection=1",
        ] {
            assert_eq!(self.page(page).await.0, 200, "{page}");
        }
        for run in runs {
            self.page(&format!("/runs?before={run}")).await;
        }
    }

    /// The first event of a live page.
    async fn stream(&self, path: &str) {
        let request = self.person.request(Method::GET, path).timeout(PATIENCE);
        let answer = request.send().await;
        let mut answer = answer.unwrap_or_else(|e| panic!("{path}: {e:?}"));
        // Too many streams at a time are refused, and those before may still be there.
        assert!(
            answer.status().as_u16() < 500 || answer.status() == 503,
            "{path}: {answer:?}"
        );
        if answer.status() == 200 {
            let first = answer.chunk().await;
            let first = first.unwrap_or_else(|e| panic!("{path}: {e:?}"));
            assert!(first.is_some(), "{path} ends at once");
        }
    }

    /// The command line, which must not panic either.
    pub fn commands(&self, bench: &Bench, runs: &[i64]) {
        for list in [
            &["runs", "list", "--limit", "1000"][..],
            &["runs", "list", "--limit", "1000", "--json"],
            &["connections", "list"],
            &["acknowledgements", "list"],
        ] {
            bench.success(list);
        }
        let ends = |arguments: &[&str]| {
            let output = bench.run(arguments);
            let code = output.status.code();
            assert!(
                code.is_some_and(|code| code != 101),
                "{arguments:?}: {output:?}"
            );
        };
        for session in SESSIONS {
            ends(&["onboarding", "show", &session.to_string()]);
        }
        ends(&["plan", "--module", "health_check"]);
        for run in spread(runs, COMMANDS) {
            let run = run.to_string();
            for command in ["show", "diff"] {
                ends(&["runs", command, "--json", "--", &run]);
            }
        }
    }
}
