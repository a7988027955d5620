//! Traces over OTLP, by the exporters of OpenTelemetry: their transport, a bounded queue and sampling.
//!
//! Nothing here makes a run wait. Ended spans go into a queue, which a thread of its own exports; while the queue is
//! full, further spans are dropped and counted.

use super::build_info::BUILD;
use crate::outbound::{AGENT, Client, Outbound, Resend, Resends, Reuse};
use crate::ports::log_throttle::log_limited;
use crate::ports::traces;
use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use opentelemetry::trace::{
    Link, SpanKind, TraceContextExt as _, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult,
    SdkTracerProvider, ShouldSample, Span, SpanData, SpanProcessor,
};
use percent_encoding::percent_decode_str;
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// Name of the service where no variable names another one.
const SERVICE: &str = "verifyd";

/// Ended spans that wait for their export, those of some hundred runs.
const QUEUE_SPANS: usize = 4096;

/// Spans of one export.
const BATCH_SPANS: usize = 512;

/// Longest time for which a span waits while there are fewer.
const EXPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Time of one export, with its retries.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for opening a connection to the collector.
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
    pub protocol: Protocol,
    pub headers: SecretString,
    /// From 0 to 1.
    pub sampling_ratio: f64,
}

/// The protocol to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Protocol {
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

/// Reads `traces.headers`; `None` if that is not possible.
pub fn headers(text: &str) -> Option<HeaderMap> {
    let parts = text.split([',', '\n']).map(str::trim);
    let mut headers = HeaderMap::new();
    for part in parts.filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
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
        exporter: exporter(settings, outbound)?,
        waiting: Arc::clone(&waiting),
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
    let chance = Chance(settings.sampling_ratio.clamp(0.0, 1.0));
    let sampler = Sampler::parent_based(chance.clone()).with_remote_parent_sampled(chance);
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(sampler)
        .with_resource(resource(instance))
        .build();
    traces::install(provider.tracer(SERVICE));
    tracing::info!(
        endpoint = settings.endpoint,
        protocol = ?settings.protocol,
        sampling_ratio = settings.sampling_ratio,
        "sending traces"
    );
    Ok(Some(Traces { provider }))
}

impl Traces {
    /// Sends what waits, for a few seconds at most. Later spans are not recorded.
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
                runtime: Handle::current(),
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
            let builder = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .with_metadata(MetadataMap::from_headers(headers));
            let builder = match endpoint.starts_with("https:") {
                true => builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots()),
                false => builder,
            };
            builder.build()
        }
    };
    built.context("traces.endpoint")
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

/// verifyd's HTTP client for the exporter, which runs on a thread without a runtime.
struct Collector {
    client: Client,
    headers: HeaderMap,
    runtime: Handle,
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
        let mut message = request.map(Full::new);
        message.headers_mut().insert(USER_AGENT, AGENT);
        for (name, value) in &self.headers {
            message.headers_mut().insert(name.clone(), value.clone());
        }
        let client = self.client.clone();
        let sending = self.runtime.spawn(async move {
            tokio::time::timeout(EXPORT_TIMEOUT, exchange(client, message)).await
        });
        sending.await??
    }
}

async fn exchange(
    client: Client,
    message: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, HttpError> {
    let mut resends = Resends::default();
    let sending = client.send(message, Resend::NotProcessed, Reuse::Allowed, &mut resends);
    let response = sending.await.map_err(|failure| failure.kind.to_string())?;
    let (head, mut body) = response.into_parts();
    let mut answer = Vec::new();
    while let Some(piece) = body.piece().await.map_err(|kind| kind.to_string())? {
        answer.extend_from_slice(&piece);
        if answer.len() > MAX_ANSWER_BYTES {
            return Err("the collector's answer is too large".into());
        }
    }
    Ok(Response::from_parts(head, Bytes::from(answer)))
}

/// Counts spans that the exporter has sent or lost.
#[derive(Debug)]
struct Counted {
    exporter: SpanExporter,
    /// Spans in the queue.
    waiting: Arc<AtomicUsize>,
}

impl opentelemetry_sdk::trace::SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let result = self.exporter.export(batch).await;
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
        self.exporter.set_resource(resource);
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
        let room = |waiting| (waiting < QUEUE_SPANS).then_some(waiting + 1);
        let admitted = (self.waiting).fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        match admitted {
            Ok(_) => self.processor.on_end(span),
            Err(_) => count("dropped", 1),
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

/// Records this share of traces. It does not look at the id of the trace: producers choose that, and could choose one
/// that is always recorded.
#[derive(Clone, Debug)]
struct Chance(f64);

impl ShouldSample for Chance {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let trace_state = parent.map_or_else(TraceState::default, |parent| {
            parent.span().span_context().trace_state().clone()
        });
        SamplingResult {
            decision: match rand::rng().random_bool(self.0) {
                true => SamplingDecision::RecordAndSample,
                false => SamplingDecision::Drop,
            },
            attributes: Vec::new(),
            trace_state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::Tracer as _;

    /// Counts what it is given.
    #[derive(Debug)]
    struct Kept(Arc<AtomicUsize>);

    impl opentelemetry_sdk::trace::SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.fetch_add(batch.len(), Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn spans_are_dropped_while_the_queue_is_full() {
        let kept: Arc<AtomicUsize> = Arc::default();
        let waiting = Arc::new(AtomicUsize::new(QUEUE_SPANS));
        let processor = Bounded {
            processor: BatchSpanProcessor::builder(Kept(Arc::clone(&kept))).build(),
            waiting: Arc::clone(&waiting),
        };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("test");
        for (room, wanted) in [(false, 0), (true, 1)] {
            if room {
                waiting.store(QUEUE_SPANS - 1, Ordering::Relaxed);
            }
            drop(tracer.start("span"));
            provider.force_flush().unwrap();
            assert_eq!(kept.load(Ordering::Relaxed), wanted);
        }
    }

    #[test]
    fn headers_are_read_as_the_standard_variable_writes_them() {
        let read = headers("Authorization=Bearer%20a=,x-scope=1\n").unwrap();
        assert_eq!(read["authorization"], "Bearer a=");
        assert_eq!(read["x-scope"], "1");
        assert!(read.values().all(HeaderValue::is_sensitive));
        assert!(headers("").unwrap().is_empty());
        for broken in ["canary", "a b=1", "=1", "a=%0a", "a=%ff"] {
            assert_eq!(headers(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_share_of_traces_is_all_none_or_between() {
        let sampled = |ratio| {
            let chance = Chance(ratio);
            let sample = || {
                // An id that samplers by id always record.
                let id = TraceId::from_bytes([0; 16]);
                chance.should_sample(None, id, "", &SpanKind::Internal, &[], &[])
            };
            (0..1_000)
                .filter(|_| sample().decision == SamplingDecision::RecordAndSample)
                .count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 1_000));
        assert!((1..1_000).contains(&sampled(0.5)));
    }
}
