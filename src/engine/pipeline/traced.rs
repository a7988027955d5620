//! The span of a run: which trace it continues, and what it says.

use super::Processed;
use super::claim::Attempt;
use crate::domain::attempt::AttemptEnd;
use crate::domain::hint::Hint;
use crate::domain::run::RUN_TYPE;
use crate::domain::trace_parent::TraceParent;
use crate::ports::traces::{SpanKind, TraceSpan};

/// The producer's span and another one that is linked. The row decides, as it does about everything else; a hint that
/// names another span is linked, since anybody who reaches the queue may have sent it. So is one whose span is not
/// recorded: it would keep the run from being recorded.
fn producers(
    row: Option<TraceParent>,
    hint: Option<TraceParent>,
) -> (Option<TraceParent>, Option<TraceParent>) {
    match row {
        Some(_) => (row, hint.filter(|_| hint != row)),
        None if hint.is_some_and(|hint| hint.is_sampled) => (hint, None),
        None => (None, hint),
    }
}

/// Returns the span of the producer that the run continues, and one that is linked.
pub(super) fn causes(
    attempt: &Attempt<'_>,
    hint: &Hint,
) -> (Option<TraceParent>, Option<TraceParent>) {
    let hinted = hint.traceparent.as_deref().and_then(TraceParent::parse);
    producers(attempt.claim.run.request.traceparent, hinted)
}

/// Starts the span of a claimed run, with its claim as the first phase.
pub(super) fn begin(
    attempt: &Attempt<'_>,
    (parent, linked): (Option<TraceParent>, Option<TraceParent>),
) -> TraceSpan {
    let elapsed = attempt.began.elapsed();
    let span = TraceSpan::continuing(
        SpanKind::Consumer,
        "process provider.connection.check",
        elapsed,
        parent,
        linked,
    );
    if !span.is_recording() {
        return span;
    }
    let run = &attempt.claim.run;
    span.set("messaging.system", "verifyd");
    span.set("messaging.operation.name", "process");
    span.set("messaging.operation.type", "process");
    span.set("messaging.destination.name", RUN_TYPE);
    span.set("messaging.message.id", run.id.0.to_string());
    span.set("verifyd.run.id", run.id.0);
    if let Some(tenant) = run.tenant_id {
        span.set("verifyd.tenant.id", tenant.0);
    }
    if let Some(connection) = run.request.provider_connection_id {
        span.set("verifyd.connection.id", connection.0);
    }
    span.set("verifyd.attempt", i64::from(attempt.claim.own_attempt));
    span.add_phase("claim", elapsed);
    span
}

/// Says how the processing ended. A run whose outcome is `failed` was processed well.
pub(super) fn end(span: TraceSpan, processed: Processed) {
    span.set("verifyd.result", processed.label());
    match processed {
        Processed::Completed(_)
        | Processed::Released(AttemptEnd::Throttled | AttemptEnd::Shutdown) => {}
        _ => span.fail(processed.label()),
    }
    span.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_decides_which_trace_goes_on() {
        let of = |byte: u8| {
            Some(TraceParent {
                trace_id: [byte; 16],
                span_id: [byte; 8],
                is_sampled: true,
            })
        };
        assert_eq!(producers(None, None), (None, None));
        assert_eq!(producers(of(1), None), (of(1), None));
        assert_eq!(producers(None, of(2)), (of(2), None));
        assert_eq!(producers(of(1), of(1)), (of(1), None));
        assert_eq!(producers(of(1), of(2)), (of(1), of(2)));
        let unrecorded = of(2).map(|parent| TraceParent {
            is_sampled: false,
            ..parent
        });
        assert_eq!(producers(None, unrecorded), (None, unrecorded));
        assert_eq!(producers(unrecorded, None), (unrecorded, None));
    }
}
