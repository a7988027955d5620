//! `verifyd doctor` counts the connections that `serve` opens.

use super::doctor::{answer, examined, statement};
use serde_json::Value;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use test_support::bench::Bench;
use test_support::pgbouncer::PgBouncer;

/// Limits of a role are read and said in the same way; other tests use the roles.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_connections_with_which_serve_does_not_work_is_no_warning() {
    let mut bench = Bench::new().await;
    bench.healthy(1);
    bench.grant().await;
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    bench.become_role("verifyd_serve");
    for limit in [0, 1, 3] {
        let lower = format!("ALTER DATABASE {name} CONNECTION LIMIT {limit}");
        bench.execute(&lower).await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{limit}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (1, "database"), "{found}");
        assert!(found.contains(name), "{found}");
        let allow = "allow 12 connections for each replica";
        assert!(remedy.starts_with(allow), "{remedy}");
        bench.execute(statement(remedy)).await;
        assert_eq!(examined(&bench), (0, vec![]), "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_with_few_connections_is_named_with_their_number() {
    let mut bench = Bench::new().await;
    let direct = bench.database.url();
    for (connections, in_use, said) in [
        (3, 0, "has at most 3 sessions"),
        (4, 0, "has at most 4 sessions"),
        (5, 0, "has at most 5 sessions"),
        (14, 11, "3 connections are free now"),
        (14, 9, "5 connections are free now"),
    ] {
        let pooler = PgBouncer::in_session_mode(&direct, connections);
        let pooled = pooler.url_of(&direct);
        let mut others = Vec::new();
        for _ in 0..in_use {
            others.push(other(&pooled).await);
        }
        bench.set("DATABASE_URL", pooled);
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{connections}: {bad:?}")
        };
        assert_eq!(part, "pooler", "{bad:?}");
        // Four are the pool's two, the heartbeat's and the one that listens.
        assert_eq!(code == 0, connections >= 4, "{bad:?}");
        assert!(found.contains(said), "{found}");
        // Ten, one for the heartbeat, and two with which listening begins.
        assert!(found.contains("up to 13 connections"), "{found}");
        assert!(remedy.contains("have 13 connections"), "{remedy}");
        assert!(remedy.contains("default_pool_size"), "{remedy}");
        if in_use == 9 {
            // As a worker under load has the others.
            bench
                .execute(
                    "INSERT INTO verifyd.workers
                         (worker_id, version, concurrency, in_flight, started_at, beat_at)
                     VALUES ('beats', '1', 1, 0, now(), now())",
                )
                .await;
            assert_eq!(examined(&bench), (0, vec![]));
        }
    }
}

/// They have the role and the address of the pooler's. What listens directly is known.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_beside_a_pooler_are_not_taken_for_the_pooler_s() {
    let mut bench = Bench::new().await;
    let direct = bench.database.url();
    let pooler = PgBouncer::in_session_mode(&direct, 5);
    bench.set("DATABASE_URL", pooler.url_of(&direct));
    let mut beside = Vec::new();
    for (sessions, said) in [
        (5, "has at most 10 sessions"),
        (12, "5 connections are free now"),
    ] {
        while beside.len() < sessions {
            beside.push(other(&direct).await);
        }
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{sessions}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (0, "pooler"), "{found}");
        assert!(found.contains(said), "{found}");
        assert!(remedy.contains("have 13 connections"), "{remedy}");
    }
    beside.truncate(1);
    let listen = sqlx::raw_sql("LISTEN \"verifyd_queued\"");
    listen.execute(&mut beside[0]).await.unwrap();
    bench.set("VERIFYD__DATABASE__LISTEN_URL", direct);
    let (code, bad) = examined(&bench);
    let [(part, found, _)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "pooler"), "{found}");
    assert!(found.contains("has at most 5 sessions"), "{found}");
    assert!(found.contains("up to 11 connections"), "{found}");
}

/// A client of the server or of a pooler that keeps its session.
async fn other(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    let mut other = options.extra_float_digits(None).connect().await.unwrap();
    sqlx::raw_sql("SELECT 1").execute(&mut other).await.unwrap();
    other
}

/// Each time: no session that `doctor` leaves is one that it waits for later.
#[tokio::test(flavor = "multi_thread")]
async fn with_two_sessions_everything_is_examined_and_with_fewer_nothing() {
    const SESSIONS: u32 = 14;
    let mut bench = Bench::new().await;
    let direct = bench.database.url();
    let pooler = PgBouncer::in_session_mode(&direct, SESSIONS);
    let pooled = pooler.url_of(&direct);
    bench.set("DATABASE_URL", pooled.clone());
    let mut others = Vec::new();
    for (in_use, code, part, said) in [
        (12, 0, "pooler", "2 connections are free now"),
        (13, 1, "database", "gave no second session within 3 s"),
        (14, 1, "database", "gave no session within 3 s"),
    ] {
        while others.len() < in_use {
            others.push(other(&pooled).await);
        }
        for _ in 0..3 {
            let output = bench.run(&["doctor", "--json"]);
            let logged = String::from_utf8_lossy(&output.stderr);
            assert!(!logged.contains("slow"), "{logged}");
            let printed = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(code), "{printed}{logged}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            let parts = answer["parts"].as_array().unwrap();
            let bad: Vec<&Value> = parts.iter().filter(|p| p["state"] != "ok").collect();
            let [line] = &bad[..] else { panic!("{bad:?}") };
            assert_eq!(line["part"], part, "{line}");
            assert!(line["found"].as_str().unwrap().contains(said), "{line}");
            let remedy = line["remedy"].as_str().unwrap();
            assert!(remedy.contains("default_pool_size"), "{remedy}");
            let examined = parts.iter().any(|found| found["part"] == "listening");
            assert_eq!(examined, code == 0, "{parts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_that_a_worker_uses_everything_is_examined() {
    let mut bench = Bench::new().await;
    let direct = bench.database.url();
    let pooler = PgBouncer::in_session_mode(&direct, 14);
    bench.set("DATABASE_URL", pooler.url_of(&direct));
    let worker = bench.serve(&[]);
    worker.ready().await;
    let (code, parts) = answer(&bench);
    assert_eq!(code, 0, "{parts}");
    for part in ["writing", "listening", "runs", "http"] {
        let mut parts_found = parts.as_array().unwrap().iter();
        assert!(parts_found.any(|found| found["part"] == part), "{parts}");
    }
}

/// Notifications arrive each time.
#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_notifies_nobody_is_named() {
    let bench = Bench::new().await;
    bench.healthy(1);
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    let trigger = "the trigger verifyd_notify_queued of operation_runs, which sends them,";
    for (broken, said) in [
        (
            "ALTER TABLE operation_runs DISABLE TRIGGER verifyd_notify_queued".to_owned(),
            format!("{trigger} is disabled"),
        ),
        (
            format!("ALTER DATABASE {name} SET session_replication_role = replica"),
            format!(
                "{trigger} does not fire, and neither do guards and foreign keys, where session_replication_role is \
                 replica, as set for the database {name}"
            ),
        ),
    ] {
        assert_eq!(examined(&bench), (0, vec![]));
        bench.execute(&broken).await;
        let (code, bad) = examined(&bench);
        // A disabled one is a guard that is missing, too.
        let (part, found, remedy) = &bad[0];
        assert_eq!((code, part.as_str()), (0, "listening"), "{bad:?}");
        assert!(found.contains(&said), "{said}: {found}");
        bench.execute(statement(remedy)).await;
    }
    assert_eq!(examined(&bench), (0, vec![]));

    // One INSERT that sends none may be one that another producer has notified for. A rollback does not undo a sequence.
    bench
        .execute(
            "CREATE SEQUENCE inserts;
             CREATE FUNCTION notified() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM set_config('verifyd.told', CASE nextval('inserts') WHEN 1 THEN 'on' ELSE '' END, true);
                 RETURN new;
             END $$;
             CREATE TRIGGER notified BEFORE INSERT ON operation_runs FOR EACH ROW EXECUTE FUNCTION notified()",
        )
        .await;
    assert_eq!(examined(&bench), (0, vec![]));
    // The third one is claimed.
    assert_eq!(bench.numbers("SELECT last_value FROM inserts").await, [3]);
    bench
        .execute("DROP TRIGGER notified ON operation_runs")
        .await;

    let told = format!("ALTER DATABASE {name} SET verifyd.told = 'on'");
    bench.execute(&told).await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "listening"));
    assert!(found.contains("has sent none"), "{found}");
    assert!(remedy.contains("verifyd.told"), "{remedy}");
    bench
        .execute(&format!(
            "ALTER DATABASE {name} RESET verifyd.told;
             DROP TRIGGER verifyd_notify_queued ON operation_runs"
        ))
        .await;
    let (_, bad) = examined(&bench);
    let (part, found, remedy) = &bad[0];
    assert_eq!(part, "listening", "{bad:?}");
    assert!(found.contains("has no trigger"), "{found}");
    assert!(remedy.contains("verifyd migrate --enforce"), "{remedy}");
    bench.success(&["migrate", "--enforce"]);
    assert_eq!(examined(&bench), (0, vec![]));
}
