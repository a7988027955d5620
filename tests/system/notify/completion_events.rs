//! Notices through PostgreSQL and Redis.

use futures::StreamExt as _;
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use test_support::bench::{Bench, PATIENCE};
use verifyd::domain::completion_event::{CompletionEvent, SCHEMA};
use verifyd_simulator::Scenario;

fn is_a_completion_event(value: &Value) -> bool {
    let mut schema: Value = serde_json::from_str(SCHEMA).unwrap();
    schema.as_object_mut().unwrap().remove("oneOf");
    schema["$ref"] = json!("#/$defs/notice");
    jsonschema::validator_for(&schema).unwrap().is_valid(value)
}

#[tokio::test(flavor = "multi_thread")]
async fn completed_runs_are_announced_after_the_commit() {
    let bench = Bench::new().await;
    let connection = bench.connection(1, &Scenario::SecretExpired.tenant_id(0), "health_check");
    let mut postgres = PgListener::connect(&bench.database.url()).await.unwrap();
    postgres.listen("verifyd_completed").await.unwrap();
    let client = redis::Client::open(bench.redis_url.as_str()).unwrap();
    let mut redis = client.get_async_pubsub().await.unwrap();
    redis
        .subscribe(format!("{}:completed", bench.queue))
        .await
        .unwrap();
    let mut redis = redis.into_on_message();
    let _daemon = bench.serve(&[]);
    let mut said = Vec::new();
    for _ in 0..2 {
        let id = connection.to_string();
        let run = bench.json(&["enqueue", "--connection", &id]);
        let told = async {
            let by_postgres = postgres.recv().await.unwrap().payload().to_owned();
            let by_redis: String = redis.next().await.unwrap().get_payload().unwrap();
            (by_postgres, by_redis)
        };
        let (by_postgres, by_redis) = tokio::time::timeout(PATIENCE, told).await.unwrap();
        assert_eq!(by_postgres, by_redis);
        let value: Value = serde_json::from_str(&by_postgres).unwrap();
        assert!(is_a_completion_event(&value), "{value}");
        assert_eq!(value["operation_run_id"], run["operation_run_id"]);
        // A subscriber sees the completed row.
        let row = bench
            .numbers(&format!(
                "SELECT count(*) FROM operation_runs WHERE id = {} AND status = 'completed' \
                 AND outcome = '{}' AND context #>> '{{verification_report,fingerprint}}' = '{}' \
                 AND context #>> '{{verification_report,summary,overall}}' = '{}'",
                value["operation_run_id"],
                value["outcome"].as_str().unwrap(),
                value["fingerprint"].as_str().unwrap(),
                value["overall"].as_str().unwrap(),
            ))
            .await[0];
        assert_eq!(row, 1, "{value}");
        said.push(serde_json::from_value::<CompletionEvent>(value).unwrap());
    }
    assert_eq!(
        said[0].provider_connection_id.map(|c| c.0),
        Some(connection)
    );
    assert_eq!([said[0].changed, said[1].changed], [true, false]);
    assert_eq!(said[0].fingerprint, said[1].fingerprint);
}
