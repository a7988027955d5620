//! A corpus of verdicts: what the provider answers, and the report that has to come of it. A case is a
//! file under `cases/`; nothing here knows one of them.

mod case;
mod judge;
mod replay;
mod server;
mod tenant;
mod text;

use case::Case;
use futures::StreamExt;
use replay::Stage;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Cases that run at the same time.
const AT_ONCE: usize = 12;

/// Cases whose servers run at the same time.
const ON_STAGE: usize = 60;

/// Runs only the cases whose name contains this.
const FILTER: &str = "VERIFYD_TEST_VERDICTS_ONLY";

struct Row {
    name: String,
    expected: String,
    got: String,
    problems: Vec<String>,
}

fn expected(case: &Case) -> String {
    let mut text = format!("{}, {}", case.expect.outcome, case.expect.overall);
    for check in &case.expect.checks {
        let reason = check.reason.as_ref().map(|r| format!("/{r}"));
        text += &format!(
            "; {} {}{}",
            check.key,
            check.status,
            reason.unwrap_or_default()
        );
    }
    text
}

/// The checks that the case names, as they are.
fn got(case: &Case, got: &replay::Got) -> String {
    let mut text = format!("{}, {}", got.outcome, got.report.summary.overall);
    for expected in &case.expect.checks {
        let found = got
            .report
            .checks
            .iter()
            .find(|check| check.key == expected.key);
        let state = found.map_or_else(|| "absent".to_owned(), judge::state);
        text += &format!("; {} {state}", expected.key);
    }
    text
}

/// Replays the case twice: at its own place of the stage, and at the one behind it.
async fn run(stage: Arc<Stage>, at: usize, case: Case) -> Row {
    let replaying = case.clone();
    // A panic is this case's own problem.
    let twice = tokio::spawn(async move {
        let first = stage.replay(2 * at, &replaying).await;
        (first, stage.replay(2 * at + 1, &replaying).await)
    });
    let guarded = tokio::time::timeout(std::time::Duration::from_secs(300), twice).await;
    let (first, second) = match guarded.map_err(|_| "did not end".to_owned()) {
        Ok(Ok(both)) => both,
        Ok(Err(panic)) => return broken(&case, format!("panicked: {panic}")),
        Err(hung) => return broken(&case, hung),
    };
    let mut problems = judge::problems(&case, &first);
    problems.extend(judge::contradictions(&first.report.checks));
    problems.extend(judge::leaks(&first.json));
    if first.report.fingerprint != second.report.fingerprint {
        problems.push("replayed again it has another fingerprint".to_owned());
    }
    Row {
        expected: expected(&case),
        got: got(&case, &first),
        name: case.name,
        problems,
    }
}

fn broken(case: &Case, problem: String) -> Row {
    Row {
        name: case.name.clone(),
        expected: expected(case),
        got: "nothing".to_owned(),
        problems: vec![problem],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_ends_as_its_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in_process/verdicts/cases");
    let (mut cases, malformed) = case::all(&folder);
    if let Ok(part) = std::env::var(FILTER) {
        cases.retain(|case| case.name.contains(&part));
    }
    assert!(!cases.is_empty(), "no case in {}", folder.display());
    let mut rows: Vec<Row> = Vec::new();
    for cases in cases.chunks(ON_STAGE) {
        let twice: Vec<Case> = cases.iter().flat_map(|c| [c.clone(), c.clone()]).collect();
        let stage = Arc::new(Stage::open(&twice).await);
        let runs = cases
            .iter()
            .enumerate()
            .map(|(at, case)| run(Arc::clone(&stage), at, case.clone()));
        let done = futures::stream::iter(runs).buffer_unordered(AT_ONCE);
        rows.extend(done.collect::<Vec<Row>>().await);
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));

    let mut table = String::from("| case | expected | got |\n|---|---|---|\n");
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        let mark = if row.problems.is_empty() { "" } else { " ✗" };
        table += &format!("| {} | {} | {}{mark} |\n", row.name, row.expected, row.got);
        *groups
            .entry(row.name.split('/').next().unwrap_or_default())
            .or_default() += 1;
    }
    table += &format!("\n{} cases: {groups:?}\n", rows.len());
    #[expect(clippy::print_stdout, reason = "what it is there for")]
    {
        println!("{table}");
    }

    let failed: Vec<&Row> = rows.iter().filter(|row| !row.problems.is_empty()).collect();
    let mut text = malformed.join("\n");
    for row in &failed {
        let problems = row.problems.join("\n    ");
        text += &format!("\n{}\n    {problems}", row.name);
    }
    assert!(
        text.is_empty(),
        "{} of {} cases are not as their files say:\n{text}",
        failed.len() + malformed.len(),
        rows.len() + malformed.len()
    );
}

#[test]
fn a_file_with_an_unknown_member_is_refused_with_its_line() {
    let text = "source = \"a document\"\n[expect]\noutcome = \"failed\"\noverall = \"blocked\"\n";
    case::read(text).unwrap();
    let error = case::read(&format!("{text}outcom = \"failed\"\n")).unwrap_err();
    assert!(
        error.contains("line 5") && error.contains("outcom"),
        "{error}"
    );
    let error = case::read(&text.replace("blocked", "ready?")).unwrap_err();
    assert!(error.contains("expect.overall"), "{error}");
}

#[test]
fn what_a_report_asks_for_though_it_is_done_is_found() {
    use verifyd::domain::Reason;
    use verifyd::domain::report::{Check, CheckStatus, Evidence, EvidenceKind, NextStep, Severity};
    let check = |key: &str, status, reason, label: &str, url: &str| Check {
        key: key.into(),
        title: "T".into(),
        status,
        message: String::new(),
        blocking: true,
        evidence: vec![Evidence::new(EvidenceKind::Permission, "Group.Read.All")],
        severity: Severity::High,
        next_steps: vec![NextStep {
            url: url.into(),
            label: label.into(),
        }],
        reason_code: reason,
    };
    let passed = |key: &str| check(key, CheckStatus::Pass, None, "", "");
    let failed = |reason, label: &str, url: &str| {
        check("provider.x", CheckStatus::Fail, Some(reason), label, url)
    };
    let denied = failed(Reason::PermissionDenied, "Grant the permission", "/x");
    let granted = passed("permissions.group_read_all");
    assert_eq!(judge::contradictions(&[denied.clone(), granted]).len(), 1);
    assert_eq!(judge::contradictions(&[denied]).len(), 0);
    let secret = failed(
        Reason::SecretInvalid,
        "Replace the secret",
        "https://p.example/#view/x/ApplicationMenuBlade/~/Credentials/appId/1",
    );
    assert_eq!(
        judge::contradictions(&[secret, passed("provider.authentication")]).len(),
        1
    );
    assert_eq!(judge::leaks("a canary").len(), 1);
}
