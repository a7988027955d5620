//! Spans of traces. Until a tracer is installed nothing is recorded, allocated or looked up.
//!
//! A span says what happened, when, and how it ended. It holds ids of verifyd's own tables, names of servers, methods,
//! status codes and codes of reasons: no address of a request, which would name customers, and nothing of a body, a
//! header or a credential.

use crate::domain::trace_parent::TraceParent;
use crate::ports::clock::{Clock as _, SystemClock};
use futures::future::Either;
use http::Uri;
use opentelemetry::context::{FutureExt as _, WithContext};
use opentelemetry::global::{BoxedTracer, ObjectSafeTracer};
use opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState,
};
use opentelemetry::{Context, KeyValue};
use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

pub use opentelemetry::Value;
pub use opentelemetry::trace::SpanKind;

static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// Installs the tracer of this process. A second one is ignored.
pub fn install(tracer: impl ObjectSafeTracer + Send + Sync + 'static) {
    let _ = TRACER.set(BoxedTracer::new(Box::new(tracer)));
}

/// Returns the span in whose scope the caller runs, for programs and runs that continue its trace.
pub fn current() -> Option<TraceParent> {
    TRACER.get()?;
    named(&Context::current())
}

/// Keeps the current span current in a future that another task polls.
pub fn in_current<F: Future>(work: F) -> Either<WithContext<F>, F> {
    match TRACER.get() {
        Some(_) => Either::Left(work.with_current_context()),
        None => Either::Right(work),
    }
}

/// What a span says that was dropped before its work had ended.
const CANCELLED: &str = "cancelled";

/// An open span, or nothing while traces are off. It ends when it is dropped. One that is no phase has failed by then,
/// unless [`TraceSpan::end`] ends it: a deadline, a stop or a peer that has gone drops the work within.
#[derive(Debug)]
pub struct TraceSpan {
    context: Option<Context>,
    fails_when_dropped: bool,
}

impl TraceSpan {
    /// Starts a span below the current one.
    pub fn child(kind: SpanKind, name: &'static str) -> Self {
        let is_phase = kind == SpanKind::Internal;
        Self::open(!is_phase, || {
            (
                SpanBuilder::from_name(name).with_kind(kind),
                Context::current(),
            )
        })
    }

    /// Starts a phase of what the current span describes.
    pub fn phase(name: &'static str) -> Self {
        Self::child(SpanKind::Internal, name)
    }

    /// Starts a span, `elapsed` ago, that continues the trace of another program; without a parent, a trace of its own.
    pub fn continuing(
        kind: SpanKind,
        name: &'static str,
        elapsed: Duration,
        parent: Option<TraceParent>,
        linked: Option<TraceParent>,
    ) -> Self {
        Self::open(true, || {
            let links = linked.map(|linked| Link::with_context(remote(linked)));
            let builder = SpanBuilder::from_name(name)
                .with_kind(kind)
                .with_start_time(ago(elapsed))
                .with_links(links.into_iter().collect());
            let context = match parent {
                Some(parent) => Context::new().with_remote_span_context(remote(parent)),
                None => Context::new(),
            };
            (builder, context)
        })
    }

    fn open(fails_when_dropped: bool, start: impl FnOnce() -> (SpanBuilder, Context)) -> Self {
        let context = TRACER.get().map(|tracer| {
            let (builder, parent) = start();
            let span = builder.start_with_context(tracer, &parent);
            parent.with_span(span)
        });
        Self {
            context,
            fails_when_dropped,
        }
    }

    /// Ends the span with what was said of it.
    pub fn end(mut self) {
        self.fails_when_dropped = false;
    }

    /// Adds a phase that began `elapsed` ago and ends now.
    pub fn add_phase(&self, name: &'static str, elapsed: Duration) {
        if let (Some(context), Some(tracer)) = (&self.context, TRACER.get()) {
            let builder = SpanBuilder::from_name(name)
                .with_kind(SpanKind::Internal)
                .with_start_time(ago(elapsed));
            // Dropping it ends it.
            drop(builder.start_with_context(tracer, context));
        }
    }

    /// Whether what is set here reaches anybody: what costs something to find out is left out otherwise.
    pub fn is_recording(&self) -> bool {
        (self.context.as_ref()).is_some_and(|context| context.span().is_recording())
    }

    /// Sets an attribute.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.context {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Names the server that a request goes to. The rest of the address is left out.
    pub fn set_server(&self, address: &Uri) {
        if self.is_recording() {
            let host = address.host().unwrap_or_default();
            self.set("server.address", host.to_owned());
            self.set("server.port", i64::from(port(address)));
        }
    }

    /// Replaces the name. Names come from few: they never hold an id.
    pub fn rename(&self, name: impl Into<Cow<'static, str>>) {
        if let Some(context) = &self.context {
            context.span().update_name(name);
        }
    }

    /// Marks the span as failed. `cause` comes from few codes.
    pub fn fail(&self, cause: impl Into<Value>) {
        if let Some(context) = &self.context {
            context
                .span()
                .set_attribute(KeyValue::new("error.type", cause));
            context.span().set_status(Status::error(""));
        }
    }

    /// Returns the span itself, for another program that continues its trace.
    pub fn traceparent(&self) -> Option<TraceParent> {
        named(self.context.as_ref()?)
    }

    /// Returns the id of the trace, for the log.
    pub fn trace(&self) -> Option<String> {
        Some(self.traceparent()?.trace())
    }

    /// Runs `work` in the scope of this span.
    pub fn scope<F: Future>(&self, work: F) -> Either<WithContext<F>, F> {
        match &self.context {
            Some(context) => Either::Left(work.with_context(context.clone())),
            None => Either::Right(work),
        }
    }
}

impl Drop for TraceSpan {
    fn drop(&mut self) {
        if self.fails_when_dropped {
            self.fail(CANCELLED);
        }
        if let Some(context) = &self.context {
            context.span().end();
        }
    }
}

fn port(address: &Uri) -> u16 {
    let of_scheme = match address.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    address.port_u16().unwrap_or(of_scheme)
}

fn ago(elapsed: Duration) -> SystemTime {
    let now = SystemTime::from(SystemClock.now());
    now.checked_sub(elapsed).unwrap_or(now)
}

/// The context of another program's span. Its `tracestate` is not kept: nothing here reads it or passes it on.
fn remote(parent: TraceParent) -> SpanContext {
    let flags = match parent.is_sampled {
        true => TraceFlags::SAMPLED,
        false => TraceFlags::NOT_SAMPLED,
    };
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        flags,
        true,
        TraceState::default(),
    )
}

fn named(context: &Context) -> Option<TraceParent> {
    let span = context.span();
    let named = span.span_context();
    named.is_valid().then(|| TraceParent {
        trace_id: named.trace_id().to_bytes(),
        span_id: named.span_id().to_bytes(),
        is_sampled: named.is_sampled(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_has_that_of_its_scheme() {
        for (address, wanted) in [
            ("https://a.example/x", 443),
            ("HTTP://a.example/x", 80),
            ("http://a.example:8080", 8080),
        ] {
            assert_eq!(port(&address.parse().unwrap()), wanted, "{address}");
        }
    }
}
