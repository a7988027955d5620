//! Sends hints by the script of the wire format.

use super::connections::Connections;
use super::keys::Keys;
use crate::domain::hint::{Hint, MAX_PAYLOAD_BYTES};
use crate::ports::queue::QueueError;
use redis::aio::ConnectionManager;
use redis::{ErrorKind, RedisResult, Script, ServerErrorKind};
use std::sync::LazyLock;
use uuid::Uuid;

/// The script that other producers use, too.
pub(super) const ENQUEUE: &str = include_str!("../../../contracts/enqueue.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(ENQUEUE));

/// Hints in one round trip.
const PIPELINED: usize = 256;

/// Attempts are counted in the database; the queue delivers once.
const MAX_ATTEMPTS: u32 = 1;

/// A hint on its way, with the task id of its delivery.
struct Delivery {
    id: String,
    payload: Vec<u8>,
}

impl Delivery {
    fn new(hint: &Hint) -> Self {
        let mut payload = hint.encode();
        if payload.len() > MAX_PAYLOAD_BYTES {
            // Only trace context can be that long, and no consumer would accept it.
            payload = Hint::new(hint.operation_run_id).encode();
        }
        Self {
            // An id that was used before is dropped until it has been cleaned up: always a new one.
            id: Uuid::now_v7().to_string(),
            payload,
        }
    }
}

/// Sends all hints; of several, a prefix may have been sent when this fails.
pub(super) async fn send(
    connections: &Connections,
    keys: &Keys,
    hints: &[Hint],
) -> Result<(), QueueError> {
    for part in hints.chunks(PIPELINED) {
        let deliveries: Vec<Delivery> = part.iter().map(Delivery::new).collect();
        connections
            .call(async |connection| deliver(connection, keys, &deliveries).await)
            .await?;
        metrics::counter!("verifyd_hints_sent_total").increment(part.len() as u64);
    }
    Ok(())
}

async fn deliver(
    connection: &mut ConnectionManager,
    keys: &Keys,
    deliveries: &[Delivery],
) -> RedisResult<()> {
    let mut pipeline = redis::pipe();
    for delivery in deliveries {
        pipeline
            .cmd("EVALSHA")
            .arg(SCRIPT.get_hash())
            .arg(4)
            .arg(&keys.data)
            .arg(&keys.active)
            .arg(&keys.signal)
            .arg(&keys.meta)
            .arg(&delivery.id)
            .arg(&delivery.payload)
            .arg(MAX_ATTEMPTS);
    }
    let mut once_more = true;
    loop {
        let result = pipeline.query_async::<Vec<i64>>(connection).await;
        match result {
            Ok(_) => return Ok(()),
            // Doing it again is safe: an id that is in the queue already changes nothing.
            Err(error) if once_more => {
                once_more = false;
                if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
                    SCRIPT.prepare_invoke().load_async(connection).await?;
                } else if !error.is_connection_dropped() {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RunId;

    #[test]
    fn every_delivery_has_an_id_of_its_own() {
        let hint = Hint::new(RunId(1));
        let ids: std::collections::HashSet<String> =
            (0..1000).map(|_| Delivery::new(&hint).id).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn trace_context_that_is_too_long_is_left_out() {
        let mut hint = Hint::new(RunId(9));
        hint.tracestate = Some("x".repeat(MAX_PAYLOAD_BYTES));
        let delivery = Delivery::new(&hint);
        assert_eq!(Hint::decode(&delivery.payload), Ok(Hint::new(RunId(9))));
    }
}
