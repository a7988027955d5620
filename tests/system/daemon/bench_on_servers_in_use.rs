//! `verifyd bench` on servers in use: nothing of theirs is touched, and nothing is left.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use std::process::{Command, Stdio};
use test_support::bench::Bench;
use test_support::ends_with_test::ends_with_test;
use test_support::redis_server;
use test_support::waiting::until;

/// Every table with the number of its rows, as the server itself counts changes.
const TABLES: &str = "
    SELECT format('%s.%s: %s', n.nspname, c.relname,
        (xpath('/row/n/text()', query_to_xml(
            format('SELECT count(*) AS n FROM %I.%I', n.nspname, c.relname), false, true, '')))[1])
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 1";

const PRIVATE: &str =
    "SELECT datname::text FROM pg_database WHERE datname LIKE 'verifyd\\_bench\\_%'";

async fn texts(connection: &mut PgConnection, statement: &'static str) -> Vec<String> {
    sqlx::query_scalar(statement)
        .fetch_all(connection)
        .await
        .unwrap()
}

/// Keys of queues for measurements, and such queues on the list of all.
async fn queue_keys(bench: &Bench) -> Vec<String> {
    let mut keys = redis_server::keys_of(&bench.redis_url, "verifyd-bench-*").await;
    let mut connection = redis_server::connection(&bench.redis_url).await;
    let listed: Vec<String> = redis::cmd("ZRANGE")
        .arg("core:apalis:queues:list")
        .arg(0)
        .arg(-1)
        .query_async(&mut connection)
        .await
        .unwrap();
    keys.extend(listed.into_iter().filter(|key| key.contains("-bench-")));
    keys
}

fn measuring(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = ends_with_test("KILL");
    command
        .arg(env!("CARGO_BIN_EXE_verifyd"))
        .arg("bench")
        .args(arguments)
        .env_clear()
        .envs(&bench.environment)
        .stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_leaves_the_servers_as_they_were() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    let waiting = bench.json(&["enqueue", "--connection", &connection.to_string()]);
    let mut sql = bench.sql().await;
    let tables = texts(&mut sql, TABLES).await;
    let keys = redis_server::keys_of(&bench.redis_url, &bench.queue).await;
    assert!(tables.len() > 10 && !keys.is_empty(), "{tables:?} {keys:?}");

    let told = bench.json(&[
        "bench",
        "--runs",
        "300",
        "--latency-samples",
        "5",
        "--tenants",
        "9",
    ]);
    assert_eq!(told["drain"]["runs"], 300);
    assert_eq!(told["settings"]["queue"], "redis");
    assert!(told["round_trip_ms"]["queue"]["loaded"].as_f64().unwrap() > 0.0);

    assert_eq!(texts(&mut sql, TABLES).await, tables);
    let run = &waiting["operation_run_id"];
    let queued = bench
        .numbers(&format!(
            "SELECT count(*) FROM operation_runs WHERE id = {run} AND status = 'queued'"
        ))
        .await;
    assert_eq!(queued, [1], "somebody else's run was worked on");
    assert_eq!(
        redis_server::keys_of(&bench.redis_url, &bench.queue).await,
        keys
    );

    // Ended in the middle, too: by the first signal, as Ctrl-C sends it.
    let mut child = measuring(&bench, &["--runs", "100000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("it has begun", async || {
        !queue_keys(&bench).await.is_empty()
    })
    .await;
    let sent = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(1));

    assert_eq!(texts(&mut sql, TABLES).await, tables);
    assert_eq!(texts(&mut sql, PRIVATE).await, Vec::<String>::new());
    assert_eq!(queue_keys(&bench).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_make_no_database_is_told_what_to_do() {
    let bench = Bench::new().await;
    let mut sql = bench.sql().await;
    let role = format!("narrow_{:016x}", rand::random::<u64>());
    sql.execute(AssertSqlSafe(format!("CREATE ROLE {role} LOGIN")))
        .await
        .unwrap();
    let mut url = url::Url::parse(&bench.database.url()).unwrap();
    url.set_username(&role).unwrap();
    let output = measuring(&bench, &["--runs", "1"])
        .env("DATABASE_URL", url.as_str())
        .output()
        .unwrap();
    sql.execute(AssertSqlSafe(format!("DROP ROLE {role}")))
        .await
        .unwrap();
    sql.close().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CREATEDB"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_redis_that_may_use_no_other_queue_is_told_what_to_do() {
    let bench = Bench::new().await;
    let mut connection = redis_server::connection(&bench.redis_url).await;
    let user = format!("narrow_{:016x}", rand::random::<u64>());
    redis::cmd("ACL")
        .arg(&["SETUSER", &user, "on", ">canary", "+@all", "~verifyd:*"])
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    let mut url = url::Url::parse(&bench.redis_url).unwrap();
    url.set_username(&user).unwrap();
    url.set_password(Some("canary")).unwrap();
    let output = measuring(&bench, &["--runs", "1"])
        .env("REDIS_URL", url.as_str())
        .output()
        .unwrap();
    redis::cmd("ACL")
        .arg(&["DELUSER", &user])
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("~verifyd-bench-*"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}
