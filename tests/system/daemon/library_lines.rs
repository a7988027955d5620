//! What the database driver logs.

use super::application_trigger::before_update;
use test_support::bench::Bench;

/// Of errors and of INFO, which it always sends, the server sends the text; no other text is read.
#[tokio::test(flavor = "multi_thread")]
async fn notices_of_a_trigger_are_not_sent() {
    const INFO: &str = "sent as it is";
    let bench = Bench::new().await;
    let healthy = bench.healthy(1);
    let says = format!(
        "RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; RAISE INFO '{INFO}'; RETURN new"
    );
    before_update(&bench, "true", &says).await;
    let filter = "info,sqlx::postgres::notice=trace";
    let mut daemon = bench.serve(&[("VERIFYD__LOG__FILTER", filter)]);
    bench.record(&[healthy], 20).await;
    bench.all_completed().await;
    // What is sent is in the log.
    daemon.wait_for(INFO);
    let lines = daemon.lines.lock().unwrap().clone();
    let said = ["a notice", "a warning"];
    let sent = lines
        .iter()
        .find(|line| said.iter().any(|said| line.contains(said)));
    assert_eq!(sent, None);
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
