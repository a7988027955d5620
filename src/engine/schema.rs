//! Watches whether the database's schema fits this build.
//!
//! It fitted when the process started. A migration of the application may change it later: then nothing is
//! claimed, and the process is not ready, until it fits again.
//! [`InspectStore::inspect`](crate::ports::schema::InspectStore::inspect) and
//! [`ProbeStore::try_writing`](crate::ports::probe::ProbeStore::try_writing) decide, as they do for `doctor`, `migrate`
//! and the start of `serve`. They take many queries; a mark that changes with the schema takes one. Rules that the mark
//! does not show, such as one that reads a table, are tried once the database has refused runs for long. A refused try
//! uses up ids and leaves dead rows and a line in the server's log: the next one follows after a pause, or a new mark.

use crate::domain::pause::with_jitter;
use crate::ports::store::{SchemaFinding, Store, StoreError};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long after a change a statement that was prepared before it may still fail.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// Shortest and longest pause between two tries of the writes while the mark stays: exponential backoff with jitter.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Share of a pause that is added at random.
const JITTER: f64 = 0.2;

/// What was last seen of the database's schema.
#[derive(Debug, Default)]
pub struct SchemaWatch {
    seen: Mutex<Seen>,
    /// One check at a time; the others wait for its result.
    checking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Of the schema that was inspected last, and fitted.
    mark: Option<String>,
    problem: Option<SchemaFinding>,
    changed_at: Option<Instant>,
    /// The writes that were tried last, unless they were accepted.
    refused: Option<RefusedTry>,
}

/// Writes that were refused, or could not be tried.
#[derive(Debug)]
struct RefusedTry {
    /// Of the schema that they were tried with.
    mark: String,
    /// Since when they have been refused with this mark.
    since: Instant,
    next: Instant,
    /// What has refused them; `None`: no try came to its end.
    problem: Option<SchemaFinding>,
}

/// A try of the writes. Until its result is known they count as refused, also where its caller gives it up.
struct Try<'a> {
    watch: &'a SchemaWatch,
    mark: &'a str,
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.watch.refused(self.mark);
    }
}

/// What an error about the schema means for the run that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// It fits, and has for a while: the error is the statement's.
    Fits,
    /// It fits, and was changed recently: the same statement may work now.
    Changed,
    /// No statement works before the schema is repaired.
    Unfit,
}

impl SchemaWatch {
    /// Returns whether runs may be claimed.
    pub fn fits(&self) -> bool {
        self.seen.lock().problem.is_none()
    }

    /// Returns when the schema was last seen to have changed.
    pub fn changed_at(&self) -> Option<Instant> {
        self.seen.lock().changed_at
    }

    /// Checks the mark of the schema, and the schema itself only where that is not the one that fitted, or where runs
    /// have been refused for long.
    pub async fn check(&self, store: &dyn Store, is_suspect: bool) -> Result<(), StoreError> {
        let _guard = self.checking.lock().await;
        // First the mark: what changes after it is found by the next check.
        let mark = store.schema_mark().await?;
        let (fits, known) = (self.fits(), self.seen.lock().mark.clone());
        if fits && known.as_ref() == Some(&mark) && !is_suspect {
            return Ok(());
        }
        let findings = store.inspect().await?;
        let mut problem = findings.into_iter().find(|finding| finding.fatal);
        // The start of the process has tried it just before the first check.
        if problem.is_none() && known.is_some() {
            if self.awaits_try(&mark) {
                return Ok(());
            }
            problem = match self.tried(&mark, store.try_writing()).await {
                Ok(_) => None,
                // What could not be tried refuses nothing, and mends nothing.
                Err(error) if error.is_transient() && fits => None,
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => Some(self.keep_refusal(SchemaFinding::fatal(
                    "operation_runs",
                    error.to_string(),
                    "run: verifyd doctor",
                ))),
            };
        }
        self.found(mark, problem);
        Ok(())
    }

    /// Returns whether the next try is not due yet. What has refused the last one is the problem until then: one that
    /// was found with another mark is mended.
    fn awaits_try(&self, mark: &str) -> bool {
        if self.is_try_due(mark) {
            return false;
        }
        let problem = {
            let seen = self.seen.lock();
            seen.refused.as_ref().and_then(|last| last.problem.clone())
        };
        if problem.is_some() {
            self.found(mark.to_owned(), problem);
        }
        true
    }

    /// Tries the writes. The pause after a try begins at its end.
    async fn tried<T>(&self, mark: &str, writing: impl Future<Output = T>) -> T {
        let _until_end = Try { watch: self, mark };
        writing.await
    }

    /// Records what has refused the last try, and returns it.
    fn keep_refusal(&self, problem: SchemaFinding) -> SchemaFinding {
        if let Some(refused) = &mut self.seen.lock().refused {
            refused.problem = Some(problem.clone());
        }
        problem
    }

    /// Returns whether the pause after a refused try has ended, or the schema has changed since.
    fn is_try_due(&self, mark: &str) -> bool {
        let seen = self.seen.lock();
        let refused = seen.refused.as_ref();
        refused.is_none_or(|refused| refused.mark != mark || refused.next <= Instant::now())
    }

    /// Records a try that was not accepted, as far as is known, and when the next one is due. The first one with another
    /// mark than the one that fitted shows a change, whatever comes of it.
    fn refused(&self, mark: &str) {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        let before = seen.refused.take().filter(|refused| refused.mark == mark);
        let is_new = seen.mark.as_deref().is_some_and(|fitted| fitted != mark);
        if is_new && before.is_none() {
            seen.changed_at = Some(now);
        }
        let (since, problem) = before.map_or((now, None), |before| (before.since, before.problem));
        let pause = with_jitter((now - since).max(MIN_PAUSE), JITTER, MAX_PAUSE);
        seen.refused = Some(RefusedTry {
            mark: mark.to_owned(),
            since,
            next: now + pause,
            problem,
        });
    }

    fn found(&self, mark: String, problem: Option<SchemaFinding>) {
        let mut seen = self.seen.lock();
        match (&seen.problem, &problem) {
            (before, Some(now)) if before.as_ref() != Some(now) => tracing::error!(
                subject = now.subject,
                problem = now.problem,
                remedy = now.remedy,
                "the database's schema does not fit any more; claiming no runs until it does"
            ),
            (Some(_), None) => tracing::info!("the database's schema fits again"),
            _ => {}
        }
        if problem.is_none() {
            if seen.mark.as_ref().is_some_and(|before| *before != mark) {
                seen.changed_at = Some(Instant::now());
            }
            seen.mark = Some(mark);
            seen.refused = None;
        }
        seen.problem = problem;
    }

    /// Checks the schema after a statement failed because of it.
    pub async fn state(&self, store: &dyn Store) -> SchemaState {
        if let Err(error) = self.check(store, false).await {
            tracing::debug!(%error, "cannot inspect the schema");
        }
        let seen = self.seen.lock();
        if seen.problem.is_some() {
            return SchemaState::Unfit;
        }
        match seen.changed_at {
            Some(at) if at.elapsed() < SETTLES_WITHIN => SchemaState::Changed,
            _ => SchemaState::Fits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(subject: &str) -> SchemaFinding {
        SchemaFinding {
            fatal: true,
            privilege: false,
            subject: subject.into(),
            problem: "the column is missing".into(),
            remedy: String::new(),
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_named_until_it_does() {
        let watch = SchemaWatch::default();
        watch.found("a".into(), None);
        assert!(watch.fits());
        assert_eq!(watch.changed_at(), None);
        watch.found("b".into(), Some(finding("operation_runs.context")));
        assert!(!watch.fits());
        let problem = watch.seen.lock().problem.clone().unwrap();
        assert_eq!(problem.subject, "operation_runs.context");
        watch.found("c".into(), None);
        assert!(watch.fits());
        assert!(watch.changed_at().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn refused_writes_are_tried_less_and_less_often_until_the_mark_changes() {
        let watch = SchemaWatch::default();
        let mut tries = 0;
        // As often as the reconciler checks.
        for _ in 0..600 {
            if watch.is_try_due("a") {
                tries += 1;
                watch.refused("a");
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!((10..30).contains(&tries), "{tries}");
        watch.refused("a");
        assert!(!watch.is_try_due("a") && watch.is_try_due("b"));
        watch.refused("b");
        tokio::time::advance(2 * MIN_PAUSE).await;
        assert!(watch.is_try_due("b"));
        watch.refused("b");
        watch.found("b".into(), None);
        assert!(watch.is_try_due("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_its_caller_gives_up_is_followed_by_a_pause() {
        let watch = SchemaWatch::default();
        let hangs = watch.tried("a", std::future::pending::<()>());
        let given_up = tokio::time::timeout(MAX_PAUSE, hangs).await;
        assert!(given_up.is_err());
        assert!(!watch.is_try_due("a"));
    }

    /// Statements that were prepared before the change may fail all the same.
    #[tokio::test(start_paused = true)]
    async fn a_new_mark_is_a_change_though_no_try_comes_to_its_end() {
        let watch = SchemaWatch::default();
        watch.found("a".into(), None);
        watch.refused("a");
        assert_eq!(watch.changed_at(), None);
        let hangs = async || {
            let hangs = watch.tried("b", std::future::pending::<()>());
            assert!(tokio::time::timeout(MAX_PAUSE, hangs).await.is_err());
        };
        hangs().await;
        assert!(watch.awaits_try("b"));
        let changed_at = watch.changed_at();
        assert!(changed_at.is_some());
        hangs().await;
        assert_eq!(watch.changed_at(), changed_at);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_mended_is_not_named_while_the_writes_are_refused() {
        let watch = SchemaWatch::default();
        watch.found("a".into(), None);
        watch.tried("a", async {}).await;
        let refusal = watch.keep_refusal(finding("operation_runs"));
        watch.found("a".into(), Some(refusal));
        watch.found("b".into(), Some(finding("provider_connections")));
        assert!(watch.awaits_try("a"));
        assert!(!watch.is_try_due("a"));
        let problem = watch.seen.lock().problem.clone().unwrap();
        assert_eq!(problem.subject, "operation_runs");
        // A later try that does not come to its end says nothing else.
        tokio::time::advance(2 * MIN_PAUSE).await;
        assert!(!watch.awaits_try("a"));
        watch.tried("a", async {}).await;
        watch.found("b".into(), Some(finding("provider_connections")));
        assert!(watch.awaits_try("a"));
        let problem = watch.seen.lock().problem.clone().unwrap();
        assert_eq!(problem.subject, "operation_runs");
    }
}
