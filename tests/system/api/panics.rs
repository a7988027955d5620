//! A panic in a handler is answered and counted, and costs its connection nothing.

use crate::api::scene::{Scene, serve};
use axum::extract::State;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use verifyd::http::health;
use verifyd::ports::clock::{Clock, SystemClock};
use verifyd::telemetry::metrics::Metrics;

/// A clock that panics while it is asked to.
#[derive(Debug, Default)]
struct Broken(AtomicBool);

impl Clock for Broken {
    fn now(&self) -> DateTime<Utc> {
        assert!(
            !self.0.load(Ordering::Relaxed),
            "the clock of a test is broken"
        );
        SystemClock.now()
    }
}

/// Asks on this connection; the whole answer.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split_once("content-length: ").expect("a length").1;
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if all.len() >= head.len() + 4 + length {
                let _ = body;
                return String::from_utf8_lossy(&all).into_owned();
            }
        }
        all.push(stream.read_u8().await.expect("the connection lives"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_answered_and_counted_and_the_connection_lives() {
    let metrics = verifyd::telemetry::metrics::install().unwrap();
    let scene = Scene::postgres().await;
    let token = scene.master().await;
    let clock = Arc::new(Broken::default());
    let mut services = scene.world.services.clone();
    services.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    let stop = CancellationToken::new();
    let base = serve(&services, stop.clone()).await;
    let host = base.strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&host).await.unwrap();
    let login = format!("token={token}");
    let login = format!(
        "POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: {base}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{login}",
        login.len()
    );
    let entered = ask(&mut stream, &login).await;
    let cookie = entered
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "));
    let cookie = cookie.unwrap().split(';').next().unwrap();
    let requests = [
        (
            format!(
                "GET /v1/acknowledgements HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
            ),
            "urn:verifyd:problem:defect",
        ),
        (
            format!("GET /runs HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n"),
            "This page could not be made",
        ),
    ];
    for (request, said) in &requests {
        for _ in 0..2 {
            clock.0.store(true, Ordering::Relaxed);
            let answer = ask(&mut stream, request).await;
            assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
            assert!(answer.contains(said), "{answer}");
            clock.0.store(false, Ordering::Relaxed);
            // The same connection, and the place of the request is free again.
            for _ in 0..10 {
                let answer = ask(&mut stream, request).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
        }
    }
    // So are the calls that health requests share. Without timers in the runtime, their timeouts panic.
    let health = services.health(&services.worker(), Metrics::detached(), stop.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let measured = health::metrics(State(Arc::clone(&health))).await;
            (
                measured.status(),
                health::ready(State(health)).await.status(),
            )
        })
    });
    let (measured, ready) = asked.await.unwrap();
    assert_eq!((measured.as_u16(), ready.as_u16()), (500, 503));
    let counted = "\nverifyd_http_panics_total 7\n";
    assert!(metrics.render().contains(counted), "{}", metrics.render());
    stop.cancel();
}
