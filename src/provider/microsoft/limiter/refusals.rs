//! Whom refusals are about: the application, or one of its directories.
//!
//! A directory may be refused by a limit of its own without a scope that says so, and whatever answers for it may be
//! broken. Such a directory must not hold the others back for as long as that lasts: where it is refused again, and the
//! others are answered, the refusal is its own.

use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Refusals without a scope, of two directories within this time, are taken for the application's.
const SAME_MOMENT: Duration = Duration::from_secs(10);

/// Directories that are kept. With more, all are forgotten.
const MAX_DIRECTORIES: usize = 1_000;

/// Whom a refusal is about, as Graph says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThrottleScope {
    /// The application in all its directories.
    Application,
    /// One directory.
    Directory,
}

impl ThrottleScope {
    /// Reads `x-ms-throttle-scope`: `Tenant_Application/ReadWrite/…`; `None`: it names nothing that is known.
    pub fn parse(value: &str) -> Option<Self> {
        let scope = value.split('/').next().unwrap_or_default();
        let scope = scope.trim().to_ascii_lowercase();
        if scope.starts_with("tenant") {
            return Some(Self::Directory);
        }
        scope.contains("application").then_some(Self::Application)
    }
}

/// The refusals of one application.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The directory of the last refusal without a scope.
    last: Option<(Uuid, Instant)>,
    /// Directories of which a refusal was taken for the application's.
    refused: HashSet<Uuid>,
    /// Others that were answered since the last one, and no more of them than those.
    answered: HashSet<Uuid>,
}

impl Refusals {
    /// Notes a refusal; returns whether it is about the application.
    pub fn is_of_application(
        &mut self,
        directory: Uuid,
        scope: Option<ThrottleScope>,
        now: Instant,
    ) -> bool {
        let is_refused_alone =
            self.refused.contains(&directory) && self.answered.len() >= self.refused.len();
        if is_refused_alone || scope == Some(ThrottleScope::Directory) {
            return false;
        }
        if self.refused.len() >= MAX_DIRECTORIES {
            self.refused.clear();
        }
        if scope.is_none() {
            let last = self.last.replace((directory, now));
            let last = last.filter(|(other, at)| *other != directory && now < *at + SAME_MOMENT);
            let Some((other, _)) = last else {
                return false;
            };
            self.refused.insert(other);
        }
        self.refused.insert(directory);
        self.answered.clear();
        true
    }

    /// Notes an answer to a request that was sent after the last refusal.
    pub fn answered(&mut self, directory: Uuid) {
        if self.answered.len() < self.refused.len() && !self.refused.contains(&directory) {
            self.answered.insert(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLICATION: Option<ThrottleScope> = Some(ThrottleScope::Application);

    fn directories<const N: usize>() -> [Uuid; N] {
        std::array::from_fn(|number| Uuid::from_u128(number as u128 + 1))
    }

    #[test]
    fn without_a_scope_it_takes_two_directories_at_the_same_moment() {
        let [one, other] = directories();
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for (directory, seconds, is_of_application) in [
            (one, 0, false),
            (one, 1, false),
            (other, 12, false),
            (one, 21, true),
        ] {
            let at = now + Duration::from_secs(seconds);
            let found = refusals.is_of_application(directory, None, at);
            assert_eq!(found, is_of_application, "{seconds}");
        }
    }

    /// Whether it has a scope or not.
    #[test]
    fn directories_refused_while_others_are_answered_are_not_the_application() {
        let [broken, too, healthy, fine] = directories();
        for scope in [APPLICATION, None] {
            let mut refusals = Refusals::default();
            let now = Instant::now();
            refusals.is_of_application(broken, scope, now);
            assert!(refusals.is_of_application(too, scope, now));
            // Nobody else was answered.
            refusals.answered(too);
            assert!(refusals.is_of_application(broken, scope, now));
            refusals.answered(healthy);
            refusals.answered(healthy);
            assert!(refusals.is_of_application(too, scope, now));
            refusals.answered(healthy);
            refusals.answered(fine);
            for _ in 0..10 {
                assert!(!refusals.is_of_application(broken, scope, now));
                assert!(!refusals.is_of_application(too, scope, now));
            }
            // Another one that is refused without a scope needs a second one.
            assert_eq!(
                refusals.is_of_application(healthy, scope, now + SAME_MOMENT),
                scope.is_some()
            );
        }
    }

    #[test]
    fn a_limit_that_most_directories_meet_is_the_applications() {
        let all = directories::<50>();
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for directory in &all[..40] {
            assert!(refusals.is_of_application(*directory, APPLICATION, now));
        }
        for directory in all {
            refusals.answered(directory);
        }
        assert!(refusals.is_of_application(all[0], APPLICATION, now));
        assert!(refusals.answered.is_empty());
        for directory in 0..2 * MAX_DIRECTORIES as u128 {
            refusals.is_of_application(Uuid::from_u128(directory), APPLICATION, now);
        }
        assert!(refusals.refused.len() <= MAX_DIRECTORIES);
    }
}
