//! Files that are generated from the code are current. `UPDATE_GENERATED=1` rewrites them.

mod dependencies;
mod version;

use crate::rust_files;
use chrono::{TimeZone as _, Utc};
#[cfg(feature = "simulator")]
use clap::CommandFactory as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use verifyd::domain::credential_cause::Cause;
use verifyd::domain::link::{Directory, Link, LinkContext};
use verifyd::domain::reason::{Reason, Stage};
use verifyd::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, Identity, ReportDraft, Severity, schema,
};
use verifyd::domain::{ConnectionId, RunId};
use verifyd::ports::provider::CheckSpec;
use verifyd::provider::microsoft::module_schema;
use verifyd::telemetry::metrics::{self, Kind};

const SCHEMA: &str = "contracts/verification-report.v1_5.schema.json";
const REASONS: &str = "docs/reference/reasons.md";
const OPENAPI: &str = "contracts/openapi.v1.json";
const MODULES: &str = "contracts/module.v1.schema.json";
const METRICS: &str = "docs/reference/metrics.md";
const CONFIGURATION: &str = "docs/reference/configuration.md";

fn assert_current(path: &str, wanted: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == wanted,
        "{path} is not current: run UPDATE_GENERATED=1 cargo test --test in_process generated"
    );
}

fn assert_json_current(path: &str, wanted: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(wanted).unwrap();
    assert_current(path, &format!("{text}\n"));
}

/// The same for a part of a page: what stands between two marks, each a line.
fn assert_part_current(path: &str, from: &str, wanted: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let page = std::fs::read_to_string(&file).unwrap();
    let [begin, end] =
        ["begin", "end"].map(|mark| format!("<!-- generated from {from}: {mark} -->\n"));
    let (before, rest) = page.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    assert_current(path, &format!("{before}{begin}\n{wanted}\n{end}{after}"));
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
    assert_json_current(SCHEMA, &document);

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
    assert_json_current(MODULES, &module_schema());
}

#[test]
fn the_openapi_document_is_current() {
    assert_json_current(OPENAPI, &verifyd::http::api::document());
}

#[test]
fn the_page_of_reasons_is_current() {
    let mut page = String::from(
        "# Reason codes\n\n\
         Look up what a check's `reason_code` means and what to do. The list is closed; a check that did not pass has\n\
         one of these codes, and a run that ended `blocked` has it in `context.reason_code`, too. Reports show the same\n\
         texts with links for the run's own tenant.\n\n\
         *Owner*: in the directory that owns the application. *Customer*: in the customer's directory. Two last steps\n\
         are left out here: store a new credential for the connection, and check again.\n\n\
         <!-- generated by tests from src/domain/reason.rs, credential_cause.rs and aadsts/codes.toml -->\n",
    );
    for (stage, heading) in [
        (
            Stage::Preflight,
            "Preflight: the run ends `blocked`, the provider is not called",
        ),
        (Stage::Provider, "Provider: the run ends `failed`"),
        (
            Stage::Permission,
            "Permissions and expiry: the outcome stays",
        ),
        (Stage::Engine, "verifyd: the run ends `failed`"),
        (Stage::Skipped, "Not checked, or not known"),
    ] {
        let _ = write!(page, "\n## {heading}\n");
        for reason in Reason::ALL.iter().filter(|r| r.stage() == stage) {
            let _ = write!(
                page,
                "\n### {}\n\n{} {} *{}*\n",
                reason.code(),
                reason.what(),
                reason.why(),
                reason.severity()
            );
            let steps: Vec<String> = reason.steps().iter().filter_map(step).collect();
            if !steps.is_empty() {
                let _ = write!(page, "\n- {}\n", steps.join("\n- "));
            }
        }
    }
    page.push_str("\n## Causes of a credential that cannot be used\n");
    page.push_str(&causes(
        "credential_undecryptable",
        Cause::before_decryption,
    ));
    page.push_str(&causes("credential_malformed", |cause| {
        !cause.before_decryption()
    }));
    page.push_str(
        "\n## Codes of a refused sign-in\n\n\
         The reason for each AADSTS code, by the kind of credential where it matters. Where an answer names several\n\
         codes, the first in this list decides. `*` marks codes that Microsoft's reference does not list. For any other\n\
         code the report links to the login service's own look-up.\n",
    );
    page.push_str(&verifyd::provider::microsoft::sign_in_codes());
    assert_current(REASONS, &page);
}

/// A step, unless it stands above the list: its label, a link where that is the same for everybody, and who takes it.
fn step((label, link): &(&str, Link)) -> Option<String> {
    if ["Store it for the connection", "Check again"].contains(label) {
        return None;
    }
    let url = links().resolve(*link);
    let step = match link.directory() {
        Some(Directory::Owner) => format!("{label} (owner)"),
        Some(Directory::Customer) => format!("{label} (customer)"),
        None if url.starts_with("https://learn.") => format!("[{label}]({url})"),
        None => (*label).to_owned(),
    };
    Some(step)
}

/// The causes that lead to this reason, by what to do.
fn causes(reason: &str, belongs: impl Fn(Cause) -> bool) -> String {
    let mut by_step: Vec<(&str, Vec<&str>)> = Vec::new();
    for cause in Cause::ALL.iter().copied().filter(|cause| belongs(*cause)) {
        match by_step.iter_mut().find(|(step, _)| *step == cause.step()) {
            Some((_, texts)) => texts.push(cause.text()),
            None => by_step.push((cause.step(), vec![cause.text()])),
        }
    }
    let mut text = format!("\nEvidence `cause` of [{reason}](#{reason}), by what to do:\n\n");
    for (step, texts) in by_step {
        let _ = writeln!(text, "- {step}: {}.", texts.join("; "));
    }
    text
}

#[cfg(feature = "simulator")]
#[test]
fn the_page_of_commands_is_current() {
    let mut text = String::new();
    for command in verifyd::cli::Cli::command().get_subcommands() {
        describe_command(&mut text, command, "verifyd");
    }
    assert_part_current("docs/reference/cli.md", "src/cli/args.rs", text.trim());
}

#[test]
fn the_page_of_metrics_is_current() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut text = String::new();
    for (kinds, heading) in [
        (&[Kind::Counter, Kind::LabelledCounter][..], "Counters"),
        (&[Kind::Gauge], "Gauges"),
        (&[Kind::Histogram], "Histograms"),
    ] {
        let _ = write!(text, "### {heading}\n\n");
        let of_kind = metrics::METRICS.iter().filter(|m| kinds.contains(&m.0));
        let meanings: BTreeMap<_, _> = of_kind.map(|(_, name, meaning)| (name, meaning)).collect();
        for (name, meaning) in meanings {
            let labels: Vec<String> = labels_of(name, &sources)
                .into_iter()
                .map(|label| with_values(name, label))
                .collect();
            let labels = match labels.join(",") {
                none if none.is_empty() => none,
                labels => format!("{{{labels}}}"),
            };
            let _ = writeln!(text, "- `{name}{labels}`: {meaning}");
        }
        text.push('\n');
    }
    assert_part_current(METRICS, "the descriptions in src/telemetry", text.trim());

    // What the hand-written part says to alert on is there, too.
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(METRICS)).unwrap();
    for quoted in page.split('`').skip(1).step_by(2) {
        let name = quoted.split('{').next().unwrap_or_default();
        let is_known = metrics::METRICS.iter().any(|(_, known, _)| *known == name);
        assert!(
            !name.starts_with("verifyd_") || is_known,
            "no metric {name}"
        );
    }
}

/// The label of a metric, with its values where they are known: `result=hit|miss`.
fn with_values(name: &str, label: String) -> String {
    let mut rows = metrics::LABELS.iter().filter(|(of, ..)| *of == name);
    let values = rows.find_map(|(_, others, of_values, values)| {
        let mut others = others.iter().filter(|(other, _)| *other == label);
        let only = others.next().map(|(_, value)| (*value).to_owned());
        only.or_else(|| (*of_values == label).then(|| values.join("|")))
    });
    values.map_or(label.clone(), |values| format!("{label}={values}"))
}

/// The labels with which the sources record a metric: `"name", "label" => value, …)`.
fn labels_of(name: &str, sources: &[String]) -> BTreeSet<String> {
    let begin = format!("\"{name}\",");
    let calls = sources
        .iter()
        .flat_map(|text| text.split(begin.as_str()).skip(1));
    let calls = calls.filter_map(|after| after.split(')').next());
    // The last quoted text before each arrow is a label.
    let labels = calls.flat_map(|call| {
        let before_arrows = call.rsplit("=>").skip(1);
        before_arrows.filter_map(|before| before.rsplit('"').nth(1).map(ToOwned::to_owned))
    });
    labels.collect()
}

#[test]
fn the_page_of_configuration_is_current() {
    let tables = verifyd::config::reference_tables();
    assert_part_current(CONFIGURATION, "config/default.toml", &tables);
}

/// A command with its arguments, and those below it.
#[cfg(feature = "simulator")]
fn describe_command(text: &mut String, command: &clap::Command, parents: &str) {
    if command.is_hide_set() {
        return;
    }
    let path = format!("{parents} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string);
    let about = about.unwrap_or_default();
    if command.has_subcommands() {
        let _ = write!(text, "### {path}\n\n{about}.\n\n");
        for below in command.get_subcommands() {
            describe_command(text, below, &path);
        }
        return;
    }
    if path.matches(' ').count() == 1 {
        let _ = write!(text, "### {path}\n\n");
    }
    let arguments = command.get_arguments().map(described);
    let (usage, options): (Vec<String>, Vec<Option<String>>) = arguments.unzip();
    let options = without_known(options.into_iter().flatten().collect(), text);
    let _ = write!(text, "`{path}{}`: {about}.\n\n", usage.concat());
    if !options.is_empty() {
        let _ = write!(text, "{}\n\n", options.join("\n"));
    }
}

/// Names only the options that the section describes already in the same words, if there are three or more.
#[cfg(feature = "simulator")]
fn without_known(options: Vec<String>, text: &str) -> Vec<String> {
    let section = &text[text.rfind("### ").unwrap_or_default()..];
    let is_known = |line: &String| section.contains(&format!("\n{line}\n"));
    let (known, mut new): (Vec<String>, Vec<String>) = options.iter().cloned().partition(is_known);
    if known.len() < 3 {
        return options;
    }
    // "- `--certificate <FILE>`: …"
    let names = known
        .iter()
        .filter_map(|line| line.split(['`', ' ']).nth(2));
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    new.push(format!("- as above: {}", names.join(", ")));
    new
}

/// What stands in the line of the command where it has to, or may, be given there, and a line of its own unless there
/// is nothing more to say.
#[cfg(feature = "simulator")]
fn described(argument: &clap::Arg) -> (String, Option<String>) {
    let takes_value = argument.get_action().takes_values();
    let value = argument.get_value_names().and_then(<[_]>::first);
    let value = value.map_or(String::new(), |value| format!("<{value}>"));
    let name = match argument.get_long() {
        Some("json") => return (" [--json]".to_owned(), None),
        Some(long) if takes_value => format!("--{long} {value}"),
        Some(long) => format!("--{long}"),
        None => value,
    };
    let usage = match (argument.is_required_set(), argument.is_positional()) {
        (true, _) => format!(" {name}"),
        (false, true) => format!(" [{name}]"),
        (false, false) => String::new(),
    };
    let default = argument.get_default_values().first();
    let default = default.filter(|_| takes_value);
    let default = default.map(|value| format!(" (default {})", value.to_string_lossy()));
    let help = argument.get_help().map(|help| format!(": {help}"));
    if !usage.is_empty() && help.is_none() {
        return (usage, None);
    }
    let (default, help) = (default.unwrap_or_default(), help.unwrap_or_default());
    (usage, Some(format!("- `{name}`{default}{help}")))
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

/// `docs/explanation/security.md` and `protocol.md`, and what they lead to, claim nothing for which there is no test: a
/// word in backquotes with three underscores or more is a test's name.
#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text: String = ["tests", "src", "crates"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .collect();
    let mut named = 0;
    for page in [
        "docs/explanation/security.md",
        "docs/explanation/protocol.md",
        "crates/protocol-model/README.md",
        "tests/faults/README.md",
    ] {
        let page = std::fs::read_to_string(root.join(page)).unwrap();
        for quoted in page.split('`').skip(1).step_by(2) {
            let is_name = quoted
                .chars()
                .all(|c| c == '_' || c.is_ascii_alphanumeric());
            if is_name && quoted.matches('_').count() >= 3 {
                // A function, or a line of a macro that makes tests.
                let made = [
                    format!("fn {quoted}("),
                    format!("    {quoted}: "),
                    format!("mod {quoted} "),
                ];
                assert!(
                    made.iter().any(|form| text.contains(form)),
                    "no test {quoted}"
                );
                named += 1;
            }
        }
    }
    assert!(named > 100, "only {named} tests are named");
}

/// The texts of all sources below this folder.
fn sources(folder: &Path) -> Vec<String> {
    let texts = rust_files(folder).into_iter().map(std::fs::read_to_string);
    texts.collect::<Result<_, _>>().unwrap()
}

/// `tests/mechanisms.md` says which line to break and what then fails: line, place and test are there.
/// Its tables of mechanisms are those whose first heading is "in `FOLDER`".
#[test]
fn every_mechanism_that_the_page_of_tests_breaks_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("tests/mechanisms.md")).unwrap();
    let tests: String = ["tests", "src"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .collect();
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
        let item = [
            format!("macro_rules! {item} {{"),
            format!("const {item}:"),
            format!("fn {item}"),
        ];
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
    assert!(
        !test.is_empty() || cells[3].contains(" same "),
        "no test: {row}"
    );
    for test in test {
        assert!(tests.contains(&format!("fn {test}(")), "no test {test}");
    }
}
