//! Micro-benchmarks of what a run costs in this process, without database, queue and network.
//! `bench/micro` runs them; docs/explanation/performance.md says how to read them.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has failed"
)]

mod calibration;
mod payloads;
mod recorded;
mod reports;

use criterion::{Bencher, Criterion};
use std::process::ExitCode;
use std::time::Duration;

/// The benchmarks, with the names of those that were measured.
struct Suite {
    criterion: Criterion,
    names: Vec<String>,
}

impl Suite {
    fn measure(&mut self, name: &str, body: impl FnMut(&mut Bencher<'_>)) {
        self.criterion.bench_function(name, body);
        self.names.push(name.to_owned());
    }
}

fn main() -> ExitCode {
    // About four seconds each, so that all of them together stay well below two minutes.
    let criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_millis(2_500))
        .configure_from_args();
    let mut suite = Suite {
        criterion,
        names: Vec::new(),
    };
    calibration::measure(&mut suite);
    reports::measure(&mut suite);
    payloads::measure(&mut suite);
    suite.criterion.final_summary();
    recorded::end(&suite.names)
}
