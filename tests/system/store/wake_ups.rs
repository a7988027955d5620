//! PostgreSQL's notifications: who is woken by what, and when nothing arrives.

use crate::store::bed::{Bed, settings};
use crate::store::fixtures::context;
use secrecy::SecretString;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgListener};
use std::sync::Arc;
use std::time::Duration;
use test_support::pgbouncer::PgBouncer;
use test_support::proxy::Proxy;
use test_support::waiting::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use verifyd::domain::run::RUN_TYPE;
use verifyd::ports::probe::{Pooling, Writing};
use verifyd::ports::store::Store;
use verifyd::ports::wake::{Listening, WakeSignal};
use verifyd::store::ListenMode;

async fn rung(signal: &WakeSignal) {
    tokio::time::timeout(PATIENCE, signal.woken())
        .await
        .expect("the signal rings");
}

fn listening(store: &Arc<dyn Store>) -> (Arc<WakeSignal>, CancellationToken) {
    let (signal, stop) = (Arc::new(WakeSignal::default()), CancellationToken::new());
    let (store, rings, until) = (Arc::clone(store), Arc::clone(&signal), stop.clone());
    tokio::spawn(async move { store.listen(&rings, until).await });
    (signal, stop)
}

/// The notifications up to a mark that is sent last.
async fn heard(bed: &Bed, listener: &mut PgListener) -> usize {
    bed.exec("NOTIFY verifyd_queued, 'mark'").await;
    let mut before = 0;
    loop {
        let next = tokio::time::timeout(PATIENCE, listener.recv()).await;
        match next.unwrap().unwrap().payload() {
            "mark" => return before,
            "" => before += 1,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn only_queued_runs_of_verifyds_type_notify_and_once_a_transaction() {
    let bed = Bed::postgres().await;
    let mut listener = PgListener::connect(&bed.url()).await.unwrap();
    listener.listen("verifyd_queued").await.unwrap();
    for (kind, status) in [("backup.restore", "queued"), (RUN_TYPE, "running")] {
        bed.insert(kind, status, &context(1)).await;
    }
    bed.exec("INSERT INTO operation_runs (type, status, context) SELECT type, status, context FROM operation_runs WHERE false").await;
    assert_eq!(heard(&bed, &mut listener).await, 0);
    bed.queued().await;
    assert_eq!(heard(&bed, &mut listener).await, 1);
    let many = format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
         SELECT 1, 7, '{RUN_TYPE}', 'queued', '{{}}' FROM generate_series(1, 1000);"
    );
    bed.exec(&format!("BEGIN; {many} {many} COMMIT")).await;
    assert_eq!(heard(&bed, &mut listener).await, 1);
    bed.exec(&format!("BEGIN; {many} ROLLBACK")).await;
    assert_eq!(heard(&bed, &mut listener).await, 0);
    // Whoever sends a hint besides asks for none; so does verifyd itself.
    bed.exec(&format!(
        "BEGIN; SET LOCAL verifyd.told = 'on'; {many} COMMIT"
    ))
    .await;
    bed.recorded(1).await;
    assert_eq!(heard(&bed, &mut listener).await, 0);
    bed.queued().await;
    bed.store.wake().await.unwrap();
    assert_eq!(heard(&bed, &mut listener).await, 2);
}

/// Of INSERTs at the same time those that get neither of two locks leave it to the others to notify.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_of_writing_keeps_no_insert_from_notifying() {
    let bed = Bed::postgres().await;
    // It would be refused while it holds one of them. Without a connection only a CHECK is found.
    bed.exec(
        "CREATE FUNCTION notifies() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             RETURN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1986359913
                            AND objid IN (10, 11) AND pid = pg_backend_pid()); END $$;
         ALTER TABLE operation_runs ADD CONSTRAINT notifies_nobody
             CHECK (status = 'queued' OR NOT notifies())",
    )
    .await;
    let tried = bed.store.try_writing().await.unwrap();
    assert!(matches!(tried, Writing::NothingTried), "{tried:?}");
    bed.connection(7).await;
    let tried = bed.store.try_writing().await.unwrap();
    let Writing::Accepted { notifies, .. } = tried else {
        panic!("{tried:?}")
    };
    assert_eq!(notifies, Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_insert_wakes_the_worker_also_after_the_connection_was_lost() {
    let bed = Bed::postgres().await;
    let (signal, stop) = listening(&bed.store);
    // Whatever came before.
    rung(&signal).await;
    bed.queued().await;
    rung(&signal).await;
    for _ in 0..2 {
        let ended = bed
            .number(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND query LIKE 'LISTEN%'",
            )
            .await;
        assert_eq!(ended, 1);
        bed.queued().await;
        rung(&signal).await;
        // It listens again when the next one is heard, too.
        let until = std::time::Instant::now() + PATIENCE;
        while bed.count("pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'").await != 1 {
            assert!(std::time::Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bed.queued().await;
        rung(&signal).await;
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listening_is_tried_and_can_be_turned_off() {
    let bed = Bed::postgres().await;
    assert_eq!(
        bed.store.try_listening().await.unwrap(),
        Listening::Received
    );
    let mut off = settings(&bed.url());
    off.listen = ListenMode::Off;
    let store = verifyd::store::connect(&off).await.unwrap();
    assert_eq!(store.try_listening().await.unwrap(), Listening::Off);
    let sqlite = Bed::sqlite().await;
    assert_eq!(sqlite.store.try_listening().await.unwrap(), Listening::Off);
}

/// A server's messages without notifications: what a client sees behind a pooler that shares
/// connections out by transaction.
async fn frozen(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) {
    loop {
        let mut head = [0; 5];
        if from.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        if from.read_exact(&mut body).await.is_err() {
            return;
        }
        if head[0] != b'A'
            && (to.write_all(&head).await.is_err() || to.write_all(&body).await.is_err())
        {
            return;
        }
    }
}

async fn frozen_proxy(server: &url::Url) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = format!("127.0.0.1:{}", server.port().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&to).await.unwrap();
            let (mut client_read, client_write) = client.into_split();
            let (server_read, mut server_write) = server.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut client_read, &mut server_write).await;
            });
            tokio::spawn(frozen(server_read, client_write));
        }
    });
    port
}

/// To open its connections takes longer than a probe has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in_slowly_only_delays_listening() {
    let bed = Bed::postgres().await;
    let (way, url) = Proxy::before(&bed.url()).await;
    way.slow(Duration::from_millis(700));
    let mut beside = settings(&bed.url());
    beside.listen_url = SecretString::from(url);
    let store = verifyd::store::connect(&beside).await.unwrap();
    let (signal, stop) = listening(&store);
    rung(&signal).await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_transaction_pooler_nothing_arrives_and_a_direct_connection_helps() {
    let bed = Bed::postgres().await;
    let direct: url::Url = bed.url().parse().unwrap();
    let mut pooler = direct.clone();
    pooler.set_port(Some(frozen_proxy(&direct).await)).unwrap();
    pooler.set_query(Some("sslmode=disable"));
    let store = verifyd::store::connect(&settings(pooler.as_str()))
        .await
        .unwrap();
    assert_eq!(store.try_listening().await.unwrap(), Listening::NotReceived);
    // Everything else works.
    bed.queued().await;
    assert_eq!(store.counts().await.unwrap().queued, 1);

    let mut beside = settings(pooler.as_str());
    beside.listen_url = SecretString::from(direct.to_string());
    let store = verifyd::store::connect(&beside).await.unwrap();
    assert_eq!(store.try_listening().await.unwrap(), Listening::Received);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_nothing_is_taken_for_heard() {
    let bed = Bed::pooled().await;
    // Without a subscription that would stay with a connection of the pooler's.
    let tried = bed.store.try_listening().await.unwrap();
    assert_eq!(tried, Listening::NotReceived);
}

/// It refuses the parameter by which a direct connection is known, as in transaction mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_in_session_mode_notifications_arrive() {
    let bed = Bed::postgres().await;
    let pooler = PgBouncer::in_session_mode(&bed.url(), 20);
    let url = pooler.url_of(&bed.url());
    let store = verifyd::store::connect(&settings(&url)).await.unwrap();
    assert_eq!(store.try_pooling().await.unwrap(), Pooling::None);
    assert_eq!(store.try_listening().await.unwrap(), Listening::Received);
}

/// Two idle sessions, of which each statement gets the other one: as if each of two connections had its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_sessions_in_turn_is_not_listened_behind() {
    let bed = Bed::postgres().await;
    let pooler = PgBouncer::sharing_in_turn(&bed.url(), 2);
    let url = pooler.url_of(&bed.url());
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.extra_float_digits(None);
    let mut both = [
        options.connect().await.unwrap(),
        options.connect().await.unwrap(),
    ];
    for statement in ["BEGIN", "COMMIT"] {
        for connection in &mut both {
            sqlx::raw_sql(statement).execute(connection).await.unwrap();
        }
    }
    let store = verifyd::store::connect(&settings(&url)).await.unwrap();
    assert_eq!(store.try_pooling().await.unwrap(), Pooling::Transaction);
    assert_eq!(store.try_listening().await.unwrap(), Listening::NotReceived);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_another_database_is_listened_to_is_said() {
    let (bed, other) = (Bed::postgres().await, Bed::empty_postgres().await);
    let mut beside = settings(&bed.url());
    beside.listen_url = SecretString::from(other.url());
    let store = verifyd::store::connect(&beside).await.unwrap();
    assert_eq!(store.try_listening().await.unwrap(), Listening::Elsewhere);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_nothing_listens_is_said() {
    let bed = Bed::postgres().await;
    let mut beside = settings(&bed.url());
    beside.listen_url = SecretString::from("postgres://u@127.0.0.1:1/d".to_owned());
    let store = verifyd::store::connect(&beside).await.unwrap();
    let error = store.try_listening().await.unwrap_err().to_string();
    assert!(error.contains("no server listens there"), "{error}");
}
