//! Waiting for what must come, however busy the machine is.

use std::time::{Duration, Instant};

/// Guards against hanging only.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The same, for what takes seconds: a test that waits for it in vain ends soon, and says for what.
const LIMIT: Duration = Duration::from_secs(100);

/// Waits until this holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until this, which takes seconds, has ended.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(LIMIT, work).await;
    ended.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}
