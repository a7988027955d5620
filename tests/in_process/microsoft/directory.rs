//! A directory on loopback that answers like Entra and Graph, and says something else where a test
//! wants it to.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use test_support::microsoft::{CLIENT, TENANT};
pub const SERVICE_PRINCIPAL: &str = "0a0a0a0a-0000-4000-8000-000000000001";
pub const GRAPH_RESOURCE: &str = "0b0b0b0b-0000-4000-8000-000000000002";
pub const OTHER_RESOURCE: &str = "0c0c0c0c-0000-4000-8000-000000000003";
pub const OTHER_APP: &str = "0d0d0d0d-0000-4000-8000-000000000004";

/// Permissions on Graph with their app role ids.
pub const ROLES: &[(&str, &str)] = &[
    (
        "Organization.Read.All",
        "498476ce-e0fe-48b0-b801-37ba7e2685c6",
    ),
    (
        "Application.Read.All",
        "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30",
    ),
    ("Directory.Read.All", "7ab1d382-f21e-4acd-a863-ba3e13f7da61"),
    ("Group.Read.All", "5b567255-7703-4780-807c-7be8301ae99b"),
    (
        "DeviceManagementApps.Read.All",
        "7a6ee1e7-141e-4cec-ae74-d9db155731ff",
    ),
    (
        "DeviceManagementConfiguration.Read.All",
        "dc377aa6-52d8-4e23-b271-2a7ae04cedf3",
    ),
    (
        "DeviceManagementConfiguration.ReadWrite.All",
        "9241abd9-d0e6-425a-bd4f-47ba86e767a4",
    ),
    (
        "DeviceManagementManagedDevices.Read.All",
        "2f51be20-0bb4-4fed-bf7b-db946066c75e",
    ),
    (
        "DeviceManagementRBAC.Read.All",
        "58ca0d9a-1575-47e1-a3cb-007ef2e4583b",
    ),
    (
        "DeviceManagementServiceConfig.Read.All",
        "06a5fe6d-c49d-46a7-b082-56b1b14103c7",
    ),
];

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
    /// After the body nothing more comes, and no end either.
    pub hang: bool,
    /// The body is sent in chunks, without its length.
    pub chunked: bool,
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
            hang: false,
            chunked: false,
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
}

/// An access token with these claims: a JWT whose signature means nothing.
pub fn token(claims: &Value) -> String {
    format!(
        "eyJhbGciOiJub25lIn0.{}.canarysignature",
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
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
    /// Delegated permissions on Graph that are granted.
    pub delegated: Vec<&'static str>,
    pub organization: Value,
}

/// Id of the delegated permission with the name of an application permission.
pub fn scope_id(name: &str) -> String {
    let (_, id) = ROLES.iter().find(|(n, _)| *n == name).unwrap();
    format!("5c09e{}", &id[5..])
}

/// A registration that asks for these application permissions, with these secrets: hint and end.
pub fn application(roles: &[&str], scopes: &[&str], secrets: &[(&str, &str)]) -> Value {
    let role = |name: &&str| {
        let (_, id) = ROLES.iter().find(|(n, _)| n == name).unwrap();
        json!({"id": id, "type": "Role"})
    };
    let scope = |name: &&str| json!({"id": scope_id(name), "type": "Scope"});
    let asked: Vec<Value> = roles
        .iter()
        .map(role)
        .chain(scopes.iter().map(scope))
        .collect();
    let secrets: Vec<Value> = secrets
        .iter()
        .map(|(hint, end)| json!({"hint": hint, "endDateTime": end}))
        .collect();
    json!({
        "requiredResourceAccess": [
            {"resourceAppId": "00000003-0000-0000-c000-000000000000", "resourceAccess": asked}],
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
                application: application(&[], &[], &[("can", "2027-06-01T00:00:00Z")]),
                delegated: Vec::new(),
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
                .map(|name| {
                    let (_, id) = ROLES.iter().find(|(n, _)| n == name).unwrap();
                    json!({"appRoleId": id, "resourceId": GRAPH_RESOURCE})
                })
                .collect();
            all.push(json!({"appRoleId": ROLES[2].1, "resourceId": OTHER_RESOURCE}));
            all.push(json!({"appRoleId": uuid::Uuid::nil(), "resourceId": OTHER_RESOURCE}));
            all
        };
        let resource = |app: &str| {
            let roles: Vec<Value> = ROLES
                .iter()
                .map(|(value, id)| json!({"id": id, "value": value}))
                .collect();
            Reply::json(200, &json!({"appId": app, "appRoles": roles}))
        };
        match seen.call.as_str() {
            "token" if facts.opaque => token_reply("opaque-canary-token"),
            "token" => {
                let roles = facts.in_token.as_ref().unwrap_or(&facts.granted);
                token_reply(&token(
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
            "delegated" => {
                let grant = json!({"resourceId": GRAPH_RESOURCE, "consentType": "AllPrincipals",
                    "scope": facts.delegated.join(" ")});
                Reply::json(200, &json!({"value": [grant]}))
            }
            "offered" => {
                let named = |id: &dyn Fn(&str, &str) -> String| -> Vec<Value> {
                    let all = ROLES.iter();
                    all.map(|(name, role)| json!({"id": id(name, role), "value": name}))
                        .collect()
                };
                Reply::json(
                    200,
                    &json!({"id": GRAPH_RESOURCE,
                        "appRoles": named(&|_, role| role.to_owned()),
                        "oauth2PermissionScopes": named(&|name, _| scope_id(name))}),
                )
            }
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
            "resource" if seen.uri.path().ends_with(GRAPH_RESOURCE) => {
                resource("00000003-0000-0000-c000-000000000000")
            }
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
    let chunks: Vec<Result<Bytes, std::io::Error>> = reply
        .body
        .chunks(1000)
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .collect();
    let body = if reply.hang {
        use futures::StreamExt;
        Body::from_stream(futures::stream::iter(chunks).chain(futures::stream::pending()))
    } else if reply.chunked {
        Body::from_stream(futures::stream::iter(chunks))
    } else {
        Body::from(reply.body)
    };
    response.body(body).unwrap()
}
