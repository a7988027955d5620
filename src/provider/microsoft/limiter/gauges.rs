//! What limiters show in metrics.

use crate::domain::budget::BudgetKey;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The rates of the applications that are limited, in requests per minute.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<BTreeMap<BudgetKey, u32>>);

impl Rates {
    pub fn set(&self, key: &BudgetKey, per_minute: Option<u32>) {
        let mut rates = self.0.lock();
        match per_minute {
            Some(rate) => rates.insert(key.clone(), rate),
            None => rates.remove(key),
        };
        drop(rates);
        self.show();
    }

    pub fn show(&self) {
        let lowest = f64::from(self.lowest().unwrap_or_default()) / 60.0;
        metrics::gauge!("verifyd_provider_budget_requests_per_second").set(lowest);
    }

    /// Returns the lowest; `None`: no application is limited.
    pub fn lowest(&self) -> Option<u32> {
        self.0.lock().values().min().copied()
    }
}

/// Counts a request as waiting until it is dropped.
pub(super) struct WaitingGauge;

impl WaitingGauge {
    pub fn new() -> Self {
        metrics::gauge!("verifyd_provider_requests_waiting").increment(1.0);
        Self
    }

    pub fn show_none() {
        metrics::gauge!("verifyd_provider_requests_waiting").set(0.0);
    }
}

impl Drop for WaitingGauge {
    fn drop(&mut self) {
        metrics::gauge!("verifyd_provider_requests_waiting").decrement(1.0);
    }
}
