//! The proxy that the environment names, used by every call of the real binary.

use crate::notify::receiver::Receiver;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use test_support::bench::Bench;
use test_support::connect_proxy::{ConnectProxy, Way};
use test_support::tls_identity::Identity;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const LOGIN: &str = "login.example.test";
const GRAPH: &str = "graph.example.test";
const HOOKS: &str = "hooks.example.test";

/// TLS in front of a server that has none.
async fn before(identity: &Identity, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(identity.server()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut to = TcpStream::connect(to).await.ok()?;
                tokio::io::copy_bidirectional(&mut stream, &mut to)
                    .await
                    .ok()
            });
        }
    });
    address
}

/// The simulator under the name of Graph: it knows itself by its own address only.
async fn renamed(simulator: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let encoded =
        |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let graph = format!("https://{GRAPH}");
    let forward = move |request: axum::extract::Request| async move {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body = String::from_utf8(body.into()).unwrap();
        let body = body.replace(&encoded(&graph), &encoded(&simulator));
        let mut headers = parts.headers;
        headers.remove("host");
        headers.remove("content-length");
        let answer = reqwest::Client::new()
            .request(parts.method, format!("{simulator}{}", parts.uri))
            .headers(headers)
            .body(body)
            .send()
            .await
            .unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap().replace(&simulator, &graph);
        let kind = headers["content-type"].clone();
        (status, [("content-type", kind)], text)
    };
    let app = axum::Router::new().fallback(forward);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

struct Scene {
    bench: Bench,
    proxy: ConnectProxy,
    connection: i64,
    _certificate: tempfile::NamedTempFile,
}

/// Login, Graph and a receiver, to which only the proxy leads.
async fn scene(way: Way) -> Scene {
    let mut bench = Bench::new().await;
    let identity = Identity::of(&[LOGIN, GRAPH, HOOKS]);
    let simulator = renamed(bench.simulator.base_url.clone()).await;
    let proxy = ConnectProxy::start(way, before(&identity, simulator).await).await;
    let receiver = SocketAddr::from(([127, 0, 0, 1], Receiver::start().await.port));
    proxy.leads(HOOKS, before(&identity, receiver).await);
    let certificate = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(certificate.path(), identity.pem()).unwrap();
    let path = certificate.path().to_str().unwrap().to_owned();
    let address = format!("http://us%40er:canary%3Aword@127.0.0.1:{}", proxy.port);
    for (name, value) in [
        ("SSL_CERT_FILE", path),
        ("HTTPS_PROXY", address),
        ("VERIFYD__MICROSOFT__DEFAULT_CLOUD", "simulated".into()),
        (
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__LOGIN",
            format!("https://{LOGIN}"),
        ),
        (
            "VERIFYD__MICROSOFT__CLOUDS__SIMULATED__GRAPH",
            format!("https://{GRAPH}"),
        ),
    ] {
        bench.set(name, value);
    }
    let connection = bench.healthy(1);
    Scene {
        bench,
        proxy,
        connection,
        _certificate: certificate,
    }
}

impl Scene {
    async fn checked(&self) -> Value {
        let run = self.bench.enqueue(self.connection);
        let _worker = self.bench.serve(&[]);
        self.bench.all_completed().await;
        self.bench.json(&["runs", "show", &run.to_string()])
    }

    /// What `doctor` says of the way out.
    fn examined(&self) -> (i32, Vec<(String, String)>) {
        let output = self.bench.run(&["doctor", "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let parts = said["parts"].as_array().unwrap().iter();
        let lines = parts.filter(|part| part["part"] == "outbound").map(|part| {
            let text = |member: &str| part[member].as_str().unwrap_or_default().to_owned();
            (text("state"), text("found"))
        });
        (output.status.code().unwrap(), lines.collect())
    }

    /// No process has printed user or password.
    fn assert_silent(&self) {
        let printed = self.bench.printed.lock().unwrap();
        for secret in ["canary", "us@er", "us%40er", "dXNAZXI6"] {
            assert!(!printed.contains(secret), "{secret}: {printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_and_webhooks_use_the_proxy_of_the_environment() {
    let scene = scene(Way::OpenFor("us@er:canary:word".into())).await;
    let url = format!("https://{HOOKS}/hook");
    let arguments = ["webhooks", "add", "--workspace", "1", "--url", &url];
    assert!(scene.bench.run(&arguments).status.success());
    let run = scene.checked().await;
    assert_eq!(run["outcome"], "succeeded", "{run}");
    {
        let _worker = scene.bench.serve(&[]);
        let delivered = "SELECT count(*) FROM verifyd.webhook_deliveries WHERE state = 'delivered'";
        scene.bench.until(delivered, |count| count == 1).await;
    }
    let asked: BTreeSet<String> = scene.proxy.asked().into_iter().collect();
    let wanted = [LOGIN, GRAPH, HOOKS].map(|host| format!("{host}:443"));
    assert_eq!(asked, wanted.into());

    let (code, lines) = scene.examined();
    assert_eq!(code, 0, "{lines:?}");
    let name = format!("127.0.0.1:{}", scene.proxy.port);
    let found: Vec<&str> = lines.iter().map(|(_, found)| found.as_str()).collect();
    assert_eq!(
        found[0],
        format!("proxy {name} (environment variable HTTPS_PROXY)")
    );
    for host in [LOGIN, GRAPH] {
        let line = format!("{host}: through {name}, which opens the way");
        assert!(found.contains(&line.as_str()), "{found:?}");
    }
    let printed = scene.bench.printed.lock().unwrap().clone();
    assert!(printed.contains("outbound calls use a proxy"));
    assert!(printed.contains(&name));
    scene.assert_silent();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_is_named_by_report_and_doctor() {
    let scene = scene(Way::OpenFor("somebody:else".into())).await;
    let run = scene.checked().await;
    assert_eq!(run["outcome"], "failed", "{run}");
    let text = run.to_string();
    let name = format!("127.0.0.1:{}", scene.proxy.port);
    for part in [
        "proxy_refused",
        &name,
        "the proxy does not accept the user name and the password (407)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("canary"), "{text}");
    let (code, lines) = scene.examined();
    assert_eq!(code, 1);
    let failed: Vec<_> = lines
        .iter()
        .filter(|(state, _)| state == "failed")
        .collect();
    assert_eq!(failed.len(), 2, "{lines:?}");
    assert!(failed.iter().all(|(_, found)| found.contains("(407)")));
    scene.assert_silent();
}

#[tokio::test(flavor = "multi_thread")]
async fn none_and_no_proxy_win_over_the_environment() {
    for (name, value) in [
        ("VERIFYD__OUTBOUND__PROXY", "none"),
        ("NO_PROXY", "example.test"),
        ("VERIFYD__OUTBOUND__NO_PROXY", ".example.test:443"),
    ] {
        let mut scene = scene(Way::Open).await;
        scene.bench.set(name, value);
        let run = scene.checked().await;
        // The names lead nowhere without the proxy.
        assert_eq!(run["outcome"], "failed", "{name}: {run}");
        assert!(run.to_string().contains("provider_unreachable"), "{run}");
        assert_eq!(scene.proxy.asked(), Vec::<String>::new(), "{name}");
    }
}
