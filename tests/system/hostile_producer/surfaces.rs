//! Everything that shows runs: every route of the OpenAPI document, every page, the command line.

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use test_support::bench::{Bench, PATIENCE};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../contracts/openapi.v1.json")).unwrap()
});

/// Runs that are shown one by one. Lists have them all.
const SHOWN: usize = 40;

/// Runs that the command line shows one by one.
const COMMANDS: usize = 2;

pub struct Visitor {
    base: String,
    client: Client,
    token: String,
    cookie: String,
}

/// So many of them, spread over the whole.
fn spread(ids: &[i64], most: usize) -> impl Iterator<Item = i64> {
    let step = ids.len().div_ceil(most).max(1);
    ids.iter().copied().step_by(step)
}

impl Visitor {
    /// Logs in.
    pub async fn new(address: &str, token: &str) -> Self {
        let base = format!("http://{address}");
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let answer = client
            .post(format!("{base}/login"))
            .header("origin", &base)
            .form(&[("token", token), ("next", "/")])
            .send()
            .await
            .unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        assert_eq!(status, 303, "{:?}", answer.text().await);
        let cookie = headers["set-cookie"].to_str().unwrap();
        Self {
            cookie: cookie.split(';').next().unwrap().to_owned(),
            base,
            client,
            token: token.to_owned(),
        }
    }

    /// Sends it until it is not too often. Its answer must be one, and no error of the server's.
    async fn ask(&self, what: &str, request: RequestBuilder) -> (u16, String) {
        let until = Instant::now() + PATIENCE;
        loop {
            let again = request.try_clone().unwrap();
            let answer = again
                .send()
                .await
                .unwrap_or_else(|e| panic!("{what}: {e:?}"));
            let status = answer.status().as_u16();
            let wait = answer.headers().get("retry-after").cloned();
            let body = answer
                .bytes()
                .await
                .unwrap_or_else(|e| panic!("{what}: {e:?}"));
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(status < 500, "{what}: {status} {body:.2000}");
            if status != 429 || Instant::now() > until {
                return (status, body);
            }
            let wait = wait
                .and_then(|w| w.to_str().ok()?.parse().ok())
                .unwrap_or(1);
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
    }

    async fn api(&self, method: &Method, path: &str, body: Option<Value>) -> (u16, String) {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        if method == Method::POST {
            request = request.header("idempotency-key", uuid::Uuid::new_v4().to_string());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.ask(&format!("{method} {path}"), request).await
    }

    async fn page(&self, path: &str) -> u16 {
        let request = self
            .client
            .get(format!("{}{path}", self.base))
            .header("cookie", &self.cookie);
        self.ask(path, request).await.0
    }

    /// Every route and every page, with the ids that there are, and with some that there are not.
    pub async fn everything(&self, runs: &[i64], connections: &[i64]) {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let request = self.client.get(format!("{}{path}", self.base));
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
        for (template, item) in DOCUMENT["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                let method: Method = method.to_uppercase().parse().unwrap();
                let ids: &[i64] = match template.as_str() {
                    t if t.contains("{run_id}") => &shown,
                    t if t.contains('{') => connections,
                    _ => &[0],
                };
                // Lists are read to their end. What is said against a run is not to be repeated.
                let few = if method == Method::POST { 2 } else { ids.len() };
                for id in &ids[..few.min(ids.len())] {
                    let path: Vec<String> = template
                        .split('/')
                        .map(|part| match part.starts_with('{') {
                            true => id.to_string(),
                            false => part.to_owned(),
                        })
                        .collect();
                    let body = (method == Method::POST && !template.ends_with("/checks"))
                        .then(|| json!({ "check_key": "no.such.check", "reason": "none" }));
                    self.api(&method, &path.join("/"), body).await;
                    asked.insert((method.to_string(), template));
                }
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
            let request = self.client.get(format!("{}{path}", self.base));
            let mut answer = request
                .header("cookie", &self.cookie)
                .send()
                .await
                .unwrap_or_else(|e| panic!("{path}: {e:?}"));
            // Too many streams at a time are refused, and those before may still be there.
            assert!(
                answer.status().as_u16() < 500 || answer.status() == 503,
                "{path}: {answer:?}"
            );
            if answer.status() == 200 {
                let first = answer
                    .chunk()
                    .await
                    .unwrap_or_else(|e| panic!("{path}: {e:?}"));
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
            let output = bench.run(list, "");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{list:?}: {said}");
        }
        for run in spread(runs, COMMANDS) {
            let run = run.to_string();
            for command in ["show", "diff"] {
                let arguments = ["runs", command, "--json", "--", &run];
                let output = bench.run(&arguments, "");
                let code = output.status.code();
                assert!(
                    code.is_some_and(|code| code != 101),
                    "{arguments:?}: {output:?}"
                );
            }
        }
    }
}
