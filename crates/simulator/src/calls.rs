//! How often what was called, so that a test can prove that the provider was never asked.

use serde::Serialize;
use std::collections::BTreeMap;

/// What can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `POST /{tenant}/oauth2/v2.0/token`
    Token,
    /// `GET /v1.0/organization`
    Organization,
    /// `GET /v1.0/servicePrincipals(appId='…')`
    ServicePrincipalByAppId,
    /// `GET /v1.0/servicePrincipals/{id}`
    ServicePrincipal,
    /// `GET /v1.0/servicePrincipals/{id}/appRoleAssignments`, each page
    AppRoleAssignments,
    /// `GET /v1.0/servicePrincipals/{id}/oauth2PermissionGrants`
    Oauth2PermissionGrants,
    /// `GET /v1.0/applications(appId='…')`
    ApplicationByAppId,
    /// `GET /v1.0/deviceManagement`
    DeviceManagement,
    /// `GET /v1.0/deviceManagement/deviceConfigurations`
    DeviceConfigurations,
    /// `GET /v1.0/deviceManagement/roleDefinitions`
    RoleDefinitions,
    /// Any other Graph address.
    Other,
    /// Where redirects and foreign next links lead: a careful caller never comes here.
    Trap,
}

impl Endpoint {
    /// Every endpoint below `/deviceManagement`.
    pub(crate) const fn is_intune(self) -> bool {
        matches!(
            self,
            Self::DeviceManagement | Self::DeviceConfigurations | Self::RoleDefinitions
        )
    }

    /// Every endpoint of Graph.
    pub(crate) const fn is_graph(self) -> bool {
        !matches!(self, Self::Token | Self::Trap)
    }
}

/// The calls that were made for one tenant since the simulator was started. A Graph call counts
/// for the tenant of its token; without a token of this simulator it counts nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Sum of all endpoints.
    pub total: u64,
    /// By endpoint; those that were never called are left out.
    pub by_endpoint: BTreeMap<Endpoint, u64>,
}

impl Calls {
    /// How often this endpoint was called.
    pub fn of(&self, endpoint: Endpoint) -> u64 {
        self.by_endpoint.get(&endpoint).copied().unwrap_or(0)
    }

    pub(crate) fn count(&mut self, endpoint: Endpoint) {
        self.total += 1;
        *self.by_endpoint.entry(endpoint).or_default() += 1;
    }
}
