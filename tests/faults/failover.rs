//! A real standby takes over from a primary that is gone.

use crate::scene::{COMPLETED, Scene};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use test_support::postgres::TestDatabase;
use test_support::private_postgres::PrivatePostgres;
use test_support::proxy::Proxy;
use test_support::waiting::until;

/// A standby that has everything that a client of the primary was told to be committed.
async fn synchronous_standby(scene: &Scene, primary: &mut PrivatePostgres) -> PrivatePostgres {
    let standby = primary.standby();
    configure(scene, "synchronous_standby_names = '*'").await;
    let synchronous =
        "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
    scene.until(synchronous, |n| n == 1).await;
    standby
}

/// Changes a setting of the scene's server.
async fn configure(scene: &Scene, setting: &str) {
    let mut sql = scene.bench.sql().await;
    for statement in [
        format!("ALTER SYSTEM SET {setting}"),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        sql.execute(AssertSqlSafe(statement)).await.unwrap();
    }
}

/// The same address with these two ports of loopback in place of its own.
fn with_ports(url: &str, ports: [u16; 2]) -> String {
    let port = url::Url::parse(url).unwrap().port().unwrap();
    let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    url.replace(&format!("127.0.0.1:{port}"), &hosts)
}

/// Waits until verifyd has no session with this server.
async fn is_left(server: &PrivatePostgres) {
    let mut sql = PgConnection::connect(&server.url()).await.unwrap();
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'verifyd'";
    until("no session with the former primary is left", async || {
        let left = sqlx::query_scalar::<_, i64>(sessions);
        left.fetch_one(&mut sql).await.unwrap() == 0
    })
    .await;
}

/// For a while the workers see a standby, which only reads. Then it is promoted. What a client was
/// told to be committed is there, as commits wait for the standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_the_primary() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let standby = synchronous_standby(&scene, &mut primary).await;

    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let first = scene.serve_by("DATABASE_URL", &url);
    let second = scene.serve_by("DATABASE_URL", &url);
    let producer = scene.producer();
    scene.completed_at_least(40).await;

    primary.crash();
    let mut recorded = producer.stop().await.len();
    way.lead_to(standby.port());
    scene.bench.database.has_moved_to(&standby.url());
    let reads_only = "SELECT pg_is_in_recovery()::int::bigint";
    assert_eq!(scene.number(reads_only).await, 1);
    let before = scene.number(COMPLETED).await;
    until("a worker that cannot claim says so", async || {
        first.get("/readyz").await.0 != 200
    })
    .await;
    assert_eq!(scene.number(COMPLETED).await, before);

    scene.number("SELECT pg_promote()::int::bigint").await;
    let producer = scene.producer();
    scene.completed_at_least(before + 40).await;
    recorded += producer.stop().await.len();
    for run in scene.ends_soundly().await {
        let meant = scene.members[&run.connection].outcome;
        // On a busy machine all of its attempts may have met with the failover.
        let spent = run.failures.iter().any(|reason| reason == "worker_lost");
        assert!(run.outcome == meant || spent, "{run:?}");
    }
    assert!(scene.number(COMPLETED).await >= i64::try_from(recorded).unwrap());
    for worker in [&first, &second] {
        worker.ready().await;
    }
    drop(scene);
}

/// Nothing between the worker and the servers moves: it finds the promoted standby by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_both_hosts_in_its_url_follows_the_primary() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let standby = synchronous_standby(&scene, &mut primary).await;
    let direct = scene.bench.database.url();
    let url = with_ports(&direct, [standby.port(), primary.port()]);
    let worker = scene.serve_by("DATABASE_URL", &url);
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    scene.bench.set("DATABASE_URL", url);
    let (of_primary, of_standby) = (primary.port(), standby.port());
    assert_eq!(
        scene.bench.examined("hosts")["found"],
        format!(
            "127.0.0.1:{of_standby} standby, 127.0.0.1:{of_primary} primary; in use is 127.0.0.1:{of_primary}"
        )
    );

    primary.crash();
    let mut recorded = producer.stop().await.len();
    scene.bench.database.has_moved_to(&standby.url());
    let before = scene.number(COMPLETED).await;
    until("a worker that cannot claim says so", async || {
        worker.get("/readyz").await.0 != 200
    })
    .await;
    scene.number("SELECT pg_promote()::int::bigint").await;
    let producer = scene.producer();
    scene.completed_at_least(before + 20).await;
    recorded += producer.stop().await.len();
    scene.ends_soundly().await;
    assert!(scene.number(COMPLETED).await >= i64::try_from(recorded).unwrap());
    worker.ready().await;
    drop(scene);
}

/// The former primary still answers, and keeps the sessions of the worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_leaves_a_primary_that_only_reads() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let standby = synchronous_standby(&scene, &mut primary).await;
    let direct = scene.bench.database.url();
    let url = with_ports(&direct, [standby.port(), primary.port()]);
    let url = format!("{url}?target_session_attrs=read-write");
    let worker = scene.bench.serve(&[
        ("DATABASE_URL", &url),
        ("VERIFYD__LOG__FILTER", "info,verifyd=debug"),
    ]);
    scene.completes(5).await;
    until("it listens", async || {
        worker.metric("verifyd_listening").await > 0.0
    })
    .await;

    // Nothing but heartbeats and sweeps is under way, which may be lost. Their commits wait for no standby any more.
    configure(&scene, "synchronous_standby_names = ''").await;
    configure(&scene, "default_transaction_read_only = on").await;
    let behind = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn < pg_current_wal_lsn()";
    scene.until(behind, |n| n == 0).await;
    scene.bench.database.has_moved_to(&standby.url());
    scene.number("SELECT pg_promote()::int::bigint").await;
    scene.record(5).await;
    scene.ends_soundly().await;
    worker.ready().await;
    is_left(&primary).await;
    // A probe would find it later, too.
    until("listening moves with the switch", async || {
        let printed = scene.bench.printed.lock().unwrap();
        printed.contains("another host accepts writes")
    })
    .await;
    drop(scene);
}

/// The former primary keeps the sessions of the worker, and goes on writing in them.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loses_sight_of_a_primary_leaves_it() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let standby = synchronous_standby(&scene, &mut primary).await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let through = url::Url::parse(&url).unwrap().port().unwrap();
    let url = with_ports(&url, [through, standby.port()]);
    // The session of heartbeats is left for the switch, and not for one that came late on a busy machine.
    let worker = scene.bench.serve(&[
        ("DATABASE_URL", &url),
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "15s"),
        ("VERIFYD__WORKER__DEAD_AFTER", "60s"),
    ]);
    scene.completes(5).await;

    // Heartbeats and sweeps may be lost, which wait for no standby any more.
    configure(&scene, "synchronous_standby_names = ''").await;
    way.refuse();
    scene.bench.database.has_moved_to(&standby.url());
    scene.number("SELECT pg_promote()::int::bigint").await;
    is_left(&primary).await;
    scene.record(5).await;
    scene.ends_soundly().await;
    worker.ready().await;
    drop(scene);
}

/// Nobody has fenced the former primary, which answers at once. The present one answers late, and later not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_leaves_a_former_primary_and_never_returns_to_it() {
    let mut former = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&former.url()).await).await;
    let present = synchronous_standby(&scene, &mut former).await;
    // Its commits wait for no standby any more.
    configure(&scene, "synchronous_standby_names = ''").await;
    let direct = scene.bench.database.url();
    scene.bench.database.has_moved_to(&present.url());
    scene.number("SELECT pg_promote()::int::bigint").await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let through = url::Url::parse(&url).unwrap().port().unwrap();
    let url = with_ports(&direct, [former.port(), through]);

    way.silence();
    let worker = scene.serve_by("DATABASE_URL", &url);
    way.open();
    scene.record(5).await;
    scene.ends_soundly().await;
    is_left(&former).await;
    scene.bench.set("DATABASE_URL", url);
    let of_former = former.port();
    assert_eq!(
        scene.bench.examined("hosts")["found"],
        format!(
            "127.0.0.1:{of_former} former primary, 127.0.0.1:{through} primary; in use is 127.0.0.1:{through}"
        )
    );

    way.refuse();
    way.cut();
    until("it stays with the host that is gone", async || {
        let printed = scene.bench.printed.lock().unwrap();
        printed.contains("the host that was used stays in use")
    })
    .await;
    way.open();
    scene.record(5).await;
    scene.ends_soundly().await;
    is_left(&former).await;
    worker.ready().await;
    drop(scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changes_in_its_file_is_followed() {
    let server = PrivatePostgres::start();
    let scene = Scene::on(TestDatabase::create_on(&server.url()).await).await;
    let create = "CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'p4ss-first'";
    scene.bench.execute(create).await;
    server.require_passwords();
    scene.bench.execute("SELECT pg_reload_conf()").await;
    let url = scene.bench.url_of("rotated");
    let wrong = url.replace("rotated@", "rotated:wrong@");
    until("the server asks for the password", async || {
        PgConnection::connect(&wrong).await.is_err()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "p4ss-first\n").unwrap();
    let worker = scene.bench.serve(&[
        ("DATABASE_URL", &url),
        ("VERIFYD__DATABASE__PASSWORD_FILE", file.to_str().unwrap()),
    ]);
    let producer = scene.producer();
    scene.completed_at_least(20).await;

    std::fs::write(&file, "p4ss-second\n").unwrap();
    let alter = "ALTER ROLE rotated PASSWORD 'p4ss-second'";
    scene.bench.execute(alter).await;
    let terminate =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'rotated'";
    assert!(scene.number(terminate).await > 0);
    let before = scene.number(COMPLETED).await;
    scene.completed_at_least(before + 20).await;
    let recorded = producer.stop().await.len();
    scene.ends_soundly().await;
    assert!(scene.number(COMPLETED).await >= i64::try_from(recorded).unwrap());
    worker.ready().await;
    let printed = scene.bench.printed.lock().unwrap().clone();
    assert!(!printed.contains("p4ss-"), "{printed}");
    drop(scene);
}
