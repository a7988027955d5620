//! Reads the registration of an application, and what is granted to it on behalf of users.
//!
//! It only explains the results of a check. What cannot be read is unknown, never a failure.

use super::responses::{Next, Page};
use super::session::Session;
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::fault::Fault;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// The permissions that an application requests on one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Requested {
    /// Application permissions.
    pub roles: BTreeSet<Uuid>,
    /// Delegated permissions.
    pub scopes: BTreeSet<Uuid>,
}

/// One client secret of a registration, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct RegisteredSecret {
    /// The first three characters of its value.
    pub hint: Option<String>,
    pub starts: Option<DateTime<Utc>>,
    pub ends: Option<DateTime<Utc>>,
}

/// A registration, as far as a check makes use of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Application {
    /// By the app id of the resource; `None` where the answer does not contain it.
    pub requested: Option<BTreeMap<Uuid, Requested>>,
    /// `None` where the answer does not contain them.
    pub secrets: Option<Vec<RegisteredSecret>>,
}

impl Application {
    /// Reads the answer; members of an unknown form are left out.
    pub fn read(answer: &Value) -> Self {
        let items = |from: &Value, name: &str| -> Vec<Value> {
            let found = from.get(name).and_then(Value::as_array);
            found.cloned().unwrap_or_default()
        };
        let id = |from: &Value, name: &str| evidence::guid(from.get(name).and_then(Value::as_str));
        let mut requested: BTreeMap<Uuid, Requested> = BTreeMap::new();
        for resource in items(answer, "requiredResourceAccess") {
            let Some(app_id) = id(&resource, "resourceAppId") else {
                continue;
            };
            let of_resource = requested.entry(app_id).or_default();
            for access in items(&resource, "resourceAccess") {
                match (
                    id(&access, "id"),
                    access.get("type").and_then(Value::as_str),
                ) {
                    (Some(id), Some("Role")) => of_resource.roles.insert(id),
                    (Some(id), Some("Scope")) => of_resource.scopes.insert(id),
                    _ => false,
                };
            }
        }
        let date = |from: &Value, name: &str| {
            let text = from.get(name).and_then(Value::as_str)?;
            let at = DateTime::parse_from_rfc3339(text).ok()?;
            // Databases keep microseconds, and no leap seconds.
            DateTime::from_timestamp_micros(at.timestamp_micros())
        };
        let tells = |name: &str| answer.get(name).is_some();
        let secrets = items(answer, "passwordCredentials");
        let secrets = secrets
            .iter()
            .map(|secret| RegisteredSecret {
                hint: secret
                    .get("hint")
                    .and_then(Value::as_str)
                    .filter(|hint| !hint.is_empty())
                    .map(str::to_owned),
                starts: date(secret, "startDateTime"),
                ends: date(secret, "endDateTime"),
            })
            .collect();
        Self {
            requested: tells("requiredResourceAccess").then_some(requested),
            secrets: tells("passwordCredentials").then_some(secrets),
        }
    }
}

/// The permissions that a resource offers, by name and id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Offered {
    /// Object id of its service principal in the directory.
    pub principal: Option<Uuid>,
    /// Names of application permissions.
    pub roles: BTreeMap<Uuid, String>,
    /// Names of delegated permissions.
    pub scopes: BTreeMap<Uuid, String>,
}

impl Offered {
    fn read(answer: &Value) -> Self {
        let names = |member: &str| {
            let found = answer.get(member).and_then(Value::as_array);
            found
                .into_iter()
                .flatten()
                .filter_map(|item| {
                    let id = evidence::guid(item.get("id").and_then(Value::as_str))?;
                    let name = item.get("value").and_then(Value::as_str)?;
                    evidence::is_permission_name(name).then(|| (id, name.to_owned()))
                })
                .collect()
        };
        Self {
            principal: evidence::guid(answer.get("id").and_then(Value::as_str)),
            roles: names("appRoles"),
            scopes: names("oauth2PermissionScopes"),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DelegatedGrant {
    resource_id: Uuid,
    #[serde(default)]
    scope: Option<String>,
}

impl Session<'_> {
    /// The registration; only in the directory that owns it.
    pub async fn application(&self) -> Result<Application, Fault> {
        let uri = self.uri(format!(
            "/v1.0/applications(appId='{}')?$select=id,displayName,signInAudience,\
             requiredResourceAccess,passwordCredentials,keyCredentials",
            self.client_id()
        ))?;
        let answer: Value = self.get_quietly("application", uri).await?;
        Ok(Application::read(&answer))
    }

    /// Names of delegated permissions that are granted to the service principal, by the object id of the
    /// resource.
    pub async fn delegated(
        &self,
        service_principal: Uuid,
    ) -> Result<BTreeMap<Uuid, BTreeSet<String>>, Fault> {
        const CALL: &str = "oauth2_permission_grants";
        let uri = self.uri(format!(
            "/v1.0/servicePrincipals/{service_principal}/oauth2PermissionGrants"
        ))?;
        let first: Page<DelegatedGrant> = self.get_quietly(CALL, uri.clone()).await?;
        let grants = match first.next {
            Next::None => first.items,
            _ => self.pages(CALL, &uri, first).await?,
        };
        let mut by_resource: BTreeMap<Uuid, BTreeSet<String>> = BTreeMap::new();
        for grant in grants {
            let names = grant.scope.unwrap_or_default();
            let names = names
                .split_ascii_whitespace()
                .filter(|name| evidence::is_permission_name(name));
            by_resource
                .entry(grant.resource_id)
                .or_default()
                .extend(names.map(str::to_owned));
        }
        Ok(by_resource)
    }

    /// Returns what a resource offers, from its service principal in this directory. It is cached. Graph's
    /// own lists are long, so each is requested separately; one that cannot be read is empty.
    pub async fn offered(&self, app_id: Uuid) -> Result<Arc<Offered>, Fault> {
        let key = (self.cloud_key().to_owned(), self.tenant(), app_id);
        if let Some(known) = self.offers().get(&key).await {
            return Ok(known);
        }
        let ask = |call: &'static str, list: &str| {
            let path = format!("/v1.0/servicePrincipals(appId='{app_id}')?$select=id,{list}");
            async move {
                let answer: Value = self.get_quietly(call, self.uri(path)?).await?;
                Ok::<_, Fault>(Offered::read(&answer))
            }
        };
        let (roles, scopes) = tokio::join!(
            ask("resource_app_roles", "appRoles"),
            ask("resource_scopes", "oauth2PermissionScopes"),
        );
        let is_whole = roles.is_ok() && scopes.is_ok();
        let (roles, scopes) = match (roles, scopes) {
            (Err(fault), Err(_)) => return Err(fault),
            (roles, scopes) => (roles.unwrap_or_default(), scopes.unwrap_or_default()),
        };
        let offered = Arc::new(Offered {
            principal: scopes.principal.or(roles.principal),
            roles: roles.roles,
            scopes: scopes.scopes,
        });
        if is_whole {
            self.offers().insert(key, Arc::clone(&offered)).await;
        }
        Ok(offered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_is_of_another_form_is_left_out() {
        let graph = Uuid::from_u128(3);
        let application = Application::read(&json!({
            "requiredResourceAccess": [
                {"resourceAppId": graph, "resourceAccess": [
                    {"id": Uuid::from_u128(1), "type": "Role"},
                    {"id": Uuid::from_u128(2), "type": "Scope"},
                    {"id": Uuid::from_u128(4), "type": "Other"},
                    {"id": "x", "type": "Role"}, 7, null]},
                {"resourceAppId": 7}, [], {"resourceAppId": graph, "resourceAccess": {}}],
            "passwordCredentials": [
                {"hint": "abc", "endDateTime": "2027-01-01T00:00:00Z"},
                {"hint": "", "endDateTime": "soon"}, {"hint": 7}, null],
        }));
        let requested = &application.requested.unwrap()[&graph];
        assert_eq!(requested.roles, [Uuid::from_u128(1)].into());
        assert_eq!(requested.scopes, [Uuid::from_u128(2)].into());
        let secrets = application.secrets.unwrap();
        assert_eq!(secrets.len(), 4);
        assert_eq!(secrets[0].hint.as_deref(), Some("abc"));
        assert!(secrets[0].ends.is_some());
        assert!(
            secrets[1..]
                .iter()
                .all(|s| s.hint.is_none() && s.ends.is_none())
        );
    }

    #[test]
    fn what_an_answer_does_not_tell_is_unknown() {
        let list = Application::read(&json!({"value": []}));
        assert_eq!(list, Application::default());
        let empty = json!({"requiredResourceAccess": [], "passwordCredentials": null});
        let empty = Application::read(&empty);
        assert!(empty.requested.unwrap().is_empty() && empty.secrets.unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_answer_panics(text in ".{0,60}", number in any::<i64>()) {
            for value in [json!(text), json!(number), json!([text]), json!({"requiredResourceAccess": text,
                "passwordCredentials": [{"endDateTime": text, "hint": text}], "appRoles": [{"id": text}]})] {
                Application::read(&value);
                Offered::read(&value);
            }
        }
    }
}
