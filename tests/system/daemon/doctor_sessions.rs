//! `verifyd doctor` counts the connections that `serve` opens.

use super::doctor::{examined, statement};
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
async fn a_pooler_in_session_mode_with_too_few_connections_is_named_with_their_number() {
    let mut bench = Bench::new().await;
    let direct = bench.database.url();
    for (connections, is_enough) in [(3, false), (20, true)] {
        let pooler = PgBouncer::in_session_mode(&direct, connections);
        bench.set("DATABASE_URL", pooler.url_of(&direct));
        let (code, bad) = examined(&bench);
        if is_enough {
            assert_eq!((code, bad), (0, vec![]));
            continue;
        }
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{connections}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (1, "pooler"), "{found}");
        // Ten, one for the heartbeat, and two with which listening begins.
        assert!(found.contains("up to 13 connections"), "{found}");
        assert!(remedy.contains("have 13 connections"), "{remedy}");
        assert!(remedy.contains("default_pool_size"), "{remedy}");
    }
}
