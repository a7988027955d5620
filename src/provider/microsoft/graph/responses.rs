//! Types for the answers of Graph. Members that are not named here are ignored.

use crate::domain::connection_facts::tenant_name;
use crate::provider::microsoft::evidence;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::http::Body;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Organization {
    pub id: Uuid,
    #[serde(default, deserialize_with = "name_or_none")]
    pub display_name: Option<String>,
    #[serde(default, deserialize_with = "plans_or_none")]
    pub assigned_plans: Vec<Plan>,
}

/// A service plan that is assigned to a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Plan {
    /// A code such as `SCO`.
    pub service: String,
    /// A code such as `Enabled`.
    pub status: String,
    pub id: Option<Uuid>,
}

/// Largest number of plans that are looked at.
const MAX_PLANS: usize = 2_000;

fn name_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let found = Value::deserialize(deserializer)?;
    Ok(found.as_str().and_then(tenant_name))
}

fn plans_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Plan>, D::Error> {
    let found = Value::deserialize(deserializer)?;
    let plans = found.as_array().into_iter().flatten().take(MAX_PLANS);
    Ok(plans
        .filter_map(|plan| {
            Some(Plan {
                service: evidence::code(plan.get("service"))?.to_owned(),
                status: evidence::code(plan.get("capabilityStatus"))?.to_owned(),
                id: evidence::guid(plan.get("servicePlanId").and_then(Value::as_str)),
            })
        })
        .collect())
}

/// An application's presence in a directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct ServicePrincipal {
    pub id: Uuid,
    #[serde(default)]
    pub account_enabled: Option<bool>,
    /// The directory that the application is registered in.
    #[serde(default, deserialize_with = "guid_or_none")]
    pub app_owner_organization_id: Option<Uuid>,
}

/// An optional member: a value that is no GUID counts as absent.
fn guid_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Uuid>, D::Error> {
    let found = Value::deserialize(deserializer)?;
    Ok(found.as_str().and_then(|text| Uuid::try_parse(text).ok()))
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

/// One page of a listing.
#[derive(Deserialize)]
pub(super) struct Page<T> {
    #[serde(rename = "value")]
    pub items: Vec<T>,
    #[serde(rename = "@odata.nextLink", default)]
    pub next: Next,
}

/// Where the page after this one is.
#[derive(Default)]
pub(super) enum Next {
    #[default]
    None,
    Link(String),
    /// Not a text, or an empty one.
    Odd,
}

impl<'de> Deserialize<'de> for Next {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Null => Self::None,
            // An empty link leads nowhere, and does not mean that this is the last page.
            Value::String(link) if !link.trim().is_empty() => Self::Link(link),
            _ => Self::Odd,
        })
    }
}

/// Parses an answer; `None` when the body is no object, a fault when it is another one than expected.
pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Option<Result<T, Fault>> {
    if let Some(answer) = body.object() {
        return Some(Ok(answer));
    }
    // Of two equal members the last one counts, which only a tree allows.
    let tree = body.tree().filter(Value::is_object)?;
    Some(serde_json::from_value(tree).map_err(|_| Fault::invalid(200)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Option<Result<Page<Organization>, Fault>> {
        parse(Body::from(text))
    }

    #[test]
    fn an_answer_is_an_object_whose_last_of_two_equal_members_counts() {
        let twice = page("{\"value\":7,\"value\":[]}").unwrap();
        assert!(twice.is_ok_and(|page| page.items.is_empty()));
        for text in ["{}", "{\"value\":{}}", "{\"value\":[{\"id\":\"x\"}]}"] {
            assert_eq!(
                page(text).unwrap().err(),
                Some(Fault::invalid(200)),
                "{text}"
            );
        }
        for text in ["", "[]", "[[]]", "7", "{\"value\":[]} {}", "{\"value\":["] {
            assert!(page(text).is_none(), "{text}");
        }
    }
}
