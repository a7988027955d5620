//! A server on loopback that takes part in HTTP as far as a test wants it to.

use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

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
    while let Some(head) = request(&mut stream).await? {
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

/// The head of the next request; its body is read and forgotten.
async fn request(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head
        .to_ascii_lowercase()
        .split("content-length: ")
        .nth(1)
        .and_then(|rest| rest.split("\r\n").next()?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(head))
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
