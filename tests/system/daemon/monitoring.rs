//! What alerts, dashboard and autoscaler ask is what an instance exports.

mod promql;

use crate::notify::receiver::Receiver;
use promql::{Selector, selectors, series};
use serde_json::Value;
use test_support::bench::{Bench, Daemon};
use test_support::waiting::until;
use verifyd::domain::reason::Reason;
use verifyd::telemetry::metrics::METRICS;
use verifyd_simulator::{SimulatorOptions, ThrottleLimits};

macro_rules! deployed {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/", $path))
    };
}

const RULES: &str = deployed!("prometheus/rules.yml");
const DASHBOARD: &str = deployed!("grafana/verifyd.json");
const SCALED_OBJECT: &str = deployed!("kubernetes/components/autoscaling-keda/scaledobject.yaml");

/// Prometheus adds them to what it scrapes.
const TARGET_LABELS: [&str; 3] = ["job", "instance", "namespace"];

/// Recorded by Prometheus itself.
const UP: &str = "up";

/// The values of this key in YAML: in its line, or folded in the deeper lines below it.
fn values(yaml: &str, key: &str) -> Vec<String> {
    fn indent(line: &str) -> usize {
        line.len() - line.trim_start().len()
    }
    let begin = format!("{key}: ");
    let mut lines = yaml.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(value) = line.trim_start().strip_prefix(&begin) else {
            continue;
        };
        let mut value = value.to_owned();
        if value == ">-" {
            value.clear();
            while let Some(next) = lines.next_if(|next| indent(next) > indent(line)) {
                value.push_str(next);
            }
        }
        found.push(value);
    }
    found
}

/// The queries of the dashboard's panels.
fn panels() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let queries = targets.flatten().map(|target| &target["expr"]);
    queries
        .map(|query| query.as_str().unwrap().to_owned())
        .collect()
}

/// What the dashboard's variables ask: `label_values(SELECTOR, LABEL)`.
fn variables() -> Vec<Selector> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let queries = variables.filter(|variable| variable["type"] == "query");
    let asked = queries.map(|variable| {
        let query = variable["query"].as_str().unwrap();
        let inner = query.strip_prefix("label_values(").unwrap();
        let (query, label) = inner.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
        let mut selector = selectors(query).remove(0);
        selector.grouping.push(label.to_owned());
        selector
    });
    asked.collect()
}

/// The values of this label on series of this metric.
fn exported<'a>(series: &'a [Selector], metric: &str, label: &str) -> Vec<&'a str> {
    let of_metric = series.iter().filter(|series| series.metric == metric);
    let labels = of_metric.flat_map(|series| &series.matchers);
    let values = labels.filter(|labelled| labelled.label == label);
    values.map(|labelled| labelled.value.as_str()).collect()
}

/// Whether an instance may export this value, though none does here: calls can fail for every reason.
fn may_be_exported(metric: &str, label: &str, value: &str) -> bool {
    (metric, label) == ("verifyd_provider_requests_total", "result")
        && Reason::ALL.iter().any(|reason| reason.code() == value)
}

/// What this selector names, and no instance exports.
fn problems(selector: &Selector, series: &[Selector]) -> Vec<String> {
    let metric = selector.metric.as_str();
    if metric != UP && series.iter().all(|series| series.metric != metric) {
        return vec![format!("no metric {metric}")];
    }
    let mut found = Vec::new();
    let matched = selector.matchers.iter().map(|matcher| &matcher.label);
    for label in matched.chain(&selector.grouping) {
        let is_there =
            TARGET_LABELS.contains(&label.as_str()) || !exported(series, metric, label).is_empty();
        if !is_there {
            found.push(format!("no label {label} on {metric}"));
        }
    }
    for matcher in &selector.matchers {
        let label = matcher.label.as_str();
        if TARGET_LABELS.contains(&label) {
            continue;
        }
        let known = exported(series, metric, label);
        // Of a regular expression each alternative: it is written without other signs.
        let values: Vec<&str> = match matcher.operator.contains('~') {
            true => matcher.value.split('|').collect(),
            false => vec![matcher.value.as_str()],
        };
        for value in values {
            if !known.contains(&value) && !may_be_exported(metric, label, value) {
                found.push(format!("no {metric} whose {label} is {value}"));
            }
        }
    }
    found
}

/// Whether one of these selectors asks for this metric, or for a part of the histogram.
fn is_asked(name: &str, selectors: &[Selector]) -> bool {
    let mut ends = selectors
        .iter()
        .filter_map(|selector| selector.metric.strip_prefix(name));
    ends.any(|end| ["", "_bucket", "_sum", "_count"].contains(&end))
}

/// Waits until the metrics have this text, and returns them.
async fn has(daemon: &Daemon, text: &str) -> String {
    let mut metrics = String::new();
    until(&format!("the metrics have {text}"), async || {
        metrics = daemon.get("/metrics").await.1;
        metrics.contains(text)
    })
    .await;
    metrics
}

/// The metrics of an instance that has processed runs and sent webhooks, whose application is throttled, and where a
/// request has failed.
async fn of_loaded_instance() -> String {
    let options = SimulatorOptions {
        throttle: ThrottleLimits::of_application(20),
        ..SimulatorOptions::default()
    };
    let mut bench = Bench::with(options).await;
    bench.set("VERIFYD__WEBHOOKS__LOOPBACK_HOSTS", "127.0.0.1");
    let groups = r#"[{ name = "eu", workspaces = [2] }]"#;
    bench.set("VERIFYD__WORKER__GROUPS", groups);
    let receiver = Receiver::start().await;
    let address = receiver.url("all");
    bench.success(&["webhooks", "add", "--workspace", "1", "--url", &address]);
    let connections = [1, 2].map(|tenant| bench.healthy(tenant));
    let token = bench.token(&["read"]);
    // The primary is not used as its own replica, and that is measured.
    let url = bench.database.url();
    let daemon = bench.serve(&[("VERIFYD__DATABASE__READ_URL", url.as_str())]);
    bench.record(&connections, 1).await;
    receiver.wait("all", 2).await;
    bench.record(&connections, 50).await;
    has(&daemon, r#"result="throttled""#).await;
    has(&daemon, "\nverifyd_webhook_attempts_total{").await;
    // With the first sweep.
    has(&daemon, "\nverifyd_runs_requeue_refused ").await;
    has(&daemon, "\nverifyd_listening 1").await;
    bench
        .execute("ALTER TABLE provider_connections RENAME TO elsewhere")
        .await;
    let address = format!("http://{}/v1/connections", daemon.listening);
    let request = reqwest::Client::new().get(address).bearer_auth(token);
    let status = request.send().await.unwrap().status();
    assert!(status.is_server_error(), "{status}");
    bench
        .execute("ALTER TABLE elsewhere RENAME TO provider_connections")
        .await;
    has(&daemon, r#"code="5xx""#).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_fits_what_a_loaded_instance_exports() {
    let series = series(&of_loaded_instance().await);
    let panels = panels();
    let alerts = values(RULES, "expr");
    assert_eq!(alerts.len(), RULES.matches("- alert: ").count());
    let scaling = values(SCALED_OBJECT, "query");
    assert_eq!(scaling.len(), 1);

    let shown: Vec<Selector> = panels.iter().flat_map(|query| selectors(query)).collect();
    let queries = alerts.iter().chain(&scaling);
    let mut asked: Vec<Selector> = queries.flat_map(|query| selectors(query)).collect();
    asked.extend(shown.iter().cloned());
    asked.extend(variables());
    let wrong: Vec<String> = asked
        .iter()
        .flat_map(|selector| problems(selector, &series))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    let hidden = METRICS
        .iter()
        .filter(|(_, name, _)| !is_asked(name, &shown));
    let hidden: Vec<&str> = hidden.map(|(_, name, _)| *name).collect();
    assert!(hidden.is_empty(), "on no panel: {hidden:#?}");
}

/// Else the test above would hold whatever is asked.
#[test]
fn what_no_instance_exports_is_named() {
    let exported = series(
        "verifyd_provider_requests_total{call=\"token\",result=\"ok\"} 1\nverifyd_polling 0\n",
    );
    let cases: [(&str, &[&str]); 5] = [
        (r#"verifyd_polling{job="a"} == 1"#, &[]),
        (
            r#"sum by (job, call) (verifyd_provider_requests_total{result=~"ok|throttled"})"#,
            &[],
        ),
        ("verifyd_poling", &["no metric verifyd_poling"]),
        (
            "sum by (call) (verifyd_polling)",
            &["no label call on verifyd_polling"],
        ),
        (
            r#"verifyd_provider_requests_total{call="tokens",result=~"ok|5.."}"#,
            &[
                "no verifyd_provider_requests_total whose call is tokens",
                "no verifyd_provider_requests_total whose result is 5..",
            ],
        ),
    ];
    for (query, wanted) in cases {
        let asked = selectors(query);
        let found: Vec<String> = asked
            .iter()
            .flat_map(|selector| problems(selector, &exported))
            .collect();
        assert_eq!(found, wanted, "{query}");
    }
}
