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
pub(super) struct Page<T> {
    pub items: Vec<T>,
    pub next: Next,
}

/// Where the page after this one is.
pub(super) enum Next {
    None,
    Link(String),
    /// Not a text, or an empty one.
    Odd,
}

impl Next {
    /// An empty link leads nowhere, and does not mean that this is the last page.
    fn of(link: String) -> Self {
        match link.trim().is_empty() {
            true => Self::Odd,
            false => Self::Link(link),
        }
    }
}

/// The type that a call's answer is parsed as.
pub(super) trait Answered: Sized {
    /// Parses directly from the text, where it has the expected form. Returning the body says nothing about
    /// it.
    fn at_once(body: Body) -> Result<Self, Body>;

    /// Parses from a tree, which also shows that the answer is not the expected one.
    fn from_tree(tree: Value) -> Result<Self, Fault>;
}

/// An answer that is an object.
pub(super) enum Read<T> {
    AtOnce(T),
    Tree(Value),
}

impl<T: Answered> Read<T> {
    /// Returns `None` when the body is no object.
    pub fn of(body: Body) -> Option<Self> {
        match T::at_once(body) {
            Ok(answer) => Some(Self::AtOnce(answer)),
            Err(body) => body.tree().filter(Value::is_object).map(Self::Tree),
        }
    }

    /// Returns the parsed answer, or the fault that it is not the expected one.
    pub fn finish(self) -> Result<T, Fault> {
        match self {
            Self::AtOnce(answer) => Ok(answer),
            Self::Tree(tree) => T::from_tree(tree),
        }
    }
}

/// An answer that has not been parsed yet.
pub(super) struct Unread(Body);

impl Unread {
    /// SHA-256 over its bytes.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest()
    }

    /// Parses the answer, or returns the fault that it is not the expected one.
    pub fn read<T: Answered>(self) -> Result<T, Fault> {
        Read::of(self.0)
            .ok_or_else(|| Fault::invalid(200))?
            .finish()
    }
}

impl Answered for Unread {
    fn at_once(body: Body) -> Result<Self, Body> {
        Ok(Self(body))
    }

    fn from_tree(_: Value) -> Result<Self, Fault> {
        Err(Fault::invalid(200))
    }
}

impl Answered for Value {
    fn at_once(body: Body) -> Result<Self, Body> {
        Err(body)
    }

    fn from_tree(tree: Value) -> Result<Self, Fault> {
        Ok(tree)
    }
}

fn one<T: DeserializeOwned>(tree: Value) -> Result<T, Fault> {
    serde_json::from_value(tree).map_err(|_| Fault::invalid(200))
}

impl Answered for ServicePrincipal {
    fn at_once(body: Body) -> Result<Self, Body> {
        body.object().ok_or(body)
    }

    fn from_tree(tree: Value) -> Result<Self, Fault> {
        one(tree)
    }
}

impl Answered for Resource {
    /// Read rarely, and as a whole.
    fn at_once(body: Body) -> Result<Self, Body> {
        Err(body)
    }

    fn from_tree(tree: Value) -> Result<Self, Fault> {
        one(tree)
    }
}

/// A page as it should be.
#[derive(Deserialize)]
struct OrdinaryPage<T> {
    value: Vec<T>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
}

impl<T: DeserializeOwned> Answered for Page<T> {
    fn at_once(body: Body) -> Result<Self, Body> {
        let page: OrdinaryPage<T> = body.object().ok_or(body)?;
        Ok(Self {
            items: page.value,
            next: page.next.map_or(Next::None, Next::of),
        })
    }

    fn from_tree(mut tree: Value) -> Result<Self, Fault> {
        Ok(Self {
            items: list(&tree)?,
            next: match tree.get_mut("@odata.nextLink").map(Value::take) {
                None | Some(Value::Null) => Next::None,
                Some(Value::String(link)) => Next::of(link),
                Some(_) => Next::Odd,
            },
        })
    }
}

/// The members of the answer's `value`.
fn list<T: DeserializeOwned>(answer: &Value) -> Result<Vec<T>, Fault> {
    answer
        .get("value")
        .and_then(Value::as_array)
        .and_then(|items| items.iter().map(|item| T::deserialize(item).ok()).collect())
        .ok_or_else(|| Fault::invalid(200))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Read at once where it can be, and always as its tree is.
    fn read<T: Answered>(text: &str) -> (bool, Option<Result<T, Fault>>) {
        let at_once = T::at_once(Body::from(text)).is_ok();
        (at_once, Read::of(Body::from(text)).map(Read::finish))
    }

    #[test]
    fn a_page_is_read_at_once() {
        let text = json!({
            "@odata.context": "x",
            "value": [{"appRoleId": Uuid::nil(), "resourceId": Uuid::max(), "other": [{}]}],
            "@odata.nextLink": "https://graph.example.com/2",
        })
        .to_string();
        let (at_once, page) = read::<Page<Assignment>>(&text);
        let page = page.unwrap().unwrap();
        assert!(at_once);
        assert_eq!(page.items[0].resource_id, Uuid::max());
        assert!(matches!(page.next, Next::Link(link) if link.ends_with("/2")));
    }

    #[test]
    fn an_unexpected_form_is_found_by_the_tree() {
        let (at_once, page) = read::<Page<Organization>>("{\"value\":[],\"@odata.nextLink\":7}");
        assert!(!at_once && matches!(page.unwrap().unwrap().next, Next::Odd));
        // The last of two equal members counts, also where the first has another form.
        let (at_once, page) = read::<Page<Organization>>("{\"value\":7,\"value\":[]}");
        assert!(!at_once && page.unwrap().unwrap().items.is_empty());
        for text in ["{}", "{\"value\":{}}", "{\"value\":[{\"id\":\"x\"}]}"] {
            let (at_once, page) = read::<Page<Organization>>(text);
            let fault = page.unwrap().err().unwrap();
            assert!(!at_once && fault == Fault::invalid(200), "{text}");
        }
        for text in ["", "[]", "[[]]", "7", "{\"value\":[]} {}", "{\"value\":["] {
            assert!(read::<Page<Organization>>(text).1.is_none(), "{text}");
        }
    }
}
