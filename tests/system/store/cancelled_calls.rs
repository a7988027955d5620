//! Calls whose caller goes away.

use crate::store::bed::settings;
use crate::store::fixtures::logged;
use std::sync::Arc;
use test_support::postgres::TestDatabase;
use test_support::proxy::{Act, Proxy, Rule};

/// The driver forgets a `BEGIN` whose answer nobody waits for. The next call on that connection would be
/// within the transaction of the one before, at its time.
#[tokio::test]
async fn a_call_that_is_cancelled_while_it_begins_leaves_no_transaction() {
    let (log, _logged) = logged();
    let database = TestDatabase::create().await;
    let store = verifyd::store::connect(&settings(&database.url())).await;
    store.unwrap().migrate().await.unwrap();
    let (way, url) = Proxy::before(&database.url()).await;
    let mut settings = settings(&url);
    settings.max_connections = 1;
    for n in 1..=3 {
        // The pool is empty: a connection's first transaction is this call's.
        let store = verifyd::store::connect(&settings).await.unwrap();
        way.at(Rule {
            after: "",
            on: "BEGIN; SET LOCAL",
            act: Act::HoldReply,
            times: 1,
        });
        let call = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.counts().await }
        });
        way.has_acted(n).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        way.release();
        store.counts().await.unwrap();
    }
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(!log.contains("already a transaction"), "{log}");
}
