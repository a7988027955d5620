//! Answers of the provider, over real HTTP on loopback, so that everything between the socket and
//! the report is in it. A provider of its own for each input: nothing is remembered.

use crate::hostile_server::{answer, request};
use crate::microsoft::{self, Still};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use verifyd::domain::report::{ReportDraft, schema};
use verifyd::ports::clock::Clock as _;
use verifyd::ports::provider::{Provider as _, Target};
use verifyd::provider::microsoft::{MicrosoftProvider, MicrosoftSettings, Pauses};

const TOKEN: &str = r#"{"token_type":"Bearer","expires_in":3599,"access_token":"opaque-canary"}"#;

/// What a server says: the status in the first line, the body in the others.
#[derive(Clone)]
struct Said {
    status: u16,
    body: Vec<u8>,
}

impl Said {
    fn read(data: &[u8]) -> Self {
        let mut parts = data.splitn(2, |b| *b == b'\n');
        let status = parts
            .next()
            .and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok())
            .filter(|status| (200..600).contains(status));
        match (status, parts.next()) {
            (Some(status), Some(body)) => Self {
                status,
                body: body.to_vec(),
            },
            _ => Self {
                status: 200,
                body: data.to_vec(),
            },
        }
    }
}

/// The answer of the token endpoint. Graph knows nothing.
pub fn token_response(data: &[u8]) -> bool {
    let nothing = Said {
        status: 404,
        body: b"{}".to_vec(),
    };
    check(Said::read(data), vec![nothing], "provider.authentication")
}

/// The answers of Graph, one behind the other, divided by lines of `---`; the last is repeated.
/// `{base}` in them is Graph's own address.
pub fn graph_pages(data: &[u8]) -> bool {
    let mut answers = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(5).position(|w| w == b"\n---\n") {
        answers.push(Said::read(&rest[..at]));
        rest = &rest[at + 5..];
    }
    answers.push(Said::read(rest));
    let token = Said {
        status: 200,
        body: TOKEN.into(),
    };
    check(token, answers, "permissions.inventory")
}

/// Makes one check against a server that says this. True when the check `key` passed.
fn check(token: Said, graph: Vec<Said>, key: &str) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        panic!("no runtime");
    };
    runtime.block_on(async {
        let Ok(listener) = TcpListener::bind("127.0.0.1:0").await else {
            panic!("no port");
        };
        let Ok(address) = listener.local_addr() else {
            panic!("no address");
        };
        let base = format!("http://{address}");
        let server = tokio::spawn(serve(listener, token, graph, base.clone()));
        let Ok(provider) = MicrosoftProvider::new(&settings(&base), Arc::new(Still)) else {
            panic!("no provider");
        };
        let target = target();
        let findings = provider.check(&target).await;
        server.abort();
        let passed = findings.checks.iter().any(|check| {
            check.key == key && check.status == verifyd::domain::report::CheckStatus::Pass
        });
        let finished = ReportDraft {
            identity: Default::default(),
            generated_at: Still.now(),
            previous_report_id: None,
            checks: findings.checks,
        }
        .finish(&target.credential.secret_values(), "/runs/1");
        assert_eq!(finished.replaced, None, "the findings make a valid report");
        let text = finished.json.get();
        let tree = serde_json::from_str(text).expect("a report is JSON");
        assert_eq!(schema::validate(&tree), Ok(()));
        assert!(!text.contains("canary"));
        passed
    })
}

async fn serve(listener: TcpListener, token: Said, graph: Vec<Said>, base: String) {
    let mut asked = 0;
    while let Ok((mut stream, _)) = listener.accept().await {
        if let Some(head) = request(&mut stream).await {
            let path = head.split(' ').nth(1);
            let said = if path.is_some_and(|path| path.ends_with("/oauth2/v2.0/token")) {
                &token
            } else {
                asked += 1;
                &graph[(asked - 1).min(graph.len() - 1)]
            };
            let body = replaced(&said.body, &base);
            // Closed after each answer: one connection at a time is enough.
            let said = answer(
                &format!("{} x", said.status),
                "connection: close\r\n",
                &body,
            );
            let _ = stream.write_all(&said).await;
        }
    }
}

fn replaced(body: &[u8], base: &str) -> Vec<u8> {
    match std::str::from_utf8(body) {
        Ok(text) => text.replace("{base}", base).into_bytes(),
        Err(_) => body.to_vec(),
    }
}

fn settings(base: &str) -> MicrosoftSettings {
    MicrosoftSettings {
        request_timeout: Duration::from_secs(20),
        max_attempts_per_request: 1,
        pauses: Pauses {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1),
            ..Pauses::default()
        },
        ..microsoft::settings(base, base)
    }
}

fn target() -> Target {
    Target {
        deadline: tokio::time::Instant::now() + Duration::from_secs(120),
        ..microsoft::target("intune")
    }
}
