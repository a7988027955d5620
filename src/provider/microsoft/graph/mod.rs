//! The calls to Microsoft Graph that a check makes.

mod application;
mod paging;
mod responses;
mod roles;
mod session;

pub(super) use application::{Application, Offered, RegisteredSecret};
pub(super) use responses::{Plan, ServicePrincipal};
pub(super) use roles::{Grants, KnownGrants, KnownPrincipal, cache};
pub(super) use session::{Session, Shared};

use super::fault::Fault;
use super::modules::Probe;
use crate::domain::Reason;
use futures::{StreamExt, TryStreamExt, stream};
use responses::{Assignment, Next, Organization, Page, Resource, parse};
use roles::Offer;
pub(super) use roles::ResourceRoles;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// Properties of the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Organizations {
    pub ids: Vec<Uuid>,
    /// For people: bounded and clean.
    pub name: Option<String>,
    pub plans: Vec<Plan>,
}

/// Name of the call that lists grants, each page.
const ASSIGNMENTS: &str = "app_role_assignments";

/// Resources (APIs) whose role names are read for one application: each costs a call.
const MAX_RESOURCES: usize = 50;

/// Resources that are read at the same time.
const RESOURCES_AT_ONCE: usize = 4;

impl Session<'_> {
    /// The directories that the token opens: one, by Graph's contract.
    pub async fn organization(&self) -> Result<Organizations, Fault> {
        let uri = self.uri(
            "/v1.0/organization?$select=id,displayName,verifiedDomains,assignedPlans".to_owned(),
        )?;
        let page: Page<Organization> = self.get("organization", uri).await?;
        let found = page.items;
        if found.is_empty() {
            return Err(Fault::invalid(200));
        }
        let ids = found.iter().map(|o| o.id).collect();
        let first = found.into_iter().next();
        let (name, plans) = first
            .map(|o| (o.display_name, o.assigned_plans))
            .unwrap_or_default();
        Ok(Organizations { ids, name, plans })
    }

    /// The application's own service principal.
    pub async fn service_principal(&self) -> Result<ServicePrincipal, Fault> {
        let uri = self.uri(format!(
            "/v1.0/servicePrincipals(appId='{}')?$select=id,accountEnabled,appOwnerOrganizationId",
            self.client_id()
        ))?;
        let answer = self.get("service_principal", uri).await;
        answer.map_err(|fault: Fault| match (fault.reason, fault.status) {
            (Reason::ResourceNotFound, Some(404)) => Fault {
                reason: Reason::ServicePrincipalMissing,
                ..fault
            },
            _ => fault,
        })
    }

    /// Returns the grants of the service principal, with names.
    pub async fn grants(&self, service_principal: Uuid) -> Result<Arc<KnownGrants>, Fault> {
        let uri = self.uri(format!(
            "/v1.0/servicePrincipals/{service_principal}/appRoleAssignments"
        ))?;
        let listing = self.get_body(ASSIGNMENTS, uri.clone()).await?;
        let key = (self.cloud_key().to_owned(), self.tenant(), listing.digest());
        if let Some(known) = self.known_grants().get(&key).await
            && known
                .is_current(self.roles(), self.cloud_key(), self.tenant())
                .await
        {
            return Ok(known);
        }
        let first: Page<Assignment> = parse(listing).unwrap_or_else(|| Err(Fault::invalid(200)))?;
        let is_all = matches!(first.next, Next::None);
        let assignments = self.pages(ASSIGNMENTS, &uri, first).await?;
        let resources: BTreeSet<Uuid> = assignments.iter().map(|a| a.resource_id).collect();
        if resources.len() > MAX_RESOURCES {
            return Err(Fault::new(Reason::ResponseTooLarge));
        }
        let assignments = &assignments;
        let named: Vec<(Grants, Option<Offer>)> = stream::iter(resources)
            .map(|resource| async move {
                let wanted: Vec<Uuid> = assignments
                    .iter()
                    .filter(|a| a.resource_id == resource)
                    .map(|a| a.app_role_id)
                    .collect();
                let roles = self.resource_roles(resource, &wanted).await?;
                Ok::<_, Fault>(match roles {
                    Some(roles) => (roles.name(&wanted), Some((resource, roles))),
                    None => (Grants::default(), None),
                })
            })
            .buffer_unordered(RESOURCES_AT_ONCE)
            .try_collect()
            .await?;
        let (named, used): (Vec<Grants>, Vec<_>) = named.into_iter().unzip();
        let grants = named.into_iter().fold(Grants::default(), Grants::merge);
        // A resource that is gone may come back.
        let used: Option<Vec<Offer>> = used.into_iter().collect();
        let keeps = is_all && used.is_some();
        let known = Arc::new(KnownGrants::new(grants, used.unwrap_or_default()));
        if keeps {
            self.known_grants().insert(key, Arc::clone(&known)).await;
        }
        Ok(known)
    }

    /// Returns the roles that a resource offers; `None` when it no longer exists. A cached list without one
    /// of the `wanted` roles is read again.
    async fn resource_roles(
        &self,
        resource: Uuid,
        wanted: &[Uuid],
    ) -> Result<Option<Arc<ResourceRoles>>, Fault> {
        let key = (self.cloud_key().to_owned(), self.tenant(), resource);
        if let Some(cached) = self.roles().get(&key).await
            && cached.knows_all(wanted)
        {
            return Ok(Some(cached));
        }
        // An assignment can outlive its resource for a while.
        self.read_roles(resource, &format!("/{resource}")).await
    }

    /// Returns the roles that an API offers in the directory; `None` when it has no service principal there.
    pub async fn offer(&self, app_id: Uuid) -> Result<Option<Arc<ResourceRoles>>, Fault> {
        let key = (self.cloud_key().to_owned(), self.tenant(), app_id);
        if let Some(cached) = self.roles().get(&key).await {
            return Ok(Some(cached));
        }
        self.read_roles(app_id, &format!("(appId='{app_id}')"))
            .await
    }

    /// Reads the roles of the service principal that `which` names, and keeps them under `id`; `None` when
    /// there is no such service principal.
    async fn read_roles(&self, id: Uuid, which: &str) -> Result<Option<Arc<ResourceRoles>>, Fault> {
        let uri = self.uri(format!(
            "/v1.0/servicePrincipals{which}?$select=appId,appRoles"
        ))?;
        match self.get::<Resource>("resource_roles", uri).await {
            Ok(answer) => {
                let read = Arc::new(ResourceRoles::from(answer));
                let key = (self.cloud_key().to_owned(), self.tenant(), id);
                self.roles().insert(key, Arc::clone(&read)).await;
                Ok(Some(read))
            }
            Err(fault) if fault.status == Some(404) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The answer to a probe, unjudged.
    pub async fn probe(&self, probe: &Probe) -> Result<Value, Fault> {
        let uri = self.uri(format!("{}?{}", probe.path, probe.query))?;
        self.get("probe", uri).await
    }
}
