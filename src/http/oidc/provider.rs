//! The provider: its discovery document, its keys, the exchange of a code, and userinfo.

use super::id_token::Claims;
use super::{OidcSettings, SignInError};
use crate::outbound::guard::is_https_or_loopback;
use crate::outbound::{AGENT, Client, Outbound, Resend, Resends, Reuse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::response::Parts;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use jsonwebtoken::jwk::Jwk;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::time::Duration;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

/// How long one request may take. A sign-in makes five at most, and a request to a page has half a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of one answer that are read.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Where a document of discovery is, below the issuer.
const DISCOVERY: &str = ".well-known/openid-configuration";

/// What verifyd uses of a provider.
#[derive(Clone, Debug)]
pub(super) struct Provider {
    pub authorization: Url,
    token: Endpoint,
    /// Whether it has one, and the error if that cannot be used.
    userinfo: Result<Option<Endpoint>, String>,
    keys_at: Endpoint,
    pub keys: Vec<Jwk>,
    /// Where people sign out, if the provider lets them by https.
    pub end_session: Option<Url>,
    /// Each return of a browser has its `iss`: RFC 9207.
    pub names_itself: bool,
    /// The provider takes no secret in the header `Authorization`.
    wants_secret_in_body: bool,
}

/// An address of the provider with a client for its host, which the operator trusts with the issuer.
#[derive(Clone, Debug)]
struct Endpoint {
    uri: Uri,
    client: Client,
}

/// Why a request gave nothing. The words never quote an answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    /// There is no answer, or one that another try may change.
    #[error("{0}")]
    Unavailable(String),
    /// The provider has answered, and this cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl From<AskError> for String {
    fn from(error: AskError) -> Self {
        error.to_string()
    }
}

/// Why a code gave no token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoToken {
    /// The provider says so, with this code.
    Refused(String),
    /// It cannot be used.
    Unavailable(String),
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    authorization_response_iss_parameter_supported: Option<bool>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// What a code is redeemed for.
#[derive(Debug, Deserialize)]
pub(super) struct Tokens {
    pub id_token: SecretString,
    #[serde(default, deserialize_with = "text_or_none")]
    access_token: Option<SecretString>,
}

/// Not every sign-in needs the access token, so another value than a text is none.
fn text_or_none<'de, D: Deserializer<'de>>(source: D) -> Result<Option<SecretString>, D::Error> {
    Ok(match Value::deserialize(source)? {
        Value::String(text) => Some(text.into()),
        _ => None,
    })
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Reads an address that a document names: https, or http on this machine where the issuer is there, too.
fn address(name: &str, text: &str, issuer: &str) -> Result<Url, String> {
    let is_local = issuer.starts_with("http://");
    let is_allowed = |url: &Url| url.scheme() == "https" || is_local && is_https_or_loopback(url);
    let url = Url::parse(text).ok().filter(is_allowed);
    url.ok_or_else(|| format!("its {name} is no https address"))
}

impl Endpoint {
    fn new(name: &str, text: &str, issuer: &str, outbound: &Outbound) -> Result<Self, String> {
        let url = address(name, text, issuer)?;
        let uri: Result<Uri, _> = url.as_str().parse();
        let uri = uri.map_err(|_| format!("its {name} is no address"))?;
        let host = uri.host().unwrap_or_default();
        Ok(Self {
            client: outbound.client_of_operator(host, CONNECT_TIMEOUT),
            uri,
        })
    }

    /// Sends a request and reads the answer. The error names the host and never quotes an answer.
    async fn ask(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<(Parts, Zeroizing<Vec<u8>>), AskError> {
        let host = self.uri.host().unwrap_or_default();
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request, body)).await;
        let asked =
            asked.unwrap_or_else(|_| Err(AskError::Unavailable("no answer in time".to_owned())));
        asked.map_err(|error| match error {
            AskError::Unavailable(cause) => AskError::Unavailable(format!("{host}: {cause}")),
            AskError::Unusable(cause) => AskError::Unusable(format!("{host}: {cause}")),
        })
    }

    async fn exchange(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<(Parts, Zeroizing<Vec<u8>>), AskError> {
        let request = request
            .uri(self.uri.clone())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/json")
            .body(Full::new(body));
        // A token of the provider that no header can hold.
        let request =
            request.map_err(|_| AskError::Unusable("the request cannot be written".to_owned()))?;
        let mut resends = Resends::default();
        // A connection of its own: a code that was sent on a lost one may be used up.
        let sent = self
            .client
            .send(request, Resend::NotProcessed, Reuse::Never, &mut resends)
            .await;
        let sent = sent.map_err(|failure| AskError::Unavailable(failure.kind.explained()))?;
        let (head, mut body) = sent.into_parts();
        let mut read = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
        loop {
            let piece = body.piece().await;
            let piece = piece.map_err(|kind| AskError::Unavailable(kind.to_string()))?;
            let Some(piece) = piece else { break };
            if read.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(AskError::Unusable("the answer is too long".to_owned()));
            }
            read.extend_from_slice(&piece);
        }
        Ok((head, read))
    }

    async fn get<T: for<'a> Deserialize<'a>>(
        &self,
        request: http::request::Builder,
        what: &str,
    ) -> Result<T, AskError> {
        let (head, body) = self.ask(request, Bytes::new()).await?;
        read_json(what, &head, &body)
    }
}

/// Whether another try may have another status. A refusal, of a person who was blocked for example, is none.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// Reads an answer that has to be JSON.
fn read_json<T: for<'a> Deserialize<'a>>(
    what: &str,
    head: &Parts,
    body: &[u8],
) -> Result<T, AskError> {
    if head.status != StatusCode::OK {
        let cause = format!("the {what} has the status {}", head.status.as_u16());
        return Err(match may_pass(head.status) {
            true => AskError::Unavailable(cause),
            false => AskError::Unusable(cause),
        });
    }
    let kind = head.headers.get(CONTENT_TYPE);
    let kind = kind.map(|kind| kind.as_bytes().to_ascii_lowercase());
    if kind.is_some_and(|kind| kind.starts_with(b"application/jwt")) {
        return Err(AskError::Unusable(format!(
            "the {what} is signed or encrypted (a JWT), which verifyd does not read: let the provider send it as JSON, \
             or put the claim into the ID token"
        )));
    }
    serde_json::from_slice(body)
        .map_err(|_| AskError::Unusable(format!("the {what} cannot be read")))
}

impl Provider {
    /// Reads the discovery document and the keys.
    pub(super) async fn discover(issuer: &str, outbound: &Outbound) -> Result<Self, String> {
        let document = format!("{}/{DISCOVERY}", issuer.trim_end_matches('/'));
        let document = Endpoint::new("issuer", &document, issuer, outbound)?;
        let found: Document = document
            .get(Request::builder(), "discovery document")
            .await?;
        if found.issuer != issuer {
            return Err(format!(
                "its discovery document is of the issuer {:?}, and http.oidc.issuer is {issuer:?}: both must be the same",
                found.issuer.chars().take(255).collect::<String>()
            ));
        }
        let endpoint = |name: &str, text: &str| Endpoint::new(name, text, issuer, outbound);
        let methods = found.token_endpoint_auth_methods_supported;
        // Nobody needs it to sign in.
        let end_session = found.end_session_endpoint;
        let end_session =
            end_session.and_then(|text| address("end_session_endpoint", &text, issuer).ok());
        let userinfo = found.userinfo_endpoint;
        let userinfo = userinfo.map(|text| endpoint("userinfo_endpoint", &text));
        let provider = Self {
            authorization: address(
                "authorization_endpoint",
                &found.authorization_endpoint,
                issuer,
            )?,
            token: endpoint("token_endpoint", &found.token_endpoint)?,
            userinfo: userinfo.transpose(),
            keys_at: endpoint("jwks_uri", &found.jwks_uri)?,
            keys: Vec::new(),
            end_session,
            names_itself: found.authorization_response_iss_parameter_supported == Some(true),
            wants_secret_in_body: methods
                .is_some_and(|known| !known.iter().any(|one| one == "client_secret_basic")),
        };
        provider.with_new_keys().await
    }

    /// The same with the keys that the provider has now. Keys of unknown kinds are left out.
    pub(super) async fn with_new_keys(&self) -> Result<Self, String> {
        let found: KeySet = self.keys_at.get(Request::builder(), "list of keys").await?;
        let keys = found.keys.into_iter();
        Ok(Self {
            keys: keys
                .filter_map(|key| serde_json::from_value(key).ok())
                .collect(),
            ..self.clone()
        })
    }

    /// The request that redeems a code.
    fn redemption(
        &self,
        settings: &OidcSettings,
        secret: Option<&str>,
        code: &str,
        verifier: &str,
    ) -> (http::request::Builder, Bytes) {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &settings.redirect_uri())
            .append_pair("code_verifier", verifier);
        let mut request = Request::builder()
            .method(Method::POST)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        match secret {
            Some(secret) if !self.wants_secret_in_body => {
                request = request.header(AUTHORIZATION, basic(&settings.client_id, secret));
            }
            Some(secret) => {
                form.append_pair("client_id", &settings.client_id)
                    .append_pair("client_secret", secret);
            }
            None => {
                form.append_pair("client_id", &settings.client_id);
            }
        }
        let body = Zeroizing::new(form.finish().into_bytes());
        (request, Bytes::from_owner(body))
    }

    /// Redeems a code.
    pub(super) async fn redeem(
        &self,
        settings: &OidcSettings,
        secret: Option<&str>,
        code: &str,
        verifier: &str,
    ) -> Result<Tokens, NoToken> {
        let (request, body) = self.redemption(settings, secret, code, verifier);
        let asked = self.token.ask(request, body).await;
        let (head, body) = asked.map_err(|error| NoToken::Unavailable(error.into()))?;
        let status = head.status;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|_| {
                NoToken::Unavailable("its answer to the code has no ID token".to_owned())
            });
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) if status.is_client_error() => Err(NoToken::Refused(refusal.error)),
            _ => Err(NoToken::Unavailable(format!(
                "its answer to the code has the status {}",
                status.as_u16()
            ))),
        }
    }

    /// Returns what is wrong with the address of userinfo.
    pub(super) fn userinfo_problem(&self) -> Option<&str> {
        self.userinfo.as_ref().err().map(String::as_str)
    }

    /// Returns what userinfo says of this subject: OpenID Connect Core 1.0, 5.3. Nothing, if the provider has none, or
    /// answers what cannot be used: whoever is refused there has no access here.
    pub(super) async fn userinfo(
        &self,
        tokens: &Tokens,
        subject: Option<&Value>,
    ) -> Result<Claims, SignInError> {
        let asked = match (&self.userinfo, &tokens.access_token) {
            (Ok(None), _) => return Ok(Claims::new()),
            (Ok(Some(userinfo)), Some(token)) => {
                let bearer = Zeroizing::new(format!("Bearer {}", token.expose_secret()));
                let request = Request::builder().header(AUTHORIZATION, bearer.as_str());
                userinfo.get::<Claims>(request, "userinfo").await
            }
            (Ok(Some(_)), None) => Err(AskError::Unusable(
                "the answer to the code has no access token".to_owned(),
            )),
            (Err(problem), _) => Err(AskError::Unusable(problem.clone())),
        };
        match asked {
            Ok(claims) if claims.get("sub") == subject => Ok(claims),
            Ok(_) => Err(SignInError::Untrusted(
                "is of another person than the userinfo",
            )),
            Err(AskError::Unavailable(cause)) => Err(SignInError::Unavailable(cause)),
            Err(AskError::Unusable(cause)) => {
                tracing::warn!(
                    cause,
                    "userinfo of http.oidc cannot be used; the claim is missing"
                );
                Ok(Claims::new())
            }
        }
    }
}

/// The header `Authorization` of a client with a secret: RFC 6749, 2.3.1.
fn basic(client_id: &str, secret: &str) -> String {
    let encoded =
        |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let pair = Zeroizing::new(format!("{}:{}", encoded(client_id), encoded(secret)));
    format!("Basic {}", STANDARD.encode(pair.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_client_are_encoded_before_they_are_joined() {
        assert_eq!(
            basic("a:b", "c d"),
            format!("Basic {}", STANDARD.encode("a%3Ab:c+d"))
        );
    }

    #[test]
    fn an_answer_that_is_no_json_says_what_it_is() {
        let read = |status: u16, kind: &str, body: &str| {
            let answer = http::Response::builder().status(status);
            let answer = answer.header(CONTENT_TYPE, kind).body(()).unwrap();
            read_json::<Claims>("userinfo", &answer.into_parts().0, body.as_bytes())
        };
        let whole = read(200, "application/json", r#"{"sub":"kim"}"#).unwrap();
        assert_eq!(whole["sub"], "kim");
        for (status, kind, body, said) in [
            (401, "application/json", "{}", "has the status 401"),
            (200, "application/json", "[]", "cannot be read"),
            (200, "application/JWT; charset=utf-8", "e30.e30.", "(a JWT)"),
        ] {
            let error = read(status, kind, body).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn an_access_token_that_is_no_text_is_none() {
        for (json, has_token) in [
            (r#"{"id_token":"i","access_token":"a"}"#, true),
            (r#"{"id_token":"i","access_token":5}"#, false),
            (r#"{"id_token":"i","access_token":null}"#, false),
            (r#"{"id_token":"i"}"#, false),
        ] {
            let tokens: Tokens = serde_json::from_str(json).unwrap();
            assert_eq!(tokens.access_token.is_some(), has_token, "{json}");
        }
    }

    #[test]
    fn nothing_is_sent_in_the_clear_but_to_this_machine() {
        let outbound = Outbound::direct().unwrap();
        let (here, elsewhere) = ("http://127.0.0.1:9", "https://login.example");
        for (issuer, text, allowed) in [
            (elsewhere, "https://login.example/token", true),
            (elsewhere, "http://127.0.0.1:9/token", false),
            (elsewhere, "http://login.example/token", false),
            (here, "https://login.example/token", true),
            (here, "http://127.0.0.1:9/token", true),
            (here, "http://localhost:9/token", true),
            (here, "http://login.example/token", false),
            (here, "ftp://login.example/", false),
            (here, "token", false),
        ] {
            let endpoint = Endpoint::new("token_endpoint", text, issuer, &outbound);
            assert_eq!(endpoint.is_ok(), allowed, "{issuer}: {text}");
        }
    }
}
