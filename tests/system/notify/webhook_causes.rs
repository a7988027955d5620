//! What the real binary says of receivers that it cannot reach.

use crate::notify::webhook_circuits::record;
use crate::notify::webhooks::{add, bench, deliveries};
use test_support::hostile_server::tls::{certificate, serve};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use verifyd::domain::tls_cause::TlsCause;

/// The address of a receiver that closes each connection during the handshake.
async fn closing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_says_why_tls_failed_and_what_to_do() {
    let (bench, connection, _receiver) = bench().await;
    let (unsigned, key) = certificate(None, "localhost", false);
    let unsigned = serve(unsigned, &key).0.replace("localhost", "127.0.0.1");
    let cases = [
        (unsigned, "tls_failed", TlsCause::UnknownIssuer),
        (closing().await, "unreachable", TlsCause::Closed),
    ]
    .map(|(url, result, cause)| (add(&bench, &url, &[]).0, result, cause));
    let worker = bench.serve(&[]);
    record(&bench, connection, 1).await;
    for (endpoint, result, cause) in cases {
        let failed = format!(
            "SELECT count(*) FROM verifyd.webhook_attempts a \
             JOIN verifyd.webhook_deliveries d ON d.id = a.delivery_id \
             WHERE d.endpoint_id = {endpoint} AND a.result = '{result}'"
        );
        bench.until(&failed, |attempts| attempts > 0).await;
        let delivery = deliveries(&bench, endpoint)[0]["id"].to_string();
        let attempts = bench.json(&["webhooks", "attempts", &delivery]);
        let expected = format!("no trusted TLS connection: {cause}; {}", cause.step());
        // On a busy machine others may have timed out.
        let mut attempts = attempts.as_array().unwrap().iter();
        let attempt = attempts.find(|attempt| attempt["result"] == result);
        assert_eq!(attempt.unwrap()["cause"], expected);
        let shown = bench.run(&["webhooks", "attempts", &delivery]).stdout;
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&format!("{result}: no trusted")), "{shown}");
        let all = bench.json(&["webhooks", "list"]);
        let mut all = all.as_array().unwrap().iter();
        let listed = all.find(|listed| listed["id"] == endpoint).unwrap();
        assert_eq!(listed["last_failure"]["cause"], expected);
    }
    let shown = bench.run(&["webhooks", "deliveries"]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(!shown.contains("no trusted"), "{shown}");
    // Each cause is logged once, with the endpoint.
    let lines = worker.lines.lock().unwrap().clone();
    let of_library = lines
        .iter()
        .find(|line| line.contains("rustls_platform_verifier"));
    assert_eq!(of_library, None);
}
