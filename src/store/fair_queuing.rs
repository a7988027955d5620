//! Fair queuing: which run of which tenant is next.

use super::bounds::is_claimable;
use super::dialect::{among, each, now, own, run_type};
use super::groups::{Grouped, bind_group, in_group, of_group};
use super::postgres::HAS_FAIR_QUEUING_INDEX;
use super::repeated_ids::{has_own_id, is_of_type};
use super::sql::both;
use super::sql_store::{SqlStore, fetch_all, read};
use super::statement::Sql;
use crate::domain::{RunId, TenantId};
use crate::ports::fair_queuing::{FairQueuingStore, OldestRun, OldestRuns};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

/// Whether the tenant has a connection: what a producer cannot write.
macro_rules! has_connection {
    ($($db:ident)?) => {
        "EXISTS (SELECT 1 FROM provider_connections c WHERE c.tenant_id = w.tenant)"
    };
}

/// Whether the table `$1` has the index. A SQLite file is verifyd's own, and always has it.
const IS_INDEXED: Sql = Sql {
    postgres: HAS_FAIR_QUEUING_INDEX,
    sqlite: "SELECT $1 IS NOT NULL",
};

/// Skips from tenant to tenant along the index `operation_runs_check_turns`. `$1`: start after this tenant,
/// `$2`: tenants to leave out, `$3`: how many. Where a tenant's first runs are not due yet, a few more are
/// read, not all, and at most `$oldest` where they can never be claimed. Both databases see that the rows come in the
/// order of the index, and read no further than they need.
///
/// A producer may write any tenant. Between two tenants that have a connection at most one that has none is
/// read, however many there are, and only the first of all such tenants is returned; none while a run of one
/// is in flight.
///
/// `$of`: see `of_group!` (`$4`, `$5`). The index has no workspaces, so the walk for a group passes the tenants of all
/// groups. It ends after 1,024 of them, and where it ended is a row without a run. The one tenant without a connection
/// that is returned is that of all groups, and may have no run of this one.
macro_rules! oldest_of_tenants {
    ($of:ident, $oldest:literal) => {
        both!(
            "WITH RECURSIVE waiting (tenant, strangers" of_group!($of ", step") ") AS (
                SELECT " each!("$1::bigint", "$1") ", (SELECT count(*) FROM "
            each!("unnest($2::bigint[]) AS e (value)", "json_each($2) e")
            " WHERE NOT EXISTS (SELECT 1 FROM provider_connections c WHERE c.tenant_id = e.value))"
            of_group!($of ", 0") "
                UNION ALL
                SELECT (SELECT r.tenant_id FROM operation_runs r WHERE r.type = " run_type!()
            " AND r.status = 'queued' AND r.tenant_id > CASE WHEN w.tenant = $1 OR " has_connection!()
            " THEN w.tenant
                    ELSE (SELECT c.tenant_id - 1 FROM provider_connections c WHERE c.tenant_id > w.tenant
                          ORDER BY c.tenant_id LIMIT 1) END ORDER BY r.tenant_id LIMIT 1),
                    w.strangers + CASE WHEN w.tenant = $1 OR " has_connection!() " THEN 0 ELSE 1 END"
            of_group!($of ", w.step + 1") "
                FROM waiting w WHERE w.tenant IS NOT NULL" of_group!($of " AND w.step < 1024") "
            ) " of_group!($of "SELECT * FROM (")
            each!(
                "SELECT w.tenant, f.id FROM waiting w CROSS JOIN LATERAL (",
                "SELECT tenant, run FROM (SELECT w.tenant AS tenant, ("
            )
            "SELECT first.id FROM (SELECT q.id, q.started_at FROM (SELECT r.id, r.started_at, "
            of_group!($of in_group!("r.workspace_id", "$4", "$5") " AND ") is_claimable!()
            " AND " has_own_id!("r") " AS is_claimable FROM operation_runs r WHERE r.type = " run_type!()
            " AND r.status = 'queued' AND r.tenant_id = w.tenant ORDER BY r.id LIMIT " $oldest ") q
                WHERE q.is_claimable ORDER BY q.id LIMIT 8) first
                WHERE (first.started_at IS NULL
                    OR NOT EXISTS (SELECT 1 FROM " own!(run_deliveries) " d
                                  WHERE d.run_id = first.id AND d.not_before > " now!()
            ")) ORDER BY first.id LIMIT 1)" each!(" f", " AS run FROM waiting w")
            " WHERE w.tenant > $1 AND (w.strangers = 0 OR " has_connection!() ") AND NOT w.tenant "
            among!("$2") each!("", ") WHERE run IS NOT NULL") " LIMIT $3"
            of_group!(
                $of ") found UNION ALL SELECT tenant, NULL FROM waiting WHERE step = 1024 AND tenant IS NOT NULL"
            )
        )
    };
}

/// For a group fewer runs of a tenant are read: all that are read may be of other groups, of each of 1,024 tenants.
const OLDEST_OF_TENANTS: Grouped<Sql> = Grouped {
    all: oldest_of_tenants!(all, "1000"),
    in_group: oldest_of_tenants!(group, "64"),
};

/// The runs are found by their ids, without the index of queued runs.
const STILL_QUEUED: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.id " among!("$1") " AND " is_of_type!("r")
    " AND r.status || '' = 'queued' AND " has_own_id!("r")
);

#[async_trait]
impl<S: SqlStore> FairQueuingStore for S {
    async fn still_queued(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        let runs: Vec<i64> = runs.iter().map(|run| run.0).collect();
        let queued: Vec<(i64,)> = fetch_all(self, STILL_QUEUED.bind(runs)).await?;
        Ok(queued.into_iter().map(|(run,)| RunId(run)).collect())
    }

    async fn oldest_run_of_each_tenant(
        &self,
        after: Option<TenantId>,
        except: &[TenantId],
        most: u32,
    ) -> Result<OldestRuns, StoreError> {
        let except: Vec<i64> = except.iter().map(|tenant| tenant.0).collect();
        let group = self.in_process().group.get();
        let oldest = OLDEST_OF_TENANTS
            .of(group)
            .bind(after.map_or(i64::MIN, |tenant| tenant.0))
            .bind(except)
            .bind(most);
        let oldest = bind_group(oldest, group);
        let found: Vec<(i64, Option<i64>)> = read(self, async |tx| {
            // Without it every step would read all that is queued.
            let (indexed,): (bool,) = IS_INDEXED.bind("operation_runs").fetch_one(tx).await?;
            match indexed {
                true => oldest.fetch_all(tx).await,
                false => Ok(Vec::new()),
            }
        })
        .await?;
        let (mut runs, mut next) = (Vec::new(), None);
        for (tenant, run) in found {
            let tenant = TenantId(tenant);
            match run.map(RunId) {
                Some(run) => runs.push(OldestRun { tenant, run }),
                None => next = Some(tenant),
            }
        }
        if runs.len() >= most as usize {
            next = runs.last().map(|oldest| oldest.tenant);
        }
        Ok(OldestRuns { runs, next })
    }
}
