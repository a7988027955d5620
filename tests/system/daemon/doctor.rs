//! `verifyd doctor` tries what `serve` needs, and says what the servers say.

use axum::Router;
use serde_json::{Value, json};
use std::net::SocketAddr;
use test_support::bench::Bench;
use test_support::pgbouncer::PgBouncer;
use test_support::redis_server::{self, PrivateRedis};

/// The exit code, and all parts.
pub(super) fn answer(bench: &Bench) -> (i32, Value) {
    let output = bench.run(&["doctor", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let code = output.status.code().unwrap();
    assert_eq!(answer["ok"], code == 0, "{answer}");
    (code, answer["parts"].clone())
}

/// The exit code, and the parts that failed or warn: name, what was found, what to do.
pub(super) fn examined(bench: &Bench) -> (i32, Vec<(String, String, String)>) {
    let (code, parts) = answer(bench);
    let text = |part: &Value, member: &str| part[member].as_str().unwrap_or_default().to_owned();
    let bad = parts
        .as_array()
        .unwrap()
        .iter()
        .filter(|part| part["state"] != "ok")
        .map(|part| {
            (
                text(part, "part"),
                text(part, "found"),
                text(part, "remedy"),
            )
        })
        .collect();
    (code, bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_only_reads_is_found_out() {
    let bench = Bench::new().await;
    assert_eq!(examined(&bench), (0, vec![]));
    let connection = bench.healthy(1);
    bench.record(&[connection], 1).await;
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    let setting = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    bench.execute(&setting).await;
    let (code, bad) = examined(&bench);
    assert_eq!(code, 1);
    let [(part, found, remedy), (runs, _, of_runs)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((part.as_str(), runs.as_str()), ("writing", "runs"));
    let unwritten = "heartbeats cannot be written either";
    assert!(of_runs.contains(unwritten), "{of_runs}");
    assert!(found.contains("in a read-only transaction"), "{found}");
    let reset = "RESET default_transaction_read_only";
    assert!(
        remedy.contains("primary") && remedy.contains(reset),
        "{remedy}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_loses_statements_is_named_with_what_to_set() {
    let mut bench = Bench::new().await;
    let direct = bench.database.url();
    let pooler = PgBouncer::before(&direct, 2);
    let unnamed = pooler.url_of(&direct);
    let mut plain: url::Url = unnamed.parse().unwrap();
    plain.set_query(None);
    bench.set("DATABASE_URL", plain);
    let (code, bad) = examined(&bench);
    assert_eq!(code, 1);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0].0, "pooler");
    assert!(bad[0].2.contains("statement-cache-capacity=0"), "{bad:?}");
    assert!(bad[0].2.contains("database.listen_url"), "{bad:?}");

    bench.set("DATABASE_URL", unnamed);
    let (code, bad) = examined(&bench);
    // Notifications do not get through, and that is no reason not to serve.
    let parts: Vec<&str> = bad.iter().map(|(part, ..)| part.as_str()).collect();
    assert_eq!((code, &parts[..]), (0, &["listening"][..]), "{bad:?}");
    bench.set("VERIFYD__DATABASE__LISTEN_URL", direct);
    assert_eq!(examined(&bench), (0, vec![]));

    let options = "&options=-c%20search_path%3Dpublic";
    bench.set(
        "DATABASE_URL",
        pooler.url_of(&bench.database.url()) + options,
    );
    let (code, bad) = examined(&bench);
    assert_eq!((code, bad.len()), (1, 1), "{bad:?}");
    let advice = "ignore_startup_parameters = options";
    assert!(bad[0].2.contains(advice), "{bad:?}");

    let pooler = PgBouncer::in_statement_mode(&bench.database.url(), 2);
    bench.set("DATABASE_URL", pooler.url_of(&bench.database.url()));
    let (code, bad) = examined(&bench);
    assert_eq!((code, bad.len()), (1, 1), "{bad:?}");
    assert!(bad[0].2.contains("pool_mode"), "{bad:?}");
}

/// The statement that ends a remedy.
pub(super) fn statement(remedy: &str) -> &str {
    assert!(remedy.ends_with(';'), "{remedy}");
    remedy.rsplit(": ").next().unwrap()
}

/// What `serve` can do without is a warning, and what is printed mends it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_role_may_not_do_is_named() {
    let mut bench = Bench::new().await;
    let connection = bench.healthy(1);
    let token = bench.token(&["run"]);
    bench.grant().await;
    bench.become_role("verifyd_serve");
    assert_eq!(examined(&bench), (0, vec![]));

    bench
        .execute("REVOKE INSERT ON operation_runs FROM verifyd_serve")
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "schema"));
    let missing = "operation_runs: the privilege is missing: INSERT; ";
    assert!(found.starts_with(missing), "{found}");
    let daemon = bench.serve(&[]);
    let checks = format!(
        "http://{}/v1/connections/{connection}/checks",
        daemon.listening
    );
    let request = reqwest::Client::new().post(checks).bearer_auth(token);
    let refused = request.json(&json!({})).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    let refused = refused.text().await.unwrap();
    assert!(
        refused.contains("The database denies verifyd a privilege"),
        "{refused}"
    );
    drop(daemon);
    // What the file grants is not granted by hand.
    let by_file = "apply deploy/postgres-grants.sql again, as its first lines say";
    assert_eq!(remedy, by_file);
    bench.grant().await;
    assert_eq!(examined(&bench), (0, vec![]));

    // Of another application: the ids of this table are from a sequence, without which no inventory is written.
    bench
        .execute("ALTER TABLE tenant_permissions ADD COLUMN id bigserial")
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (1, "schema"));
    let missing =
        "tenant_permissions: the privilege is missing: USAGE of public.tenant_permissions_id_seq; ";
    assert!(found.starts_with(missing), "{found}");
    assert_eq!(remedy, by_file);
    bench.grant().await;
    assert_eq!(examined(&bench), (0, vec![]));
    bench
        .execute(
            "INSERT INTO tenant_permissions (tenant_id, permission_key, status) VALUES (1, 'a', 'granted');
             SELECT setval('tenant_permissions_id_seq', 1, false)",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"));
    // Earlier tries of `doctor` have used up ids, too.
    let again = "the next id of tenant_permissions is 1, and ";
    assert!(found.starts_with(again), "{found}");
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));

    // Another role of the file is not made the one of `serve`.
    bench
        .execute("REVOKE UPDATE ON tenant_permissions FROM verifyd_serve")
        .await;
    for (role, advice) in [
        ("verifyd_serve", "apply deploy/postgres-grants.sql again"),
        ("verifyd_operator", "connect as verifyd_serve"),
    ] {
        bench.become_role(role);
        let (code, bad) = examined(&bench);
        assert_eq!(code, 1, "{role}");
        let missing = "tenant_permissions: the privilege is missing: ";
        let of_table = bad.iter().find(|(_, found, _)| found.starts_with(missing));
        let (_, _, remedy) = of_table.unwrap_or_else(|| panic!("{role}: {bad:?}"));
        assert!(remedy.starts_with(advice), "{role}: {remedy}");
    }
    bench.become_role("verifyd_serve");
    bench.grant().await;
    assert_eq!(examined(&bench), (0, vec![]));

    // One connection fewer than `serve` opens.
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    let limit = |limit: i32| format!("ALTER DATABASE {name} CONNECTION LIMIT {limit}");
    bench.execute(&limit(11)).await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "database"));
    let limited = format!(
        "CONNECTION LIMIT of the database {name} is 11; `serve` opens up to 12 connections"
    );
    assert_eq!(found, &limited);
    assert!(remedy.contains("database.max_connections"), "{remedy}");
    bench.execute(&limit(-1)).await;

    // Tables that are there, and that the role does not see.
    bench
        .execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC, verifyd_serve")
        .await;
    let (code, bad) = examined(&bench);
    let hidden = "operation_runs: the role verifyd_serve may not use the schema public";
    let (_, _, remedy) = bad
        .iter()
        .find(|(_, found, _)| found.starts_with(hidden))
        .unwrap_or_else(|| panic!("{bad:?}"));
    assert_eq!(code, 1);
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));
    let url = bench.environment["DATABASE_URL"].clone() + "?options=-c%20search_path%3Dnowhere";
    bench.set("DATABASE_URL", url);
    let (code, bad) = examined(&bench);
    let hidden = "operation_runs: search_path (nowhere) does not name the schema public";
    let (_, _, remedy) = bad
        .iter()
        .find(|(_, found, _)| found.starts_with(hidden))
        .unwrap_or_else(|| panic!("{bad:?}"));
    let longer =
        format!("ALTER ROLE verifyd_serve IN DATABASE {name} SET search_path = nowhere, public;");
    assert_eq!((code, statement(remedy)), (1, longer.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_address_asks_of_the_server_and_does_not_get_is_told() {
    let mut bench = Bench::new().await;
    let direct = bench.database.url();
    for (query, said, advice) in [
        ("options=-x", "the parameter options holds", "settings only"),
        (
            "options=-c%20nonsense%3D1",
            "\"nonsense\"",
            "correct `options`",
        ),
        (
            "sslmode=prefer&sslcert=/nope&sslkey=/nope",
            "the TLS file \"/nope\" of the parameter sslcert cannot be read",
            "a file of PEM",
        ),
    ] {
        bench.set("DATABASE_URL", format!("{direct}?{query}"));
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{query}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (1, "database"), "{query}");
        assert!(found.contains(said), "{found}");
        assert!(remedy.contains(advice), "{remedy}");
        let serve = bench.run(&["serve"]);
        let printed = String::from_utf8_lossy(&serve.stderr);
        assert_eq!(serve.status.code(), Some(1), "{printed}");
        assert!(printed.contains(said), "{printed}");
    }
}

/// What `serve` needs is tried, too: whoever may send a hint and not take it back sends none.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_only_send_hints_leaves_none_behind() {
    let mut bench = Bench::new().await;
    let server = PrivateRedis::with_users();
    // The name of the queue that the file is for.
    bench.set("VERIFYD__REDIS__QUEUE", "verifyd");
    bench.set("REDIS_URL", server.url_of("verifyd_producer"));
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "queue"));
    assert!(found.contains("no permissions"), "{found}");
    assert!(remedy.contains("verifyd_serve"), "{remedy}");
    let left = redis_server::keys_of(&server.url_of("admin"), "verifyd").await;
    assert_eq!(left, Vec::<String>::new());
    // `serve` logs the same when it begins to poll.
    let mut daemon = bench.serve(&[]);
    let line = daemon.wait_for("taking runs from the database\"");
    for words in ["NOPERM", "verifyd_serve"] {
        assert!(line.contains(words), "{words}: {line}");
    }
}

/// And `serve` works without it, from the database.
#[tokio::test(flavor = "multi_thread")]
async fn redis_that_takes_no_hints_says_why() {
    let mut bench = Bench::new().await;
    let connection = bench.healthy(1);
    let primary = PrivateRedis::start_with(&["--requirepass", "right"]);
    let at = |password: &str| format!("redis://:{password}@127.0.0.1:{}", primary.port());
    let small = PrivateRedis::start_with(&["--maxmemory", "1"]);
    let port = primary.port().to_string();
    let replica =
        PrivateRedis::start_with(&["--replicaof", "127.0.0.1", &port, "--masterauth", "right"]);
    let lonely = PrivateRedis::start_with(&["--min-replicas-to-write", "1"]);
    let away = PrivateRedis::stopped();
    let foreign = PrivateRedis::start();
    let mut plain = redis_server::connection(&foreign.url()).await;
    let key = format!("{}:scheduled", bench.queue);
    redis_server::command::<()>(&mut plain, &["SET", &key, "x"]).await;
    let unusable = [
        (at("wrong"), "pass", "password"),
        (small.url(), "oom", "maxmemory"),
        (replica.url(), "readonly", "primary"),
        (lonely.url(), "noreplicas", "min-replicas-to-write"),
        (away.url(), "refused", "Redis runs"),
        (foreign.url(), "wrongtype", "let nothing else write"),
    ];
    for (url, said, advice) in &unusable {
        bench.set("REDIS_URL", url);
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{said}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (0, "queue"));
        assert!(found.to_lowercase().contains(said), "{said}: {found}");
        assert!(remedy.contains(advice), "{advice}: {remedy}");
    }
    bench.set("REDIS_URL", at("right"));
    assert_eq!(examined(&bench), (0, vec![]));
    // Nothing of what it tried is left.
    let left = redis_server::keys_of(&at("right"), &bench.queue).await;
    assert_eq!(left, Vec::<String>::new());
    for table in ["workers", "run_attempts", "run_deliveries"] {
        let rows = format!("SELECT count(*) FROM verifyd.{table}");
        assert_eq!(bench.numbers(&rows).await, [0], "{table}");
    }
    for (url, said, _) in &unusable {
        bench.set("REDIS_URL", url);
        if *said == "oom" {
            let enqueued = bench.run(&["enqueue", "--connection", &connection.to_string()]);
            let printed = String::from_utf8_lossy(&enqueued.stderr);
            assert!(printed.contains("→ raise maxmemory"), "{printed}");
        }
        let _daemon = bench.serve(&[]);
        bench.record(&[connection], 1).await;
        bench.all_completed().await;
    }
}

/// A program that answers every request with this.
async fn another_program(answer: Value) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(move || std::future::ready(answer.to_string()));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// A running worker has the port, too, and is no fault.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_serve_cannot_listen_on_is_named() {
    let mut bench = Bench::new().await;
    let other = another_program(json!({ "status": "alive", "checks": { "database": "ok" } })).await;
    for (listen, advice) in [
        (other.to_string(), "to another port"),
        // Of a network that is only for documents.
        ("192.0.2.1:9464".to_owned(), "an address of this machine"),
    ] {
        bench.set("VERIFYD__HTTP__LISTEN", &listen);
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{listen}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (1, "http"));
        assert!(found.contains(&listen), "{found}");
        assert!(
            remedy.contains("http.listen") && remedy.contains(advice),
            "{remedy}"
        );
        let serve = bench.run(&["serve"]);
        let said = String::from_utf8_lossy(&serve.stderr);
        assert_eq!(serve.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("http.listen {listen}")), "{said}");
    }

    bench.set("VERIFYD__HTTP__LISTEN", "127.0.0.1:0");
    let worker = bench.serve(&[]);
    bench.set("VERIFYD__HTTP__LISTEN", &worker.listening);
    let (code, parts) = answer(&bench);
    let mut parts = parts.as_array().unwrap().iter();
    let http = parts.find(|part| part["part"] == "http").unwrap();
    assert_eq!((code, &http["state"]), (0, &json!("ok")), "{http}");
    let found = http["found"].as_str().unwrap();
    assert!(found.contains("a running verifyd"), "{found}");
}

/// The application has added a column that every INSERT must name. Runs of its own are worked on.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_verifyd_does_not_name_is_found() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute("ALTER TABLE operation_runs ADD COLUMN team bigint NOT NULL")
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "schema"));
    assert!(found.contains("operation_runs.team: NOT NULL"), "{found}");
    assert!(remedy.contains("ALTER COLUMN team SET DEFAULT"), "{remedy}");
    let output = bench.run(&["enqueue", "--connection", &connection.to_string()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("schema does not fit"), "{said}");
    assert!(said.contains("→ give the column a default"), "{said}");
}

/// Whoever changes a table later, the command that fails says who names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_tables_do_not_fit_leads_to_doctor() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute("ALTER TABLE provider_connections RENAME COLUMN module TO other")
        .await;
    let output = bench.run(&["enqueue", "--connection", &connection.to_string()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("→ run `verifyd doctor`"), "{said}");
}

/// Rows were restored, and the sequence was not.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_begin_again_are_found() {
    let mut bench = Bench::new().await;
    bench.healthy(1);
    bench
        .execute(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
             SELECT 1, 1, 'another', 'queued', '{}', now() FROM generate_series(1, 5)",
        )
        .await;
    let again = "SELECT setval(pg_get_serial_sequence('operation_runs', 'id'), 1, false)";
    bench.execute(again).await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"));
    let begin_again =
        "the next id of operation_runs is 1, 1 is there already, and others up to 5: ";
    assert!(found.starts_with(begin_again), "{found}");
    let mend = statement(remedy);
    bench.execute(mend).await;
    assert_eq!(examined(&bench), (0, vec![]));

    // Behind the largest number there is no id: its row has to go, also where the sequence was moved there.
    bench
        .execute(
            "INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at)
             VALUES (9223372036854775807, 1, 1, 'another', 'queued', '{}', now())",
        )
        .await;
    for moved in ["SELECT 1", mend] {
        bench.execute(moved).await;
        let (_, bad) = examined(&bench);
        let (part, found, remedy) = &bad[0];
        assert_eq!(part, "writing", "{bad:?}");
        assert!(found.contains("9223372036854775807"), "{found}");
        let row = "delete the row of operation_runs whose id is 9223372036854775807";
        assert!(remedy.contains(row), "{remedy}");
        assert!(!remedy.contains("setval"), "{remedy}");
    }
    bench
        .execute("DELETE FROM operation_runs WHERE id = 9223372036854775807")
        .await;
    bench.execute(mend).await;
    assert_eq!(examined(&bench), (0, vec![]));

    // Of every table that verifyd inserts into, also as the role that `serve` has.
    bench.token(&["run"]);
    bench.grant().await;
    bench.become_role("verifyd_serve");
    assert_eq!(examined(&bench), (0, vec![]));
    let numbered = [
        "provider_connections",
        "provider_credentials",
        "verifyd.api_tokens",
    ];
    for table in numbered {
        let again = format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), 1, false)");
        bench.execute(&again).await;
    }
    let (code, bad) = examined(&bench);
    assert_eq!((code, bad.len()), (0, numbered.len()), "{bad:?}");
    for (table, (_, found, remedy)) in numbered.into_iter().zip(&bad) {
        let begin_again = format!("the next id of {table} is 1, and ");
        assert!(found.starts_with(&begin_again), "{found}");
        bench.execute(statement(remedy)).await;
    }
    assert_eq!(examined(&bench), (0, vec![]));
}

/// Another application may give its ids by a sequence that belongs to no column, and name it by a text.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_a_sequence_that_belongs_to_no_column_are_found() {
    let bench = Bench::new().await;
    bench.healthy(1);
    bench
        .execute(
            "CREATE SEQUENCE \"other's\";
             ALTER TABLE provider_connections ALTER COLUMN id DROP IDENTITY IF EXISTS",
        )
        .await;
    for name in ["'\"other''s\"'::regclass", "'\"other''s\"'::text"] {
        bench
            .execute(&format!(
                "ALTER TABLE provider_connections ALTER COLUMN id SET DEFAULT nextval({name});
                 SELECT setval('\"other''s\"', 1, false)"
            ))
            .await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{name}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (0, "writing"));
        let begin_again = "the next id of provider_connections is 1, and ";
        assert!(found.starts_with(begin_again), "{found}");
        bench.execute(statement(remedy)).await;
        assert_eq!(examined(&bench), (0, vec![]));
    }
}

/// As the page of the workers has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_heartbeat_is_not_alive() {
    let bench = Bench::new().await;
    bench
        .execute(
            "INSERT INTO verifyd.workers
                 (worker_id, version, concurrency, in_flight, started_at, beat_at)
             VALUES ('beats', '1', 1, 0, now(), now() + interval '1 minute'),
                    ('killed', '1', 1, 0, now(), now() - interval '50 seconds')",
        )
        .await;
    let (_, parts) = answer(&bench);
    let mut parts = parts.as_array().unwrap().iter();
    let runs = parts.find(|part| part["part"] == "runs").unwrap();
    assert_eq!(runs["found"], "0 queued, 0 running, 1 worker alive");
}
