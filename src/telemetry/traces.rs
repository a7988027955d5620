//! Traces over OTLP, by the exporters of OpenTelemetry: their transport and a bounded queue.
//!
//! Nothing here makes a run wait. Ended spans go into a queue, which a thread of its own exports; while the queue is
//! full, further spans are dropped and counted.

use super::build_info::BUILD;
use super::sampling::{TraceSampler, sampler};
use crate::outbound::{AGENT, Client, Outbound, Resend, Resends, Reuse};
use crate::ports::log_throttle::log_limited;
use crate::ports::traces;
use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanProcessor,
};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// Name of the service where no variable names another one.
const SERVICE: &str = "verifyd";

/// Ended spans that wait for their export, those of some hundred runs.
const QUEUE_SPANS: usize = 4096;

/// Of these, spans of requests: they begin before a client is known and limited, and must not displace those of runs.
const QUEUE_REQUESTS: usize = QUEUE_SPANS / 2;

/// Spans of one export.
const BATCH_SPANS: usize = 512;

/// Longest time for which a span waits while there are fewer.
const EXPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Time of one export, with connecting and retries.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for opening a connection to the collector, and for TLS on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for the last spans when the process stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the collector's answer that are read. It says no more than how many spans it refuses.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Section `[traces]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceSettings {
    /// Empty: no traces.
    pub endpoint: String,
    /// Set by `OTEL_EXPORTER_OTLP_PROTOCOL` only.
    #[serde(default)]
    pub protocol: Protocol,
    pub headers: SecretString,
    /// Set by `OTEL_TRACES_SAMPLER` only.
    #[serde(default)]
    pub sampler: TraceSampler,
    /// From 0 to 1.
    pub sampling_ratio: f64,
}

/// The protocol to the collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    #[default]
    #[serde(rename = "http/protobuf")]
    Http,
    #[serde(rename = "grpc")]
    Grpc,
}

/// The traces of this process.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

/// Headers that exporter and transport set, or that belong to a connection.
const RESERVED: [&str; 15] = [
    "host",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
];

/// Why `traces.headers` cannot be used. Holds no value of a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    #[error("not name=value, separated by commas")]
    Form,
    #[error("{0}, which the exporter sets itself; allowed: any but {list}", list = RESERVED.join(", "))]
    Reserved(HeaderName),
}

/// Reads `traces.headers`.
pub fn headers(text: &str) -> Result<HeaderMap, HeadersError> {
    let parts = text.split([',', '\n']).map(str::trim);
    let mut headers = HeaderMap::new();
    for part in parts.filter(|part| !part.is_empty()) {
        let (name, mut value) = header(part).ok_or(HeadersError::Form)?;
        if RESERVED.contains(&name.as_str()) {
            return Err(HeadersError::Reserved(name));
        }
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Reads one header, `name=value`.
fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once('=')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
    Some((name, HeaderValue::from_str(&value).ok()?))
}

/// Sets up the traces of this process, unless they are off. `instance`: the worker's name.
pub fn start(
    settings: &TraceSettings,
    outbound: &Outbound,
    instance: &str,
) -> anyhow::Result<Option<Traces>> {
    if settings.endpoint.is_empty() {
        return Ok(None);
    }
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = Counted {
        exporter: Arc::new(exporter(settings, outbound)?),
        waiting: Arc::clone(&waiting),
        runtime: Handle::current(),
    };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_SPANS)
        .with_max_export_batch_size(BATCH_SPANS)
        .with_scheduled_delay(EXPORT_INTERVAL)
        .build();
    let processor = Bounded {
        processor: BatchSpanProcessor::new(exporter, config),
        waiting,
    };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(sampler(settings.sampler, settings.sampling_ratio))
        .with_resource(resource(instance))
        .build();
    traces::install(provider.tracer(SERVICE));
    tracing::info!(
        endpoint = settings.endpoint,
        protocol = ?settings.protocol,
        sampler = ?settings.sampler,
        sampling_ratio = settings.sampling_ratio,
        "sending traces"
    );
    Ok(Some(Traces { provider }))
}

impl Traces {
    /// Sends the spans that wait, within `FLUSH_TIMEOUT`. What is not sent by then is lost, as are later spans.
    pub async fn flush(self) {
        let shutdown = move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        let ended = tokio::task::spawn_blocking(shutdown).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("cannot send the last spans to the collector; dropping them");
        }
    }
}

fn exporter(settings: &TraceSettings, outbound: &Outbound) -> anyhow::Result<SpanExporter> {
    let endpoint = settings.endpoint.trim_end_matches('/');
    let headers = headers(settings.headers.expose_secret()).context("traces.headers")?;
    let built = match settings.protocol {
        Protocol::Http => {
            let endpoint = format!("{endpoint}/v1/traces");
            let uri: Uri = endpoint.parse().context("traces.endpoint")?;
            let host = uri.host().unwrap_or_default();
            let client = Collector {
                client: outbound.client_of_operator(host, CONNECT_TIMEOUT),
                headers,
            };
            SpanExporter::builder()
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_endpoint(endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .with_http_client(client)
                .build()
        }
        Protocol::Grpc => {
            let metadata = MetadataMap::from_headers(headers);
            // In place of what the exporter reads from the environment itself.
            let only_ours = move |mut request: tonic::Request<()>| -> Result<_, tonic::Status> {
                *request.metadata_mut() = metadata.clone();
                Ok(request)
            };
            SpanExporter::builder()
                .with_tonic()
                .with_timeout(EXPORT_TIMEOUT)
                .with_channel(channel(endpoint).context("traces.endpoint")?)
                .with_interceptor(only_ours)
                .build()
        }
    };
    built.context("traces.endpoint")
}

/// The connections to a collector that speaks gRPC. None is open yet.
fn channel(endpoint: &str) -> Result<Channel, tonic::transport::Error> {
    let collector = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(CONNECT_TIMEOUT);
    if collector.uri().scheme_str() != Some("https") {
        return Ok(collector.connect_lazy());
    }
    let tls = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
    let trusting = collector
        .clone()
        .tls_config(tls.clone().with_enabled_roots());
    let collector = match trusting {
        Ok(trusting) => trusting,
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(
                error,
                "no trusted root certificates: exports over https will fail"
            );
            collector.tls_config(tls)?
        }
    };
    Ok(collector.connect_lazy())
}

/// What all spans say of this process. Variables may name another service, and more attributes.
fn resource(instance: &str) -> Resource {
    let attributes = [
        KeyValue::new("service.version", BUILD.version),
        KeyValue::new("service.instance.id", instance.to_owned()),
    ];
    let named = Resource::builder().build();
    let name = named.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attributes(attributes);
    match is_named {
        true => builder.build(),
        false => builder.with_service_name(SERVICE).build(),
    }
}

/// verifyd's HTTP client for the exporter.
struct Collector {
    client: Client,
    headers: HeaderMap,
}

/// Shows no header.
impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        // Of the exporter's headers, those of the body: it reads others from the environment itself.
        let given = std::mem::replace(&mut head.headers, self.headers.clone());
        head.headers.entry(USER_AGENT).or_insert(AGENT);
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = given.get(&name) {
                head.headers.insert(name, value.clone());
            }
        }
        let message = Request::from_parts(head, Full::new(body));
        let mut resends = Resends::default();
        let rule = Resend::NotProcessed;
        let sending = (self.client).send(message, rule, Reuse::Allowed, &mut resends);
        // The exporter's own error does not say why.
        let response = sending.await.inspect_err(|failure| {
            log_limited!(
                warn,
                proxy = failure.proxy,
                error = failure.kind.explained(),
                "cannot reach the collector"
            );
        })?;
        let (head, mut body) = response.into_parts();
        let mut answer = Vec::new();
        // The status says whether the spans were taken. What is wrong with the rest is no reason to send them again.
        while let Ok(Some(piece)) = body.piece().await {
            answer.extend_from_slice(&piece);
            if answer.len() > MAX_ANSWER_BYTES {
                answer.clear();
                break;
            }
        }
        Ok(Response::from_parts(head, Bytes::from(answer)))
    }
}

/// Counts spans that the exporter has sent or lost, and ends an export that takes too long.
#[derive(Debug)]
struct Counted<E> {
    exporter: Arc<E>,
    /// Spans in the queue.
    waiting: Arc<AtomicUsize>,
    /// Exports run in it: the thread that waits for them has none.
    runtime: Handle,
}

impl<E> opentelemetry_sdk::trace::SpanExporter for Counted<E>
where
    E: opentelemetry_sdk::trace::SpanExporter + 'static,
{
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let exporter = Arc::clone(&self.exporter);
        // The exporter's own time ends neither connecting nor the rest of an answer.
        let exporting = async move {
            let exporting = exporter.export(batch);
            tokio::time::timeout(EXPORT_TIMEOUT, exporting).await
        };
        let result = match self.runtime.spawn(exporting).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        match &result {
            Ok(()) => count("exported", spans),
            Err(error) => {
                count("failed", spans);
                log_limited!(warn, spans, %error, "cannot send spans to the collector; dropping them");
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Comes before the first export, so that nobody else holds it.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

/// The queue. Its length is kept here, since the processor counts what it drops for itself only.
#[derive(Debug)]
struct Bounded {
    processor: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let most = match span.span_kind {
            SpanKind::Server => QUEUE_REQUESTS,
            _ => QUEUE_SPANS,
        };
        let room = |waiting| (waiting < most).then_some(waiting + 1);
        let admitted = (self.waiting).fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        match admitted {
            Ok(_) => self.processor.on_end(span),
            Err(_) => {
                count("dropped", 1);
                log_limited!(
                    warn,
                    "too many spans wait for the collector; dropping further ones"
                );
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

fn count(result: &'static str, spans: usize) {
    let spans = u64::try_from(spans).unwrap_or(u64::MAX);
    metrics::counter!("verifyd_trace_spans_total", "result" => result).increment(spans);
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::Tracer as _;
    use opentelemetry_sdk::trace::SpanExporter as _;

    /// Counts what it is given.
    #[derive(Debug)]
    struct Kept(Arc<AtomicUsize>);

    impl opentelemetry_sdk::trace::SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.fetch_add(batch.len(), Ordering::Relaxed);
            Ok(())
        }
    }

    /// Returns whether such a span is exported while so many others wait.
    fn is_admitted(kind: SpanKind, waiting: usize) -> bool {
        let kept: Arc<AtomicUsize> = Arc::default();
        let processor = Bounded {
            processor: BatchSpanProcessor::builder(Kept(Arc::clone(&kept))).build(),
            waiting: Arc::new(AtomicUsize::new(waiting)),
        };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("test");
        drop(tracer.span_builder("span").with_kind(kind).start(&tracer));
        provider.force_flush().unwrap();
        kept.load(Ordering::Relaxed) == 1
    }

    #[test]
    fn spans_are_dropped_while_the_queue_is_full() {
        assert!(is_admitted(SpanKind::Consumer, QUEUE_SPANS - 1));
        assert!(!is_admitted(SpanKind::Consumer, QUEUE_SPANS));
    }

    #[test]
    fn requests_leave_room_for_runs() {
        assert!(is_admitted(SpanKind::Server, QUEUE_SPANS / 2 - 1));
        assert!(!is_admitted(SpanKind::Server, QUEUE_SPANS / 2));
        assert!(is_admitted(SpanKind::Consumer, QUEUE_SPANS / 2));
    }

    /// Takes spans and never says that it has.
    #[derive(Debug)]
    struct Silent;

    impl opentelemetry_sdk::trace::SpanExporter for Silent {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_export_without_end_is_given_up() {
        let counted = Counted {
            exporter: Arc::new(Silent),
            waiting: Arc::default(),
            runtime: Handle::current(),
        };
        let begun = tokio::time::Instant::now();
        let result = counted.export(Vec::new()).await;
        assert!(
            matches!(result, Err(OTelSdkError::Timeout(_))),
            "{result:?}"
        );
        // By the clock of the test, which no other program slows down.
        assert!(begun.elapsed() < 2 * EXPORT_TIMEOUT);
    }

    #[test]
    fn headers_are_read_as_the_standard_variable_writes_them() {
        let read = headers("Authorization=Bearer%20a=,x-scope=1\n").unwrap();
        assert_eq!(read["authorization"], "Bearer a=");
        assert_eq!(read["x-scope"], "1");
        assert!(read.values().all(HeaderValue::is_sensitive));
        assert!(headers("").unwrap().is_empty());
        for broken in ["canary", "a b=1", "=1", "a=%0a", "a=%ff"] {
            assert_eq!(headers(broken), Err(HeadersError::Form), "{broken}");
        }
        for name in ["Host", "content-type", "TE"] {
            let text = format!("a=1, {name}=canary");
            let error = headers(&text).unwrap_err().to_string();
            let named = name.to_lowercase();
            assert!(error.starts_with(&format!("{named}, which the")), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
