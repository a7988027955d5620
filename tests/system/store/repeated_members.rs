//! Members of verifyd's own that a context gives more than once. SQLite stores the text as it is: its functions read
//! the first one, other readers the last. A `\u` in a name does not make it another one. To SQLite's functions a name
//! ends at a `\u0000`, which `jsonb` refuses.

use crate::store::bed::Bed;
use crate::store::fixtures::{blocked, context, failed, report_of, succeeded};
use chrono::DateTime;
use serde_json::{Value, json};
use verifyd::domain::completion::Completion;
use verifyd::domain::run::ReportPresence;
use verifyd::domain::{ConnectionId, RunId};
use verifyd::view::RunView;
use verifyd::view::report::ReportState;

const NAMES: [&str; 3] = ["verification_report", "reason_code", "next_steps"];

const VALUES: [&str; 6] = [
    r#"{"forged":true}"#,
    "null",
    r#""forged""#,
    r#"["forged"]"#,
    "1",
    "false",
];

/// What verifyd reads of a context.
const READ: [&str; 4] = [
    "provider",
    "module",
    "provider_connection_id",
    "target_scope",
];

/// Members of a producer that some reader would change.
const EXACT: &str = concat!(
    r#""big":9223372036854775808,"huge":1e999,"price":1.10,"zero":-0,"half":"\ud800","#,
    r#""cut":"a\u0000b","name\u0000x":1,"name\u0000y":2,"#
);

/// The largest context that a producer may record in SQLite, in bytes.
const LARGEST: usize = 262_144;

/// As many of each as asked for, each with a `,` behind it. `first`: which value comes first.
fn forged(bed: &Bed, count: usize, first: usize) -> String {
    let places = (0..count).flat_map(|place| (0..NAMES.len()).map(move |name| (place, name)));
    let members = places.map(|(place, name)| {
        let spelled = match (first + place) % 3 {
            0 => NAMES[name].to_owned(),
            1 if !bed.is_postgres() => format!(r"{}\u0000x", NAMES[name]),
            _ => NAMES[name].replacen('_', r"\u005f", 1),
        };
        format!(
            r#""{spelled}":{},"#,
            VALUES[(first + place + name) % VALUES.len()]
        )
    });
    members.collect()
}

/// The text of this object with these members before and behind its own.
fn between(before: &str, object: &str, behind: &str) -> String {
    let own = object
        .strip_prefix('{')
        .and_then(|own| own.strip_suffix('}'));
    let behind = behind.trim_end_matches(',');
    let comma = if behind.is_empty() { "" } else { "," };
    format!("{{{before}{}{comma}{behind}}}", own.unwrap())
}

async fn save_text(bed: &Bed, run: RunId, context: &str) {
    let context = context.replace('\'', "''");
    bed.save(run, &format!("context = '{context}'")).await;
}

/// How often the run's context has any of the names.
async fn count_of_names(bed: &Bed, run: RunId) -> i64 {
    let (each, name) = match bed.is_postgres() {
        true => ("jsonb_each", "m.key"),
        false => ("json_each", "printf('%s', m.key)"),
    };
    bed.number(&format!(
        "SELECT count(*) FROM operation_runs r, {each}(r.context) m \
         WHERE r.id = {run} AND {name} IN ('{}')",
        NAMES.join("', '")
    ))
    .await
}

/// The run is shown with this completion, and with nothing that was forged.
async fn assert_only_verifyds(bed: &Bed, run: RunId, completion: &Completion, what: &str) {
    let stored = bed.run(run).await;
    assert_eq!(stored.report(), Some(&report_of(completion)), "{what}");
    let by = completion.blocked.as_ref();
    let reason = by.map(|by| json!(by.reason_code.code()));
    assert_eq!(stored.context.get("reason_code"), reason.as_ref(), "{what}");
    let steps = by.map(|by| json!(by.next_steps));
    assert_eq!(stored.context.get("next_steps"), steps.as_ref(), "{what}");
    let listed = bed.store.run_summary(run).await.unwrap().unwrap();
    assert_eq!(listed.fingerprint.as_ref(), Some(&completion.fingerprint));
    let text = bed.context_of(run).await;
    assert!(!text.contains("forged"), "{what}: {text}");
    let names = if by.is_some() { 3 } else { 1 };
    assert_eq!(count_of_names(bed, run).await, names, "{what}: {text}");
}

/// What stays of a context where SQLite cannot remove all of the repeated members.
fn read_of(context: &Value) -> Value {
    let mut read = json!({ "producer_context_dropped": true });
    for name in READ {
        read[name] = context[name].clone();
    }
    read
}

/// Before the claim, and while the run is in flight.
pub async fn of_members_that_a_context_repeats_only_verifyds_stays(bed: &Bed) {
    let mut asked = context(1);
    asked["producer's"] = json!([1.5, "\u{e9}\n\"\\", null, { "verification_report": "its own" }]);
    for (name, value) in [
        ("half", json!(0.5)),
        ("yes", json!(true)),
        ("none", json!(null)),
    ] {
        asked[name] = value;
    }
    asked["whole"] = json!(i64::MAX);
    // With the one behind, SQLite removes up to 17.
    for count in [1, 2, 16, 2_000] {
        for first in 0..VALUES.len() {
            for completion in [succeeded(), failed(), blocked()] {
                let members = forged(bed, count, first);
                let text = asked.to_string();
                let given = match first % 3 {
                    0 => between(&members, &text, ""),
                    1 => between("", &text, &members),
                    _ => between(&members, &text, &forged(bed, 1, first)),
                };
                let run = bed.queued().await;
                let is_before = first % 2 == 0;
                if is_before {
                    save_text(bed, run, &given).await;
                }
                let held = bed.claim(run, "w1").await;
                assert_eq!(
                    (&held.run.request.malformed, &held.run.request.problem),
                    (&vec![], &None)
                );
                if !is_before {
                    save_text(bed, run, &given).await;
                }
                assert!(bed.store.complete(&held, &completion).await.unwrap());
                let what = format!("{count} from {first}");
                assert_only_verifyds(bed, run, &completion, &what).await;
                let mut rest = bed.run(run).await.context;
                for name in NAMES {
                    rest.as_object_mut().unwrap().remove(name);
                }
                match bed.is_postgres() || count < 2_000 {
                    true => assert_eq!(rest, asked, "{what}"),
                    false => assert_eq!(rest, read_of(&asked), "{what}"),
                }
            }
        }
    }
}

/// A context that is read in parts afterwards.
#[tokio::test]
async fn of_members_that_a_large_context_repeats_only_verifyds_stays() {
    let bed = Bed::sqlite().await;
    for completion in [succeeded(), blocked()] {
        let mut asked = context(1);
        let members = forged(&bed, 2, 0);
        asked["padding"] = json!("");
        let left = LARGEST - between("", &asked.to_string(), &members).len();
        asked["padding"] = json!("x".repeat(left));
        let run = bed.queued().await;
        save_text(&bed, run, &between("", &asked.to_string(), &members)).await;
        bed.complete(run, &completion).await;
        assert!(bed.context_of(run).await.len() > LARGEST);
        assert_only_verifyds(&bed, run, &completion, "large").await;
    }
}

/// Whoever saves them over it.
pub async fn a_completed_run_keeps_its_report_beside_repeated_members(bed: &Bed) {
    for completion in [succeeded(), failed(), blocked()] {
        let run = bed.completed(&completion).await;
        let (before, text) = (bed.run(run).await, bed.context_of(run).await);
        for first in 0..VALUES.len() {
            for (front, back) in [(1, 0), (0, 1), (1, 1), (2, 3)] {
                let (front, back) = (forged(bed, front, first), forged(bed, back, first + 1));
                save_text(bed, run, &between(&front, &text, &back)).await;
                if bed.is_postgres() {
                    // One is left, in its place what is verifyd's. A reason of a run that is not blocked is the
                    // application's.
                    let after = bed.run(run).await;
                    assert_eq!(after.report(), before.report());
                    if completion.blocked.is_some() {
                        assert_eq!(after.context, before.context);
                    }
                } else {
                    assert_eq!(bed.context_of(run).await, text);
                }
            }
        }
    }
}

async fn migrate_again(bed: &Bed) {
    bed.exec("DELETE FROM verifyd_schema_migrations WHERE version = 22")
        .await;
    assert_eq!(bed.store.migrate().await.unwrap().applied, [22]);
}

/// In a completion, when it is saved over a completed run, and in the migration.
#[tokio::test]
async fn what_stands_beside_repeated_members_stays_to_the_letter() {
    let bed = Bed::sqlite().await;
    for completion in [succeeded(), blocked()] {
        let asked = between(EXACT, &context(1).to_string(), "");
        let run = bed.queued().await;
        save_text(&bed, run, &asked).await;
        bed.complete(run, &completion).await;
        let text = bed.context_of(run).await;
        assert!(text.contains(EXACT), "{text}");
        for (count, first) in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)] {
            let members = forged(&bed, count, first);
            let other = bed.queued().await;
            save_text(&bed, other, &between(&members, &asked, &members)).await;
            bed.complete(other, &completion).await;
            assert_eq!(bed.context_of(other).await, text);
            save_text(&bed, run, &between("", &text, &members)).await;
            assert_eq!(bed.context_of(run).await, text);
        }
        let renamed = text.replace(
            r#""verification_report""#,
            r#""verification_report\u0000x""#,
        );
        for older in [&asked, &renamed] {
            save_text(&bed, run, older).await;
            assert_eq!(bed.context_of(run).await, text);
        }
        for left in [renamed, between("", &text, &forged(&bed, 3, 0))] {
            bed.unguard().await;
            save_text(&bed, run, &left).await;
            migrate_again(&bed).await;
            assert_eq!(bed.context_of(run).await, text);
        }
    }
}

/// The migration mends what builds before it have left.
#[tokio::test]
async fn of_completed_runs_that_repeat_members_verifyds_are_kept() {
    let bed = Bed::sqlite().await;
    bed.unguard().await;
    let mut completed = Vec::new();
    for first in 0..VALUES.len() {
        // The connection's latest report, wherever it stands.
        let latest = Completion {
            connection: Some(ConnectionId(10 + i64::try_from(first).unwrap())),
            ..failed()
        };
        // Others are the first: the completion wrote it there.
        for (completion, before) in [(latest, 1), (succeeded(), 0), (blocked(), 0)] {
            let run = bed.completed(&completion).await;
            let stored = bed.run(run).await.context;
            let (before, behind) = (forged(&bed, before, first), forged(&bed, 2, first));
            save_text(&bed, run, &between(&before, &stored.to_string(), &behind)).await;
            completed.push((run, completion, stored));
        }
    }
    for completion in [succeeded(), blocked()] {
        let run = bed.completed(&completion).await;
        let stored = bed.run(run).await.context;
        let behind = forged(&bed, 2_000, 0);
        save_text(&bed, run, &between("", &stored.to_string(), &behind)).await;
        let mut kept = read_of(&stored);
        for name in NAMES.iter().filter(|name| stored.get(name).is_some()) {
            kept[name] = stored[name].clone();
        }
        completed.push((run, completion, kept));
    }
    // Those of a run that is not blocked are the application's, where it gives them once.
    let mut applications = Vec::new();
    for (repeated, is_kept) in [("verification_report", true), ("reason_code", false)] {
        let run = bed.completed(&succeeded()).await;
        let mut stored = bed.run(run).await.context;
        stored["reason_code"] = json!("its own");
        stored["next_steps"] = json!(["its own"]);
        let again = format!(r#""{repeated}":1"#);
        save_text(&bed, run, &between("", &stored.to_string(), &again)).await;
        if !is_kept {
            stored.as_object_mut().unwrap().remove("reason_code");
        }
        applications.push((run, stored));
    }
    let untouched = bed.completed(&succeeded()).await;
    let text =
        r#"{ "verification_report": {"fingerprint": 1}, "reason_code": 1.10, "own": 1, "own": 2 }"#;
    save_text(&bed, untouched, text).await;

    migrate_again(&bed).await;
    for (run, completion, stored) in completed {
        assert_only_verifyds(&bed, run, &completion, "migrated").await;
        assert_eq!(bed.run(run).await.context, stored);
    }
    for (run, stored) in applications {
        assert_eq!(bed.run(run).await.context, stored);
    }
    assert_eq!(bed.context_of(untouched).await, text);

    // Guards that are added again rewrite no run.
    bed.unguard().await;
    let repeated = between("", text, r#""reason_code":1"#);
    save_text(&bed, untouched, &repeated).await;
    bed.store.enforce().await.unwrap();
    let missing = bed.store.guards().await.unwrap().missing;
    assert_eq!(missing, Vec::<String>::new());
    assert_eq!(bed.context_of(untouched).await, repeated);
}

/// What a list says of the run's report, whether its verdict is read there, and what a page says.
async fn shown(bed: &Bed, run: RunId) -> (ReportPresence, bool, ReportState) {
    let listed = bed.store.run_summary(run).await.unwrap().unwrap();
    let stored = bed.store.run(run).await.unwrap().unwrap();
    let page = RunView::of(&stored, &[], DateTime::UNIX_EPOCH);
    (listed.report, listed.overall.is_some(), page.report)
}

/// As another writer may leave it, past the guards: read as a whole, and in parts.
#[tokio::test]
async fn a_report_that_a_context_repeats_is_unreadable_everywhere() {
    let bed = Bed::sqlite().await;
    bed.unguard().await;
    bed.lift_constraints().await;
    let connection = bed.connection(7).await;
    let completion = Completion {
        connection: Some(connection),
        ..succeeded()
    };
    // Which reports have a verdict: the latest one, and those that it leads to.
    let verdicts = async || {
        let trend = bed.store.trend(&[connection], 9).await.unwrap();
        let verdicts = trend.iter().map(|point| point.overall.is_some());
        verdicts.collect::<Vec<_>>()
    };
    let first = bed.queued_for(7, connection.0).await;
    bed.complete(first, &completion).await;
    for padding in [1, LARGEST] {
        let run = bed.queued_for(7, connection.0).await;
        bed.complete(run, &completion).await;
        let padding = format!(r#""padding":"{}","#, "x".repeat(padding));
        let text = between(&padding, &bed.context_of(run).await, "").replace(
            r#""previous_report_id":null"#,
            &format!(r#""previous_report_id":{}"#, first.0),
        );
        save_text(&bed, run, &text).await;
        assert!(matches!(
            shown(&bed, run).await,
            (ReportPresence::Readable, true, ReportState::Readable { .. })
        ));
        assert_eq!(verdicts().await, [true, true]);
        let mut wrong = vec![text.replace("verification_report", r"verification_report\u0000x")];
        for name in [
            "verification_report",
            r"verification\u005freport",
            r"verification_report\u0000x",
        ] {
            for other in [report_of(&failed()), json!(null)] {
                let other = format!(r#""{name}":{other},"#);
                wrong.push(between(&other, &text, ""));
                wrong.push(between("", &text, &other));
            }
        }
        for context in wrong {
            save_text(&bed, run, &context).await;
            let shown = shown(&bed, run).await;
            assert!(
                matches!(
                    shown,
                    (
                        ReportPresence::Unreadable,
                        false,
                        ReportState::Unreadable { .. }
                    )
                ),
                "{shown:?}"
            );
            assert_eq!(verdicts().await, [false]);
        }
    }
}

/// SQLite stores half of a surrogate pair in a name.
#[tokio::test]
async fn a_name_that_cannot_be_read_hides_no_report() {
    let bed = Bed::sqlite().await;
    bed.unguard().await;
    bed.lift_constraints().await;
    for padding in [1, LARGEST] {
        let run = bed.completed(&succeeded()).await;
        let half = format!(r#""\ud800":1,"padding":"{}","#, "x".repeat(padding));
        let text = between(&half, &bed.context_of(run).await, "");
        save_text(&bed, run, &text).await;
        assert!(matches!(
            shown(&bed, run).await,
            (ReportPresence::Readable, true, ReportState::Readable { .. })
        ));
        assert_eq!(bed.run(run).await.context["provider"], "microsoft");
    }
}
