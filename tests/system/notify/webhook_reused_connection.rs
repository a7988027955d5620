//! A receiver that closes connections on which it has answered.

use crate::notify::webhook_circuits::record;
use crate::notify::webhooks::{add, bench, ended};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use test_support::waiting::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Reads one request to its end. False: there was none.
async fn has_request(stream: &mut TcpStream) -> bool {
    let mut read: Vec<u8> = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let mut lines = head.lines();
            let length = lines.find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.unwrap().trim().parse().unwrap();
            if read.len() >= end + 4 + length {
                return true;
            }
        }
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return false;
        }
    }
}

/// Answers the first request of each connection, keeps that open, and closes it without an answer to the second one,
/// which it counts.
async fn closing(unanswered: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let unanswered = Arc::clone(&unanswered);
            tokio::spawn(async move {
                if !has_request(&mut stream).await {
                    return;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                let answered = stream.write_all(answer).await;
                if answered.is_ok() && has_request(&mut stream).await {
                    unanswered.fetch_add(1, SeqCst);
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_lost_on_a_used_connection_is_sent_again_at_once() {
    let (mut bench, connection, _receiver) = bench().await;
    bench.set("VERIFYD__WEBHOOKS__REQUEST_TIMEOUT", "5m");
    let unanswered = Arc::new(AtomicU64::new(0));
    let port = closing(Arc::clone(&unanswered)).await;
    let (endpoint, _) = add(&bench, &format!("http://127.0.0.1:{port}/hook"), &[]);
    let _worker = bench.serve(&[]);
    // Each message takes the connection of the one before, if that is free again.
    until("a used connection was closed", async || {
        record(&bench, connection, 1).await;
        ended(&bench, endpoint).await;
        unanswered.load(SeqCst) > 0
    })
    .await;
    let deliveries = ended(&bench, endpoint).await;
    assert!(
        deliveries
            .iter()
            .all(|d| d["state"] == "delivered" && d["attempts"] == 1),
        "{deliveries:?}"
    );
}
