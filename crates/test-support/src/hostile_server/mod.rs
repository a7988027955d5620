//! A server on loopback that takes part in HTTP as far as a test wants it to, and all that it can do.

pub mod tls;

use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use verifyd::domain::reason::Reason;

/// 16 MiB of valid JSON in 16 KiB.
const GZIP_BOMB: &[u8] = include_bytes!("bomb.json.gz");

/// The address that gives out a machine's own credentials in many clouds.
const LINK_LOCAL: &str = "http://169.254.169.254/latest/meta-data/";

/// Whose answers are hostile; the calls before them are answered well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Token,
    /// Every call to Graph.
    Graph,
    /// The list of grants, which has pages.
    Grants,
}

/// What comes in place of an answer.
#[derive(Clone, Debug)]
pub enum Hostile {
    /// These bytes, then an orderly end.
    Bytes(Vec<u8>),
    /// The first, then the second again and again with this pause, until the caller leaves.
    Endless(Vec<u8>, Vec<u8>, Duration),
    /// These bytes and the end of what is written, while the connection is still read.
    HalfClosed(Vec<u8>),
    /// The connection is closed with the request unread.
    Unread,
}

/// A whole answer.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A hostile login and Graph in one.
#[derive(Debug)]
pub struct HostileServer {
    pub address: SocketAddr,
    /// Requests that were answered with hostility.
    pub hostile: Arc<AtomicUsize>,
    /// Requests that offered to take a compressed answer.
    pub compressed: Arc<AtomicUsize>,
}

impl HostileServer {
    /// Listens until the test's runtime ends.
    pub async fn start(at: At, what: Hostile, entra_tenant_id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            hostile: Arc::default(),
            compressed: Arc::default(),
        };
        let (hostile, compressed) = (Arc::clone(&server.hostile), Arc::clone(&server.compressed));
        let tenant = entra_tenant_id.to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (hostile, compressed) = (Arc::clone(&hostile), Arc::clone(&compressed));
                let (what, tenant) = (what.clone(), tenant.clone());
                tokio::spawn(async move {
                    // The caller hangs up on a hostile server: no failure of the test.
                    let _ = serve(stream, at, &what, &tenant, &hostile, &compressed).await;
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(
    mut stream: TcpStream,
    at: At,
    what: &Hostile,
    tenant: &str,
    hostile: &AtomicUsize,
    compressed: &AtomicUsize,
) -> std::io::Result<()> {
    if at == At::Token && matches!(what, Hostile::Unread) {
        hostile.fetch_add(1, Ordering::Relaxed);
        stream.readable().await?;
        return Ok(());
    }
    while let Some(head) = request(&mut stream).await {
        if head.to_ascii_lowercase().contains("\r\naccept-encoding:") {
            compressed.fetch_add(1, Ordering::Relaxed);
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        if let Some(body) = well(path, at, tenant) {
            stream
                .write_all(&answer("200 OK", "", body.to_string().as_bytes()))
                .await?;
            continue;
        }
        hostile.fetch_add(1, Ordering::Relaxed);
        match what {
            Hostile::Bytes(bytes) => stream.write_all(bytes).await?,
            Hostile::Endless(begin, again, pause) => {
                stream.write_all(begin).await?;
                loop {
                    stream.write_all(again).await?;
                    tokio::time::sleep(*pause).await;
                }
            }
            Hostile::HalfClosed(bytes) => {
                stream.write_all(bytes).await?;
                stream.shutdown().await?;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await?;
                return Ok(());
            }
            Hostile::Unread => return Ok(()),
        }
    }
    Ok(())
}

/// The head of the next request, whose body is read and forgotten; `None` when the caller has left.
pub(crate) async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream
            .read(&mut chunk)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length: usize = head
            .to_ascii_lowercase()
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next()?.parse().ok())
            .unwrap_or(0);
        if body.len() >= length {
            return Some(head.to_owned());
        }
    }
}

/// The answer to a call that comes before the hostile one.
fn well(path: &str, at: At, tenant: &str) -> Option<serde_json::Value> {
    if path.ends_with("/oauth2/v2.0/token") {
        let token = json!({"token_type": "Bearer", "expires_in": 3599, "access_token": "opaque"});
        return (at != At::Token).then_some(token);
    }
    if at != At::Grants || path.contains("/appRoleAssignments") {
        return None;
    }
    Some(if path.starts_with("/v1.0/organization") {
        json!({"value": [{"id": tenant}]})
    } else {
        json!({"id": "0a0a0a0a-0000-4000-8000-000000000001", "accountEnabled": true,
               "appId": "00000003-0000-0000-c000-000000000000", "appRoles": []})
    })
}

const WEB_PAGE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<html>no</html>";

/// Every way to answer, by name, and the reason in which it must end.
pub fn hostilities() -> Vec<(&'static str, Vec<At>, Hostile, Reason)> {
    let tick = Duration::from_millis(50);
    let both = || vec![At::Token, At::Graph];
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n".to_vec();
    let begun = [head.clone(), b"transfer-encoding: chunked\r\n\r\n".to_vec()].concat();
    let cut = [
        head.clone(),
        b"content-length: 99\r\n\r\n{\"value\":".to_vec(),
    ]
    .concat();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let link = |target: &str| {
        let body = serde_json::json!({"value": [], "@odata.nextLink": target});
        Hostile::Bytes(answer("200 OK", "", body.to_string().as_bytes()))
    };
    let redirect = |status: &str| {
        let location = format!("location: {LINK_LOCAL}\r\n");
        Hostile::Bytes(answer(status, &location, b"{}"))
    };
    vec![
        (
            "the headers come byte by byte",
            both(),
            Hostile::Endless(head.clone(), b"x".to_vec(), tick),
            Reason::ProviderTimeout,
        ),
        (
            "the body comes byte by byte",
            both(),
            Hostile::Endless(begun.clone(), b"1\r\n \r\n".to_vec(), tick),
            Reason::ProviderTimeout,
        ),
        (
            "always another interim answer",
            both(),
            Hostile::Endless(
                Vec::new(),
                b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000),
                Duration::ZERO,
            ),
            Reason::ResponseInvalid,
        ),
        (
            "headers without an end",
            both(),
            Hostile::Endless(head.clone(), b"x: y\r\n".repeat(1000), Duration::ZERO),
            Reason::ResponseInvalid,
        ),
        (
            "one header without an end",
            both(),
            Hostile::Endless(head, b"x".repeat(8192), Duration::ZERO),
            Reason::ResponseInvalid,
        ),
        (
            "a body without an end",
            both(),
            Hostile::Endless(
                begun,
                [b"1000\r\n".to_vec(), b" ".repeat(4096), b"\r\n".to_vec()].concat(),
                Duration::ZERO,
            ),
            Reason::ResponseTooLarge,
        ),
        (
            "a gzip bomb",
            both(),
            Hostile::Bytes(answer("200 OK", "content-encoding: gzip\r\n", GZIP_BOMB)),
            Reason::ResponseInvalid,
        ),
        (
            "arrays in arrays",
            both(),
            Hostile::Bytes(answer("200 OK", "", deep.as_bytes())),
            Reason::ResponseInvalid,
        ),
        (
            "JSON that ends in the middle",
            both(),
            Hostile::Bytes(answer("200 OK", "", b"{\"token_type\": \"Bea")),
            Reason::ResponseInvalid,
        ),
        (
            "a page of a web site in place of a token",
            vec![At::Token],
            Hostile::Bytes(WEB_PAGE.to_vec()),
            Reason::ProxyRefused,
        ),
        (
            "a page of a web site",
            vec![At::Graph],
            Hostile::Bytes(WEB_PAGE.to_vec()),
            Reason::ResponseInvalid,
        ),
        (
            "half-closed before the answer",
            both(),
            Hostile::HalfClosed(Vec::new()),
            Reason::ProviderUnreachable,
        ),
        (
            "half-closed in the middle of the answer",
            both(),
            Hostile::HalfClosed(cut),
            Reason::ResponseInvalid,
        ),
        (
            "closed with the request unread",
            both(),
            Hostile::Unread,
            Reason::ProviderUnreachable,
        ),
        (
            "a redirect to a link-local address",
            both(),
            redirect("302 Found"),
            Reason::RedirectRefused,
        ),
        (
            "a redirect to a link-local address that keeps the form",
            both(),
            redirect("307 Temporary Redirect"),
            Reason::RedirectRefused,
        ),
        (
            "a next link to a link-local address",
            vec![At::Grants],
            link(LINK_LOCAL),
            Reason::RedirectRefused,
        ),
        (
            "a next link to another host",
            vec![At::Grants],
            link("https://graph.example.com/v1.0/servicePrincipals?$skiptoken=x"),
            Reason::RedirectRefused,
        ),
        (
            "a next link with the host as its user name",
            vec![At::Grants],
            link("http://127.0.0.1@169.254.169.254/v1.0/servicePrincipals"),
            Reason::RedirectRefused,
        ),
    ]
}
