//! Which traces are recorded.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt as _, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};
use rand::Rng as _;
use serde::Deserialize;

/// What decides whether a trace is recorded: verifyd's own rule, or a sampler of OpenTelemetry by its standard name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TraceSampler {
    /// `sampling_ratio`, also of the traces that producers record.
    #[default]
    #[serde(skip)]
    Auto,
    #[serde(rename = "always_on")]
    AlwaysOn,
    #[serde(rename = "always_off")]
    AlwaysOff,
    #[serde(rename = "traceidratio")]
    TraceIdRatio,
    #[serde(rename = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    #[serde(rename = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    #[serde(rename = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

/// Creates the sampler. `ratio`: from 0 to 1, the share for those that have one.
pub(super) fn sampler(kind: TraceSampler, ratio: f64) -> Box<dyn ShouldSample> {
    let ratio = ratio.clamp(0.0, 1.0);
    let parent_based = |root: Sampler| Sampler::ParentBased(Box::new(root));
    let standard = match kind {
        TraceSampler::Auto => {
            let chance = Chance(ratio);
            let own = Sampler::parent_based(chance.clone()).with_remote_parent_sampled(chance);
            return own.into();
        }
        TraceSampler::AlwaysOn => Sampler::AlwaysOn,
        TraceSampler::AlwaysOff => Sampler::AlwaysOff,
        TraceSampler::TraceIdRatio => Sampler::TraceIdRatioBased(ratio),
        TraceSampler::ParentBasedAlwaysOn => parent_based(Sampler::AlwaysOn),
        TraceSampler::ParentBasedAlwaysOff => parent_based(Sampler::AlwaysOff),
        TraceSampler::ParentBasedTraceIdRatio => parent_based(Sampler::TraceIdRatioBased(ratio)),
    };
    standard.into()
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
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

    /// Whether a trace is recorded that begins here, or whose producer has recorded it or not. Its id is none of the half
    /// that samplers by id record.
    fn recorded(kind: TraceSampler, parent: Option<TraceFlags>) -> bool {
        let id = TraceId::from_bytes([0xff; 16]);
        let parent = parent.map(|flags| {
            let span = SpanId::from_bytes([1; 8]);
            let remote = SpanContext::new(id, span, flags, true, TraceState::default());
            Context::new().with_remote_span_context(remote)
        });
        let sampler = sampler(kind, 0.5);
        let result = sampler.should_sample(parent.as_ref(), id, "", &SpanKind::Internal, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn each_standard_sampler_does_what_its_name_says() {
        for (kind, root, of_recorded, of_unrecorded) in [
            (TraceSampler::AlwaysOn, true, true, true),
            (TraceSampler::AlwaysOff, false, false, false),
            (TraceSampler::TraceIdRatio, false, false, false),
            (TraceSampler::ParentBasedAlwaysOn, true, true, false),
            (TraceSampler::ParentBasedAlwaysOff, false, true, false),
            (TraceSampler::ParentBasedTraceIdRatio, false, true, false),
        ] {
            let found = |parent| recorded(kind, parent);
            assert_eq!(found(None), root, "{kind:?}");
            let sampled = found(Some(TraceFlags::SAMPLED));
            assert_eq!(sampled, of_recorded, "{kind:?}");
            let not_sampled = found(Some(TraceFlags::NOT_SAMPLED));
            assert_eq!(not_sampled, of_unrecorded, "{kind:?}");
        }
        // verifyd's own rule never records what the producer has not.
        let not_sampled = Some(TraceFlags::NOT_SAMPLED);
        assert!(!recorded(TraceSampler::Auto, not_sampled));
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
