//! What a worker does with a payload.

use super::quiet::Quiet;
use crate::domain::job::Hint;
use crate::ports::queue::{Handled, HintHandler};
use crate::queue::pulse::Vitals;
use apalis_core::backend::codec::Codec;
use apalis_core::error::AbortError;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

static NO_HINT: Quiet = Quiet::new();
static REJECTED: Quiet = Quiet::new();

/// Passes payloads on as they are: one that a codec refuses ends the worker and comes back for
/// ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawBytes;

impl Codec<Vec<u8>> for RawBytes {
    type Error = Infallible;
    type Compact = Vec<u8>;

    fn encode(&self, val: &Vec<u8>) -> Result<Self::Compact, Self::Error> {
        Ok(val.clone())
    }

    fn decode(&self, val: &Self::Compact) -> Result<Vec<u8>, Self::Error> {
        Ok(val.clone())
    }
}

/// Decodes hints and gives them to the handler.
#[derive(Clone)]
pub(super) struct Work {
    handler: Arc<dyn HintHandler>,
    vitals: Arc<Vitals>,
    in_work: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("in_work", &self.in_work())
            .finish_non_exhaustive()
    }
}

struct InWork<'a>(&'a AtomicUsize);

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Work {
    pub fn new(handler: Arc<dyn HintHandler>, vitals: Arc<Vitals>) -> Self {
        Self {
            handler,
            vitals,
            in_work: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Handlers that run now.
    pub fn in_work(&self) -> usize {
        self.in_work.load(Ordering::Relaxed)
    }

    /// An error here is always an abort, which puts the delivery into `dead`. Any other error would
    /// send it through the queue's scheduler.
    pub async fn handle(&self, payload: &[u8]) -> Result<(), AbortError> {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        let _guard = InWork(&self.in_work);
        let hint = match Hint::decode(payload) {
            Ok(hint) => hint,
            Err(error) => {
                self.vitals.reject();
                if let Some(left_out) = NO_HINT.line() {
                    tracing::warn!(reason = %error, left_out, "put aside a payload that is not a hint");
                }
                return Err(AbortError::new(error));
            }
        };
        let run = hint.operation_run_id;
        match self.handler.handle(hint).await {
            Handled::Done => Ok(()),
            Handled::Rejected => {
                self.vitals.reject();
                if let Some(left_out) = REJECTED.line() {
                    tracing::warn!(operation_run_id = run.0, left_out, "put aside a hint");
                }
                Err(AbortError::new("the hint was rejected"))
            }
        }
    }
}
