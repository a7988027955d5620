//! Someone who calls a simulator.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use verifyd_simulator::{
    RunningSimulator, SIMULATED_SECRET, Scenario, Simulator, SimulatorOptions, service_principal_id,
};

pub const CLIENT_ID: &str = "0f4c2a10-7b5d-4f0e-9c57-3a1d7a5e9b01";
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A clock that tests put forward.
#[derive(Clone, Debug)]
pub struct MovedClock(Arc<Mutex<TimeDelta>>);

impl MovedClock {
    pub fn put_forward(&self, by: TimeDelta) {
        *self.0.lock().unwrap() += by;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the machine's clock"
)]
pub fn utc_now() -> DateTime<Utc> {
    Utc::now()
}

pub struct Caller {
    pub simulator: RunningSimulator,
    pub clock: MovedClock,
    pub http: reqwest::Client,
}

/// One answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The AADSTS code of a refusal by Entra.
    pub fn aadsts(&self) -> u64 {
        let body = self.json();
        body["error_codes"][0]
            .as_u64()
            .unwrap_or_else(|| panic!("no refusal: {body}"))
    }

    /// `error.code` of a refusal by Graph.
    pub fn graph_code(&self) -> String {
        let body = self.json();
        let code = body["error"]["code"].as_str();
        code.unwrap_or_else(|| panic!("no refusal: {body}"))
            .to_owned()
    }
}

impl Caller {
    pub async fn new() -> Self {
        Self::with(SimulatorOptions::default()).await
    }

    pub async fn with(options: SimulatorOptions) -> Self {
        let clock = MovedClock(Arc::default());
        let offset = Arc::clone(&clock.0);
        let simulator =
            Simulator::start_with_clock(options, move || utc_now() + *offset.lock().unwrap())
                .await
                .unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            simulator,
            clock,
            http,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.simulator.base_url)
    }

    pub fn token_url(&self, tenant: &str) -> String {
        self.url(&format!("/{tenant}/oauth2/v2.0/token"))
    }

    pub fn scope(&self) -> String {
        self.url("/.default")
    }

    pub async fn post_form(&self, tenant: &str, fields: &[(&str, &str)]) -> Answer {
        let request = self.http.post(self.token_url(tenant)).form(fields);
        Answer::of(request.send().await.unwrap()).await
    }

    /// Signs in as `CLIENT_ID` with these fields besides those that always stand.
    pub async fn sign_in_with(&self, tenant: &str, credential: &[(&str, &str)]) -> Answer {
        let scope = self.scope();
        let mut fields = vec![
            ("client_id", CLIENT_ID),
            ("scope", &*scope),
            ("grant_type", "client_credentials"),
        ];
        fields.extend_from_slice(credential);
        self.post_form(tenant, &fields).await
    }

    pub async fn sign_in(&self, tenant: &str) -> Answer {
        self.sign_in_with(tenant, &[("client_secret", SIMULATED_SECRET)])
            .await
    }

    pub async fn present(&self, tenant: &str, assertion: &str) -> Answer {
        let fields = [
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
        ];
        self.sign_in_with(tenant, &fields).await
    }

    pub async fn token(&self, tenant: &str) -> String {
        let answer = self.sign_in(tenant).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        let request = self.http.get(self.url(path)).bearer_auth(token);
        Answer::of(request.send().await.unwrap()).await
    }

    /// Signs in and asks Graph once.
    pub async fn ask(&self, scenario: Scenario, path: &str) -> Answer {
        let token = self.token(&scenario.tenant_id(0)).await;
        self.get(&token, path).await
    }
}

/// The path of the grants to `CLIENT_ID`.
pub fn assignments(tenant: &str) -> String {
    let id = service_principal_id(tenant, CLIENT_ID);
    format!("/v1.0/servicePrincipals/{id}/appRoleAssignments")
}

/// The claims of a JWT, unverified.
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Unix time in seconds.
pub fn now() -> i64 {
    utc_now().timestamp()
}
