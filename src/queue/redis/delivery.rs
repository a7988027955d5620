//! Decodes deliveries and passes their hints to the handler.

use crate::domain::hint::Hint;
use crate::ports::log_throttle::LogThrottle;
use crate::ports::queue::HintHandler;
use crate::queue::consumer_health::ConsumerHealth;
use apalis_core::backend::codec::Codec;
use apalis_core::error::AbortError;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

static DEAD_LETTERS: LogThrottle = LogThrottle::new();

/// Passes payloads on unchanged: a payload that a codec refuses ends the worker and is delivered again for
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

/// Decodes hints and passes them to the handler.
#[derive(Clone)]
pub(super) struct DeliveryHandler {
    handler: Arc<dyn HintHandler>,
    health: Arc<ConsumerHealth>,
    in_flight: Arc<AtomicUsize>,
}

struct InFlightGuard<'a>(&'a AtomicUsize);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DeliveryHandler {
    /// Creates a handler of deliveries that has handled none.
    pub fn new(handler: Arc<dyn HintHandler>, health: Arc<ConsumerHealth>) -> Self {
        Self {
            handler,
            health,
            in_flight: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Returns the number of handlers that run now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Handles one delivery. An error is always an abort, which makes the delivery a dead letter. Any
    /// other error would send it through apalis' scheduler.
    pub async fn handle(&self, payload: &[u8]) -> Result<(), AbortError> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _guard = InFlightGuard(&self.in_flight);
        match Hint::decode(payload) {
            Ok(hint) => {
                self.handler.handle(hint).await;
                Ok(())
            }
            Err(error) => {
                self.health.count_dead_letter();
                if let Some(left_out) = DEAD_LETTERS.line() {
                    tracing::warn!(reason = %error, left_out, "the payload is no hint; moved to the dead letters");
                }
                Err(AbortError::new(error))
            }
        }
    }
}
