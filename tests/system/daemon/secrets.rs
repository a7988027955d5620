//! No secret ever reaches a log, an error, a report, Redis, a process list or the database in the
//! clear.

use sqlx::{AssertSqlSafe, Row as _};
use test_support::bench::{Bench, KEY};
use test_support::redis_server;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

const WRONG_SECRET: &str = "canary-wrong~secret.8e1f";

#[tokio::test(flavor = "multi_thread")]
async fn canaries_stay_where_they_belong() {
    let mut bench = Bench::new().await;
    // As talkative as it gets.
    bench.set("VERIFYD__LOG__FILTER", "trace");
    let mut connections = vec![
        bench.healthy(1),
        bench.connection(2, &Scenario::HealthyIntune.tenant_id(1), "intune"),
        bench.connection_of(
            (1, 3),
            &Scenario::Healthy.tenant_id(2),
            "health_check",
            WRONG_SECRET,
        ),
    ];
    for scenario in [
        Scenario::SecretExpired,
        Scenario::TokenRejected,
        Scenario::RedirectRefused,
        Scenario::RedirectRefusedNextLink,
        Scenario::ResponseInvalid,
        Scenario::PermissionNotEffective,
        Scenario::GraphUnknown,
    ] {
        connections.push(bench.connection(
            10 + i64::from(scenario.number()),
            &scenario.tenant_id(1),
            scenario.expectation().module,
        ));
    }
    let mut daemon = bench.serve(&[]);
    for id in &connections {
        bench.run(&["enqueue", "--connection", &id.to_string(), "--wait", "120"]);
        bench.run(&["connections", "show", &id.to_string()]);
    }
    bench.all_completed().await;
    bench.run(&["config", "print"]);
    bench.run(&["doctor"]);
    bench.run(&["runs", "list", "--json"]);

    let command_line = std::fs::read_to_string(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
    let redis = everything_in_redis(&bench).await;
    let database = everything_in_the_database(&bench).await;
    let (_, metrics) = daemon.get("/metrics").await;
    daemon.terminate();
    let printed = bench.printed.lock().unwrap().clone();
    assert!(
        printed.contains("\"level\":\"TRACE\""),
        "the test would miss what is not logged"
    );
    assert!(database.contains("verification_report"));

    for (place, text) in [
        ("the command line", &command_line),
        ("Redis", &redis),
        ("the database", &database),
        ("the metrics", &metrics),
        ("what was printed", &printed),
    ] {
        for secret in [SIMULATED_SECRET, WRONG_SECRET, KEY] {
            assert!(!text.contains(secret), "{place} holds a secret");
        }
        // Tokens and assertions are JWTs, and a header is of no use to anyone either.
        let jwt = text.match_indices("eyJ").find(|(at, _)| {
            let rest: String = text[*at..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
                .collect();
            rest.split('.').count() >= 3
        });
        assert!(
            jwt.is_none(),
            "{place} holds a token: {}",
            &text[jwt.unwrap().0.saturating_sub(300)..jwt.unwrap().0]
        );
    }
}

async fn everything_in_redis(bench: &Bench) -> String {
    let mut connection = redis_server::connection(&bench.redis_url).await;
    let mut all = String::new();
    for key in redis_server::keys_of(&bench.redis_url, &bench.queue).await {
        let dump: Vec<u8> = redis::cmd("DUMP")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap_or_default();
        all.push_str(&key);
        all.push_str(&String::from_utf8_lossy(&dump));
    }
    all
}

async fn everything_in_the_database(bench: &Bench) -> String {
    let mut sql = bench.sql().await;
    let tables = sqlx::query(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    assert!(tables.len() > 10);
    let mut all = String::new();
    for table in tables {
        let name: String = table.get("name");
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT t::text FROM {name} t")))
                .fetch_all(&mut sql)
                .await
                .unwrap();
        all.push_str(&rows.join("\n"));
    }
    all
}
