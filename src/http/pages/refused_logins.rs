//! Which refused sign-ins have an entry in the audit trail: strangers must not fill it.

use crate::domain::access::Binding;
use crate::ports::log_throttle::LogThrottle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// Time between two entries about refused sign-ins with tokens of the same binding.
const INTERVAL: Duration = Duration::from_secs(10);

/// Refused sign-ins by what their token is bound to, `None`: with what is no token. Each has entries and a count of its
/// own, so that nobody else's refusals take the place of an entry or show in it. There are as many as bindings of tokens.
#[derive(Debug, Default)]
pub struct RefusedLogins {
    by_binding: Mutex<HashMap<Option<Binding>, LogThrottle>>,
}

/// An entry that is due. Unless [`DueEntry::written`] is called, what it counts is counted in the next one.
#[derive(Debug)]
pub struct DueEntry<'a> {
    logins: &'a RefusedLogins,
    of: Option<Binding>,
    /// How many refusals before this one have no entry.
    pub left_out: u64,
    is_written: bool,
}

impl RefusedLogins {
    /// Counts a refusal. Returns the entry about it, if one is due.
    pub fn entry(&self, of: Option<Binding>) -> Option<DueEntry<'_>> {
        let mut by_binding = self.by_binding.lock();
        let throttle = by_binding.entry(of);
        let left_out = throttle
            .or_insert_with(|| LogThrottle::every(INTERVAL))
            .line()?;
        Some(DueEntry {
            logins: self,
            of,
            left_out,
            is_written: false,
        })
    }
}

impl DueEntry<'_> {
    pub fn written(mut self) {
        self.is_written = true;
    }
}

/// Also where the request ends before the database has answered.
impl Drop for DueEntry<'_> {
    fn drop(&mut self) {
        if self.is_written {
            return;
        }
        if let Some(throttle) = self.logins.by_binding.lock().get(&self.of) {
            throttle.leave_out(self.left_out + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::WorkspaceId;

    /// Whether an entry is due, which is then written, and how many it counts.
    fn counted(logins: &RefusedLogins, of: Option<Binding>) -> Option<u64> {
        let due = logins.entry(of)?;
        let left_out = due.left_out;
        due.written();
        Some(left_out)
    }

    #[tokio::test(start_paused = true)]
    async fn one_entry_in_ten_seconds_counts_the_others() {
        let logins = RefusedLogins::default();
        assert_eq!(counted(&logins, None), Some(0));
        for _ in 0..29 {
            assert_eq!(counted(&logins, None), None);
        }
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(counted(&logins, None), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(counted(&logins, None), Some(30));
        assert_eq!(counted(&logins, None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_others_neither_take_an_entry_nor_count_in_it() {
        let logins = RefusedLogins::default();
        let of = |id| {
            Some(Binding {
                workspace_id: Some(WorkspaceId(id)),
                tenant_id: None,
            })
        };
        for _ in 0..3 {
            counted(&logins, None);
            counted(&logins, of(2));
        }
        assert_eq!(counted(&logins, of(1)), Some(0));
        assert_eq!(counted(&logins, Some(Binding::EVERYTHING)), Some(0));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(counted(&logins, of(1)), Some(0));
        assert_eq!(counted(&logins, of(2)), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_counted_in_the_next_entry() {
        let logins = RefusedLogins::default();
        assert_eq!(counted(&logins, None), Some(0));
        assert_eq!(counted(&logins, None), None);
        tokio::time::advance(INTERVAL).await;
        drop(logins.entry(None));
        assert_eq!(counted(&logins, None), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(counted(&logins, None), Some(3));
    }
}
