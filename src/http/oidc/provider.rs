//! The provider: its discovery document, its keys, and the exchange of a code.

use super::OidcSettings;
use crate::outbound::guard::is_https_or_loopback;
use crate::outbound::{AGENT, Client, Outbound, Resend, Resends, Reuse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

/// How long one request may take. A sign-in makes four at most, and a request to a page has half a minute.
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
    end_session_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    authorization_response_iss_parameter_supported: Option<bool>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
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
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let host = self.uri.host().unwrap_or_default();
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request, body)).await;
        let asked = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        asked.map_err(|cause| format!("{host}: {cause}"))
    }

    async fn exchange(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let request = request
            .uri(self.uri.clone())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/json")
            .body(Full::new(body));
        let request = request.map_err(|_| "the request cannot be written".to_owned())?;
        let mut resends = Resends::default();
        // A connection of its own: a code that was sent on a lost one may be used up.
        let sent = self
            .client
            .send(request, Resend::NotProcessed, Reuse::Never, &mut resends)
            .await;
        let mut answer = sent.map_err(|failure| failure.to_string())?;
        let status = answer.status();
        let mut read = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
        while let Some(piece) = answer
            .body_mut()
            .piece()
            .await
            .map_err(|kind| kind.to_string())?
        {
            if read.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err("the answer is too long".to_owned());
            }
            read.extend_from_slice(&piece);
        }
        Ok((status, read))
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, what: &str) -> Result<T, String> {
        let request = Request::builder().method(Method::GET);
        let (status, body) = self.ask(request, Bytes::new()).await?;
        if status != StatusCode::OK {
            return Err(format!("the {what} has the status {}", status.as_u16()));
        }
        serde_json::from_slice(&body).map_err(|_| format!("the {what} cannot be read"))
    }
}

impl Provider {
    /// Reads the discovery document and the keys.
    pub(super) async fn discover(issuer: &str, outbound: &Outbound) -> Result<Self, String> {
        let document = format!("{}/{DISCOVERY}", issuer.trim_end_matches('/'));
        let document = Endpoint::new("issuer", &document, issuer, outbound)?;
        let found: Document = document.get("discovery document").await?;
        if found.issuer != issuer {
            return Err(format!(
                "its discovery document is of the issuer {:?}, and http.oidc.issuer is {issuer:?}: both must be the same",
                found.issuer.chars().take(255).collect::<String>()
            ));
        }
        let endpoint = |name: &str, text: &str| Endpoint::new(name, text, issuer, outbound);
        let methods = found.token_endpoint_auth_methods_supported;
        let end_session = found.end_session_endpoint.and_then(|text| {
            // Nobody needs it to sign in.
            address("end_session_endpoint", &text, issuer).ok()
        });
        let provider = Self {
            authorization: address(
                "authorization_endpoint",
                &found.authorization_endpoint,
                issuer,
            )?,
            token: endpoint("token_endpoint", &found.token_endpoint)?,
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
        let found: KeySet = self.keys_at.get("list of keys").await?;
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

    /// Redeems a code. Returns the ID token.
    pub(super) async fn redeem(
        &self,
        settings: &OidcSettings,
        secret: Option<&str>,
        code: &str,
        verifier: &str,
    ) -> Result<Zeroizing<String>, NoToken> {
        let (request, body) = self.redemption(settings, secret, code, verifier);
        let asked = self.token.ask(request, body).await;
        let (status, body) = asked.map_err(NoToken::Unavailable)?;
        if status == StatusCode::OK {
            let tokens: Result<Tokens, _> = serde_json::from_slice(&body);
            let tokens = tokens.map_err(|_| {
                NoToken::Unavailable("its answer to the code has no ID token".to_owned())
            })?;
            return Ok(Zeroizing::new(tokens.id_token));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) if status.is_client_error() => Err(NoToken::Refused(refusal.error)),
            _ => Err(NoToken::Unavailable(format!(
                "its answer to the code has the status {}",
                status.as_u16()
            ))),
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
