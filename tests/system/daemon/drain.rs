//! Signals: the first drains. What comes after the grace period, and with a second signal, is shown in `tests/faults`.

use std::time::Duration;
use test_support::bench::Bench;
use verifyd_simulator::{Scenario, SimulatorOptions};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_finishes_what_is_in_work() {
    for signal in ["TERM", "INT"] {
        let options = SimulatorOptions {
            slow_answer: Duration::from_millis(700),
            ..SimulatorOptions::default()
        };
        let bench = Bench::with(options).await;
        let id = bench.connection(1, &Scenario::Slow.tenant_id(1), "health_check");
        let mut daemon = bench.serve(&[]);
        bench.enqueue(id);
        bench.count_is("running", 1).await;
        daemon.signal(signal);
        assert_eq!(daemon.ended(), Some(0), "{signal}");
        let succeeded = "operation_runs WHERE outcome = 'succeeded'";
        assert_eq!(bench.count(succeeded).await, 1, "{signal}");
        assert_eq!(bench.count("verifyd.workers").await, 0, "{signal}");
    }
}
