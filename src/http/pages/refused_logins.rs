//! Which refused sign-ins have an entry in the audit trail: strangers must not fill it.

use crate::domain::access::Binding;
use crate::ports::log_throttle::LogThrottle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// Time between two entries about refused sign-ins of the same [`Whose`].
const INTERVAL: Duration = Duration::from_secs(10);

/// Whose refused sign-ins share entries and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Anybody's, with what is no token and no answer of the provider: nobody is known.
    Stranger,
    /// Of persons whom the provider of OpenID Connect has verified.
    Person,
    /// Of tokens with this binding.
    Token(Binding),
}

/// Refused sign-ins by whose they are. Each has entries and a count of its own, so that nobody else's refusals take the
/// place of an entry or show in it. There are two more than bindings of tokens.
#[derive(Debug, Default)]
pub struct RefusedLogins {
    by_whose: Mutex<HashMap<Whose, LogThrottle>>,
}

/// An entry that is due. Unless [`DueEntry::written`] is called, what it counts is counted in the next one.
#[derive(Debug)]
pub struct DueEntry<'a> {
    logins: &'a RefusedLogins,
    of: Whose,
    /// How many refusals before this one have no entry.
    pub left_out: u64,
    is_written: bool,
}

impl RefusedLogins {
    /// Counts a refusal. Returns the entry about it, if one is due.
    pub fn entry(&self, of: Whose) -> Option<DueEntry<'_>> {
        let mut by_whose = self.by_whose.lock();
        let throttle = by_whose.entry(of);
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
        if let Some(throttle) = self.logins.by_whose.lock().get(&self.of) {
            throttle.leave_out(self.left_out + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::WorkspaceId;

    /// Whether an entry is due, which is then written, and how many it counts.
    fn counted(logins: &RefusedLogins, of: Whose) -> Option<u64> {
        let due = logins.entry(of)?;
        let left_out = due.left_out;
        due.written();
        Some(left_out)
    }

    #[tokio::test(start_paused = true)]
    async fn one_entry_in_ten_seconds_counts_the_others() {
        let logins = RefusedLogins::default();
        assert_eq!(counted(&logins, Whose::Stranger), Some(0));
        for _ in 0..29 {
            assert_eq!(counted(&logins, Whose::Stranger), None);
        }
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(counted(&logins, Whose::Stranger), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(counted(&logins, Whose::Stranger), Some(30));
        assert_eq!(counted(&logins, Whose::Stranger), None);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_others_neither_take_an_entry_nor_count_in_it() {
        let logins = RefusedLogins::default();
        let of = |id| {
            Whose::Token(Binding {
                workspace_id: Some(WorkspaceId(id)),
                tenant_id: None,
            })
        };
        for _ in 0..3 {
            counted(&logins, Whose::Stranger);
            counted(&logins, of(2));
        }
        assert_eq!(counted(&logins, of(1)), Some(0));
        let unbound = Whose::Token(Binding::EVERYTHING);
        assert_eq!(counted(&logins, unbound), Some(0));
        assert_eq!(counted(&logins, Whose::Person), Some(0));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(counted(&logins, of(1)), Some(0));
        assert_eq!(counted(&logins, of(2)), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_counted_in_the_next_entry() {
        let logins = RefusedLogins::default();
        assert_eq!(counted(&logins, Whose::Stranger), Some(0));
        assert_eq!(counted(&logins, Whose::Stranger), None);
        tokio::time::advance(INTERVAL).await;
        drop(logins.entry(Whose::Stranger));
        assert_eq!(counted(&logins, Whose::Stranger), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(counted(&logins, Whose::Stranger), Some(3));
    }
}
