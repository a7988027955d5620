//! One row per application that its provider has throttled. The rules are those of `domain::budget`; the time is the
//! database's.

use super::dialect::{a_day_ago, before, clock, own, postgres_only};
use super::from_row::from_row;
use super::rows::count;
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, read, transaction};
use super::statement::{Sql, Statement, earlier};
use crate::domain::budget::{Budget, BudgetKey, Permits};
use crate::ports::budgets::{ApplicationBudget, BudgetStore, PermitRequest};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::time::Duration;
use uuid::Uuid;

/// A replica without a heartbeat for so long takes no share.
const REPLICA_DEAD_AFTER: Duration = Duration::from_secs(30);

const LOCK: Sql = both!(
    "SELECT cloud, client_id, CAST(per_minute AS bigint) AS per_minute, decreased_at, settled_at,
            taken_until
     FROM " own!(provider_budgets) " WHERE cloud = $1 AND client_id = $2"
    postgres_only!(" FOR NO KEY UPDATE")
);

/// After the row was locked, so that the time is not that of a wait before.
const SITUATION: Sql = both!(
    "SELECT " clock!() " AS now, count(*) AS replicas FROM " own!(workers)
    " WHERE beat_at >= " before!("$1")
);

const ADD: Sql = both!(
    "INSERT INTO " own!(provider_budgets)
    " (cloud, client_id, per_minute, decreased_at, settled_at, taken_until)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (cloud, client_id) DO NOTHING"
);

const SAVE: Sql = both!(
    "UPDATE " own!(provider_budgets)
    " SET per_minute = $3, decreased_at = $4, settled_at = $5, taken_until = $6
     WHERE cloud = $1 AND client_id = $2"
);

/// Budgets that are long over. One whose row is locked is lowered anew.
pub(super) const FORGET: Sql = both!(
    "DELETE FROM " own!(provider_budgets) " WHERE (cloud, client_id) IN (
        SELECT cloud, client_id FROM " own!(provider_budgets) " WHERE decreased_at < " a_day_ago!()
    postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

const BUDGETS: Sql = both!(
    "SELECT cloud, client_id, CAST(per_minute AS bigint) AS per_minute, decreased_at, settled_at,
            taken_until
     FROM " own!(provider_budgets) " ORDER BY cloud, client_id"
);

from_row! {
    #[derive(Debug)]
    struct BudgetRow {
        cloud: String,
        client_id: String,
        per_minute: i64,
        decreased_at: DateTime<Utc>,
        settled_at: DateTime<Utc>,
        taken_until: DateTime<Utc>,
    }
}

impl BudgetRow {
    fn budget(&self) -> Result<Budget, StoreError> {
        let (table, row) = ("provider_budgets", &self.client_id);
        Ok(Budget {
            per_minute: count(table, "per_minute", row, self.per_minute)?,
            decreased_at: self.decreased_at,
            settled_at: self.settled_at,
            taken_until: self.taken_until,
        })
    }
}

from_row! {
    #[derive(Debug)]
    struct SituationRow {
        now: DateTime<Utc>,
        replicas: i64,
    }
}

async fn situation(tx: &mut dyn SqlConnection) -> Result<(DateTime<Utc>, u32), StoreError> {
    let since = SITUATION.bind(earlier(REPLICA_DEAD_AFTER));
    let row: SituationRow = since.fetch_one(tx).await?;
    Ok((row.now, u32::try_from(row.replicas).unwrap_or(u32::MAX)))
}

#[async_trait]
impl<S: SqlStore> BudgetStore for S {
    async fn permits(
        &self,
        key: &BudgetKey,
        request: &PermitRequest,
    ) -> Result<Option<Permits>, StoreError> {
        let (cloud, client_id) = (&key.cloud, key.client_id.to_string());
        transaction(self, async |tx| {
            loop {
                let lock = LOCK.bind(cloud).bind(&client_id);
                let row: Option<BudgetRow> = lock.fetch_optional(tx).await?;
                let (now, replicas) = situation(tx).await?;
                let before = row.as_ref().map(BudgetRow::budget).transpose()?;
                let budget = match request.throttling {
                    Some(throttling) => Some(Budget::after(before, throttling, now)),
                    None => before.filter(|budget| !budget.is_over(now)),
                };
                let Some(mut budget) = budget else {
                    return Ok(None);
                };
                let permits = budget.take(request.wanted, replicas, now);
                let save = if row.is_some() { SAVE } else { ADD };
                let save = save
                    .bind(cloud)
                    .bind(&client_id)
                    .bind(budget.per_minute)
                    .bind(budget.decreased_at)
                    .bind(budget.settled_at)
                    .bind(budget.taken_until);
                // Another replica may have added the row meanwhile.
                if save.execute(tx).await? > 0 {
                    return Ok(Some(permits));
                }
            }
        })
        .await
    }

    async fn budgets(&self) -> Result<Vec<ApplicationBudget>, StoreError> {
        let (rows, now) = read(self, async |tx| {
            let rows: Vec<BudgetRow> = Statement::from(BUDGETS).fetch_all(tx).await?;
            Ok((rows, situation(tx).await?.0))
        })
        .await?;
        let mut budgets = Vec::new();
        for row in rows {
            let budget = row.budget()?;
            let Ok(client_id) = Uuid::try_parse(&row.client_id) else {
                continue;
            };
            if !budget.is_over(now) {
                budgets.push(ApplicationBudget {
                    per_minute: budget.per_minute_at(now),
                    decreased_at: budget.decreased_at,
                    key: BudgetKey {
                        cloud: row.cloud,
                        client_id,
                    },
                });
            }
        }
        budgets.sort_by_key(|budget| budget.per_minute);
        Ok(budgets)
    }
}
