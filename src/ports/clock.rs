//! The clock, as a trait so that tests can control it.

use chrono::{DateTime, Utc};

/// Wall-clock time for what is shown and signed. Leases never use it: for them only the database's clock
/// counts.
pub trait Clock: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads it"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
