//! Waiting for what must come, however busy the machine is.

use std::time::{Duration, Instant};

/// Guards against hanging only.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until this holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
