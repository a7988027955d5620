//! A server on loopback that sends what a case says, byte by byte: odd headers and encodings, bodies that
//! end early, answers that are none.

use crate::verdicts::case::{Answer, Case, Encoding};
use crate::verdicts::tenant::Tenant;
use crate::verdicts::text;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Inner {
    case: Case,
    tenant: Tenant,
    base: String,
    asked: Mutex<HashMap<String, usize>>,
}

/// A running server; it ends with the runtime.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

impl Server {
    pub async fn start(case: &Case, tenant: Tenant) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self(Arc::new(Inner {
            case: case.clone(),
            tenant,
            base: format!("http://{}", listener.local_addr().unwrap()),
            asked: Mutex::default(),
        }));
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        server
    }

    pub fn base(&self) -> &str {
        &self.0.base
    }

    /// How often the token endpoint was asked.
    pub fn token_requests(&self) -> usize {
        let asked = self.0.asked.lock().unwrap();
        asked.get("token").copied().unwrap_or_default()
    }

    /// One request; then the connection is closed.
    async fn serve(self, mut stream: TcpStream) {
        let Some(target) = read_request(&mut stream).await else {
            return;
        };
        let bytes = self.answer(&target);
        // The peer may have gone.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        // Closed only after the peer has read it: else it may see a reset in place of the answer.
        let _ = stream.read(&mut [0; 1]).await;
    }

    fn answer(&self, target: &str) -> Vec<u8> {
        let path = target.split('?').next().unwrap_or_default();
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let is_token = path.ends_with("/oauth2/v2.0/token");
        let (name, scripted) = match is_token {
            true => ("token".to_owned(), &self.0.case.token),
            false => {
                let named = |key: &&String| {
                    let key = text::expand(key, &self.0.base);
                    key == path || key == target
                };
                let key = self.0.case.graph.keys().find(named);
                static NONE: Vec<Answer> = Vec::new();
                (
                    path.clone().into_owned(),
                    key.map_or(&NONE, |key| &self.0.case.graph[key]),
                )
            }
        };
        let before = {
            let mut asked = self.0.asked.lock().unwrap();
            let count = asked.entry(name).or_default();
            *count += 1;
            *count - 1
        };
        let scripted = scripted.get(before).or(scripted.last());
        match scripted.filter(|answer| !answer.healthy) {
            Some(answer) => self.scripted(answer),
            None => {
                let (status, body) = match is_token {
                    true => (200, self.0.tenant.token()),
                    false => self.0.tenant.graph(&path),
                };
                healthy(status, &body)
            }
        }
    }

    fn scripted(&self, answer: &Answer) -> Vec<u8> {
        if answer.close {
            return Vec::new();
        }
        if let Some(raw) = &answer.raw {
            return text::expand(raw, &self.0.base).into_bytes();
        }
        let body = text::expand(answer.body.as_deref().unwrap_or_default(), &self.0.base);
        let body = encode(&text::plant(&body), &answer.encoding);
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status.unwrap_or(200));
        if !answer.headers.contains_key("content-type") {
            head.push_str("content-type: application/json\r\n");
        }
        for (name, values) in &answer.headers {
            for value in values.all().iter().filter(|value| !value.is_empty()) {
                head.push_str(&format!(
                    "{name}: {}\r\n",
                    text::expand(value, &self.0.base)
                ));
            }
        }
        let framed = match answer.chunked {
            true => {
                head.push_str("transfer-encoding: chunked\r\n");
                chunks(&body)
            }
            false => {
                head.push_str(&format!("content-length: {}\r\n", body.len()));
                body
            }
        };
        head.push_str("connection: close\r\n\r\n");
        let mut bytes = head.into_bytes();
        let sent = answer.truncate.unwrap_or(framed.len()).min(framed.len());
        bytes.extend_from_slice(&framed[..sent]);
        bytes
    }
}

fn healthy(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(97) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn encode(text: &str, encoding: &Encoding) -> Vec<u8> {
    let utf16 = |mark: &[u8], to_bytes: fn(u16) -> [u8; 2]| {
        let units = text.encode_utf16().flat_map(to_bytes);
        mark.iter().copied().chain(units).collect()
    };
    match encoding {
        Encoding::Utf8 => text.as_bytes().to_vec(),
        Encoding::Utf8Bom => [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
        Encoding::Utf16Le => utf16(b"", u16::to_le_bytes),
        Encoding::Utf16LeBom => utf16(b"\xFF\xFE", u16::to_le_bytes),
        Encoding::Utf16BeBom => utf16(b"\xFE\xFF", u16::to_be_bytes),
        Encoding::Latin1 => text
            .chars()
            .map(|c| u8::try_from(u32::from(c)).expect("a character of Latin-1"))
            .collect(),
    }
}

/// Path and query of a request whose body has been read; `None` where none came.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let head_end = loop {
        let read = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse::<usize>().unwrap());
    while bytes.len() < head_end + length {
        let read = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    }
    head.split(' ').nth(1).map(str::to_owned)
}
