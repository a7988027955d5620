//! Sign-in of people with OpenID Connect: the authorization code flow with PKCE.
//!
//! `attempt` (what the browser keeps meanwhile) → `provider` (discovery, keys, exchange of the code, userinfo) →
//! `id_token` (verification) → `claims` (groups or roles) → the grants of `http.oidc.grants`. See
//! docs/adr/0031-sign-in-of-people.md.

mod attempt;
mod claims;
mod id_token;
mod provider;

pub use attempt::COOKIE_BYTES;

use crate::domain::access::{Grant, NoGrant, PERSON_PREFIX, granted};
use crate::domain::report::redact;
use crate::domain::text_decoding;
use crate::domain::token::sha256_hex;
use crate::files;
use crate::http::api::Switch;
use crate::outbound::Outbound;
use crate::ports::access::Person;
use crate::ports::clock::Clock;
use attempt::Attempt;
use claims::{is_absent, is_left_out, values};
use id_token::{Claims, Expected, Flaw};
use provider::{NoToken, Provider};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use url::Url;
use zeroize::Zeroizing;

/// Age after which discovery document and keys are read again.
const FRESH_FOR: Duration = Duration::from_secs(3600);

/// Pause after a failed discovery, and between two look-ups of keys that tokens name.
const PAUSE: Duration = Duration::from_secs(2);
const KEYS_PAUSE: Duration = Duration::from_secs(30);

/// Codes that are exchanged at the same time.
const EXCHANGES: usize = 16;

/// Codes of a token endpoint that does not accept the client, whoever signs in: RFC 6749, 5.2. A wrong secret is
/// `unauthorized_client` at some providers.
const CLIENT_REFUSED: [&str; 2] = ["invalid_client", "unauthorized_client"];

/// Longest code, in bytes.
const CODE_BYTES: usize = 8192;

/// Largest file of a client's secret, in bytes.
const SECRET_BYTES: usize = 4096;

/// Longest parts of the name of a person, in characters.
const NAME_CHARS: usize = 80;
const SUBJECT_CHARS: usize = 100;

/// Values of a claim that are shown.
const SHOWN_VALUES: usize = 10;

/// What somebody can do who has no access.
const ASK: &str = "Ask your administrator, or log in with an API token.";

/// Section `[http.oidc]`. The meaning of each key stands in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSettings {
    pub issuer: String,
    pub public_url: String,
    pub client_id: String,
    pub client_secret_file: PathBuf,
    pub scopes: String,
    pub claim: String,
    pub grants: Vec<Grant>,
    pub sign_out_at_provider: Switch,
}

impl OidcSettings {
    pub fn is_configured(&self) -> bool {
        !self.issuer.is_empty()
    }

    fn redirect_uri(&self) -> String {
        format!("{}/login/callback", self.public_url)
    }

    fn post_logout_uri(&self) -> String {
        format!("{}/login", self.public_url)
    }

    /// Returns the secret of the client, unless it is a public one. The error never quotes it.
    pub fn client_secret(&self) -> Result<Option<Zeroizing<String>>, String> {
        if self.client_secret_file.as_os_str().is_empty() {
            return Ok(None);
        }
        let secret = read_secret(&self.client_secret_file);
        let secret = secret.map_err(|error| {
            let path = self.client_secret_file.display();
            format!("http.oidc.client_secret_file ({path}) cannot be used: {error}")
        })?;
        Ok(Some(secret))
    }
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = files::read_regular(path, SECRET_BYTES).map_err(|error| error.to_string())?;
    let text = text_decoding::decode(&bytes).map_err(|error| error.to_string())?;
    match text_decoding::without_line_end(&text) {
        "" => Err("it is empty".to_owned()),
        secret => Ok(Zeroizing::new(secret.to_owned())),
    }
}

/// Why nobody was signed in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// The provider, or the secret for it, cannot be used.
    #[error("{0}")]
    Unavailable(String),
    #[error("the sign-in was not begun in this browser, is too old, or was used")]
    NotBegun,
    /// The provider says so, with this code.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The provider does not accept verifyd itself, with this code.
    #[error(
        "the provider does not accept verifyd as its client ({code}): correct http.oidc.client_id or the secret in \
        http.oidc.client_secret_file{}", if *.has_blank { ", which begins or ends with a blank" } else { "" }
    )]
    WrongClient { code: String, has_blank: bool },
    #[error("the provider's answer cannot be trusted: its ID token {0}")]
    Untrusted(&'static str),
    /// The person is known, and may do nothing. `hash` is that of [`Person`].
    #[error("{person}: {why}")]
    NoAccess {
        person: String,
        hash: String,
        why: String,
    },
}

impl SignInError {
    /// Returns what is wrong and what to do, for the person.
    pub fn words(&self) -> String {
        match self {
            Self::Unavailable(_) => "The sign-in of your organization cannot be used at the moment. Try again in a \
                moment, or log in with an API token. The log of verifyd says why."
                .to_owned(),
            Self::NotBegun => "This sign-in was not begun in this browser, took longer than ten minutes, or was used \
                before. Start again."
                .to_owned(),
            Self::Refused(code) => {
                format!("Your organization's provider refused the sign-in ({code}). Start again.")
            }
            Self::WrongClient { code, .. } => format!(
                "Your organization's provider does not accept verifyd's client_id or secret ({code}). Tell your \
                operator, or log in with an API token."
            ),
            Self::Untrusted(why) => format!(
                "The answer of your organization's provider cannot be trusted: its ID token {why}. Start again."
            ),
            Self::NoAccess { why, .. } => why.clone(),
        }
    }
}

/// What the provider sends the browser back with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Callback {
    code: SecretString,
    state: String,
    error: String,
    iss: Option<String>,
}

/// A sign-in that has begun: where the browser goes, and the cookie that it keeps.
#[derive(Debug)]
pub struct Begun {
    pub location: String,
    pub cookie: SecretString,
    /// How long the cookie is kept, in seconds.
    pub max_age: u64,
}

/// What is known of the provider.
#[derive(Debug, Default)]
struct Found {
    provider: Option<(Arc<Provider>, Instant)>,
    failure: Option<(String, Instant)>,
    keys_looked_up: Option<Instant>,
}

/// Signs people in.
pub struct SignIn {
    settings: OidcSettings,
    outbound: Outbound,
    clock: Arc<dyn Clock>,
    found: Mutex<Found>,
    exchanges: Semaphore,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl SignIn {
    /// `None`: people sign in with API tokens only. Nothing is sent before somebody signs in.
    pub fn new(settings: OidcSettings, outbound: Outbound, clock: Arc<dyn Clock>) -> Option<Self> {
        settings.is_configured().then(|| Self {
            settings,
            outbound,
            clock,
            found: Mutex::default(),
            exchanges: Semaphore::new(EXCHANGES),
        })
    }

    /// Whether the browser returns over https: then no cookie of a sign-in goes without.
    pub fn is_over_https(&self) -> bool {
        Url::parse(&self.settings.public_url).is_ok_and(|url| url.scheme() == "https")
    }

    /// Begins a sign-in that goes on at `next`, a path of this host.
    pub async fn begin(&self, next: &str) -> Result<Begun, SignInError> {
        let provider = self.provider().await?;
        let attempt = Attempt::begin(next, self.clock.now());
        let attempt = attempt.map_err(|error| SignInError::Unavailable(error.to_string()))?;
        let mut location = provider.authorization.clone();
        location
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", &self.settings.redirect_uri())
            .append_pair("scope", &self.settings.scopes)
            .append_pair("state", &attempt.state())
            .append_pair("nonce", &attempt.nonce())
            .append_pair("code_challenge", &attempt.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok(Begun {
            location: location.into(),
            cookie: attempt.cookie,
            max_age: attempt::LIFETIME.unsigned_abs(),
        })
    }

    /// Ends the sign-in of this cookie. Returns the person, and where to go on.
    pub async fn finish(
        &self,
        cookie: Option<&str>,
        callback: &Callback,
    ) -> Result<(Person, String), SignInError> {
        let now = self.clock.now();
        let attempt = cookie.and_then(|cookie| Attempt::resume(cookie, &callback.state, now));
        let attempt = attempt.ok_or(SignInError::NotBegun)?;
        // RFC 9207: it comes first, since an answer of another issuer is no answer, whatever it says.
        let issuer = callback.iss.as_deref();
        if issuer.is_some_and(|issuer| issuer != self.settings.issuer) {
            return Err(SignInError::Untrusted("would be of another issuer"));
        }
        let provider = self.provider().await?;
        if issuer.is_none() && provider.names_itself {
            return Err(SignInError::Untrusted(
                "may be of another issuer: this answer has no iss, and the provider promises one",
            ));
        }
        if !callback.error.is_empty() {
            return Err(SignInError::Refused(code_of(&callback.error)));
        }
        let code = callback.code.expose_secret();
        if code.is_empty() || code.len() > CODE_BYTES {
            return Err(SignInError::NotBegun);
        }
        let slot = self.exchanges.try_acquire();
        let _slot =
            slot.map_err(|_| SignInError::Unavailable("too many sign-ins at a time".to_owned()))?;
        let settings = self.settings.clone();
        let secret = tokio::task::spawn_blocking(move || settings.client_secret()).await;
        let secret = secret.unwrap_or_else(|error| Err(error.to_string()));
        let secret = secret.map_err(SignInError::Unavailable)?;
        let secret = secret.as_ref().map(|secret| secret.as_str());
        let redeemed = provider
            .redeem(&self.settings, secret, code, &attempt.verifier())
            .await;
        let tokens = redeemed.map_err(|error| match error {
            NoToken::Refused(code) if CLIENT_REFUSED.contains(&code.as_str()) => {
                let has_blank = secret.is_some_and(text_decoding::has_blank_around);
                SignInError::WrongClient { code, has_blank }
            }
            NoToken::Refused(code) => SignInError::Refused(code_of(&code)),
            NoToken::Unavailable(cause) => SignInError::Unavailable(cause),
        })?;
        let expected = Expected {
            issuer: &self.settings.issuer,
            client_id: &self.settings.client_id,
            nonce: &attempt.nonce(),
            now: self.clock.now().timestamp(),
        };
        let token = tokens.id_token.expose_secret();
        let verified = match id_token::verify(token, &provider.keys, &expected) {
            Err(Flaw::OfKey(_)) => {
                let provider = self.provider_with_new_keys(&provider).await?;
                id_token::verify(token, &provider.keys, &expected)
            }
            verified => verified,
        };
        let claims =
            verified.map_err(|(Flaw::Of(why) | Flaw::OfKey(why))| SignInError::Untrusted(why))?;
        let person = if is_absent(&claims, &self.settings.claim) {
            let more = provider.userinfo(&tokens, claims.get("sub")).await?;
            let mut all = more.clone();
            // The ID token is signed, and stays as it is.
            all.extend(claims);
            self.person(&all, &more)
        } else {
            self.person(&claims, &claims)
        };
        Ok((person?, attempt.next))
    }

    /// Returns where the browser goes on to sign out at the provider, if it can do that: OpenID Connect RP-Initiated Logout
    /// 1.0. No ID token is kept, so the request names the client, and most providers ask the person.
    pub async fn sign_out(&self) -> Option<String> {
        if self.settings.sign_out_at_provider == Switch::Off {
            return None;
        }
        let provider = self.provider().await.inspect_err(|error| {
            tracing::warn!(
                cause = %error,
                "the provider of http.oidc cannot be used; who signed out of verifyd stays signed in there"
            );
        });
        let mut location = provider.ok()?.end_session.clone()?;
        location
            .query_pairs_mut()
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("post_logout_redirect_uri", &self.settings.post_logout_uri());
        Some(location.into())
    }

    /// Tries what a sign-in needs. Returns what was found; the error says what is wrong.
    pub async fn examine(&self) -> Result<String, String> {
        self.settings.client_secret()?;
        let provider = Provider::discover(&self.settings.issuer, &self.outbound).await?;
        let keys = provider.keys.len();
        if keys == 0 {
            return Err("the provider lists no key that signs".to_owned());
        }
        if let Some(problem) = provider.userinfo_problem() {
            return Err(format!(
                "{problem}: people have access only by a claim in the ID token"
            ));
        }
        Ok(format!("{} answers, keys: {keys}", self.settings.issuer))
    }

    /// The provider, as it was found within the last hour. One sign-in asks it, and others wait for that.
    async fn provider(&self) -> Result<Arc<Provider>, SignInError> {
        let mut found = self.found.lock().await;
        if let Some((provider, at)) = &found.provider
            && at.elapsed() < FRESH_FOR
        {
            return Ok(Arc::clone(provider));
        }
        if let Some((cause, at)) = &found.failure
            && at.elapsed() < PAUSE
        {
            return Err(SignInError::Unavailable(cause.clone()));
        }
        match Provider::discover(&self.settings.issuer, &self.outbound).await {
            Ok(provider) => {
                let provider = Arc::new(provider);
                found.provider = Some((Arc::clone(&provider), Instant::now()));
                found.failure = None;
                Ok(provider)
            }
            Err(cause) => {
                found.failure = Some((cause.clone(), Instant::now()));
                Err(SignInError::Unavailable(cause))
            }
        }
    }

    /// The same after a look for new keys, which tokens cannot cause more often than twice a minute.
    async fn provider_with_new_keys(
        &self,
        used: &Arc<Provider>,
    ) -> Result<Arc<Provider>, SignInError> {
        let mut found = self.found.lock().await;
        let (provider, at) = match &found.provider {
            Some((provider, at)) => (Arc::clone(provider), *at),
            None => (Arc::clone(used), Instant::now()),
        };
        let was_looked_up = found
            .keys_looked_up
            .is_some_and(|at| at.elapsed() < KEYS_PAUSE);
        // Another sign-in has looked in between.
        if was_looked_up || !Arc::ptr_eq(&provider, used) {
            return Ok(provider);
        }
        found.keys_looked_up = Some(Instant::now());
        let renewed = provider.with_new_keys().await;
        let renewed = Arc::new(renewed.map_err(SignInError::Unavailable)?);
        found.provider = Some((Arc::clone(&renewed), at));
        Ok(renewed)
    }

    /// Who the person of these claims is, and what it may do by the groups or roles among the others.
    fn person(&self, claims: &Claims, granting: &Claims) -> Result<Person, SignInError> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let subject = text("sub").unwrap_or_default();
        let name = person_name(&text, subject);
        let hash = sha256_hex(&format!("oidc\n{}\n{subject}", self.settings.issuer));
        let claim = &self.settings.claim;
        let values = values(granting, claim);
        match granted(&self.settings.grants, &values) {
            Ok((scopes, binding)) => Ok(Person {
                name,
                hash,
                scopes,
                binding,
            }),
            Err(refusal) => Err(SignInError::NoAccess {
                why: match is_left_out(granting, claim) {
                    true => left_out(claim),
                    false => no_access(claim, &values, &refusal),
                },
                person: name,
                hash,
            }),
        }
    }
}

/// `oidc: Kim Doe (24400320)`. People may choose their names, so the subject always ends it.
fn person_name<'a>(text: &impl Fn(&str) -> Option<&'a str>, subject: &str) -> String {
    let names = ["name", "preferred_username", "email"];
    let mut names = names.iter().filter_map(|name| text(name)).map(str::trim);
    let name = names.find(|name| !name.is_empty());
    let subject = redact::clean(subject, SUBJECT_CHARS);
    match name {
        Some(name) => format!(
            "{PERSON_PREFIX}{} ({subject})",
            redact::clean(name, NAME_CHARS)
        ),
        None => format!("{PERSON_PREFIX}{subject}"),
    }
}

fn shown(text: &str) -> String {
    format!("\u{201c}{}\u{201d}", redact::clean(text, NAME_CHARS))
}

fn left_out(claim: &str) -> String {
    format!(
        "Your organization's provider left the claim {} out: it has too many values of you for an ID token. {ASK} \
         The provider could send roles, or only groups that are assigned to the application.",
        shown(claim)
    )
}

fn no_access(claim: &str, values: &[String], refusal: &NoGrant) -> String {
    match refusal {
        NoGrant::Unknown if values.is_empty() => {
            let claim = shown(claim);
            format!("Your organization's provider sent no claim {claim} with a text in it. {ASK}")
        }
        NoGrant::Unknown => {
            let first = values.iter().take(SHOWN_VALUES).map(|value| shown(value));
            let mut first: Vec<String> = first.collect();
            if values.len() > SHOWN_VALUES {
                first.push(format!("{} others", values.len() - SHOWN_VALUES));
            }
            format!(
                "Nothing that the claim {} names of you has access: {}. {ASK}",
                shown(claim),
                first.join(", ")
            )
        }
        NoGrant::Ambiguous(one, other) => format!(
            "{} and {} give access to different workspaces or tenants, and you have both. {ASK}",
            shown(one),
            shown(other)
        ),
        NoGrant::Blind => format!(
            "What the claim {} names of you may not read. {ASK}",
            shown(claim)
        ),
    }
}

/// An error code of the standard, whatever was sent.
fn code_of(text: &str) -> String {
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let code: String = text.chars().filter(is_allowed).take(64).collect();
    if code.is_empty() {
        "unknown".to_owned()
    } else {
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name(claims: &Value) -> String {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        person_name(&text, text("sub").unwrap())
    }

    #[test]
    fn the_name_of_a_person_ends_with_the_subject() {
        for (claims, expected) in [
            (json!({ "sub": "7" }), "oidc: 7"),
            (json!({ "sub": "7", "name": " Kim " }), "oidc: Kim (7)"),
            (
                json!({ "sub": "7", "name": "", "email": "k@x.example" }),
                "oidc: k@x.example (7)",
            ),
            (
                json!({ "sub": "7", "name": "Kim (8)\n" }),
                "oidc: Kim (8) (7)",
            ),
            (
                json!({ "sub": "7", "name": "a\u{202e}b" }),
                "oidc: a\u{fffd}b (7)",
            ),
        ] {
            assert_eq!(name(&claims), expected);
        }
        let long = json!({ "sub": "s".repeat(255), "name": "n".repeat(255) });
        assert_eq!(
            name(&long).len(),
            "oidc:  ()".len() + NAME_CHARS + SUBJECT_CHARS
        );
    }

    #[test]
    fn whoever_has_no_access_learns_which_values_do_not_count() {
        let values: Vec<String> = (0..12).map(|n| format!("g{n}")).collect();
        let said = no_access("groups", &values, &NoGrant::Unknown);
        assert!(
            said.contains("\u{201c}g0\u{201d}, ") && said.contains("2 others"),
            "{said}"
        );
        assert!(
            no_access("roles", &[], &NoGrant::Unknown).contains("no claim \u{201c}roles\u{201d}")
        );
        assert_eq!(code_of("access_denied"), "access_denied");
        assert_eq!(code_of("<b>\u{202e}"), "b");
        assert_eq!(code_of("\n"), "unknown");
    }
}
