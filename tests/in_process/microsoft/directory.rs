//! A directory on loopback that answers like Entra and Graph, and says something else where a test
//! wants it to.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use test_support::microsoft::{
    CLIENT, GRAPH_APP, GRAPH_RESOURCE, SERVICE_PRINCIPAL, TENANT, app_roles, jwt, role_id,
};
pub const OTHER_RESOURCE: &str = "0c0c0c0c-0000-4000-8000-000000000003";
pub const OTHER_APP: &str = "0d0d0d0d-0000-4000-8000-000000000004";

/// All that the module `intune` needs.
pub const INTUNE: &[&str] = &[
    "Organization.Read.All",
    "Application.Read.All",
    "Group.Read.All",
    "DeviceManagementApps.Read.All",
    "DeviceManagementConfiguration.Read.All",
    "DeviceManagementManagedDevices.Read.All",
    "DeviceManagementRBAC.Read.All",
    "DeviceManagementServiceConfig.Read.All",
];

/// All that the module `health_check` needs.
pub const HEALTH: &[&str] = &[
    "Organization.Read.All",
    "Application.Read.All",
    "Directory.Read.All",
];

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `token`, `organization`, `service_principal`, `assignments`, `resource`, `application`, `delegated`,
    /// `offered`, or the path.
    pub call: String,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub form: HashMap<String, String>,
    /// How often the same call came before.
    pub before: usize,
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub delay: Duration,
    pub rest: Rest,
}

/// What follows the body.
#[derive(Clone, Copy, Debug)]
pub enum Rest {
    Ended,
    /// Nothing more comes, and no end either.
    Nothing,
    /// A blank a tenth of a second, without an end.
    Blanks,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", &body.to_string())
    }

    pub fn text(status: u16, content_type: &str, body: &str) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
            delay: Duration::ZERO,
            rest: Rest::Ended,
        }
    }

    pub fn graph_error(status: u16, code: &str, message: &str) -> Self {
        Self::json(
            status,
            &json!({"error": {"code": code, "message": message, "innerError": {
                "request-id": "2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01"}}}),
        )
    }

    pub fn denied() -> Self {
        Self::graph_error(
            403,
            "Authorization_RequestDenied",
            "Insufficient privileges",
        )
    }

    pub fn token_error(status: u16, error: &str, code: u32) -> Self {
        Self::json(
            status,
            &json!({"error": error, "error_codes": [code],
                "error_description": format!("AADSTS{code}: canary-description"),
                "trace_id": "0d5cb9b6-9b8a-4d35-9b3b-1a8a3a0c0100",
                "correlation_id": "8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11"}),
        )
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn then(mut self, rest: Rest) -> Self {
        self.rest = rest;
        self
    }
}

pub fn token_reply(access_token: &str) -> Reply {
    Reply::json(
        200,
        &json!({"token_type": "Bearer", "expires_in": 3599, "access_token": access_token}),
    )
}

type Script = Box<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

/// What the directory holds.
#[derive(Clone)]
pub struct Facts {
    /// Granted permissions on Graph.
    pub granted: Vec<&'static str>,
    /// `roles` of the token; the granted ones if null.
    pub in_token: Option<Vec<&'static str>>,
    /// The token cannot be read.
    pub opaque: bool,
    pub subscription: &'static str,
    /// `appOwnerOrganizationId`
    pub owner: Option<&'static str>,
    /// The registration, told in the directory that owns it.
    pub application: Value,
    pub organization: Value,
}

/// A registration that asks for these application permissions, with these secrets: hint and end.
pub fn application(roles: &[&str], secrets: &[(&str, &str)]) -> Value {
    let asked: Vec<Value> = roles
        .iter()
        .map(|name| json!({"id": role_id(name), "type": "Role"}))
        .collect();
    let secrets: Vec<Value> = secrets
        .iter()
        .map(|(hint, end)| json!({"hint": hint, "endDateTime": end}))
        .collect();
    json!({
        "requiredResourceAccess": [{"resourceAppId": GRAPH_APP, "resourceAccess": asked}],
        "passwordCredentials": secrets,
    })
}

struct Inner {
    facts: Mutex<Facts>,
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    base: String,
}

/// A running directory. Its server ends with the test's runtime.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

impl Directory {
    pub async fn start(granted: &[&'static str]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (directory, router) = Self::behind(base, granted);
        tokio::spawn(async move { axum::serve(listener, router).await });
        directory
    }

    /// For another server at this address, which answers by the router.
    pub fn behind(base: String, granted: &[&'static str]) -> (Self, Router) {
        let directory = Self(Arc::new(Inner {
            facts: Mutex::new(Facts {
                granted: granted.to_vec(),
                in_token: None,
                opaque: false,
                subscription: "active",
                owner: Some(TENANT),
                application: application(&[], &[("can", "2027-06-01T00:00:00Z")]),
                organization: json!({"id": TENANT}),
            }),
            script: Mutex::new(Box::new(|_| None)),
            seen: Mutex::new(Vec::new()),
            base,
        }));
        let router = Router::new().fallback(answer).with_state(directory.clone());
        (directory, router)
    }

    /// Address of both login and Graph.
    pub fn base(&self) -> &str {
        &self.0.base
    }

    /// Changes what the directory holds.
    pub fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.0.facts.lock().unwrap());
    }

    /// Answers for which `script` has one are given instead of the usual ones.
    pub fn script(&self, script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) {
        *self.0.script.lock().unwrap() = Box::new(script);
    }

    /// This call is always answered with this, and every other one as usual.
    pub fn answer(&self, call: &'static str, reply: Reply) {
        self.script(move |seen| (seen.call == call).then(|| reply.clone()));
    }

    /// Every request to this call.
    pub fn seen(&self, call: &str) -> Vec<Seen> {
        let seen = self.0.seen.lock().unwrap();
        seen.iter().filter(|s| s.call == call).cloned().collect()
    }

    /// How many requests came to this call.
    pub fn count(&self, call: &str) -> usize {
        self.seen(call).len()
    }

    fn usual(&self, seen: &Seen) -> Reply {
        let facts = self.0.facts.lock().unwrap().clone();
        let assignments = || {
            let mut all: Vec<Value> = facts
                .granted
                .iter()
                .map(|name| json!({"appRoleId": role_id(name), "resourceId": GRAPH_RESOURCE}))
                .collect();
            let elsewhere = role_id("Directory.Read.All");
            all.push(json!({"appRoleId": elsewhere, "resourceId": OTHER_RESOURCE}));
            all.push(json!({"appRoleId": uuid::Uuid::nil(), "resourceId": OTHER_RESOURCE}));
            all
        };
        let resource =
            |app: &str| Reply::json(200, &json!({"appId": app, "appRoles": app_roles()}));
        match seen.call.as_str() {
            "token" if facts.opaque => token_reply("opaque-canary-token"),
            "token" => {
                let roles = facts.in_token.as_ref().unwrap_or(&facts.granted);
                token_reply(&jwt(
                    &json!({"tid": TENANT, "roles": roles, "n": seen.before}),
                ))
            }
            "organization" => Reply::json(200, &json!({"value": [facts.organization]})),
            "service_principal" => Reply::json(
                200,
                &json!({"id": SERVICE_PRINCIPAL, "accountEnabled": true,
                    "appOwnerOrganizationId": facts.owner}),
            ),
            "application" => Reply::json(200, &facts.application),
            "delegated" => Reply::json(200, &json!({"value": []})),
            "offered" => Reply::json(200, &json!({"id": GRAPH_RESOURCE, "appRoles": app_roles()})),
            "assignments" => {
                let all = assignments();
                let skip: usize = seen
                    .uri
                    .query()
                    .and_then(|q| q.strip_prefix("$skiptoken="))
                    .map_or(0, |n| n.parse().unwrap());
                let page: Vec<&Value> = all.iter().skip(skip).take(2).collect();
                let mut body = json!({ "value": page });
                if skip + 2 < all.len() {
                    body["@odata.nextLink"] = json!(format!(
                        "{}{}?$skiptoken={}",
                        self.0.base,
                        seen.uri.path(),
                        skip + 2
                    ));
                }
                Reply::json(200, &body)
            }
            "resource" if seen.uri.path().ends_with(GRAPH_RESOURCE) => resource(GRAPH_APP),
            "resource" => resource(OTHER_APP),
            "/v1.0/deviceManagement" => {
                Reply::json(200, &json!({"subscriptionState": facts.subscription}))
            }
            "/v1.0/deviceManagement/deviceConfigurations"
            | "/v1.0/deviceManagement/roleDefinitions" => Reply::json(200, &json!({"value": []})),
            _ => Reply::graph_error(404, "Request_ResourceNotFound", "no such thing"),
        }
    }
}

fn call_of(path: &str) -> String {
    let principals = "/v1.0/servicePrincipals";
    match path {
        p if p.ends_with("/oauth2/v2.0/token") => "token".into(),
        "/v1.0/organization" => "organization".into(),
        p if p.starts_with("/v1.0/applications(") => "application".into(),
        p if p.ends_with("/oauth2PermissionGrants") => "delegated".into(),
        p if p.starts_with(&format!("{principals}(appId='{CLIENT}'")) => "service_principal".into(),
        p if p.starts_with(&format!("{principals}(")) => "offered".into(),
        p if p.ends_with("/appRoleAssignments") => "assignments".into(),
        p if p.starts_with(principals) => "resource".into(),
        p => p.into(),
    }
}

async fn answer(
    State(directory): State<Directory>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let call = call_of(uri.path());
    let seen = Seen {
        before: directory.count(&call),
        form: url::form_urlencoded::parse(&body).into_owned().collect(),
        call,
        method,
        uri,
        headers,
    };
    directory.0.seen.lock().unwrap().push(seen.clone());
    let scripted = directory.0.script.lock().unwrap()(&seen);
    let reply = scripted.unwrap_or_else(|| directory.usual(&seen));
    tokio::time::sleep(reply.delay).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let begun = futures::stream::once(std::future::ready(Bytes::from(reply.body.clone())));
    let body = match reply.rest {
        Rest::Ended => Body::from(reply.body),
        Rest::Nothing => endless(begun.chain(futures::stream::pending())),
        Rest::Blanks => endless(begun.chain(futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((Bytes::from_static(b" "), ()))
        }))),
    };
    response.body(body).unwrap()
}

fn endless(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>))
}
