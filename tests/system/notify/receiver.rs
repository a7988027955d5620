//! A receiver of webhooks on loopback: keeps what arrives, answers as configured.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::waiting::until;
use verifyd::domain::completion_event::WebhookEvent;
use verifyd::ports::clock::{Clock as _, SystemClock};

/// How a path answers.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Ok,
    /// This status, so often; then 200.
    Status(u16, usize),
    /// 429 with `Retry-After` in seconds.
    WaitSeconds(u64),
    /// 429 with `Retry-After` as a date so many seconds from now.
    WaitUntil(u64),
    /// 302 to the path `/elsewhere`.
    Redirect,
    /// No answer at all.
    Never,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn event(&self) -> WebhookEvent {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether one of the signatures was made with this secret, as a receiver verifies it.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let secret = STANDARD
            .decode(secret.strip_prefix("whsec_").unwrap())
            .unwrap();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let content = format!(
            "{}.{}.{}",
            self.id(),
            self.header("webhook-timestamp"),
            self.body
        );
        self.header("webhook-signature")
            .split(' ')
            .any(|signature| {
                let tag = STANDARD
                    .decode(signature.strip_prefix("v1,").unwrap())
                    .unwrap();
                aws_lc_rs::hmac::verify(&key, content.as_bytes(), &tag).is_ok()
            })
    }
}

#[derive(Default)]
struct Inner {
    requests: Vec<Request>,
    answers: HashMap<String, Answer>,
}

#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Mutex<Inner>>,
    pub port: u16,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            inner: Arc::default(),
            port: listener.local_addr().unwrap().port(),
        };
        let app = axum::Router::new()
            .route("/{path}", axum::routing::any(receive))
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub fn answers(&self, path: &str, answer: Answer) {
        let mut inner = self.inner.lock().unwrap();
        inner.answers.insert(path.to_owned(), answer);
    }

    pub fn got(&self, path: &str) -> Vec<Request> {
        let inner = self.inner.lock().unwrap();
        inner
            .requests
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }

    /// Waits for so many requests; guards against hanging only.
    pub async fn wait(&self, path: &str, count: usize) -> Vec<Request> {
        let arrived = format!("{path} has got {count} requests");
        until(&arrived, async || self.got(path).len() >= count).await;
        self.got(path)
    }
}

fn wait(retry_after: String) -> Response {
    let headers = [("retry-after", retry_after)];
    (StatusCode::TOO_MANY_REQUESTS, headers).into_response()
}

async fn receive(
    State(receiver): State<Receiver>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = {
        let mut inner = receiver.inner.lock().unwrap();
        inner.requests.push(Request {
            path: path.clone(),
            headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        match inner.answers.get_mut(&path) {
            None => Answer::Ok,
            Some(Answer::Status(_, 0)) => Answer::Ok,
            Some(Answer::Status(status, left)) => {
                *left -= 1;
                Answer::Status(*status, *left)
            }
            Some(answer) => *answer,
        }
    };
    match answer {
        Answer::Ok => "thank you".into_response(),
        Answer::Status(status, _) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::WaitSeconds(seconds) => wait(seconds.to_string()),
        Answer::WaitUntil(seconds) => {
            let now = SystemClock.now() + Duration::from_secs(seconds);
            wait(httpdate::fmt_http_date(now.into()))
        }
        Answer::Redirect => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        Answer::Never => std::future::pending().await,
    }
}
