//! Everything that shows runs: every route of the OpenAPI document, every page, the command line.

use crate::api::scene::{operations, with_id};
use crate::pages::person::Person;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use test_support::bench::{Bench, PATIENCE};

/// Runs that are shown one by one. Lists have them all.
const SHOWN: usize = 40;

/// Runs that the command line shows one by one.
const COMMANDS: usize = 2;

pub struct Visitor {
    person: Person,
    token: String,
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
        }
    }

    /// Sends it until it is not too often. Its answer must be one, and no error of the server's.
    async fn ask(&self, what: &str, request: RequestBuilder) -> (u16, String) {
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
            assert!(status < 500, "{what}: {status} {body:.2000}");
            if status != 429 || Instant::now() > until {
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

    /// What a page or a route of the API shows.
    pub async fn shown(&self, path: &str) -> String {
        let request = self.person.request(Method::GET, path);
        let (status, body) = self.ask(path, request.bearer_auth(&self.token)).await;
        assert_eq!(status, 200, "{path}: {body:.2000}");
        body
    }

    async fn page(&self, path: &str) -> u16 {
        let request = self.person.request(Method::GET, path);
        self.ask(path, request).await.0
    }

    /// Every route and every page, with the ids that there are, and with some that there are not.
    pub async fn everything(&self, runs: &[i64], connections: &[i64]) {
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
        let mut asked = BTreeSet::new();
        for (method, template, _) in operations() {
            let ids: &[i64] = match template.as_str() {
                t if t.contains("{run_id}") => &shown,
                t if t.contains('{') => connections,
                _ => &[0],
            };
            // Lists are read to their end. What is said against a run is not to be repeated.
            let few = if method == Method::POST { 2 } else { ids.len() };
            for id in &ids[..few.min(ids.len())] {
                let path = with_id(&template, &id.to_string());
                let body = (method == Method::POST && !template.ends_with("/checks"))
                    .then(|| json!({ "check_key": "no.such.check", "reason": "none" }));
                self.api(&method, &path, body).await;
                asked.insert((method.to_string(), template.clone()));
            }
        }
        assert!(asked.len() >= 13, "{asked:?}");
        for list in [
            "/v1/runs?limit=7",
            "/v1/runs?status=queued",
            "/v1/runs?outcome=blocked",
            "/v1/connections?limit=2",
            "/v1/acknowledgements",
        ] {
            self.list(list).await;
        }
        self.pages(&shown, connections).await;
    }

    /// A list to its end.
    async fn list(&self, path: &str) {
        let mut next = path.to_owned();
        for _ in 0..10_000 {
            let (status, body) = self.api(&Method::GET, &next, None).await;
            assert_eq!(status, 200, "{next}: {body}");
            let body: Value = serde_json::from_str(&body).unwrap();
            match body["next"].as_str() {
                Some(more) => more.clone_into(&mut next),
                None => return,
            }
        }
        panic!("{path} has no end");
    }

    async fn pages(&self, runs: &[i64], connections: &[i64]) {
        let mut all: Vec<String> = [
            "/",
            "/?period=7d",
            "/connections",
            "/connections?name=contoso",
            "/runs",
            "/runs?state=queued",
            "/runs?state=failed",
            "/workers",
        ]
        .map(str::to_owned)
        .into();
        for page in &all {
            assert_eq!(self.page(page).await, 200, "{page}");
        }
        all.clear();
        for run in runs {
            all.push(format!("/runs/{run}"));
            all.push(format!("/runs/{run}/run.json"));
            all.push(format!("/runs?before={run}"));
        }
        all.extend(connections.iter().map(|id| format!("/connections/{id}")));
        for page in all {
            self.page(&page).await;
        }
        let mut live = vec!["/live".to_owned()];
        live.extend(spread(runs, 3).map(|run| format!("/live/runs/{run}")));
        for path in live {
            let request = self.person.request(Method::GET, &path).timeout(PATIENCE);
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
        for run in spread(runs, COMMANDS) {
            let run = run.to_string();
            for command in ["show", "diff"] {
                let arguments = ["runs", command, "--json", "--", &run];
                let output = bench.run(&arguments);
                let code = output.status.code();
                assert!(
                    code.is_some_and(|code| code != 101),
                    "{arguments:?}: {output:?}"
                );
            }
        }
    }
}
