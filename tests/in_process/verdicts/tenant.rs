//! What a healthy tenant answers where a case names nothing.

use serde_json::{Value, json};
use test_support::microsoft::{
    CLIENT, GRAPH_APP, GRAPH_RESOURCE, SERVICE_PRINCIPAL, TENANT, app_roles, jwt, role_id,
};

const APPLICATION: &str = "0e0e0e0e-0000-4000-8000-000000000005";

/// What is granted in a tenant, and what its tokens say of it.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub granted: Vec<String>,
    pub token_roles: Vec<String>,
    pub opaque_token: bool,
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
                (
                    200,
                    json!({"id": GRAPH_RESOURCE, "appId": GRAPH_APP, "appRoles": app_roles()}),
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
