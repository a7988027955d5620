//! What is read of Graph's answers. Members that are not named here are ignored.

use crate::provider::microsoft::fault::Fault;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

#[derive(Deserialize)]
pub(super) struct Organization {
    pub id: Uuid,
}

/// An application's presence in a directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct ServicePrincipal {
    pub id: Uuid,
    #[serde(default)]
    pub account_enabled: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Assignment {
    pub app_role_id: Uuid,
    pub resource_id: Uuid,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    pub app_id: Uuid,
    pub app_roles: Vec<AppRole>,
}

#[derive(Deserialize)]
pub(super) struct AppRole {
    pub id: Uuid,
    #[serde(default)]
    pub value: Option<String>,
}

/// The answer as one object of this type.
pub(super) fn one<T: DeserializeOwned>(answer: Value) -> Result<T, Fault> {
    serde_json::from_value(answer).map_err(|_| Fault::invalid(200))
}

/// The members of the answer's `value`.
pub(super) fn list<T: DeserializeOwned>(answer: &Value) -> Result<Vec<T>, Fault> {
    answer
        .get("value")
        .and_then(Value::as_array)
        .and_then(|items| items.iter().map(|item| T::deserialize(item).ok()).collect())
        .ok_or_else(|| Fault::invalid(200))
}
