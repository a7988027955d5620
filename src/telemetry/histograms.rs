//! Histograms with fixed buckets, counted when they are recorded.
//!
//! The recorder of `metrics-exporter-prometheus` keeps every measurement until the metrics are read or its
//! upkeep runs, and loses those that are recorded meanwhile: the list that it swaps away may still be written
//! to, or may not yet be linked to the one before. Here a measurement is added to its bucket at once, and
//! nothing is kept.

use metrics::{HistogramFn, Key};
use metrics_exporter_prometheus::formatting::{
    sanitize_label_key, sanitize_label_value, write_help_line, write_type_line,
};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of durations, seconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Buckets of the duration of a run, seconds: the writing of its result may last longer than the check.
const RUN_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 900.0,
];

/// Buckets of batch sizes, calls.
const CALLS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The upper bounds of the buckets of this histogram.
fn bounds_of(name: &str) -> &'static [f64] {
    match name {
        "verifyd_database_batch_calls" => CALLS,
        "verifyd_run_duration_seconds" => RUN_SECONDS,
        _ => SECONDS,
    }
}

/// One histogram with one set of labels. Its size is constant.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// How many measurements fell into each bucket and into none of those before it. The last one is
    /// for those above all bounds.
    counts: Box<[AtomicU64]>,
    /// The bits of a float.
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }
    }
}

impl HistogramFn for Buckets {
    /// Counts the measurement. NaN is ignored.
    fn record(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // Never refuses: the closure always has a new value.
        let _ = self
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// All histograms of this process.
#[derive(Debug, Default)]
pub(super) struct Histograms {
    all: RwLock<HashMap<Key, Arc<Buckets>>>,
    descriptions: RwLock<HashMap<String, String>>,
}

impl Histograms {
    pub(super) fn describe(&self, name: &str, description: &str) {
        let mut all = self.descriptions.write();
        all.insert(name.to_owned(), description.to_owned());
    }

    /// Returns the histogram of this name with these labels, and creates it at first.
    pub(super) fn of(&self, key: &Key) -> metrics::Histogram {
        let there = self.all.read().get(key).cloned();
        let buckets = there.unwrap_or_else(|| {
            let mut all = self.all.write();
            let new = || Arc::new(Buckets::new(bounds_of(key.name())));
            Arc::clone(all.entry(key.to_retained()).or_insert_with(new))
        });
        metrics::Histogram::from_arc(buckets)
    }

    /// Writes all of them in the Prometheus text format.
    pub(super) fn render(&self, text: &mut String) {
        let mut families: BTreeMap<String, BTreeMap<String, Arc<Buckets>>> = BTreeMap::new();
        for (key, buckets) in self.all.read().iter() {
            let family = families.entry(key.name().to_owned()).or_default();
            family.insert(labels_of(key), Arc::clone(buckets));
        }
        let descriptions = self.descriptions.read();
        for (name, by_labels) in families {
            if let Some(description) = descriptions.get(&name) {
                write_help_line(text, &name, None, None, description);
            }
            write_type_line(text, &name, None, None, "histogram");
            for (labels, buckets) in by_labels {
                write_buckets(text, &name, &labels, &buckets);
            }
            text.push('\n');
        }
    }
}

/// `name="value",…`
fn labels_of(key: &Key) -> String {
    let labels = key.labels().map(|label| {
        format!(
            "{}=\"{}\"",
            sanitize_label_key(label.key()),
            sanitize_label_value(label.value())
        )
    });
    labels.collect::<Vec<_>>().join(",")
}

fn write_buckets(text: &mut String, name: &str, labels: &str, buckets: &Buckets) {
    let (comma, braced) = match labels {
        "" => ("", String::new()),
        labels => (",", format!("{{{labels}}}")),
    };
    let bounds = buckets.bounds.iter().map(ToString::to_string);
    let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
    // The number of all is what the buckets add up to, so that both always agree.
    let mut count = 0;
    for (bound, of_bucket) in bounds.zip(&buckets.counts) {
        count += of_bucket.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
        );
    }
    let sum = f64::from_bits(buckets.sum.load(Ordering::Relaxed));
    let _ = writeln!(text, "{name}_sum{braced} {sum}");
    let _ = writeln!(text, "{name}_count{braced} {count}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::Label;

    fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        let labels: Vec<Label> = labels.iter().map(|(k, v)| Label::new(*k, *v)).collect();
        Key::from_parts(name, labels)
    }

    #[test]
    fn a_measurement_is_in_the_first_bucket_that_it_does_not_exceed() {
        let histograms = Histograms::default();
        histograms.describe("verifyd_database_batch_calls", "Calls in one\ntransaction");
        let claim = histograms.of(&key("verifyd_database_batch_calls", &[("call", "claim")]));
        for value in [1.0, 2.0, 2.5, 128.0, 128.5, 1e300] {
            claim.record(value);
        }
        // Nothing is added to a sum that could never be mended again.
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            claim.record(value);
        }
        let mut text = String::new();
        histograms.render(&mut text);
        let wanted = "\
# HELP verifyd_database_batch_calls Calls in one\\ntransaction
# TYPE verifyd_database_batch_calls histogram
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"1\"} 1
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"2\"} 2
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"4\"} 3
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"8\"} 3
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"16\"} 3
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"32\"} 3
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"64\"} 3
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"128\"} 4
verifyd_database_batch_calls_bucket{call=\"claim\",le=\"+Inf\"} 6
";
        assert!(text.starts_with(wanted), "{text}");
        assert!(text.ends_with("verifyd_database_batch_calls_count{call=\"claim\"} 6\n\n"));
    }

    #[test]
    fn a_run_that_takes_minutes_has_a_bucket() {
        let histograms = Histograms::default();
        histograms
            .of(&key("verifyd_run_duration_seconds", &[]))
            .record(240.0);
        let mut text = String::new();
        histograms.render(&mut text);
        for line in [
            "verifyd_run_duration_seconds_bucket{le=\"120\"} 0\n",
            "verifyd_run_duration_seconds_bucket{le=\"300\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn a_histogram_without_labels_is_the_same_one_each_time() {
        let histograms = Histograms::default();
        for _ in 0..3 {
            histograms.of(&key("verifyd_x_seconds", &[])).record(0.25);
        }
        let mut text = String::new();
        histograms.render(&mut text);
        for line in [
            "# TYPE verifyd_x_seconds histogram\n",
            "verifyd_x_seconds_bucket{le=\"0.1\"} 0\n",
            "verifyd_x_seconds_bucket{le=\"0.25\"} 3\n",
            "verifyd_x_seconds_sum 0.75\n",
            "verifyd_x_seconds_count 3\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("# HELP"));
    }
}
