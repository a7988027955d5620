//! Shares of the pool for calls that run triggers of the application, which may have each of them wait.
//!
//! Each kind of call has a share of its own, so that one kind does not wait for the other, and both leave connections to
//! everything else. Requeues need none: a process sends one at a time, and limits its statements.

use crate::ports::store_error::StoreError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The connections that calls of one kind may have at the same time.
pub(super) struct Share {
    connections: Arc<Semaphore>,
    /// A context that is not small takes much of the server's memory: one at a time.
    large: Arc<Semaphore>,
    /// How long a call waits for a permit.
    timeout: Duration,
}

/// Held until the call has returned its connection.
#[must_use]
pub(super) struct Permit {
    _large: Option<OwnedSemaphorePermit>,
    _connection: OwnedSemaphorePermit,
}

impl Share {
    /// A share of so many connections, but of one at least.
    pub fn new(connections: u32, timeout: Duration) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections.max(1) as usize)),
            large: Arc::new(Semaphore::new(1)),
            timeout,
        }
    }

    /// Waits until a call may have a connection. Large ones wait for each other first, so that only one of them takes
    /// a connection from the small ones.
    pub async fn permit(&self, is_large: bool) -> Result<Permit, StoreError> {
        let acquired = async {
            let large = match is_large {
                true => Some(Arc::clone(&self.large).acquire_owned().await?),
                false => None,
            };
            Ok::<_, AcquireError>(Permit {
                _large: large,
                _connection: Arc::clone(&self.connections).acquire_owned().await?,
            })
        };
        match tokio::time::timeout(self.timeout, acquired).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(StoreError::too_many_calls()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn is_refused(permit: Result<Permit, StoreError>) -> bool {
        permit.is_err_and(|error| error.is_of_too_many_calls())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_a_permit_only_for_a_time() {
        let share = Share::new(0, TIMEOUT);
        let first = share.permit(false).await.unwrap();
        assert!(is_refused(share.permit(false).await));
        drop(first);
        let _again = share.permit(true).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn large_calls_that_wait_for_each_other_take_no_connection() {
        let share = Share::new(2, TIMEOUT);
        let _large = share.permit(true).await.unwrap();
        let (others, small) = tokio::join!(
            futures::future::join_all((0..9).map(|_| share.permit(true))),
            share.permit(false)
        );
        assert!(others.into_iter().all(is_refused));
        assert!(small.is_ok());
    }
}
