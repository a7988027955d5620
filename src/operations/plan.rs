//! Compares a module with the stored inventories: what it would mean for the connections there are.

use crate::domain::ConnectionId;
use crate::domain::access::Binding;
use crate::domain::connection::{ConnectionStatus, ProviderConnection};
use crate::domain::link::LinkContext;
use crate::domain::module::Module;
use crate::domain::plan::{self, PlanCounts, PlanLine, PlanSubject, Verdict};
use crate::engine::settings::LinkSettings;
use crate::ports::plan::PlanFilter;
use crate::ports::provider::Provider;
use crate::ports::store::{Store, StoreError};

/// Connections that are read at a time.
pub const PAGE: u32 = 200;

/// A module that is compared with stored inventories.
#[derive(Debug)]
pub struct Planner<'a> {
    pub store: &'a dyn Store,
    pub provider: &'a dyn Provider,
    pub links: &'a LinkSettings,
    pub module: &'a Module,
    /// Only these connections.
    pub binding: Binding,
}

/// Some connections, in the order of their ids.
#[derive(Debug)]
pub struct PlanPage {
    pub lines: Vec<PlanLine>,
    /// Disabled connections among them, which have no line.
    pub disabled: u64,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<ConnectionId>,
}

impl Planner<'_> {
    /// Reads up to `limit` connections after `after`.
    pub async fn page(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<PlanPage, StoreError> {
        let filter = PlanFilter {
            binding: self.binding,
            provider: self.provider.key().to_owned(),
            keys: plan::keys(self.module),
            after,
            limit: limit.saturating_add(1),
        };
        let mut subjects = self.store.plan_subjects(&filter).await?;
        let more = subjects.len() > limit as usize;
        subjects.truncate(limit as usize);
        let next = subjects
            .last()
            .filter(|_| more)
            .map(|subject| subject.connection.id);
        let all = subjects.len();
        let lines: Vec<PlanLine> = subjects
            .into_iter()
            .filter(|subject| subject.connection.status == ConnectionStatus::Enabled)
            .map(|subject| {
                let links = self.links_of(&subject);
                PlanLine::of(self.module, subject, |link| links.resolve(link))
            })
            .collect();
        Ok(PlanPage {
            disabled: (all - lines.len()) as u64,
            lines,
            next,
        })
    }

    /// Up to `limit` connections with this verdict after `after`, found among `max` connections.
    pub async fn page_of(
        &self,
        verdict: Verdict,
        after: Option<ConnectionId>,
        limit: u32,
        max: u32,
    ) -> Result<PlanPage, StoreError> {
        let mut found = PlanPage {
            lines: Vec::new(),
            disabled: 0,
            next: after,
        };
        let mut left = max;
        while left > 0 {
            let page = self.page(found.next, left.min(PAGE)).await?;
            found.next = page.next;
            for line in page.lines.into_iter().filter(|l| l.verdict == verdict) {
                if found.lines.len() == limit as usize {
                    found.next = found.lines.last().map(|last| last.connection_id);
                    return Ok(found);
                }
                found.lines.push(line);
            }
            left = left.saturating_sub(PAGE);
            if found.next.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Counts up to `max` connections; false: there are more.
    pub async fn counts(&self, max: u32) -> Result<(PlanCounts, bool), StoreError> {
        let mut counts = PlanCounts::default();
        let mut after = None;
        let mut left = max;
        while left > 0 {
            let page = self.page(after, left.min(PAGE)).await?;
            page.add_to(&mut counts);
            after = page.next;
            left = left.saturating_sub(PAGE);
            if after.is_none() {
                return Ok((counts, true));
            }
        }
        Ok((counts, false))
    }

    fn links_of(&self, subject: &PlanSubject) -> LinkContext {
        let PlanSubject {
            connection, known, ..
        } = subject;
        let cloud = connection.cloud.as_deref();
        LinkContext {
            connection_id: Some(connection.id.0),
            entra_tenant_id: connection.entra_tenant_id.clone(),
            client_id: connection.client_id.clone(),
            owner_tenant_id: known.owner_tenant_id.clone(),
            service_principal_id: known.service_principal_id.clone(),
            ..self.links.context(Some(self.provider), cloud)
        }
    }
}

impl PlanPage {
    /// Adds what is on this page.
    pub fn add_to(&self, counts: &mut PlanCounts) {
        counts.disabled += self.disabled;
        for line in &self.lines {
            counts.count(line);
        }
    }
}

/// Returns whether the stored inventory of a connection's tenant says something about the connection, as in a plan.
pub async fn inventory_counts_for(
    store: &dyn Store,
    connection: &ProviderConnection,
) -> Result<bool, StoreError> {
    let filter = PlanFilter {
        binding: Binding {
            workspace_id: Some(connection.workspace_id),
            tenant_id: Some(connection.tenant_id),
        },
        provider: connection.provider.clone(),
        keys: Vec::new(),
        after: Some(ConnectionId(connection.id.0.saturating_sub(1))),
        limit: 1,
    };
    let subjects = store.plan_subjects(&filter).await?;
    let mut subjects = subjects.iter();
    let own = subjects.find(|subject| subject.connection.id == connection.id);
    let grants = own.and_then(|subject| subject.grants.as_ref());
    Ok(grants.is_some_and(|grants| grants.counts_for(connection.id)))
}
