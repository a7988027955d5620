//! The token endpoint: `POST /{tenant}/oauth2/v2.0/token` with client credentials.

mod answer;
mod credential;
pub(crate) mod error;

use self::answer::issued;
pub(super) use self::answer::{Refusal, refused};
use self::error::{EntraError, Step};
use super::calls::Endpoint;
use super::directory;
use super::faults;
use super::scenario::Scenario;
use super::scenario::behaviour::{Behaviour, TokenForm};
use super::state::Simulated;
use super::tokens::AccessClaims;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;
use uuid::Uuid;

/// The fields of a request. Absent and empty is the same, as it is for Entra.
#[derive(Default)]
struct Fields {
    client_id: Option<String>,
    scope: Option<String>,
    grant_type: Option<String>,
    client_secret: Option<String>,
    client_assertion_type: Option<String>,
    client_assertion: Option<String>,
}

impl Fields {
    fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        let mut fields = Self::default();
        let form = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| {
                let essence = value.split(';').next().unwrap_or_default().trim();
                essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
            });
        if !form {
            return fields;
        }
        for (name, value) in form_urlencoded::parse(body) {
            let field = match &*name {
                "client_id" => &mut fields.client_id,
                "scope" => &mut fields.scope,
                "grant_type" => &mut fields.grant_type,
                "client_secret" => &mut fields.client_secret,
                "client_assertion_type" => &mut fields.client_assertion_type,
                "client_assertion" => &mut fields.client_assertion,
                _ => continue,
            };
            *field = Some(value.into_owned()).filter(|value| !value.is_empty());
        }
        fields
    }
}

/// Someone who may have a token.
struct SignIn {
    tenant: String,
    client_id: String,
    /// How the credential was presented, as `appidacr` says it.
    method: &'static str,
}

pub(super) async fn token(
    State(shared): State<Arc<Simulated>>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let tenant = tenant.to_ascii_lowercase();
    shared.tenants().count(&tenant, Endpoint::Token);
    shared.wait(shared.options.latency).await;
    let known = Scenario::and_instance(&tenant);
    if let Some((scenario, _)) = known {
        let behaviour = scenario.behaviour();
        if behaviour.slow {
            shared.wait(shared.options.slow_answer).await;
        }
        if let Some(what) = faults::due(&shared, &tenant, behaviour, Endpoint::Token) {
            return faults::show(&shared, what, &tenant, Endpoint::Token, &headers).await;
        }
    }
    let fields = Fields::read(&headers, &body);
    match sign_in(&shared, &tenant, known, &fields) {
        Ok((sign_in, behaviour)) => match access_token(&shared, &sign_in, behaviour) {
            Ok(token) => issued(&shared, &token, &headers),
            Err(error) => {
                tracing::error!(%error, "simulator could not sign a token");
                refused(&shared, &(&error::UNAVAILABLE).into(), &headers)
            }
        },
        Err(refusal) => refused(&shared, &refusal, &headers),
    }
}

fn sign_in(
    shared: &Simulated,
    tenant: &str,
    known: Option<(Scenario, u32)>,
    fields: &Fields,
) -> Result<(SignIn, &'static Behaviour), Refusal> {
    let client_id = required_fields(fields)?;
    let Some((scenario, instance)) = known else {
        return Err(unknown_tenant(tenant));
    };
    let behaviour = scenario.behaviour();
    let chosen = chosen_refusal(behaviour, instance);
    refuse_at(Step::Directory, chosen)?;
    let Ok(client_id) = Uuid::parse_str(client_id) else {
        return Err(Refusal::with(&error::APP_NOT_IN_TENANT, client_id));
    };
    check_scope(shared, fields)?;
    refuse_at(Step::Credential, chosen)?;
    let client_id = client_id.to_string();
    let method = credential::check(shared, tenant, &client_id, fields)?;
    refuse_at(Step::Policy, chosen)?;
    let tenant = tenant.to_owned();
    let sign_in = SignIn {
        tenant,
        client_id,
        method,
    };
    Ok((sign_in, behaviour))
}

/// Returns the client id.
fn required_fields(fields: &Fields) -> Result<&str, Refusal> {
    let absent = |name| Refusal::with(&error::PARAMETER_ABSENT, name);
    let grant_type = fields.grant_type.as_deref().ok_or(absent("grant_type"))?;
    if grant_type != "client_credentials" {
        return Err(Refusal::with(&error::GRANT_TYPE_UNSUPPORTED, grant_type));
    }
    let client_id = fields.client_id.as_deref().ok_or(absent("client_id"))?;
    fields.scope.as_deref().ok_or(absent("scope"))?;
    Ok(client_id)
}

fn unknown_tenant(tenant: &str) -> Refusal {
    let could_be_one = Uuid::parse_str(tenant).is_ok() || tenant.contains('.');
    let error = if could_be_one {
        &error::TENANT_NOT_FOUND
    } else {
        &error::TENANT_ID_MALFORMED
    };
    Refusal::with(error, tenant)
}

fn chosen_refusal(behaviour: &Behaviour, instance: u32) -> Option<&'static EntraError> {
    let count = u32::try_from(behaviour.refusals.len()).ok()?;
    let place = instance.checked_rem(count)?;
    behaviour.refusals.get(place as usize).copied()
}

fn refuse_at(step: Step, chosen: Option<&'static EntraError>) -> Result<(), Refusal> {
    match chosen {
        Some(error) if error.step == step => Err(error.into()),
        _ => Ok(()),
    }
}

fn check_scope(shared: &Simulated, fields: &Fields) -> Result<(), Refusal> {
    let scope = fields.scope.as_deref().unwrap_or_default();
    let mut scopes = scope.split_ascii_whitespace();
    let (Some(only), None) = (scopes.next(), scopes.next()) else {
        return Err(Refusal::with(&error::SCOPE_INVALID, scope));
    };
    let Some(resource) = only.strip_suffix("/.default") else {
        return Err(Refusal::with(&error::SCOPE_NOT_DEFAULT, only));
    };
    if resource.trim_end_matches('/') != shared.origin {
        return Err(Refusal::with(&error::RESOURCE_NOT_FOUND, resource));
    }
    Ok(())
}

fn access_token(
    shared: &Simulated,
    sign_in: &SignIn,
    behaviour: &Behaviour,
) -> Result<String, super::SimulatorError> {
    let now = shared.now();
    let lifetime = i64::try_from(shared.options.token_lifetime.as_secs()).unwrap_or(i64::MAX);
    let without_principal = behaviour.token_form == TokenForm::WithoutServicePrincipal;
    let principal = (!without_principal)
        .then(|| directory::service_principal_id(&sign_in.tenant, &sign_in.client_id));
    let roles = behaviour
        .token_roles
        .iter()
        .map(|role| role.name.to_owned())
        .collect();
    let tid = if behaviour.token_form == TokenForm::AnotherTenant {
        directory::strange_tenant_id(&sign_in.tenant)
    } else {
        sign_in.tenant.clone()
    };
    let token = shared.signer.sign(&AccessClaims {
        aud: shared.origin.clone(),
        iss: format!("{}/{}/", shared.origin, sign_in.tenant),
        iat: now,
        // Backdated by five minutes, as Entra does, for clocks that are late.
        nbf: now - 300,
        exp: now.saturating_add(lifetime),
        appid: sign_in.client_id.clone(),
        appidacr: sign_in.method.to_owned(),
        idtyp: "app".to_owned(),
        oid: principal.clone(),
        sub: principal,
        roles: (!without_principal).then_some(roles),
        tid,
        uti: URL_SAFE_NO_PAD.encode(Uuid::new_v4()),
        ver: "1.0".to_owned(),
    })?;
    Ok(match behaviour.token_form {
        TokenForm::Opaque => format!("{OPAQUE_PREFIX}{}", URL_SAFE_NO_PAD.encode(token)),
        TokenForm::Jwt | TokenForm::WithoutServicePrincipal | TokenForm::AnotherTenant => token,
    })
}

/// How tokens begin that are not to be looked into.
pub(super) const OPAQUE_PREFIX: &str = "EwSim";
