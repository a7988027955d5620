//! How it is shown what the database refused of a run.

use super::*;

#[test]
fn what_the_database_refused_is_said_with_its_class() {
    const CLASS: &str = "SQLSTATE 23514, constraint small";
    let refused = |status, end: Option<(i64, AttemptEnd)>| {
        let attempt = AttemptRecord {
            result_refusal: Some(CLASS.into()),
            ..attempt(1, 2, end)
        };
        record(run(5, status, None, None), vec![attempt])
    };
    let mut waiting = refused(RunStatus::Queued, Some((3, AttemptEnd::Error)));
    waiting.wait = Some(RunWait {
        until: at(20),
        cause: WaitCause::Refused,
        budget: None,
        database_refusal: Some(CLASS.into()),
    });
    let shown = RunDetail::of(&waiting, at(4));
    let sentence =
        format!("Waiting because the database refused the result ({CLASS}): about 16 s.");
    assert_eq!(shown.run.verdict, sentence);
    let words = format!("the database refused the result ({CLASS})");
    let attempt = &shown.timeline.attempts[0];
    assert_eq!(attempt.end, words);
    assert_eq!(attempt.database_refusal.as_deref(), Some(CLASS));
    // The release was refused, too.
    let lost = refused(RunStatus::Queued, Some((3, AttemptEnd::WorkerLost)));
    assert_eq!(RunDetail::of(&lost, at(4)).timeline.attempts[0].end, words);

    let mut stuck = refused(RunStatus::Running, Some((3, AttemptEnd::WorkerLost)));
    stuck.attempts[0].result_refusal = None;
    stuck.attempts[0].requeue_refusal = Some(CLASS.into());
    let shown = RunDetail::of(&stuck, at(4));
    let sentence =
        format!("Its attempt has ended, and the database refuses to queue it again ({CLASS}).");
    assert_eq!(shown.run.verdict, sentence);
    let end = &shown.timeline.attempts[0].end;
    assert!(
        end.starts_with("lost: ") && end.ends_with(&format!("queue the run again ({CLASS})")),
        "{end}"
    );
    // What ended it was rolled back.
    (stuck.attempts[0].ended_at, stuck.attempts[0].end_reason) = (None, None);
    let shown = RunDetail::of(&stuck, at(4));
    assert!(shown.run.verdict.starts_with("Its lease has ended, and"));
    let end = &shown.timeline.attempts[0].end;
    assert!(end.starts_with("its lease has ended; the database refused"));
}

/// Only its attempts say whether a worker works on a running run.
#[test]
fn a_running_run_is_being_checked_while_its_attempt_is_open() {
    const RESULT: &str = "SQLSTATE P0001";
    const REQUEUE: &str = "SQLSTATE 23514, constraint small";
    let running = || run(5, RunStatus::Running, None, None);
    let listed = RunItem::from(summary(&running())).verdict;
    assert_eq!(listed, "Running.");
    let detailed = |attempts| RunDetail::of(&record(running(), attempts), at(4));
    assert_eq!(detailed(vec![]).run.verdict, listed);
    let open = attempt(1, 2, None);
    let lost = attempt(1, 2, Some((3, AttemptEnd::WorkerLost)));
    for (attempt, is_checked) in [(&open, true), (&lost, false)] {
        for (result, requeue) in [(false, false), (true, false), (false, true), (true, true)] {
            let shown = detailed(vec![AttemptRecord {
                result_refusal: result.then(|| RESULT.to_owned()),
                requeue_refusal: requeue.then(|| REQUEUE.to_owned()),
                ..attempt.clone()
            }]);
            let (verdict, end) = (&shown.run.verdict, &shown.timeline.attempts[0].end);
            let is_refused = result || requeue;
            let says_checked = verdict == "Being checked right now.";
            assert_eq!(says_checked, is_checked && !is_refused, "{verdict}");
            for text in [verdict, end] {
                assert_eq!(text.contains(RESULT), result, "{text}");
                assert_eq!(text.contains(REQUEUE), requeue, "{text}");
            }
        }
    }
}
