//! Settings, a connection, a target and a directory for the Microsoft provider.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;
use verifyd::domain::connection::{ConnectionStatus, ProviderConnection};
use verifyd::domain::connection_facts::{ConnectionFacts, RecordedExpiry};
use verifyd::domain::credential::Credential;
use verifyd::domain::link::LinkContext;
use verifyd::domain::{ConnectionId, RunId, TenantId, WorkspaceId};
use verifyd::ports::clock::Clock;
use verifyd::ports::open_calls::OpenCalls;
use verifyd::ports::provider::Target;
use verifyd::provider::microsoft::{CloudSettings, MicrosoftSettings, Pauses};
use verifyd_simulator::GRAPH_ROLES;

/// The directory that is asked for.
pub const TENANT: &str = "11111111-2222-4333-8444-555555555555";
/// The application that asks.
pub const CLIENT: &str = "66666666-7777-4888-8999-aaaaaaaaaaaa";

/// The application's service principal in the directory.
pub const SERVICE_PRINCIPAL: &str = "0a0a0a0a-0000-4000-8000-000000000001";
/// The service principal of Graph in the directory.
pub const GRAPH_RESOURCE: &str = "0b0b0b0b-0000-4000-8000-000000000002";
/// The app id of Graph.
pub const GRAPH_APP: &str = "00000003-0000-0000-c000-000000000000";

/// Id of the application permission on Graph with this name.
pub fn role_id(name: &str) -> &'static str {
    let role = GRAPH_ROLES.iter().find(|role| role.name == name);
    role.unwrap_or_else(|| panic!("no permission {name:?}")).id
}

/// The application permissions of Graph, as a service principal lists them.
pub fn app_roles() -> Value {
    let roles = GRAPH_ROLES.iter();
    roles
        .map(|role| json!({"id": role.id, "value": role.name}))
        .collect()
}

/// A token with these claims: a JWT whose signature means nothing.
pub fn jwt(claims: &Value) -> String {
    format!(
        "eyJhbGciOiJub25lIn0.{}.canarysignature",
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

/// 2026-01-01T00:00:00Z, always.
pub struct Still;

impl Clock for Still {
    fn now(&self) -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }
}

/// Settings of a cloud `test` with these endpoints, whose pauses are short and whose limits are small.
pub fn settings(login: &str, graph: &str) -> MicrosoftSettings {
    MicrosoftSettings {
        default_cloud: "test".into(),
        request_timeout: Duration::from_secs(120),
        max_attempts_per_request: 3,
        pauses: Pauses {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
            ..Pauses::default()
        },
        modules_dir: std::path::PathBuf::new(),
        clouds: BTreeMap::from([(
            "test".into(),
            CloudSettings {
                login: login.into(),
                graph: graph.into(),
                portal: "https://portal.example.com".into(),
            },
        )]),
    }
}

/// A client secret.
pub fn secret(text: &str) -> Credential {
    Credential::ClientSecret {
        secret: text.to_owned().into(),
        client_id: None,
    }
}

/// What a check is about: a connection to [`TENANT`] with a secret.
pub fn target(module: &str) -> Target {
    Target {
        run_id: RunId(1),
        is_repeated: false,
        connection: ProviderConnection {
            id: ConnectionId(7),
            workspace_id: WorkspaceId(8),
            tenant_id: TenantId(9),
            provider: "microsoft".into(),
            display_name: None,
            status: ConnectionStatus::Enabled,
            entra_tenant_id: Some(TENANT.into()),
            client_id: Some(CLIENT.into()),
            cloud: None,
            module: None,
            created_at: None,
            updated_at: None,
        },
        credential: secret("canary-secret-value"),
        credential_changed_at: None,
        credential_expiry: RecordedExpiry::Absent,
        known: ConnectionFacts::default(),
        entra_tenant_id: TENANT.into(),
        module: module.into(),
        links: LinkContext {
            connections: "/connections".into(),
            connection: "/connections/{id}".into(),
            run: "/runs/{id}".into(),
            run_id: 1,
            connection_id: Some(7),
            portal: "https://portal.example.com".into(),
            login: "https://login.example.com".into(),
            graph: "https://graph.example.com".into(),
            entra_tenant_id: Some(TENANT.into()),
            client_id: Some(CLIENT.into()),
            ..LinkContext::default()
        },
        deadline: tokio::time::Instant::now() + Duration::from_secs(600),
        correlation_id: Uuid::from_u128(0xC0),
        calls: OpenCalls::default(),
    }
}
