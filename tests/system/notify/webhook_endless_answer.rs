//! A receiver that answers 1xx without end.

use crate::notify::webhook_circuits::{record, set};
use crate::notify::webhooks::{add, bench};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The most that one connection took.
async fn interim_answers(most: Arc<AtomicU64>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let most = Arc::clone(&most);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let piece = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
                let mut taken = 0;
                while stream.write_all(&piece).await.is_ok() {
                    taken += piece.len() as u64;
                    most.fetch_max(taken, SeqCst);
                }
            });
        }
    });
    port
}

/// The limit of an attempt is far away: it is the answer itself that ends it. Runs are completed
/// meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_without_end_fail_the_attempt_and_hold_up_no_run() {
    let (mut bench, connection, _receiver) = bench().await;
    set(&mut bench, &[("REQUEST_TIMEOUT", "5m")]);
    let most = Arc::new(AtomicU64::new(0));
    let port = interim_answers(Arc::clone(&most)).await;
    add(&bench, &format!("http://127.0.0.1:{port}/endless"), &[]);
    let _worker = bench.serve(&[]);
    // Fewer than open the circuit.
    record(&bench, connection, 4).await;
    let failed = "SELECT count(*) FROM verifyd.webhook_attempts WHERE result = 'response_invalid'";
    bench.until(failed, |attempts| attempts >= 4).await;
    let others = "verifyd.webhook_attempts WHERE result <> 'response_invalid'";
    assert_eq!(bench.count(others).await, 0);
    // 64 KiB, and what the kernel keeps on the way: a few MiB.
    let most = most.load(SeqCst);
    assert!((1..32 << 20).contains(&most), "{most} bytes");
}
