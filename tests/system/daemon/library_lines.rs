//! What the database driver logs.

use std::time::Instant;
use test_support::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn warnings_of_a_trigger_do_not_fill_the_log() {
    const WARNING: &str = "not as it was";
    let bench = Bench::new().await;
    let healthy = bench.healthy(1);
    let rule = format!(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN RAISE WARNING ''{WARNING}''; RETURN new; END';
         CREATE TRIGGER warn BEFORE UPDATE ON operation_runs FOR EACH ROW EXECUTE FUNCTION warn()"
    );
    bench.execute(&rule).await;
    let began = Instant::now();
    let mut daemon = bench.serve(&[]);
    bench.record(&[healthy], 20).await;
    bench.count_is("completed", 20).await;
    daemon.wait_for(WARNING);
    let lines = daemon.lines.lock().unwrap().clone();
    let warnings = lines.iter().filter(|line| line.contains(WARNING)).count();
    let most = 1 + began.elapsed().as_secs() / 60;
    assert!(warnings as u64 <= most, "{warnings} lines");
}
