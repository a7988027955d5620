//! verifyd beside a provider that sends what a test wants, and people on their way between the two.

use super::fake::Fake;
use super::{secret_file, settings};
use crate::api::scene::Scene;
use crate::pages::person::{Person, location};
use reqwest::Response;
use reqwest::header::SET_COOKIE;
use std::collections::HashMap;
use url::Url;
use verifyd::config::Settings;
use verifyd::domain::audit::{AuditAction, AuditEntry};
use verifyd::ports::audit::AuditFilter;

pub const PUBLIC_URL: &str = "http://127.0.0.1:9";

/// verifyd, a provider, and the folder of the client's secret.
pub struct Place {
    pub scene: Scene,
    pub fake: Fake,
    _folder: tempfile::TempDir,
}

/// Somebody who is at the provider.
pub struct Away {
    pub person: Person,
    pub asked: HashMap<String, String>,
}

pub async fn place() -> Place {
    place_with(|_| {}).await
}

pub async fn place_with(change: impl FnOnce(&mut Settings)) -> Place {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let oidc = settings(fake.issuer(), PUBLIC_URL, secret_file(&folder));
    let scene = Scene::sqlite_with(|settings| {
        settings.http.oidc = oidc;
        change(settings);
    })
    .await;
    Place {
        scene,
        fake,
        _folder: folder,
    }
}

/// The cookies that an answer sets: name and value.
pub fn cookies(answer: &Response) -> Vec<(String, String)> {
    let set = answer.headers().get_all(SET_COOKIE).iter();
    let pairs = set.map(|line| line.to_str().unwrap().split(';').next().unwrap());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

pub fn value_of(answer: &Response, name: &str) -> Option<String> {
    let cookies = cookies(answer).into_iter();
    cookies
        .rev()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value)
}

pub fn request_id(answer: &Response) -> Option<String> {
    let id = answer.headers().get("x-request-id")?;
    Some(id.to_str().unwrap().to_owned())
}

impl Place {
    /// Begins a sign-in.
    pub async fn begin(&self, next: &str) -> Away {
        let mut person = Person::at(&self.scene.base);
        let answer = person.get(&format!("/login/oidc?next={next}")).await;
        assert_eq!(answer.status(), 303);
        person.keep_cookie(&answer);
        let url = Url::parse(location(&answer)).unwrap();
        Away {
            person,
            asked: url.query_pairs().into_owned().collect(),
        }
    }

    /// The answer to the return of somebody to whom the provider gives this token.
    pub async fn answer(&self, away: &Away, token: &str) -> Response {
        self.fake.issues(token);
        away.person.get(&away.callback()).await
    }

    /// The same of a token that is right, in these groups.
    pub async fn answer_to(&self, away: &Away, groups: &[&str]) -> Response {
        let claims = self.fake.claims(away.nonce(), groups);
        self.answer(away, &self.fake.signed(&claims)).await
    }

    pub async fn entries(&self, action: AuditAction) -> Vec<AuditEntry> {
        let filter = AuditFilter {
            action: Some(action),
            limit: 100,
            ..AuditFilter::default()
        };
        let store = &self.scene.world.services.store;
        store.audit_entries(&filter).await.unwrap()
    }
}

impl Away {
    pub fn nonce(&self) -> &str {
        &self.asked["nonce"]
    }

    pub fn callback(&self) -> String {
        format!("/login/callback?code=c0de&state={}", self.asked["state"])
    }
}

/// Whoever comes back signed in.
pub fn signed_in(away: &Away, answer: &Response) -> Person {
    assert_eq!(answer.status(), 200);
    let session = value_of(answer, "verifyd_session").expect("a session");
    assert_eq!(value_of(answer, "verifyd_login").as_deref(), Some(""));
    let mut person = Person::at(away.person.base());
    person.cookie = format!("verifyd_session={session}");
    person
}

pub async fn sign_out(person: &Person) -> Response {
    let csrf = person.csrf().await;
    person.post("/logout", &[("csrf", &csrf)]).await
}

/// Signs out of verifyd alone.
pub async fn signed_out_here(person: &Person) {
    let answer = sign_out(person).await;
    assert_eq!(
        (answer.status().as_u16(), location(&answer)),
        (303, "/login")
    );
}
