//! Intune's calls below `/deviceManagement`.

use super::error::GraphError;
use super::{Call, context, single};
use crate::scenario::behaviour::{Behaviour, Intune};
use serde_json::{Value, json};

/// Whether the tenant has bought Intune at all.
pub(super) fn is_licensed(behaviour: &Behaviour) -> bool {
    behaviour.intune != Intune::NotLicensed
}

/// The state of the subscription; a tenant without one gets no Intune answer at all.
fn subscription_state(call: &Call<'_>) -> Result<&'static str, GraphError> {
    match call.behaviour.intune {
        Intune::State(state) => Ok(state),
        Intune::NotLicensed => Err(GraphError::intune(
            400,
            "BadRequest",
            "Request not applicable to target tenant.",
        )),
    }
}

pub(super) fn device_management(call: &Call<'_>) -> Result<Value, GraphError> {
    let state = subscription_state(call)?;
    let object = json!({
        "id": call.tenant,
        "intuneAccountId": call.tenant,
        "subscriptionState": state,
        "settings": {
            "deviceComplianceCheckinThresholdDays": 30,
            "isScheduledActionEnabled": true,
            "secureByDefault": true,
        },
    });
    single(
        call,
        "deviceManagement/$entity",
        "microsoft.graph.deviceManagement",
        object,
    )
}

pub(super) fn device_configurations(call: &Call<'_>) -> Result<Value, GraphError> {
    subscription_state(call)?;
    let items = [
        (
            "Windows restrictions",
            "#microsoft.graph.windows10GeneralConfiguration",
            1,
        ),
        (
            "iOS restrictions",
            "#microsoft.graph.iosGeneralDeviceConfiguration",
            2,
        ),
    ]
    .map(|(name, kind, number)| {
        json!({
            "@odata.type": kind,
            "id": format!("00000000-0000-4000-8000-00000000000{number}"),
            "displayName": name,
            "version": 1,
        })
    });
    list(
        call,
        "deviceManagement/deviceConfigurations",
        "microsoft.graph.deviceConfiguration",
        items,
    )
}

pub(super) fn role_definitions(call: &Call<'_>) -> Result<Value, GraphError> {
    subscription_state(call)?;
    let items =
        [("Policy and Profile Manager", 3), ("Read Only Operator", 4)].map(|(name, number)| {
            json!({
                "@odata.type": "#microsoft.graph.deviceAndAppManagementRoleDefinition",
                "id": format!("00000000-0000-4000-8000-00000000000{number}"),
                "displayName": name,
                "description": "",
                "isBuiltIn": true,
                "rolePermissions": [],
            })
        });
    list(
        call,
        "deviceManagement/roleDefinitions",
        "microsoft.graph.roleDefinition",
        items,
    )
}

/// A short list: `$top` cuts it, and there is no second page.
fn list<const N: usize>(
    call: &Call<'_>,
    what: &str,
    type_name: &str,
    items: [Value; N],
) -> Result<Value, GraphError> {
    let items = call
        .query
        .first(Vec::from(items))
        .into_iter()
        .map(|item| {
            let kind = item.get("@odata.type").cloned();
            let mut item = call.query.select(type_name, item)?;
            if let (Value::Object(members), Some(kind)) = (&mut item, kind) {
                members.insert("@odata.type".to_owned(), kind);
            }
            Ok(item)
        })
        .collect::<Result<Vec<Value>, GraphError>>()?;
    Ok(json!({"@odata.context": context(call, what), "value": items}))
}
