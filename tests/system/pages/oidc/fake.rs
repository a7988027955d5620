//! A provider that answers what a test wants, right or wrong.

use axum::Json;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use verifyd::ports::clock::{Clock as _, SystemClock};

/// What the token endpoint was asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub authorization: String,
    pub form: HashMap<String, String>,
}

struct Inner {
    issuer: String,
    key: Mutex<(String, rcgen::KeyPair)>,
    answer: Mutex<(u16, Value)>,
    asked: Mutex<Asked>,
    keys_read: AtomicUsize,
    is_down: AtomicBool,
    names_itself: AtomicBool,
    ends_sessions: AtomicBool,
    padding: AtomicUsize,
    userinfo: Mutex<Option<(u16, &'static str, String)>>,
    userinfo_at: Mutex<Option<&'static str>>,
    bearers: Mutex<Vec<String>>,
}

#[derive(Clone)]
pub struct Fake {
    inner: Arc<Inner>,
}

impl Fake {
    pub async fn start() -> Self {
        // Another part of the process may have named it.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            inner: Arc::new(Inner {
                issuer: format!("http://{}", listener.local_addr().unwrap()),
                key: Mutex::new(("first".to_owned(), rcgen::KeyPair::generate().unwrap())),
                answer: Mutex::new((500, Value::Null)),
                asked: Mutex::default(),
                keys_read: AtomicUsize::new(0),
                is_down: AtomicBool::new(false),
                names_itself: AtomicBool::new(false),
                ends_sessions: AtomicBool::new(false),
                padding: AtomicUsize::new(0),
                userinfo: Mutex::default(),
                userinfo_at: Mutex::default(),
                bearers: Mutex::default(),
            }),
        };
        let app = axum::Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        fake
    }

    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    pub fn set_down(&self, is_down: bool) {
        self.inner.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Says that it names itself in each return: RFC 9207.
    pub fn promises_iss(&self) {
        self.inner.names_itself.store(true, Ordering::SeqCst);
    }

    /// Says where people sign out.
    pub fn ends_sessions(&self) {
        self.inner.ends_sessions.store(true, Ordering::SeqCst);
    }

    /// What userinfo answers from now on: status, type and body. Before, there is none.
    pub fn informs(&self, status: u16, kind: &'static str, body: String) {
        *self.inner.userinfo.lock().unwrap() = Some((status, kind, body));
    }

    /// Lists another address of userinfo from now on.
    pub fn informs_at(&self, address: Option<&'static str>) {
        *self.inner.userinfo_at.lock().unwrap() = address;
    }

    /// The headers `Authorization` that userinfo was asked with.
    pub fn bearers(&self) -> Vec<String> {
        self.inner.bearers.lock().unwrap().clone()
    }

    /// Adds a text of so many bytes to the discovery document.
    pub fn pads(&self, bytes: usize) {
        self.inner.padding.store(bytes, Ordering::SeqCst);
    }

    /// Signs with another key from now on.
    pub fn rotate(&self, id: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        *self.inner.key.lock().unwrap() = (id.to_owned(), key);
    }

    pub fn keys_read(&self) -> usize {
        self.inner.keys_read.load(Ordering::SeqCst)
    }

    pub fn asked(&self) -> Asked {
        self.inner.asked.lock().unwrap().clone()
    }

    /// What the token endpoint answers from now on.
    pub fn answers(&self, status: u16, body: Value) {
        *self.inner.answer.lock().unwrap() = (status, body);
    }

    /// The same, with this ID token.
    pub fn issues(&self, id_token: &str) {
        let body = json!({ "token_type": "Bearer", "access_token": "a", "id_token": id_token });
        self.answers(200, body);
    }

    /// The claims of a token that is right, of somebody in these groups.
    pub fn claims(&self, nonce: &str, groups: &[&str]) -> Value {
        let now = SystemClock.now().timestamp();
        json!({
            "iss": self.issuer(), "aud": "verifyd", "sub": "4711", "name": "Kim Doe", "nonce": nonce,
            "iat": now, "exp": now + 300, "groups": groups,
        })
    }

    /// A token with these claims, signed with the key of now.
    pub fn signed(&self, claims: &Value) -> String {
        let key = self.inner.key.lock().unwrap();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.0.clone());
        let signing = EncodingKey::from_ec_der(&key.1.serialize_der());
        jsonwebtoken::encode(&header, claims, &signing).unwrap()
    }

    /// A token with these claims and no signature.
    pub fn unsigned(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&json!({ "alg": "none" })), part(claims))
    }

    /// A token with these claims whose "secret" is what everybody knows: the public key.
    pub fn signed_with_the_public_key(&self, claims: &Value) -> String {
        let key = self.inner.key.lock().unwrap();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.0.clone());
        let secret = EncodingKey::from_secret(key.1.public_key_raw());
        jsonwebtoken::encode(&header, claims, &secret).unwrap()
    }
}

async fn discovery(State(fake): State<Fake>) -> Response {
    let issuer = fake.issuer();
    if fake.inner.is_down.load(Ordering::SeqCst) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let names_itself = fake.inner.names_itself.load(Ordering::SeqCst);
    let ends_sessions = fake.inner.ends_sessions.load(Ordering::SeqCst);
    let informs = fake.inner.userinfo.lock().unwrap().is_some();
    let userinfo = fake.inner.userinfo_at.lock().unwrap().map(str::to_owned);
    let userinfo = userinfo.or_else(|| informs.then(|| format!("{issuer}/userinfo")));
    let padding = "x".repeat(fake.inner.padding.load(Ordering::SeqCst));
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
        "end_session_endpoint": ends_sessions.then(|| format!("{issuer}/end?tenant=1")),
        "userinfo_endpoint": userinfo,
        "authorization_response_iss_parameter_supported": names_itself,
        "padding": padding,
    }))
    .into_response()
}

async fn keys(State(fake): State<Fake>) -> Json<Value> {
    fake.inner.keys_read.fetch_add(1, Ordering::SeqCst);
    let key = fake.inner.key.lock().unwrap();
    let point = key.1.public_key_raw();
    // 4, x and y.
    let part = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
    let ours = json!({ "kty": "EC", "crv": "P-256", "kid": key.0, "x": part(1), "y": part(33) });
    let odd = json!({ "kty": "moon", "kid": "moon" });
    Json(json!({ "keys": [odd, ours] }))
}

async fn userinfo(State(fake): State<Fake>, headers: HeaderMap) -> Response {
    let bearer = headers["authorization"].to_str().unwrap().to_owned();
    fake.inner.bearers.lock().unwrap().push(bearer);
    let (status, kind, body) = fake.inner.userinfo.lock().unwrap().clone().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    (status, [("content-type", kind)], body).into_response()
}

async fn token(
    State(fake): State<Fake>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let authorization = headers.get("authorization");
    let authorization = authorization.map_or("", |value| value.to_str().unwrap());
    *fake.inner.asked.lock().unwrap() = Asked {
        authorization: authorization.to_owned(),
        form,
    };
    let (status, body) = fake.inner.answer.lock().unwrap().clone();
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}
