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

#[tokio::test(flavor = "multi_thread")]
async fn slow_statements_are_no_output_of_a_command() {
    let bench = Bench::new().await;
    let rule = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(1.5); RETURN new; END';
         CREATE TRIGGER slow BEFORE INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION slow()";
    bench.execute(rule).await;
    for (tenant, log, is_said) in [(1, None, false), (2, Some("info,sqlx=warn"), true)] {
        let connection = bench.healthy(tenant).to_string();
        let mut arguments = vec!["enqueue", "--connection", &connection];
        arguments.extend(log.iter().flat_map(|filter| ["--log", filter]));
        let output = bench.run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("slow statement"), is_said, "{said}");
    }
}
