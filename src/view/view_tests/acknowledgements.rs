//! How acknowledgements are shown.

use super::*;

#[test]
fn acknowledged_problems_are_counted_apart_and_change_nothing_else() {
    let checks = vec![
        warning("a"),
        warning("b"),
        check("c", CheckStatus::Fail, Some(Reason::Throttled), true),
        check("d", CheckStatus::Pass, None, true),
    ];
    let run = completed(Outcome::Failed, checks);
    let plain = RunView::of(&run, &[], at(30));
    assert_eq!(
        plain.verdict,
        "The connection does not work: the provider asked to slow down, for longer than this run may \
         wait. 2 more things need attention."
    );
    for (given, ending) in [
        (&["a"][..], " One of the 3 is acknowledged."),
        (&["a", "b"], " 2 of the 3 are acknowledged."),
    ] {
        let given: Vec<_> = (1..).zip(given).map(|(id, key)| said(id, 4, key)).collect();
        let view = RunView::of(&run, &given, at(30));
        assert_eq!(view.verdict, format!("{}{ending}", plain.verdict));
        assert_eq!(readable(&view).acknowledged, given.len());
        assert_eq!(readable(&view).overall, readable(&plain).overall);
        let order = |view: &RunView| -> Vec<Check> {
            let problems = &readable(view).problems;
            problems.iter().map(|c| c.check.clone()).collect()
        };
        assert_eq!(order(&view), order(&plain));
        let a = problem(&view, "a");
        assert!(!a.acknowledgeable && problem(&view, "c").acknowledgeable);
        let said = a.acknowledgement.as_ref().unwrap();
        assert!(said.inherited);
        assert_eq!(
            said.summary(),
            "acknowledged by “Ann” on 2026-03-04 (run 4)"
        );
    }
    let mut reason = said(3, 5, "c");
    reason.reason_code = Some("throttled".into());
    let all = [said(1, 5, "a"), said(2, 5, "b"), reason];
    let view = RunView::of(&run, &all, at(30));
    let all = format!("{} All 3 are acknowledged.", plain.verdict);
    assert_eq!(view.verdict, all);
    let one = completed(Outcome::Succeeded, vec![warning("a")]);
    let view = RunView::of(&one, &[said(1, 5, "a")], at(30));
    assert_eq!(
        view.verdict,
        "The connection works, but needs attention: a required permission is not granted. It is acknowledged."
    );
    assert_eq!(readable(&view).overall, Overall::NeedsAttention);
}

#[test]
fn withdrawn_and_expired_ones_are_history() {
    let run = completed(Outcome::Succeeded, vec![warning("a")]);
    let mut withdrawn = said(1, 4, "a");
    withdrawn.is_withdrawn = true;
    withdrawn.withdrawn_at = Some(at(25));
    withdrawn.withdrawn_by = Some("Bob".into());
    let mut expired = said(2, 5, "a");
    expired.expires_at = Some(at(30));
    let mut active = said(3, 5, "a");
    active.expires_at = Some(at(31));
    let given = [withdrawn, expired, active];
    let view = RunView::of(&run, &given, at(30));
    let a = problem(&view, "a");
    assert_eq!(a.acknowledgement.as_ref().unwrap().id, 3);
    let history: Vec<_> = a.history.iter().map(|s| (s.id, s.standing)).collect();
    assert_eq!(history, [(1, Standing::Withdrawn), (2, Standing::Expired)]);
    let texts: Vec<String> = a.history.iter().map(AcknowledgementView::summary).collect();
    assert_eq!(
        texts,
        [
            "acknowledged by “Ann” on 2026-03-04 (run 4), withdrawn by “Bob” on 2026-03-04",
            "acknowledged by “Ann” on 2026-03-04, expired on 2026-03-04",
        ]
    );
    let view = RunView::of(&run, &given, at(31));
    let a = problem(&view, "a");
    assert_eq!((&a.acknowledgement, a.history.len()), (&None, 3));
    assert!(a.acknowledgeable);
    assert_eq!(readable(&view).acknowledged, 0);
}

/// As another application may record them: `infinity`, or no time.
#[test]
fn a_time_that_cannot_be_shown_is_left_out() {
    let strange = Acknowledgement {
        acknowledged_at: None,
        ..said(1, 5, "a")
    };
    let past = Acknowledgement {
        is_past: true,
        ..strange.clone()
    };
    let withdrawn = Acknowledgement {
        is_withdrawn: true,
        ..strange.clone()
    };
    for (acknowledgement, standing, summary) in [
        (strange, Standing::Active, "acknowledged by “Ann”"),
        (past, Standing::Expired, "acknowledged by “Ann”, expired"),
        (
            withdrawn,
            Standing::Withdrawn,
            "acknowledged by “Ann”, withdrawn",
        ),
    ] {
        let view = AcknowledgementView::of(&acknowledgement, RunId(5), at(30));
        assert_eq!((view.standing, &*view.summary()), (standing, summary));
    }
}

#[test]
fn no_name_looks_like_the_token_beside_it() {
    let token = |name: &str| Actor {
        surface: Surface::Api,
        token_id: Some(TokenId(1)),
        name: name.into(),
    };
    for (name, through, words) in [
        ("token ws1", Some(token("ws1")), "token ws1"),
        ("token ws1", Some(token("ws2")), "“token ws1” (token ws2)"),
        ("X (token admin)", None, "“X (token admin)”"),
        (
            "X” (token a)\"",
            Some(token("b")),
            "“X' (token a)'” (token b)",
        ),
        (
            "\u{201f}\u{275d}\u{275e}\u{301d}\u{301e}\u{ff02}\u{2033}",
            None,
            "“'”",
        ),
        (
            "X'' (token a)",
            Some(token("b")),
            "“X' (token a)” (token b)",
        ),
        ("X’\u{200a}’ y", None, "“X' y”"),
        ("``´´'‘‘", None, "“'”"),
        ("O’Brien's 'x", None, "“O'Brien's 'x”"),
        ("Hawai\u{2bb}i\u{2bc}\u{2bc}", None, "“Hawai'i'”"),
        (
            "\u{202e}evil",
            Some(token("a\u{2066}")),
            "“\u{fffd}evil” (token a\u{fffd})",
        ),
    ] {
        let mut said = said(1, 5, "a");
        said.acknowledged_by = name.into();
        said.acknowledged_through = through.clone();
        said.is_withdrawn = true;
        said.withdrawn_at = Some(at(25));
        said.withdrawn_by = Some(name.into());
        said.withdrawn_through = through;
        let summary = AcknowledgementView::of(&said, RunId(5), at(30)).summary();
        let wanted =
            format!("acknowledged by {words} on 2026-03-04, withdrawn by {words} on 2026-03-04");
        assert_eq!(summary, wanted);
    }
}

#[test]
fn an_acknowledgement_of_another_finding_does_not_count() {
    let run = completed(Outcome::Succeeded, vec![warning("a")]);
    let with = |run_id, reason_code: Option<&str>| {
        let mut other = said(1, run_id, "a");
        other.reason_code = reason_code.map(str::to_owned);
        RunView::of(&run, &[other], at(30))
    };
    for (run_id, reason, counts) in [
        (5, Some("throttled"), 0),
        (4, None, 0),
        (5, Some("a code of another build"), 0),
        // Written by another application on this very run.
        (5, None, 1),
    ] {
        let view = with(run_id, reason);
        assert_eq!(readable(&view).acknowledged, counts, "{run_id} {reason:?}");
        assert_eq!(problem(&view, "a").history.len(), 1 - counts);
    }
    let elsewhere = RunView::of(&run, &[said(1, 5, "not in the report")], at(30));
    assert_eq!(elsewhere.other_acknowledgements.len(), 1);
}
