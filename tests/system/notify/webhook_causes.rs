//! What the real binary says of a receiver that it cannot reach.

use crate::notify::webhook_circuits::record;
use crate::notify::webhooks::{add, bench, deliveries};
use test_support::hostile_server::tls::{certificate, serve};
use verifyd::domain::tls_cause::TlsCause;

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_says_why_tls_failed_and_what_to_do() {
    let (bench, connection, _receiver) = bench().await;
    let (unsigned, key) = certificate(None, "localhost", false);
    let url = serve(unsigned, &key).0.replace("localhost", "127.0.0.1");
    let (endpoint, _) = add(&bench, &url, &[]);
    let _worker = bench.serve(&[]);
    record(&bench, connection, 1).await;
    let failed = "SELECT count(*) FROM verifyd.webhook_attempts WHERE result = 'tls_failed'";
    bench.until(failed, |attempts| attempts > 0).await;
    let delivery = deliveries(&bench, endpoint)[0]["id"].to_string();
    let attempts = bench.json(&["webhooks", "attempts", &delivery]);
    let cause = TlsCause::UnknownIssuer;
    let expected = format!("no trusted TLS connection: {cause}; {}", cause.step());
    assert_eq!(attempts[0]["cause"], expected);
    let shown = bench.run(&["webhooks", "attempts", &delivery]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("tls_failed: no trusted"), "{shown}");
}
