//! Which database a URL means.

use crate::bed::settings;

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
