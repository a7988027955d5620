//! Publishes completion events with `NOTIFY`.
//!
//! The transaction that completes a run never notifies: a notifying transaction holds a server-wide lock
//! while it commits, so all completions would queue up behind it.

use super::PostgresStore;
use crate::domain::completion_event::CompletionEvent;
use crate::ports::completion_events::CompletionEventStore;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use tokio::sync::broadcast;

const PUBLISH: &str = "SELECT pg_notify('verifyd_completed', n) FROM unnest($1::text[]) n";

#[async_trait]
impl CompletionEventStore for PostgresStore {
    fn completions(&self) -> broadcast::Receiver<CompletionEvent> {
        self.in_process.completions.subscribe()
    }

    async fn publish_completions(&self, events: &[CompletionEvent]) -> Result<(), StoreError> {
        self.transaction(async |tx| {
            let payloads: Vec<String> = events
                .iter()
                .filter_map(|event| serde_json::to_string(event).ok())
                .collect();
            self.sql(PUBLISH).bind(payloads).execute(&mut *tx).await?;
            Ok(())
        })
        .await
    }
}
