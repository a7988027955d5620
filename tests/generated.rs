//! Files that are generated from the code are current. `UPDATE_GENERATED=1` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use chrono::{TimeZone as _, Utc};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use verifyd::domain::link::LinkContext;
use verifyd::domain::reason::{Reason, Stage};
use verifyd::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, Identity, ReportDraft, Severity, schema,
};
use verifyd::domain::{ConnectionId, RunId};
use verifyd::ports::provider::CheckSpec;

const SCHEMA: &str = "contracts/verification-report.v1_5.schema.json";
const REASONS: &str = "docs/reasons.md";
const OPENAPI: &str = "contracts/openapi.v1.json";

fn assert_current(path: &str, wanted: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == wanted,
        "{path} is not current: run UPDATE_GENERATED=1 cargo test --test generated"
    );
}

fn links() -> LinkContext {
    LinkContext {
        connections: "/provider-connections".into(),
        connection: "/provider-connections/{id}".into(),
        run: "/operation-runs/{id}".into(),
        run_id: 42,
        connection_id: Some(7),
        portal: "https://entra.microsoft.com".into(),
        login: "https://login.microsoftonline.com".into(),
        entra_tenant_id: Some("5c000000-0000-4000-8000-000000000001".into()),
        client_id: Some("5c000000-0000-4000-8000-00000000000a".into()),
    }
}

fn spec(key: &str, title: &str, blocking: bool) -> CheckSpec {
    CheckSpec {
        key: key.into(),
        title: title.into(),
        blocking,
        severity: Severity::High,
    }
}

fn example(checks: Vec<Check>, previous: Option<i64>) -> Value {
    let finished = ReportDraft {
        identity: Identity {
            provider_connection_id: Some(ConnectionId(7)),
            entra_tenant_id: links().entra_tenant_id,
            client_id: links().client_id,
            cloud: Some("global".into()),
        },
        generated_at: Utc.with_ymd_and_hms(2026, 11, 23, 9, 0, 0).unwrap(),
        previous_report_id: previous.map(RunId),
        checks,
    }
    .finish(&[], "/operation-runs/42");
    assert_eq!(finished.replaced, None);
    serde_json::from_str(finished.json.get()).unwrap()
}

/// Ready, needs attention, blocked, and the report of a failed run.
fn examples() -> Vec<Value> {
    let links = links();
    let credential = spec("preflight.credential", "The credential is ready", true);
    let sign_in = spec(
        "provider.authentication",
        "Sign-in to Microsoft Entra",
        true,
    );
    let identity = spec(
        "provider.identity",
        "The directory is the connection's",
        true,
    );
    let permission = spec(
        "permissions.organization_read_all",
        "Permission Organization.Read.All",
        false,
    );
    let ready = |spec: &CheckSpec| spec.pass("As it should be.", vec![]);
    vec![
        example(
            vec![ready(&credential), ready(&sign_in), ready(&identity)],
            None,
        ),
        example(
            vec![
                ready(&credential),
                ready(&sign_in),
                ready(&identity),
                permission.fail(
                    Reason::PermissionMissing,
                    &links,
                    vec![Evidence::new(
                        EvidenceKind::Permission,
                        "Organization.Read.All",
                    )],
                ),
            ],
            Some(41),
        ),
        example(
            vec![
                credential.fail(
                    Reason::CredentialExpired,
                    &links,
                    vec![Evidence::new(
                        EvidenceKind::ExpiresAt,
                        "2026-11-01T00:00:00Z",
                    )],
                ),
                sign_in.skip(&links),
                identity.skip(&links),
            ],
            Some(41),
        ),
        example(
            vec![
                ready(&credential),
                sign_in.fail(
                    Reason::SecretInvalid,
                    &links,
                    vec![
                        Evidence::new(EvidenceKind::AadstsCode, "AADSTS7000215"),
                        Evidence::new(EvidenceKind::OauthError, "invalid_client"),
                        Evidence::new(EvidenceKind::HttpStatus, 401),
                    ],
                ),
                identity.skip(&links),
            ],
            Some(41),
        ),
    ]
}

#[test]
fn the_schema_lists_what_the_code_knows_and_has_examples() {
    let mut document: Value = serde_json::from_str(schema::SCHEMA).unwrap();
    let codes: Vec<&str> = Reason::ALL.iter().map(|r| r.code()).collect();
    let kinds: Vec<&str> = EvidenceKind::ALL.iter().map(|k| k.as_str()).collect();
    document["$defs"]["reason_code"]["enum"] = json!(codes);
    document["$defs"]["evidence"]["properties"]["kind"]["enum"] = json!(kinds);
    document["examples"] = json!(examples());
    let mut text = serde_json::to_string_pretty(&document).unwrap();
    text.push('\n');
    assert_current(SCHEMA, &text);

    let overall: Vec<Value> = examples()
        .iter()
        .map(|e| e["summary"]["overall"].clone())
        .collect();
    assert_eq!(overall, ["ready", "needs_attention", "blocked", "blocked"]);
    for example in examples() {
        assert_eq!(schema::validate(&example), Ok(()));
    }
}

#[test]
fn the_openapi_document_is_current() {
    let mut text = serde_json::to_string_pretty(&verifyd::http::api::document()).unwrap();
    text.push('\n');
    assert_current(OPENAPI, &text);
}

#[test]
fn the_page_of_reasons_is_current() {
    let mut page = String::from(
        "# Reason codes\n\n\
         The closed list of what a check can end with, generated from `src/domain/reason.rs`. A\n\
         check names one of them unless it passed. `blocked` runs carry their reason in\n\
         `context.reason_code` too.\n",
    );
    let links = links();
    for (stage, heading) in [
        (
            Stage::Preflight,
            "Preflight: the run ends `blocked`, the provider is never called",
        ),
        (Stage::Provider, "The provider: the run ends `failed`"),
        (
            Stage::Permission,
            "Permissions: the outcome stays, the report says what is missing",
        ),
        (Stage::Engine, "verifyd itself: the run ends `failed`"),
        (Stage::Skipped, "Not checked"),
    ] {
        let _ = write!(page, "\n## {heading}\n");
        for reason in Reason::ALL.iter().filter(|r| r.stage() == stage) {
            let _ = write!(
                page,
                "\n### {}\n\n{} {}\n\nSeverity: {}. What to do:\n\n",
                reason.code(),
                reason.what(),
                reason.why(),
                reason.severity()
            );
            for (label, link) in reason.steps() {
                let _ = writeln!(page, "- {label}: <{}>", links.resolve(*link));
            }
        }
    }
    page.push_str(
        "\nLinks that begin with a slash lead into the surrounding application, see `[links]` in\n\
         [configuration](configuration.md). The others are shown for an example tenant.\n",
    );
    assert_current(REASONS, &page);
}

#[test]
fn every_link_may_stand_in_a_report() {
    for reason in Reason::ALL {
        let check =
            spec("provider.x", "X", false).reason(CheckStatus::Fail, *reason, &links(), vec![]);
        for step in check.next_steps {
            assert!(
                verifyd::domain::report::builder::is_link(&step.url),
                "{reason}: {}",
                step.url
            );
        }
    }
}

/// `docs/security.md` claims nothing for which there is no test.
#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    // `file`: `name`, `name`: a name belongs to the file named last before it.
    let mut file = String::new();
    let mut named = 0;
    for quoted in page.split('`').skip(1).step_by(2) {
        if quoted.ends_with(".rs") {
            file = std::fs::read_to_string(root.join(quoted))
                .unwrap_or_else(|_| panic!("{quoted} is not there"));
        } else if quoted.matches('_').count() >= 3 && !quoted.contains(['.', ' ', '/']) {
            assert!(file.contains(&format!("fn {quoted}(")), "no test {quoted}");
            named += 1;
        }
    }
    assert!(named > 20, "only {named} tests are named");
}

/// `docs/testing.md` says which line to break and what then fails: line, place and test are there.
#[test]
fn every_mechanism_that_the_page_of_tests_breaks_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let mut tests = String::new();
    for folder in ["tests/daemon", "tests/faults", "tests/store"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            tests.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
        }
    }
    let (_, table) = page.split_once("| in `src/store/postgres` |").unwrap();
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    let mut broken = 0;
    for row in rows {
        let row = row.replace("\\|", "\u{1}");
        let cells: Vec<&str> = row.split('|').collect();
        let [_, place, what, test, _] = cells[..] else {
            panic!("four cells: {row}")
        };
        let quoted = |cell: &str| -> Vec<String> {
            let odd = cell.split('`').skip(1).step_by(2);
            odd.map(|text| text.replace('\u{1}', "|")).collect()
        };
        let (place, what, test) = (quoted(place), quoted(what), quoted(test));
        let source = root.join("src/store/postgres").join(&place[0]);
        let source = std::fs::read_to_string(source).unwrap();
        let item = [format!("const {}:", place[1]), format!("fn {}", place[1])];
        let (_, body) = item
            .iter()
            .find_map(|item| source.split_once(item.as_str()))
            .unwrap_or_else(|| panic!("{place:?} is not there"));
        // Up to the next item; strings that go on in the next line are one.
        let end = ["\nconst ", "\nimpl ", "\n    pub", "\n///"];
        let end = end.iter().filter_map(|end| body.find(end)).min();
        let body = &body[..end.unwrap_or(body.len())];
        let words: Vec<&str> = body.split_whitespace().filter(|w| *w != "\\").collect();
        assert!(
            words.join(" ").contains(&what[0]),
            "{place:?} has no {:?}",
            what[0]
        );
        assert!(
            tests.contains(&format!("fn {}(", test[0])),
            "no test {}",
            test[0]
        );
        broken += 1;
    }
    assert!(broken >= 9, "only {broken} lines are named");
}
