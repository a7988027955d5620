//! verifyd as the users of `deploy/redis.acl`: all of it works, and nothing else does.

use super::doctor::examined;
use test_support::bench::Bench;
use test_support::redis_server::{self, PrivateRedis, command};
use test_support::waiting::until;

/// Sends one command, and returns what the server says against it.
async fn redis_refuses(url: &str, command: &[&str]) -> Option<String> {
    let mut connection = redis_server::connection(url).await;
    let mut cmd = redis::cmd(command[0]);
    cmd.arg(&command[1..]);
    let answer: redis::RedisResult<redis::Value> = cmd.query_async(&mut connection).await;
    answer.err()?.code().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_redis_reach_their_queue_and_nothing_else() {
    let server = PrivateRedis::with_users();
    let mut bench = Bench::new().await;
    // The name of the queue that the file is for.
    bench.set("VERIFYD__REDIS__QUEUE", "verifyd");
    let id = bench.healthy(1);
    bench.use_redis(server.url_of("verifyd_serve"));
    let settings = [
        // The fetchers of a killed replica are soon missed.
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "1s"),
        // Nothing but hints starts runs.
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ];
    let mut daemon = bench.serve(&settings);
    // Somebody who may look at the log of denials.
    let mut admin = redis_server::connection(&server.url_of("admin")).await;
    let mut seen = async |command: &[&str]| -> usize {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        match cmd.query_async(&mut admin).await.unwrap() {
            redis::Value::Array(found) => found.len(),
            redis::Value::Int(number) => usize::try_from(number).unwrap(),
            other => panic!("{command:?}: {other:?}"),
        }
    };
    let fetchers = &["KEYS", "verifyd:workers:metadata:*"];
    // A replica that is killed leaves its fetchers behind, and somebody writes what is no hint.
    let killed = bench.serve(&settings);
    until("four fetchers are there", async || {
        seen(fetchers).await >= 4
    })
    .await;
    drop(killed);
    for id in ["junk", "no-meta"] {
        seen(&["RPUSH", "verifyd:active", id]).await;
    }
    seen(&["HSET", "verifyd:data", "no-meta", "{}"]).await;
    // Too long, waiting and not.
    let large = "x".repeat(100_000);
    for id in ["large", "large-and-alone"] {
        seen(&["HSET", "verifyd:data", id, &large]).await;
    }
    seen(&["RPUSH", "verifyd:active", "large"]).await;
    bench.use_redis(server.url_of("verifyd_producer"));
    for _ in 0..5 {
        bench.success(&["enqueue", "--connection", &id.to_string(), "--wait", "180"]);
    }
    bench.use_redis(server.url_of("verifyd_serve"));
    bench.success(&["doctor"]);
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.tar.gz");
    bench.success(&["support-bundle", "--output", bundle.to_str().unwrap()]);

    // Everything is cleaned up again, with the rights that there are.
    until("nothing is left", async || {
        // What was rejected stays, to be looked at.
        seen(&["HLEN", "verifyd:data"]).await <= 1
            && seen(&["LLEN", "verifyd:active"]).await == 0
            && seen(fetchers).await == 2
    })
    .await;
    daemon.terminate();
    let denied: Vec<redis::Value> = command(&mut admin, &["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:#?}");

    for (user, commands) in [
        (
            "verifyd_serve",
            &[
                &["GET", "sessions:1"][..],
                &["HSET", "sessions:1", "a", "b"],
                &["DEL", "sessions:1"],
                &["HGETALL", "other:data"],
                &["EVAL", "return redis.call('DEL', 'sessions:1')", "0"],
                &["EVAL", "return redis.call('HGETALL', 'other:data')", "0"],
                &["PUBLISH", "tasks:other:active:available", "x"],
                &["KEYS", "*"],
                &["FLUSHALL"],
                &["FLUSHDB"],
                &["CONFIG", "GET", "*"],
                &["ACL", "LIST"],
                &["SHUTDOWN", "NOSAVE"],
                &["MONITOR"],
                &["SCRIPT", "FLUSH"],
                &["CLIENT", "KILL", "TYPE", "normal"],
            ][..],
        ),
        (
            "verifyd_producer",
            &[
                &["HGETALL", "verifyd:data"][..],
                &["DEL", "verifyd:data"],
                &["LRANGE", "verifyd:active", "0", "-1"],
                &["ZADD", "verifyd:workers", "1", "x"],
                &["HSET", "sessions:1", "a", "b"],
                &[
                    "EVAL",
                    "return redis.call('DEL', KEYS[1])",
                    "1",
                    "verifyd:data",
                ],
                &["SUBSCRIBE", "other:completed"],
                &["FLUSHALL"],
                &["SCAN", "0"],
            ],
        ),
    ] {
        for command in commands {
            let code = redis_refuses(&server.url_of(user), command).await;
            assert!(
                matches!(code.as_deref(), Some("NOPERM" | "ERR")),
                "{user}: {command:?}: {code:?}"
            );
        }
    }
    // The test can tell what is permitted, and without a password nobody is let in at all.
    let permitted = ["LLEN", "verifyd:active"];
    let url = server.url_of("verifyd_serve");
    assert_eq!(redis_refuses(&url, &permitted).await, None);
    let nobody = redis::Client::open(server.url()).unwrap();
    let mut connection = nobody.get_multiplexed_async_connection().await;
    if let Ok(connection) = &mut connection {
        let answer: redis::RedisResult<String> = redis::cmd("PING").query_async(connection).await;
        assert!(answer.is_err());
    }
}

/// As with a file of an earlier version: hints can be sent, and nobody takes them.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_the_rights_that_a_consumer_lacks() {
    let server = PrivateRedis::with_users();
    let mut bench = Bench::new().await;
    bench.set("VERIFYD__REDIS__QUEUE", "verifyd");
    bench.use_redis(server.url_of("verifyd_serve"));
    assert_eq!(examined(&bench), (0, vec![]));
    let mut admin = redis_server::connection(&server.url_of("admin")).await;
    let mut change = async |rights: &str| {
        let command = ["ACL", "SETUSER", "verifyd_serve"].into_iter();
        let command: Vec<&str> = command.chain(rights.split(' ')).collect();
        redis_server::command::<()>(&mut admin, &command).await;
    };
    for (taken, named) in [
        ("-hget", "(HGET)"),
        ("-zadd -spop -hmset", "(HMSET, SPOP, ZADD)"),
        ("-unlink", "'unlink'"),
        ("-subscribe", "'subscribe'"),
    ] {
        change(taken).await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{taken}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (0, "queue"), "{taken}");
        assert!(found.contains(named), "{taken}: {found}");
        assert!(remedy.contains("verifyd_serve"), "{taken}: {remedy}");
        change(&taken.replace('-', "+")).await;
        assert_eq!(examined(&bench), (0, vec![]), "{taken}");
    }
    let left = redis_server::keys_of(&server.url_of("admin"), "verifyd").await;
    assert_eq!(left, Vec::<String>::new());
}
