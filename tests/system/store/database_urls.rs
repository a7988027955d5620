//! Which database a URL means.

use crate::store::bed::settings;
use test_support::postgres::TestDatabase;
use test_support::proxy::Proxy;
use test_support::waiting::within;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use verifyd::ports::store::StoreError;

#[tokio::test]
async fn an_unknown_scheme_is_refused_without_quoting_the_url() {
    for url in ["mysql://root:p4ss@host/db", "p4ss", "p4ss:x", ""] {
        let error = verifyd::store::connect(&settings(url))
            .await
            .unwrap_err()
            .to_string();
        for allowed in ["postgres://", "postgresql://", "sqlite:"] {
            assert!(error.contains(allowed), "{error}");
        }
        assert!(!error.contains("p4ss"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let url = "postgres://verifyd:p4ss@127.0.0.1:1/verifyd";
    let error = verifyd::store::connect(&settings(url)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(!error.to_string().contains("p4ss"), "{error}");
}

/// Passes what comes to an IPv6 address on to the server of the tests.
async fn behind_ipv6(server: std::net::SocketAddr) -> std::io::Result<std::net::SocketAddr> {
    let listener = tokio::net::TcpListener::bind("[::1]:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut inner, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut outer = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
            });
        }
    });
    Ok(address)
}

/// Half of the time to open a connection is longer than the test has.
#[tokio::test]
async fn a_host_that_says_nothing_delays_the_first_connection_by_seconds() {
    let database = TestDatabase::create().await;
    let (way, silent) = Proxy::before(&database.url()).await;
    way.silence();
    let port = |url: &str| url::Url::parse(url).unwrap().port().unwrap();
    let (answers, silent) = (port(&database.url()), port(&silent));
    let host = format!("127.0.0.1:{answers}");
    let both = format!("{host},127.0.0.1:{silent}");
    let settings = settings(&database.url().replace(&host, &both));
    let store = within("it is opened", verifyd::store::connect(&settings)).await;
    store.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn an_ipv6_address_is_connected_to_and_not_looked_up() {
    for url in ["postgres://u@[::1]:1/d", "postgres://u@h:1/d?host=[::1]"] {
        let error = verifyd::store::connect(&settings(url)).await.unwrap_err();
        assert!(error.is_transient(), "{url}: {error}");
        assert!(!error.to_string().contains("lookup"), "{url}: {error}");
    }
    let mut url = url::Url::parse(&std::env::var("VERIFYD_TEST_DATABASE_URL").unwrap()).unwrap();
    let host = url.host_str().unwrap().to_owned();
    let server = tokio::net::lookup_host((host, url.port().unwrap_or(5432)))
        .await
        .unwrap()
        .next()
        .unwrap();
    // A machine without IPv6 has shown above what it can.
    let Ok(address) = behind_ipv6(server).await else {
        return;
    };
    url.set_host(Some("[::1]")).unwrap();
    url.set_port(Some(address.port())).unwrap();
    let store = verifyd::store::connect(&settings(url.as_str()))
        .await
        .unwrap();
    store.ping().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn an_unknown_option_is_no_fault_of_the_schema() {
    for (options, words) in [
        (
            "-c nonsense=1",
            "unrecognized configuration parameter \"nonsense\" (SQLSTATE 42704)",
        ),
        (
            "-c statement_timeout=soon",
            "invalid value for parameter \"statement_timeout\": \"soon\" (SQLSTATE 22023)",
        ),
    ] {
        let mut url =
            url::Url::parse(&std::env::var("VERIFYD_TEST_DATABASE_URL").unwrap()).unwrap();
        url.query_pairs_mut().append_pair("options", options);
        let error = verifyd::store::connect(&settings(url.as_str()))
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn the_first_reason_of_several_hosts_has_its_code() {
    let mut url = url::Url::parse(&std::env::var("VERIFYD_TEST_DATABASE_URL").unwrap()).unwrap();
    url.set_path("not_there");
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let url = url.as_str().replacen(&host, &format!("{host},{host}"), 1);
    let error = verifyd::store::connect(&settings(&url)).await.unwrap_err();
    assert!(error.to_string().contains("accepts writes"), "{error}");
    assert_eq!(error.sqlstate(), Some("3D000"), "{error}");
}

/// Asks for SCRAM, up to the message that the client answers with a proof of the password.
async fn asking_for_scram() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let authentication = |kind: u32, data: &[u8]| {
        let length = u32::try_from(8 + data.len()).unwrap();
        [&b"R"[..], &length.to_be_bytes(), &kind.to_be_bytes(), data].concat()
    };
    let answers = [
        authentication(10, b"SCRAM-SHA-256\0\0"),
        authentication(11, b"r=nonce,s=c2FsdA==,i=4096"),
    ];
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut message = [0; 1024];
        for answer in answers {
            assert!(stream.read(&mut message).await.unwrap() > 0);
            stream.write_all(&answer).await.unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    address
}

#[tokio::test]
async fn a_password_that_the_driver_cannot_prepare_is_the_reason() {
    for character in [
        "%E2%80%A8",
        "%F0%9F%98%80",
        // `ẞ`, newer than Unicode 3.2; of private use; U+FFFD; from right to left.
        "%E1%BA%9E",
        "%EE%80%80",
        "%EF%BF%BD",
        "%D7%90",
    ] {
        let server = asking_for_scram().await;
        let url = format!("postgres://u:p4ss{character}@{server}/d?sslmode=disable");
        let error = verifyd::store::connect(&settings(&url)).await.unwrap_err();
        assert!(matches!(error, StoreError::Settings(_)), "{error}");
        let error = error.to_string();
        assert!(error.contains("with this password: SASLprep"), "{error}");
        assert!(!error.contains("p4ss"), "{error}");
    }
}
