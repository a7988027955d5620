//! What a healthy tenant answers where a case names nothing.

use crate::verdicts::replay::{CLIENT, TENANT};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub const SERVICE_PRINCIPAL: &str = "0a0a0a0a-0000-4000-8000-000000000001";
pub const GRAPH_RESOURCE: &str = "0b0b0b0b-0000-4000-8000-000000000002";
const APPLICATION: &str = "0e0e0e0e-0000-4000-8000-000000000005";
const GRAPH_APP: &str = "00000003-0000-0000-c000-000000000000";

/// Application permissions on Graph with their ids.
pub const ROLES: &[(&str, &str)] = &[
    (
        "Organization.Read.All",
        "498476ce-e0fe-48b0-b801-37ba7e2685c6",
    ),
    ("Directory.Read.All", "7ab1d382-f21e-4acd-a863-ba3e13f7da61"),
    (
        "Application.Read.All",
        "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30",
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
        "DeviceManagementApps.Read.All",
        "7a6ee1e7-141e-4cec-ae74-d9db155731ff",
    ),
    (
        "DeviceManagementApps.ReadWrite.All",
        "78145de6-330d-4800-a6ce-494ff2d33d07",
    ),
    (
        "DeviceManagementManagedDevices.Read.All",
        "2f51be20-0bb4-4fed-bf7b-db946066c75e",
    ),
    (
        "DeviceManagementManagedDevices.ReadWrite.All",
        "243333ab-4d21-40cb-a475-36241daa0842",
    ),
    (
        "DeviceManagementRBAC.Read.All",
        "58ca0d9a-1575-47e1-a3cb-007ef2e4583b",
    ),
    (
        "DeviceManagementRBAC.ReadWrite.All",
        "e330c4f0-4170-414e-a55a-2f022ec2b57b",
    ),
    (
        "DeviceManagementScripts.Read.All",
        "c7a5be92-2b3d-4540-8a67-c96dcaae8b43",
    ),
    (
        "DeviceManagementServiceConfig.Read.All",
        "06a5fe6d-c49d-46a7-b082-56b1b14103c7",
    ),
    (
        "DeviceManagementServiceConfig.ReadWrite.All",
        "5ac13192-7ace-4fcf-b828-1a26f28068ee",
    ),
    ("Group.Read.All", "5b567255-7703-4780-807c-7be8301ae99b"),
    (
        "Group.ReadWrite.All",
        "62a82d76-70ea-41e2-9197-370581804d09",
    ),
    ("Policy.Read.All", "246dd0d5-5bd0-4def-940b-0421030a5b68"),
    (
        "Policy.ReadWrite.ConditionalAccess",
        "01c0a623-fc9b-48e9-b794-0756f8e8f067",
    ),
    ("User.Read.All", "df021288-bdef-4463-88db-98f22de89214"),
    (
        "RoleManagement.Read.Directory",
        "483bed4a-2ad3-4361-a73b-c83ccdbdc53c",
    ),
];

fn role_id(name: &str) -> &'static str {
    let role = ROLES.iter().find(|(known, _)| *known == name);
    role.unwrap_or_else(|| panic!("no permission {name:?}")).1
}

/// What is granted in a tenant, and what its tokens say of it.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub granted: Vec<String>,
    pub token_roles: Vec<String>,
    pub opaque_token: bool,
}

/// A JWT whose signature means nothing.
pub fn jwt(claims: &Value) -> String {
    format!(
        "eyJhbGciOiJSUzI1NiJ9.{}.canarysignature",
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

impl Tenant {
    pub fn token(&self) -> Value {
        let token = match self.opaque_token {
            true => "opaque-canary-token".to_owned(),
            false => jwt(&json!({"tid": TENANT, "appid": CLIENT, "roles": self.token_roles})),
        };
        json!({"token_type": "Bearer", "expires_in": 3599, "access_token": token})
    }

    /// Status and body for a path of Graph.
    pub fn graph(&self, path: &str) -> (u16, Value) {
        let principals = "/v1.0/servicePrincipals";
        let own = format!("{principals}/{SERVICE_PRINCIPAL}");
        let list = |items: Value| (200, json!({ "value": items }));
        match path {
            "/v1.0/organization" => list(json!([{
                "id": TENANT, "displayName": "Contoso",
                "verifiedDomains": [{"name": "contoso.example", "isDefault": true}],
                // No plan says whether Intune is licensed: cases that need one have their own.
                "assignedPlans": [{"service": "exchange", "capabilityStatus": "Enabled",
                    "servicePlanId": "efb87545-963c-4e0d-99df-69c6916d9eb0"}],
            }])),
            p if p == format!("{principals}(appId='{CLIENT}')") => (
                200,
                json!({"id": SERVICE_PRINCIPAL, "appId": CLIENT, "accountEnabled": true,
                    "appOwnerOrganizationId": TENANT}),
            ),
            p if p == format!("{own}/appRoleAssignments") => list(
                self.granted
                    .iter()
                    .map(|name| json!({"appRoleId": role_id(name), "resourceId": GRAPH_RESOURCE}))
                    .collect(),
            ),
            p if p == format!("{own}/oauth2PermissionGrants") => list(json!([])),
            p if p == format!("{principals}/{GRAPH_RESOURCE}")
                || p == format!("{principals}(appId='{GRAPH_APP}')") =>
            {
                let roles: Vec<Value> = ROLES
                    .iter()
                    .map(|(value, id)| json!({"id": id, "value": value}))
                    .collect();
                (
                    200,
                    json!({"id": GRAPH_RESOURCE, "appId": GRAPH_APP, "appRoles": roles}),
                )
            }
            p if p == format!("/v1.0/applications(appId='{CLIENT}')") => {
                let asked: Vec<Value> = self
                    .granted
                    .iter()
                    .map(|name| json!({"id": role_id(name), "type": "Role"}))
                    .collect();
                (
                    200,
                    json!({"id": APPLICATION, "appId": CLIENT, "displayName": "Worker",
                        "signInAudience": "AzureADMyOrg",
                        "requiredResourceAccess": [{"resourceAppId": GRAPH_APP, "resourceAccess": asked}],
                        "passwordCredentials": [{"keyId": APPLICATION, "hint": "can",
                            "displayName": "worker", "startDateTime": "2025-06-01T00:00:00Z",
                            "endDateTime": "2027-06-01T00:00:00Z"}],
                        "keyCredentials": []}),
                )
            }
            "/v1.0/deviceManagement" => (200, json!({"subscriptionState": "active"})),
            p if p.starts_with("/v1.0/deviceManagement/")
                || p.starts_with("/v1.0/identity/")
                || p.starts_with("/v1.0/subscribedSkus") =>
            {
                list(json!([]))
            }
            _ => (
                404,
                json!({"error": {"code": "Request_ResourceNotFound", "message": "not there"}}),
            ),
        }
    }
}
