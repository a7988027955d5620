//! `operation_runs` as a table that is partitioned by the time of recording.

use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use serde::Serialize;

/// Why a database without partitions refuses them.
const NO_PARTITIONS: &str = "SQLite has no partitions";

/// Where the partitions end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartitionsEnd {
    /// Seconds until the last one ends; negative once it is over.
    pub seconds: f64,
    /// Whether there is one for all other rows. Without it they are refused.
    pub has_default: bool,
}

/// What became of the months that had no partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Months {
    /// The partitions that were added, by name.
    pub added: Vec<String>,
    pub left: Vec<MonthLeft>,
}

/// A month that got no partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MonthLeft {
    /// The name that its partition would have.
    pub partition: String,
    pub problem: String,
    pub remedy: String,
    /// Whether rows are refused soon: it is this month or the next one, and there is no default partition.
    pub refuses_rows: bool,
}

/// What `partition_by_month` would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionPlan {
    /// Why it would refuse to.
    pub obstacles: Vec<String>,
    /// The table that would become the first partition; `None`: there is none.
    pub first: Option<FirstPartition>,
    /// The months that `add_months` would add then, by the names of their partitions.
    pub months: Vec<String>,
}

/// A table that becomes the first partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FirstPartition {
    /// With its indexes.
    pub bytes: i64,
    /// About how many; `None`: they were never counted.
    pub rows: Option<i64>,
}

impl PartitionPlan {
    /// Of a database without partitions.
    pub fn without_partitions() -> Self {
        Self {
            obstacles: vec![NO_PARTITIONS.to_owned()],
            ..Self::default()
        }
    }
}

/// Partitions `operation_runs` by month where verifyd made it, and tells where partitions end that anybody made. The
/// methods are those of a database that has none.
#[async_trait]
pub trait PartitionStore: Send + Sync {
    /// Returns `None` where the table is not partitioned by `created_at`, or the last partition has no end.
    async fn partitions_end(&self) -> Result<Option<PartitionsEnd>, StoreError> {
        Ok(None)
    }

    /// Returns what `partition_by_month` would do. Changes nothing.
    async fn partition_plan(&self) -> Result<PartitionPlan, StoreError> {
        Ok(PartitionPlan::without_partitions())
    }

    /// Makes the table the first partition of one that is partitioned by month. Does nothing where it is already.
    async fn partition_by_month(&self) -> Result<(), StoreError> {
        Err(StoreError::Refused(NO_PARTITIONS.into()))
    }

    /// Adds the next months where the table is partitioned by `partition_by_month`. One that cannot be added costs the
    /// others nothing.
    async fn add_months(&self) -> Result<Months, StoreError> {
        Ok(Months::default())
    }
}
