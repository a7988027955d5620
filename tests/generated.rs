//! Files that are generated from the code are current. `UPDATE_GENERATED=1` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use chrono::{TimeZone as _, Utc};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use verifyd::domain::credential_cause::Cause;
use verifyd::domain::link::LinkContext;
use verifyd::domain::reason::{Reason, Stage};
use verifyd::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, Identity, ReportDraft, Severity, schema,
};
use verifyd::domain::{ConnectionId, RunId};
use verifyd::ports::provider::CheckSpec;
use verifyd::provider::microsoft::module_schema;

const SCHEMA: &str = "contracts/verification-report.v1_5.schema.json";
const REASONS: &str = "docs/reference/reasons.md";
const OPENAPI: &str = "contracts/openapi.v1.json";
const MODULES: &str = "contracts/module.v1.schema.json";

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
        graph: "https://graph.microsoft.com".into(),
        entra_tenant_id: Some("5c000000-0000-4000-8000-000000000001".into()),
        client_id: Some("5c000000-0000-4000-8000-00000000000a".into()),
        owner_tenant_id: Some("5c000000-0000-4000-8000-000000000002".into()),
        service_principal_id: Some("5c000000-0000-4000-8000-00000000000b".into()),
        consent_redirect: None,
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
fn the_schema_of_modules_is_current() {
    let mut text = serde_json::to_string_pretty(&module_schema()).unwrap();
    text.push('\n');
    assert_current(MODULES, &text);
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
                let step = links.step(label, *link);
                let _ = writeln!(page, "- {}: <{}>", step.label, step.url);
            }
        }
    }
    page.push_str(
        "\n## Causes of a credential that cannot be used\n\n\
         Checks with `credential_undecryptable` or `credential_malformed` have one of these as evidence of\n\
         kind `cause`, in the words of the log, and its step first. The list is closed, generated from\n\
         `src/domain/credential_cause.rs`.\n\n| cause | reason | what to do |\n|---|---|---|\n",
    );
    for cause in Cause::ALL {
        let reason = if cause.before_decryption() {
            Reason::CredentialUndecryptable
        } else {
            Reason::CredentialMalformed
        };
        let _ = writeln!(page, "| {} | `{reason}` | {} |", cause.text(), cause.step());
    }
    page.push_str(
        "\n## Codes of a refused sign-in\n\n\
         What an AADSTS code means for a connection with each kind of credential, generated from\n\
         `src/provider/microsoft/aadsts/codes.toml`. Where an answer names several codes the class decides: the\n\
         first of tenant, application, credential, policy, resource, temporary, generic, request,\n\
         and within a class the more specific code. Every other code leads to the login service's own\n\
         look-up. \"seen\": not in Microsoft's reference, known from public threads. \"again\": whether the\n\
         request is sent again.\n\n",
    );
    page.push_str(&verifyd::provider::microsoft::sign_in_codes());
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

/// `docs/explanation/security.md` claims nothing for which there is no test.
#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/explanation/security.md")).unwrap();
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

/// All sources below this folder, each with its path.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// `docs/contributing/testing.md` says which line to break and what then fails: line, place and test are there.
/// Its tables of mechanisms are those whose first heading is "in `FOLDER`".
#[test]
fn every_mechanism_that_the_page_of_tests_breaks_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/contributing/testing.md")).unwrap();
    let mut tests = String::new();
    for (_, text) in ["tests", "src"].iter().flat_map(|f| sources(&root.join(f))) {
        tests.push_str(&text);
    }
    let mut broken = 0;
    for table in page.split("\n| in `").skip(1) {
        let (folder, table) = table.split_once('`').unwrap();
        let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
        for row in rows {
            mechanism_is_there(&root.join(folder), row, &tests);
            broken += 1;
        }
    }
    assert!(broken >= 9, "only {broken} lines are named");
}

/// A row: the file and the item in it, what is to be broken there, and the test that then fails.
fn mechanism_is_there(folder: &Path, row: &str, tests: &str) {
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
    let source = folder.join(&place[0]);
    let source = std::fs::read_to_string(&source).unwrap_or_else(|e| panic!("{place:?}: {e}"));
    // Only in this item, where one is named.
    let body = place.get(1).map_or(source.as_str(), |item| {
        let item = [format!("const {item}:"), format!("fn {item}")];
        let (_, body) = item
            .iter()
            .find_map(|item| source.split_once(item.as_str()))
            .unwrap_or_else(|| panic!("{place:?} is not there"));
        let end = ["\nconst ", "\nimpl ", "\n    pub", "\n///"];
        let end = end.iter().filter_map(|end| body.find(end)).min();
        &body[..end.unwrap_or(body.len())]
    });
    // However the formatter breaks it, and with strings that go on in the next line as one.
    let dense = |text: &str| -> String {
        let words = text.split_whitespace().filter(|w| *w != "\\");
        words.collect()
    };
    assert!(
        dense(body).contains(&dense(&what[0])),
        "{place:?} has no {:?}",
        what[0]
    );
    // Or the test of the row before.
    let Some(test) = test.first() else {
        assert!(cells[3].contains(" same "), "no test: {row}");
        return;
    };
    assert!(tests.contains(&format!("fn {test}(")), "no test {test}");
}

/// What `cargo test` prints when tests fail, one of them with output that looks like more of it, and
/// when a suite is ended by a signal.
const PRINTED: &str = "\
   Compiling verifyd v0.1.0
     Running unittests src/lib.rs (target/debug/deps/verifyd-1)
test domain::good ... ok
test result: ok. 1 passed; 0 failed; 0 ignored
     Running tests/one.rs (target/debug/deps/one-1)
test part::first ... FAILED
failures:

---- part::first stdout ----
    text of the test
failures:
    not_a_test

failures:
    part::first
    second

test result: FAILED. 0 passed; 2 failed; 0 ignored
\u{1b}[1m\u{1b}[31merror\u{1b}[0m: test failed, to rerun pass `--test one`
     Running tests/daemon/main.rs (target/debug/deps/daemon-1)
running 3 tests
error: test failed, to rerun pass `--test daemon`
     Running tests/two.rs (target/debug/deps/two-1)
test result: ok. 7 passed; 0 failed; 0 ignored
";

/// With a `cargo` that only prints, and keeps what it was asked for.
#[test]
fn the_test_command_runs_everything_and_names_what_failed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let (printed, asked) = (folder.path().join("printed"), folder.path().join("asked"));
    std::fs::write(&printed, PRINTED).unwrap();
    let cargo = folder.path().join("cargo");
    std::fs::write(
        &cargo,
        format!(
            "#!/bin/sh\necho \"$*\" >'{}'\ncat '{}'\nexit 101\n",
            asked.display(),
            printed.display()
        ),
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&cargo, mode).unwrap();
    let path = std::env::var("PATH").unwrap();
    for (given, wanted) in [
        (
            &["--lib", "--", "a b"][..],
            "test --locked --workspace --no-fail-fast --lib -- a b",
        ),
        (
            &["--lib", "--no-fail-fast"],
            "test --locked --workspace --lib --no-fail-fast",
        ),
        (
            &["-p", "verifyd-simulator", "--lib"],
            "test --locked --no-fail-fast -p verifyd-simulator --lib",
        ),
    ] {
        let output = std::process::Command::new(root.join("scripts/test"))
            .args(given)
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .env("VERIFYD_TEST_NO_INSTALL", "yes")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(101), "{output:?}");
        assert_eq!(std::fs::read_to_string(&asked).unwrap().trim_end(), wanted);
        let (runner, end) = said.split_once("\nscripts/test: ").unwrap();
        assert!(runner.contains("7 passed"), "{said}");
        assert_eq!(
            end,
            "failed (exit code 101):\n  \
             tests/one.rs: part::first\n  \
             tests/one.rs: second\n  \
             tests/daemon/main.rs: ended before its last test, by a signal or by itself\n"
        );
    }
}
