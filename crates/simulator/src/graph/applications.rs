//! The app's registration, in the directory that owns it and nowhere else.

use super::error::GraphError;
use super::{Call, single};
use crate::directory;
use crate::scenario::behaviour::Owner;
use serde_json::Value;

pub(super) fn by_app_id(call: &Call<'_>, app_id: &str) -> Result<Value, GraphError> {
    let registration = &call.behaviour.registration;
    if app_id != call.client_id || registration.owner != Owner::Itself {
        return Err(GraphError::not_found(app_id));
    }
    let application = directory::application(call.client_id, registration, call.shared.now());
    single(
        call,
        "applications/$entity",
        "microsoft.graph.application",
        application,
    )
}
