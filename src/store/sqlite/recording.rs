//! Records many runs one by one.

use super::SqliteStore;
use crate::domain::RunId;
use crate::ports::recording::NewRun;
use crate::ports::store_error::StoreError;
use crate::store::recording::{INSERT_RUN, RecordMany, insert};
use crate::store::sql_store::transaction;
use async_trait::async_trait;

#[async_trait]
impl RecordMany for SqliteStore {
    async fn record_plain(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        transaction(self, async |tx| {
            let mut ids = Vec::with_capacity(new.len());
            for new in new {
                ids.push(insert(tx, INSERT_RUN, new).await?);
            }
            Ok(ids)
        })
        .await
    }
}
