//! Calls whose caller goes away.

use crate::store::bed::settings;
use std::io::Write;
use std::sync::{Arc, Mutex};
use test_support::postgres::TestDatabase;
use test_support::proxy::{Act, Proxy, Rule};
use tracing_subscriber::fmt::MakeWriter;

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The driver forgets a `BEGIN` whose answer nobody waits for. The next call on that connection would be
/// within the transaction of the one before, at its time.
#[tokio::test]
async fn a_call_that_is_cancelled_while_it_begins_leaves_no_transaction() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
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
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains("already a transaction"), "{log}");
}
