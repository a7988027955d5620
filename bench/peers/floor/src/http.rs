//! Just enough HTTP/1.1 with kept-alive connections for three known endpoints.
use serde::Deserialize;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Res;
use crate::report::{Org, Spec, Token};

struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
    out: Vec<u8>,
}

pub struct Http {
    authority: String,
    idle: Mutex<Vec<Conn>>,
}

const FORM: &str = "client_id=7c3b1f3e-0000-4000-8000-000000000001&client_secret=not-a-secret\
    &scope=https%3A%2F%2Fgraph.example%2F.default&grant_type=client_credentials";

impl Http {
    pub fn new(url: &str) -> Res<Http> {
        let authority = url
            .strip_prefix("http://")
            .ok_or("PROVIDER_URL must start with http://")?;
        Ok(Http {
            authority: authority.trim_end_matches('/').to_string(),
            idle: Mutex::new(Vec::new()),
        })
    }

    async fn call<T>(
        &self,
        write: impl FnOnce(&mut Vec<u8>, &str),
        parse: impl FnOnce(&[u8]) -> Res<T>,
    ) -> Res<T> {
        let idle = self.idle.lock().unwrap().pop();
        let mut c = match idle {
            Some(c) => c,
            None => {
                let stream = TcpStream::connect(&self.authority).await?;
                stream.set_nodelay(true)?;
                Conn {
                    stream,
                    buf: Vec::with_capacity(16 << 10),
                    out: Vec::with_capacity(2 << 10),
                }
            }
        };
        c.out.clear();
        write(&mut c.out, &self.authority);
        c.stream.write_all(&c.out).await?;
        let (start, end) = c.read_response().await?;
        let r = parse(&c.buf[start..end]);
        self.idle.lock().unwrap().push(c);
        r
    }

    pub async fn token(&self, tenant: &str) -> Res<Token> {
        #[derive(Deserialize)]
        struct Body {
            access_token: String,
            token_type: String,
            expires_in: i64,
        }
        self.call(
            |out, host| {
                for part in [
                    "POST /",
                    tenant,
                    "/oauth2/v2.0/token HTTP/1.1\r\nhost: ",
                    host,
                    "\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: ",
                    &FORM.len().to_string(),
                    "\r\n\r\n",
                    FORM,
                ] {
                    out.extend_from_slice(part.as_bytes());
                }
            },
            |body| {
                let b: Body = serde_json::from_slice(body)?;
                Ok(Token {
                    access: b.access_token,
                    kind: b.token_type,
                    expires_in: b.expires_in,
                })
            },
        )
        .await
    }

    fn get(path: &'static str, bearer: &str) -> impl FnOnce(&mut Vec<u8>, &str) {
        move |out, host| {
            for part in [
                "GET ",
                path,
                " HTTP/1.1\r\nhost: ",
                host,
                "\r\nauthorization: Bearer ",
                bearer,
                "\r\n\r\n",
            ] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }

    pub async fn organization(&self, bearer: &str) -> Res<Org> {
        #[derive(Deserialize)]
        struct Item {
            id: String,
            #[serde(rename = "displayName")]
            name: String,
        }
        #[derive(Deserialize)]
        struct Body {
            value: Vec<Item>,
        }
        self.call(Self::get("/v1.0/organization", bearer), |body| {
            let o = serde_json::from_slice::<Body>(body)?
                .value
                .pop()
                .ok_or("no organization")?;
            Ok(Org {
                id: o.id,
                name: o.name,
            })
        })
        .await
    }

    /// The required permissions that are granted, as a bit mask.
    pub async fn roles(&self, bearer: &str, spec: &Spec) -> Res<i64> {
        #[derive(Deserialize)]
        struct Item<'a> {
            #[serde(borrow, rename = "appRoleId")]
            role: &'a str,
        }
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            value: Vec<Item<'a>>,
        }
        self.call(
            Self::get("/v1.0/servicePrincipals(appId='7c3b1f3e-0000-4000-8000-000000000001')/appRoleAssignments", bearer),
            |body| {
                let b: Body = serde_json::from_slice(body)?;
                Ok(b.value.iter().filter_map(|i| spec.bits.get(i.role)).fold(0, |m, bit| m | 1 << bit))
            },
        )
        .await
    }
}

impl Conn {
    async fn more(&mut self) -> Res<()> {
        if self.stream.read_buf(&mut self.buf).await? == 0 {
            return Err("provider closed the connection".into());
        }
        Ok(())
    }

    /// Where the body lies in `buf` (a chunked body is joined in place).
    async fn read_response(&mut self) -> Res<(usize, usize)> {
        self.buf.clear();
        let (mut len, mut chunked) = (0, false);
        let head = loop {
            self.more().await?;
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut r = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(n) = r.parse(&self.buf)? {
                if r.code != Some(200) {
                    return Err(format!("provider answered {:?}", r.code).into());
                }
                for h in r.headers.iter() {
                    if h.name.eq_ignore_ascii_case("content-length") {
                        len = std::str::from_utf8(h.value)?.trim().parse()?;
                    } else if h.name.eq_ignore_ascii_case("transfer-encoding") {
                        chunked = true;
                    }
                }
                break n;
            }
        };
        if !chunked {
            while self.buf.len() < head + len {
                self.more().await?;
            }
            return Ok((head, head + len));
        }
        let (mut at, mut end) = (head, head);
        loop {
            match httparse::parse_chunk_size(&self.buf[at..]).map_err(|_| "bad chunk")? {
                httparse::Status::Partial => self.more().await?,
                httparse::Status::Complete((n, size)) => {
                    let (from, size) = (at + n, size as usize);
                    while self.buf.len() < from + size + 2 {
                        self.more().await?;
                    }
                    if size == 0 {
                        return Ok((head, end));
                    }
                    self.buf.copy_within(from..from + size, end);
                    end += size;
                    at = from + size + 2;
                }
            }
        }
    }
}
