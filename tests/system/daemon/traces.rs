//! Traces of the real binary, as a collector receives them.

use crate::notify::receiver::Receiver;
use axum::body::Bytes;
use axum::http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use std::sync::{Arc, Mutex};
use test_support::bench::{Bench, Daemon, KEY};
use test_support::redis_server;
use test_support::waiting::until;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use verifyd_simulator::{Endpoint, SIMULATED_SECRET, Scenario};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// Of a hint that names another span than the row.
const HINTED_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const HINTED_SPAN: &str = "00f067aa0ba902b7";

/// What has arrived.
#[derive(Clone, Default)]
struct Received {
    exports: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
}

impl Received {
    fn add(&self, export: ExportTraceServiceRequest, authorization: Option<&str>) {
        self.exports.lock().unwrap().push(export);
        let authorization = authorization.unwrap_or_default().to_owned();
        self.authorizations.lock().unwrap().push(authorization);
    }

    fn spans(&self) -> Vec<Span> {
        let exports = self.exports.lock().unwrap();
        let resources = exports.iter().flat_map(|export| &export.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Everything, as one text to search in.
    fn text(&self) -> String {
        let exports = self.exports.lock().unwrap();
        let bytes: Vec<u8> = exports.iter().flat_map(|e| e.encode_to_vec()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the address of a collector that speaks HTTP.
    async fn by_http(&self) -> String {
        let answer = ExportTraceServiceResponse::default().encode_to_vec();
        self.by_http_with(answer).await
    }

    /// The same, with this answer to every export.
    async fn by_http_with(&self, answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = self.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let authorization = headers.get("authorization").map(|h| h.to_str().unwrap());
            let export = ExportTraceServiceRequest::decode(body).unwrap();
            received.add(export, authorization);
            answer
        };
        let app = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    /// Returns the address of a collector that speaks gRPC.
    async fn by_grpc(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        format!("http://{address}")
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let metadata = request.metadata().clone();
        let authorization = metadata.get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap());
        self.add(request.into_inner(), authorization);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text_of(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(text_of(found.value.as_ref()))
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(found.len(), 1, "{name}: {names:?}");
    found[0]
}

/// A run that names its producer's span; the collector; what the daemon was started with.
async fn recorded(endpoint: &str, protocol: &str) -> (Bench, i64) {
    let mut bench = Bench::new().await;
    let connection = bench.healthy(1);
    let run = bench.record(&[connection], 1).await[0];
    let traced = format!(
        r#"UPDATE operation_runs SET context = context || '{{"traceparent":"00-{TRACE}-{SPAN}-01"}}'"#
    );
    bench.execute(&traced).await;
    bench.set("VERIFYD__TRACES__ENDPOINT", endpoint);
    bench.set("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
    bench.set("VERIFYD__TRACES__HEADERS", "authorization=Bearer%20canary");
    // Loses.
    bench.set(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "authorization=Bearer%20standard",
    );
    (bench, run)
}

/// The spans of the run continue its producer's trace, and hold no secret and no id of the customer's directory.
fn assert_trace(received: &Received, run: i64) {
    let spans = received.spans();
    let processed = named(&spans, "process provider.connection.check");
    assert_eq!(hex::encode(&processed.trace_id), TRACE);
    assert_eq!(hex::encode(&processed.parent_span_id), SPAN);
    assert_eq!(processed.kind, SpanKind::Consumer as i32);
    for (key, wanted) in [
        ("messaging.system", "verifyd".to_owned()),
        ("messaging.operation.type", "process".to_owned()),
        ("messaging.message.id", run.to_string()),
        ("verifyd.run.id", run.to_string()),
        ("verifyd.attempt", "1".to_owned()),
        ("verifyd.result", "succeeded".to_owned()),
    ] {
        assert_eq!(attribute(&processed.attributes, key), Some(wanted), "{key}");
    }
    for phase in ["claim", "preflight", "check", "completion"] {
        let phase = named(&spans, phase);
        assert_eq!(phase.parent_span_id, processed.span_id, "{}", phase.name);
        assert_eq!(hex::encode(&phase.trace_id), TRACE);
        assert!(phase.start_time_unix_nano >= processed.start_time_unix_nano);
    }
    let check = named(&spans, "check");
    let calls: Vec<&Span> = spans
        .iter()
        .filter(|span| attribute(&span.attributes, "verifyd.call").is_some())
        .collect();
    assert!(calls.len() > 1, "{calls:?}");
    for call in calls {
        assert_eq!(call.parent_span_id, check.span_id, "{}", call.name);
        assert_eq!(call.kind, SpanKind::Client as i32);
        let of = |key| attribute(&call.attributes, key).unwrap();
        assert_eq!(of("server.address"), "127.0.0.1");
        assert!(["GET", "POST"].contains(&of("http.request.method").as_str()));
        assert_eq!(of("http.response.status_code"), "200", "{}", call.name);
    }
    let export = received.exports.lock().unwrap()[0].clone();
    let resource = export.resource_spans[0].resource.as_ref().unwrap();
    let service = attribute(&resource.attributes, "service.name");
    assert_eq!(service.as_deref(), Some("verifyd"));
    let text = received.text();
    let directory = Scenario::Healthy.tenant_id(1);
    for secret in [
        SIMULATED_SECRET,
        KEY,
        "Bearer",
        "canary",
        "client_secret",
        &directory,
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
    let authorizations = received.authorizations.lock().unwrap();
    assert!(authorizations.iter().all(|sent| sent == "Bearer canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_continues_the_trace_of_its_producer() {
    let received = Received::default();
    let (bench, run) = recorded(&received.by_http().await, "http/protobuf").await;
    let token = bench.token(&["read"]);
    let mut daemon = bench.serve(&[]);
    bench.all_completed().await;
    let other = "1".repeat(32);
    let answer = reqwest::Client::new()
        .get(format!(
            "http://{}/v1/connections?name=canary",
            daemon.listening
        ))
        .header("traceparent", format!("00-{other}-{SPAN}-01"))
        .bearer_auth(&token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    daemon.terminate();
    assert_trace(&received, run);
    let spans = received.spans();
    let request = named(&spans, "GET /v1/connections");
    assert_eq!(hex::encode(&request.trace_id), other);
    assert_eq!(hex::encode(&request.parent_span_id), SPAN);
    assert_eq!(request.kind, SpanKind::Server as i32);
    for (key, wanted) in [
        ("http.request.method", "GET"),
        ("http.route", "/v1/connections"),
        ("http.response.status_code", "200"),
    ] {
        let found = attribute(&request.attributes, key);
        assert_eq!(found.as_deref(), Some(wanted), "{key}");
    }
    assert!(!received.text().contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_is_continued_where_the_row_names_no_span_and_linked_otherwise() {
    let received = Received::default();
    let mut bench = Bench::new().await;
    bench.set("VERIFYD__TRACES__ENDPOINT", received.by_http().await);
    let connection = bench.healthy(1);
    let runs = bench.record(&[connection], 3).await;
    let [alone, other, unrecorded] = runs[..] else {
        panic!("{runs:?}")
    };
    let named_by_row = format!(
        r#"UPDATE operation_runs SET context = context || '{{"traceparent":"00-{TRACE}-{SPAN}-01"}}'
           WHERE id = {other}"#
    );
    bench.execute(&named_by_row).await;
    // No sweep sends a hint of its own.
    let delivered = "INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
        SELECT id, now() FROM operation_runs";
    bench.execute(delivered).await;
    for (run, version, flags) in [
        (alone, "01", "01-part-of-a-later-version"),
        (other, "00", "01"),
        (unrecorded, "00", "00"),
    ] {
        let payload = format!(
            r#"{{"v":1,"operation_run_id":{run},"traceparent":"{version}-{HINTED_TRACE}-{HINTED_SPAN}-{flags}"}}"#
        );
        let (url, queue, id) = (&bench.redis_url, &bench.queue, run.to_string());
        let sent = redis_server::enqueue(url, queue, id.as_bytes(), payload.as_bytes());
        sent.await.unwrap();
    }
    let mut daemon = bench.serve(&[
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
        ("VERIFYD__DATABASE__LISTEN_URL", "off"),
    ]);
    bench.all_completed().await;
    daemon.terminate();
    let spans = received.spans();
    let hinted = (HINTED_TRACE.to_owned(), HINTED_SPAN.to_owned());
    for (run, trace, parent, links) in [
        (alone, Some(HINTED_TRACE), HINTED_SPAN, vec![]),
        (other, Some(TRACE), SPAN, vec![hinted.clone()]),
        (unrecorded, None, "", vec![hinted]),
    ] {
        let id = run.to_string();
        let is_of_run =
            |span: &&Span| attribute(&span.attributes, "verifyd.run.id").as_ref() == Some(&id);
        let span = spans.iter().find(is_of_run).unwrap();
        let found = hex::encode(&span.trace_id);
        assert!(trace.is_none_or(|trace| trace == found), "{run}: {found}");
        assert_eq!(hex::encode(&span.parent_span_id), parent, "{run}");
        let linked = span.links.iter();
        let linked = linked.map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id)));
        assert_eq!(linked.collect::<Vec<_>>(), links, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_a_request_starts_continues_its_trace() {
    let received = Received::default();
    let mut bench = Bench::new().await;
    bench.set("VERIFYD__TRACES__ENDPOINT", received.by_http().await);
    let connection = bench.healthy(1);
    let token = bench.token(&["run"]);
    let mut daemon = bench.serve(&[]);
    let path = format!("/v1/connections/{connection}/checks");
    let started = reqwest::Client::new()
        .post(format!("http://{}{path}", daemon.listening))
        .header("traceparent", format!("00-{TRACE}-{SPAN}-01"))
        .bearer_auth(&token)
        .send()
        .await
        .unwrap();
    assert_eq!(started.status().as_u16(), 201);
    bench.all_completed().await;
    daemon.terminate();
    let spans = received.spans();
    let request = named(&spans, "POST /v1/connections/{connection_id}/checks");
    assert_eq!(hex::encode(&request.parent_span_id), SPAN);
    let processed = named(&spans, "process provider.connection.check");
    assert_eq!(hex::encode(&processed.trace_id), TRACE);
    assert_eq!(processed.parent_span_id, request.span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_can_continue_the_trace_of_a_webhook() {
    let received = Received::default();
    let receiver = Receiver::start().await;
    let mut bench = Bench::new().await;
    bench.set("VERIFYD__TRACES__ENDPOINT", received.by_http().await);
    bench.set("VERIFYD__WEBHOOKS__LOOPBACK_HOSTS", "127.0.0.1");
    let connection = bench.healthy(1);
    let url = receiver.url("canary");
    bench.json(&["webhooks", "add", "--workspace", "1", "--url", &url]);
    let mut daemon = bench.serve(&[]);
    bench.enqueue(connection);
    let delivered = "SELECT count(*) FROM verifyd.webhook_deliveries WHERE state = 'delivered'";
    bench.until(delivered, |n| n == 1).await;
    daemon.terminate();
    let spans = received.spans();
    let sent = named(&spans, "POST webhook");
    assert_eq!(sent.kind, SpanKind::Client as i32);
    assert_eq!(hex::encode(&sent.parent_span_id), "");
    let port = attribute(&sent.attributes, "server.port");
    assert_eq!(port, Some(receiver.port.to_string()));
    let (trace, span) = (hex::encode(&sent.trace_id), hex::encode(&sent.span_id));
    let got = receiver.got("canary");
    let traceparent = got[0].header("traceparent");
    assert_eq!(traceparent, format!("00-{trace}-{span}-01"));
    // Receivers put tokens there.
    assert!(!received.text().contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_go_to_a_collector_over_grpc() {
    let received = Received::default();
    let (bench, run) = recorded(&received.by_grpc().await, "grpc").await;
    let mut daemon = bench.serve(&[]);
    bench.all_completed().await;
    daemon.terminate();
    assert_trace(&received, run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_cannot_have_more_recorded_than_the_operator_wants() {
    let received = Received::default();
    let (bench, _) = recorded(&received.by_http().await, "http/protobuf").await;
    let mut daemon = bench.serve(&[("VERIFYD__TRACES__SAMPLING_RATIO", "0")]);
    bench.all_completed().await;
    daemon.terminate();
    assert_eq!(received.spans(), []);
}

/// Each of these says that nothing is recorded, the first by a sampler that does not ask the producer.
#[tokio::test(flavor = "multi_thread")]
async fn the_standard_variables_switch_recording_off() {
    for variable in [
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_SDK_DISABLED", "true"),
    ] {
        let received = Received::default();
        let (bench, _) = recorded(&received.by_http().await, "http/protobuf").await;
        let mut daemon = bench.serve(&[variable]);
        bench.all_completed().await;
        daemon.terminate();
        assert_eq!(received.spans(), [], "{variable:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_a_line_of_the_log() {
    let (bench, run) = recorded("http://127.0.0.1:1", "http/protobuf").await;
    let mut daemon = bench.serve(&[]);
    bench.all_completed().await;
    daemon.wait_for("cannot send spans to the collector");
    let cause = daemon.wait_for("cannot reach the collector");
    assert!(cause.contains("no connection"), "{cause}");
    let run = bench.json(&["runs", "show", &run.to_string()]);
    assert_eq!(run["outcome"], "succeeded", "{run}");
    assert!(!has_spans(&daemon, "exported").await);
    assert!(has_spans(&daemon, "failed").await);
    daemon.terminate();
}

/// Whether spans have ended so.
async fn has_spans(daemon: &Daemon, result: &str) -> bool {
    let (_, metrics) = daemon.get("/metrics").await;
    let name = format!(r#"verifyd_trace_spans_total{{result="{result}"}} "#);
    assert!(metrics.contains(&name), "{metrics}");
    !metrics.contains(&format!("{name}0\n"))
}

/// Begins with the address of a server that takes connections and says nothing; then the first byte of each.
async fn silent() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let begun = Arc::<Mutex<Vec<u8>>>::default();
    let first = Arc::clone(&begun);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Ok(byte) = stream.read_u8().await {
                first.lock().unwrap().push(byte);
            }
            open.push(stream);
        }
    });
    (address, begun)
}

/// The type of a TLS record that begins a handshake.
const HANDSHAKE: u8 = 22;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_collector_costs_a_line_of_the_log() {
    for protocol in ["grpc", "http/protobuf"] {
        let (address, begun) = silent().await;
        let (bench, _) = recorded(&format!("HTTPS://{address}"), protocol).await;
        let mut daemon = bench.serve(&[]);
        bench.all_completed().await;
        daemon.wait_for("cannot send spans to the collector");
        assert!(has_spans(&daemon, "failed").await, "{protocol}");
        let begun = begun.lock().unwrap().clone();
        assert!(!begun.is_empty(), "{protocol}");
        assert!(begun.iter().all(|byte| *byte == HANDSHAKE), "{begun:?}");
        daemon.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_any_length_says_that_spans_were_taken() {
    let received = Received::default();
    let endpoint = received.by_http_with(vec![0; 1024 * 1024]).await;
    let (bench, run) = recorded(&endpoint, "http/protobuf").await;
    let mut daemon = bench.serve(&[]);
    bench.all_completed().await;
    until("spans were sent or lost", async || {
        has_spans(&daemon, "exported").await || has_spans(&daemon, "failed").await
    })
    .await;
    assert!(!has_spans(&daemon, "failed").await);
    daemon.terminate();
    assert_trace(&received, run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_the_spans_that_it_ends() {
    let received = Received::default();
    let mut bench = Bench::new().await;
    let entra = Scenario::ProviderTimeoutSignIn.tenant_id(1);
    let connection = bench.connection(1, &entra, "health_check");
    bench.record(&[connection], 1).await;
    bench.set("VERIFYD__TRACES__ENDPOINT", received.by_grpc().await);
    bench.set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let mut daemon = bench.serve(&[("VERIFYD__WORKER__GRACE_PERIOD", "0s")]);
    until("the sign-in has begun", async || {
        bench.simulator.calls_of(&entra, Endpoint::Token) > 0
    })
    .await;
    daemon.terminate();
    let spans = received.spans();
    let processed = named(&spans, "process provider.connection.check");
    let is_call = |span: &&Span| attribute(&span.attributes, "verifyd.call").is_some();
    let call = spans.iter().find(is_call).unwrap();
    assert_eq!(call.trace_id, processed.trace_id);
    let cause = attribute(&call.attributes, "error.type");
    assert_eq!(cause.as_deref(), Some("cancelled"));
    let status = call.status.as_ref().unwrap();
    assert_eq!(status.code, StatusCode::Error as i32);
}
