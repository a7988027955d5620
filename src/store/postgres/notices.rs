//! `NOTIFY` to those who listen for completed runs.
//!
//! Never in the transaction that completes a run: whoever notifies holds a lock of the whole server
//! while committing, so that all completions would queue up behind it.

use super::PostgresStore;
use crate::domain::completion_event::CompletionEvent;
use crate::ports::completion_events::CompletionEventStore;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

const ANNOUNCE: &str = "SELECT pg_notify('verifyd_completed', n) FROM unnest($1::text[]) n";

#[async_trait]
impl CompletionEventStore for PostgresStore {
    fn completions(&self) -> broadcast::Receiver<CompletionEvent> {
        self.completions.subscribe()
    }

    async fn announce(&self, notices: &[CompletionEvent]) -> Result<(), StoreError> {
        self.transaction(async |tx| {
            let payloads: Vec<String> = notices
                .iter()
                .filter_map(|notice| serde_json::to_string(notice).ok())
                .collect();
            self.sql(ANNOUNCE).bind(payloads).execute(&mut *tx).await?;
            Ok(())
        })
        .await
    }
}
