//! Whose call it is, and whether it is allowed.

use super::error::GraphError;
use crate::app_roles as role;
use crate::app_roles::AppRole;
use crate::calls::Endpoint;
use crate::login::OPAQUE_PREFIX;
use crate::state::Simulated;
use crate::tokens::AccessClaims;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The claims of the bearer token, when this simulator issued it.
pub(super) fn bearer(shared: &Simulated, headers: &HeaderMap) -> Result<AccessClaims, GraphError> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| {
            GraphError::new(401, "InvalidAuthenticationToken", "Access token is empty.")
        })?;
    let opaque;
    let token = match token.strip_prefix(OPAQUE_PREFIX) {
        None => token,
        Some(wrapped) => {
            opaque = URL_SAFE_NO_PAD
                .decode(wrapped)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .unwrap_or_default();
            &opaque
        }
    };
    shared
        .signer
        .read_access(token)
        .ok_or_else(|| GraphError::invalid_token("Invalid signature or form."))
}

/// Times and audience.
pub(super) fn check_token(shared: &Simulated, token: &AccessClaims) -> Result<(), GraphError> {
    let now = shared.now();
    if now >= token.exp {
        return Err(GraphError::invalid_token(
            "Lifetime validation failed, the token is expired.",
        ));
    }
    if now < token.nbf {
        return Err(GraphError::invalid_token(
            "Lifetime validation failed, the token is not yet valid.",
        ));
    }
    if token.aud != shared.origin {
        return Err(GraphError::invalid_token("Invalid audience."));
    }
    Ok(())
}

/// One of these roles opens the endpoint.
pub(super) fn opened_by(endpoint: Endpoint) -> &'static [AppRole] {
    match endpoint {
        Endpoint::Organization => &[role::ORGANIZATION_READ, role::DIRECTORY_READ],
        Endpoint::ServicePrincipalByAppId
        | Endpoint::ServicePrincipal
        | Endpoint::AppRoleAssignments
        | Endpoint::ApplicationByAppId => &[role::APPLICATION_READ, role::DIRECTORY_READ],
        Endpoint::Oauth2PermissionGrants => &[role::DIRECTORY_READ],
        Endpoint::DeviceManagement => &[role::APPS_READ, role::APPS_READ_WRITE],
        Endpoint::DeviceConfigurations => {
            &[role::CONFIGURATION_READ, role::CONFIGURATION_READ_WRITE]
        }
        Endpoint::RoleDefinitions => &[role::RBAC_READ, role::RBAC_READ_WRITE],
        Endpoint::Other | Endpoint::Token | Endpoint::Trap => &[],
    }
}

/// Whether the token's roles open the endpoint.
pub(super) fn check_roles(endpoint: Endpoint, roles: &[String]) -> Result<(), GraphError> {
    let wanted = opened_by(endpoint);
    if wanted
        .iter()
        .any(|role| roles.iter().any(|has| has == role.name))
    {
        return Ok(());
    }
    if endpoint.is_intune() {
        return Err(GraphError::intune_forbidden(endpoint));
    }
    Err(GraphError::denied())
}
