//! Endpoints of webhooks: add one, replace its secret, enable, disable or remove it, send again.

use super::OperationError;
use super::text::name;
use crate::domain::audit::Origin;
use crate::domain::webhook::{DisabledReason, WebhookBinding};
use crate::domain::{DeliveryId, EndpointId};
use crate::ports::store::Store;
use crate::ports::vault::Vault;
use crate::ports::webhook_deliveries::{Delivery, DeliveryAttempt, DeliveryFilter, Replay};
use crate::ports::webhook_endpoints::{AddressPolicy, Endpoint, NewEndpoint, SealedSecrets};
use std::time::Duration;

fn no_such_endpoint(id: EndpointId) -> OperationError {
    OperationError::not_found("endpoint", id)
}

/// Adds an endpoint with this secret.
pub async fn add_endpoint(
    store: &dyn Store,
    vault: &dyn Vault,
    addresses: &dyn AddressPolicy,
    new: NewEndpoint,
    secret: &[u8],
    by: &Origin,
) -> Result<Endpoint, OperationError> {
    let url = addresses.admit(&new.url);
    let url = url.map_err(|problem| OperationError::invalid("url", problem))?;
    let description = new.description.as_deref();
    let description = description.filter(|given| !given.trim().is_empty());
    let description = description.map(|given| name("description", given));
    let new = NewEndpoint {
        url,
        description: description.transpose()?,
        ..new
    };
    let seal = |binding: &WebhookBinding| vault.seal_webhook_secret(binding, secret);
    Ok(store.add_endpoint(&new, &seal, by).await?)
}

/// Replaces the secret of an endpoint. The previous one signs as well for `keep_previous`, if it opens.
pub async fn rotate_secret(
    store: &dyn Store,
    vault: &dyn Vault,
    id: EndpointId,
    secret: &[u8],
    keep_previous: Duration,
    by: &Origin,
) -> Result<Endpoint, OperationError> {
    let rotate = |binding: &WebhookBinding, previous: String| {
        Ok(SealedSecrets {
            current: vault.seal_webhook_secret(binding, secret)?,
            previous: Some(previous)
                .filter(|previous| vault.open_webhook_secret(binding, previous).is_ok()),
        })
    };
    let rotated = store.rotate_secret(id, &rotate, keep_previous, by).await?;
    rotated.ok_or_else(|| no_such_endpoint(id))
}

/// Disables an endpoint for this reason, or enables it.
pub async fn set_enabled(
    store: &dyn Store,
    id: EndpointId,
    disabled: Option<DisabledReason>,
    by: &Origin,
) -> Result<(), OperationError> {
    let found = store.set_endpoint_enabled(id, disabled, by).await?;
    found.then_some(()).ok_or_else(|| no_such_endpoint(id))
}

/// Removes an endpoint with all its deliveries.
pub async fn remove_endpoint(
    store: &dyn Store,
    id: EndpointId,
    by: &Origin,
) -> Result<(), OperationError> {
    let found = store.remove_endpoint(id, by).await?;
    found.then_some(()).ok_or_else(|| no_such_endpoint(id))
}

/// Lists the attempts of a delivery, oldest first.
pub async fn attempts(
    store: &dyn Store,
    id: DeliveryId,
) -> Result<Vec<DeliveryAttempt>, OperationError> {
    find_delivery(store, id).await?;
    Ok(store.delivery_attempts(id).await?)
}

/// Begins ended deliveries anew. Returns how many, and their endpoint; a delivery that is pending needs nothing.
pub async fn replay(store: &dyn Store, which: Replay) -> Result<(u64, Endpoint), OperationError> {
    let id = match which {
        Replay::One(id) => find_delivery(store, id).await?.endpoint_id,
        Replay::Since { endpoint, .. } => endpoint,
    };
    let endpoints = store.endpoints(None).await?;
    let endpoint = endpoints.into_iter().find(|known| known.id == id);
    let endpoint = endpoint.ok_or_else(|| no_such_endpoint(id))?;
    Ok((store.replay(which).await?, endpoint))
}

async fn find_delivery(store: &dyn Store, id: DeliveryId) -> Result<Delivery, OperationError> {
    let newest_up_to_it = DeliveryFilter {
        before: Some(DeliveryId(id.0.saturating_add(1))),
        limit: 1,
        ..DeliveryFilter::default()
    };
    let found = store.deliveries(&newest_up_to_it).await?;
    let found = found.into_iter().find(|delivery| delivery.id == id);
    found.ok_or_else(|| OperationError::not_found("delivery", id))
}
