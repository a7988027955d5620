//! Modules of files: roles on other APIs, every expectation of a probe, and what is granted beyond what
//! is needed.

use crate::microsoft::directory::{Directory, HEALTH, OTHER_APP, Reply, Seen, app_roles, role_id};
use crate::microsoft::fixture::{provider_with, run, settings, target};
use serde_json::json;
use verifyd::domain::Reason;
use verifyd::domain::permission::PermissionStatus;
use verifyd::domain::report::{CheckStatus, EvidenceKind};
use verifyd::ports::provider::Provider as _;
use verifyd::provider::microsoft::MicrosoftProvider;

const EXCESS: &str = "permissions.excess";

/// A provider with this module, `own`, beside the built-in ones.
fn with_module(directory: &Directory, module: &str) -> MicrosoftProvider {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.toml"), module).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "not a module").unwrap();
    let mut settings = settings(directory.base(), directory.base());
    settings.modules_dir = folder.path().to_owned();
    let provider = provider_with(&settings);
    assert!(provider.modules().contains(&"own"));
    provider
}

const GRAPH: &str = r#"
key = "own"
title = "Own"
[[permissions]]
role = "Organization.Read.All"
needed_for = "nothing is known"
"#;

/// The directory has granted `Directory.Read.All` of the other API, whose roles are called as Graph's.
fn elsewhere(role: &str, resource: &str) -> String {
    format!(
        "{GRAPH}[[permissions]]\nrole = \"{role}\"\nresource = \"{resource}\"\n\
         needed_for = \"records stay closed\"\nblocking = true\n"
    )
}

fn key_elsewhere(role: &str, resource: &str) -> String {
    format!("permissions.{}.{role}", resource.replace('-', "_"))
}

/// The other API's service principal by its app id; `None` for any other.
fn other_api(seen: &Seen) -> Option<Reply> {
    let path = seen.uri.path();
    path.ends_with(&format!("(appId='{OTHER_APP}')"))
        .then(|| Reply::json(200, &json!({"appId": OTHER_APP, "appRoles": app_roles()})))
}

#[tokio::test]
async fn a_role_on_another_api_is_judged_by_the_assignments() {
    let directory = Directory::start(HEALTH).await;
    directory.script(other_api);
    let module = elsewhere("Directory.Read.All", OTHER_APP);
    let found = run(&with_module(&directory, &module), &target("own")).await;
    let check = found.check(&key_elsewhere("directory_read_all", OTHER_APP));
    assert_eq!(check.status, CheckStatus::Pass);
    assert_eq!(
        check.title,
        format!("Permission Directory.Read.All on {OTHER_APP}")
    );
    let entries = found.0.inventory.unwrap().entries;
    let stored = &entries[&format!("{OTHER_APP}/Directory.Read.All")];
    assert_eq!(stored.status, PermissionStatus::Granted);
    assert!(stored.details.required);
    assert_eq!(
        stored.details.app_role_id.as_deref(),
        Some(role_id("Directory.Read.All"))
    );
}

/// Graph has granted a role of this name, the other API has not.
#[tokio::test]
async fn a_role_of_the_same_name_on_graph_does_not_count_elsewhere() {
    let directory = Directory::start(HEALTH).await;
    directory.script(other_api);
    let module = elsewhere("Application.Read.All", OTHER_APP);
    let found = run(&with_module(&directory, &module), &target("own")).await;
    let key = key_elsewhere("application_read_all", OTHER_APP);
    assert_eq!(
        found.status(&key),
        (CheckStatus::Fail, Some(Reason::PermissionNotRequested))
    );
    // Read from the API itself: the module does not name the id.
    assert_eq!(
        found.evidence(&key, EvidenceKind::AppRoleId),
        [role_id("Application.Read.All")]
    );
    let message = &found.check(&key).message;
    assert!(message.contains("records stay closed"), "{message}");
    let stored = &found.0.inventory.unwrap().entries[&format!("{OTHER_APP}/Application.Read.All")];
    assert_eq!(stored.status, PermissionStatus::Missing);
}

#[tokio::test]
async fn what_an_api_does_not_offer_cannot_be_granted() {
    let directory = Directory::start(HEALTH).await;
    directory.script(|seen| {
        let gone = || Reply::graph_error(404, "Request_ResourceNotFound", "gone");
        let unknown = seen
            .uri
            .path()
            .contains("eeeeeeee-0000-4000-8000-000000000001");
        other_api(seen).or_else(|| unknown.then(gone))
    });
    let absent = "eeeeeeee-0000-4000-8000-000000000001";
    for (role, resource, words) in [
        (
            "Records.Read",
            OTHER_APP,
            "has no application role of this name",
        ),
        ("Records.Read", absent, "no service principal of eeeeeeee"),
    ] {
        let module = elsewhere(role, resource);
        let found = run(&with_module(&directory, &module), &target("own")).await;
        let key = key_elsewhere("records_read", resource);
        assert_eq!(
            found.status(&key),
            (CheckStatus::Fail, Some(Reason::PermissionNotOffered))
        );
        let check = found.check(&key);
        assert!(check.message.contains(words), "{}", check.message);
        assert!(found.0.healthy, "the outcome stays");
        let asks = |label: &str| {
            check
                .next_steps
                .iter()
                .any(|step| step.label.contains(label))
        };
        assert!(!asks("consent"), "{:?}", check.next_steps);
        // What the directory lacks is not added at the registration.
        let owners = asks("in the directory that owns the application");
        assert_eq!(owners, resource == OTHER_APP, "{:?}", check.next_steps);
    }
}

#[tokio::test]
async fn a_token_does_not_tell_of_other_apis() {
    let directory = Directory::start(HEALTH).await;
    directory.answer("assignments", Reply::denied());
    let module = elsewhere("Directory.Read.All", OTHER_APP);
    let found = run(&with_module(&directory, &module), &target("own")).await;
    let key = key_elsewhere("directory_read_all", OTHER_APP);
    assert_eq!(
        found.status(&key),
        (CheckStatus::Warn, Some(Reason::PermissionUnknown))
    );
    let entries = found.0.inventory.unwrap().entries;
    assert!(!entries.contains_key(&format!("{OTHER_APP}/Directory.Read.All")));
}

#[tokio::test]
async fn every_expectation_of_a_probe_is_judged() {
    let pass = (CheckStatus::Pass, None);
    let unexpected = (CheckStatus::Fail, Some(Reason::ProbeUnexpected));
    let invalid = (CheckStatus::Fail, Some(Reason::ResponseInvalid));
    let tolerated = (CheckStatus::Warn, Some(Reason::ProbeUnexpected));
    let member = r#"{ member = "state", one_of = ["on", 7, true], tolerated = ["late"] }"#;
    for (expect, answer, wanted) in [
        ("\"object\"", json!({}), pass),
        ("\"object\"", json!([]), invalid),
        ("\"list\"", json!({"value": []}), pass),
        ("\"list\"", json!({"value": {}}), unexpected),
        ("\"not_empty\"", json!({"value": [1]}), pass),
        ("\"not_empty\"", json!({"value": []}), unexpected),
        ("\"not_empty\"", json!({}), unexpected),
        (member, json!({"state": "on"}), pass),
        (member, json!({"state": 7}), pass),
        (member, json!({"state": true}), pass),
        (member, json!({"state": "late"}), tolerated),
        (member, json!({"state": "off"}), unexpected),
        (member, json!({"state": "no code at all"}), unexpected),
        (member, json!({"state": {"on": true}}), unexpected),
        (member, json!({}), unexpected),
    ] {
        let directory = Directory::start(HEALTH).await;
        directory.answer("/beta/things", Reply::json(200, &answer));
        let module = format!(
            "{GRAPH}[[probes]]\nkey = \"own.things\"\ntitle = \"Things\"\npath = \"/beta/things\"\n\
             query = \"$filter=name eq 'a b'\"\npermission = \"Organization.Read.All\"\nexpect = {expect}\n"
        );
        let found = run(&with_module(&directory, &module), &target("own")).await;
        assert_eq!(found.status("own.things"), wanted, "{expect} {answer}");
        let is_unexpected = wanted == unexpected;
        for kind in [EvidenceKind::Expected, EvidenceKind::Found] {
            let said = !found.evidence("own.things", kind).is_empty();
            assert!(said || !is_unexpected, "{expect} {answer}");
        }
        let [seen] = &directory.seen("/beta/things")[..] else {
            panic!("one call")
        };
        assert_eq!(seen.method, "GET");
        assert_eq!(seen.uri.query(), Some("$filter=name%20eq%20'a%20b'"));
    }
}

#[tokio::test]
async fn what_nothing_needs_is_listed_and_changes_no_verdict() {
    let granted = [
        "Organization.Read.All",
        "Application.Read.All",
        "Group.Read.All",
    ];
    let directory = Directory::start(&granted).await;
    let found = run(&with_module(&directory, GRAPH), &target("own")).await;
    assert_eq!(found.status(EXCESS), (CheckStatus::Pass, None));
    // Application.Read.All is verifyd's own need.
    assert_eq!(
        found.evidence(EXCESS, EvidenceKind::Unneeded),
        [&format!("{OTHER_APP}/Directory.Read.All"), "Group.Read.All"]
    );
    assert_eq!(found.evidence(EXCESS, EvidenceKind::Count), ["2"]);
}

#[tokio::test]
async fn a_module_may_warn_of_what_it_does_not_need() {
    let granted = [
        "Organization.Read.All",
        "DeviceManagementConfiguration.ReadWrite.All",
    ];
    let directory = Directory::start(&granted).await;
    let module = GRAPH.replace("[[permissions]]", "excess = \"warn\"\n[[permissions]]")
        + "[[permissions]]\nrole = \"DeviceManagementConfiguration.Read.All\"\n\
           needed_for = \"no policy can be read\"\n\
           satisfied_by = [\"DeviceManagementConfiguration.ReadWrite.All\"]\n";
    let found = run(&with_module(&directory, &module), &target("own")).await;
    assert_eq!(
        found.status(EXCESS),
        (CheckStatus::Warn, Some(Reason::PermissionExcess))
    );
    let write = "DeviceManagementConfiguration.ReadWrite.All";
    assert_eq!(
        found.evidence(EXCESS, EvidenceKind::LeastPrivilege),
        [format!("{write}: DeviceManagementConfiguration.Read.All")]
    );
    assert_eq!(
        found.evidence(EXCESS, EvidenceKind::DirectoryControl),
        [write]
    );
    assert!(found.0.healthy);
}

/// The connection is used for its own module, too, whatever this run checks.
#[tokio::test]
async fn what_the_connection_s_own_module_needs_is_no_excess() {
    let directory = Directory::start(HEALTH).await;
    let provider = with_module(&directory, GRAPH);
    let unneeded = async |own: Option<&str>| {
        let mut target = target("own");
        target.connection.module = own.map(str::to_owned);
        let found = run(&provider, &target).await;
        let names = found.evidence(EXCESS, EvidenceKind::Unneeded);
        names.contains(&"Directory.Read.All")
    };
    assert!(unneeded(None).await);
    assert!(!unneeded(Some("health_check")).await);
}

#[test]
fn a_folder_with_a_mistake_is_told_with_file_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let problem = || {
        let mut settings = settings("http://127.0.0.1:1", "http://127.0.0.1:1");
        settings.modules_dir = folder.path().to_owned();
        let clock = std::sync::Arc::new(crate::microsoft::fixture::Still);
        MicrosoftProvider::new(&settings, clock)
            .err()
            .map(|e| e.to_string())
    };
    write("a.toml", GRAPH);
    assert_eq!(problem(), None);
    write("b.toml", &GRAPH.replace("title", "titel"));
    let told = problem().unwrap();
    assert!(told.starts_with("microsoft.modules_dir: "), "{told}");
    assert!(told.contains("b.toml:3: titel: "), "{told}");
    write("b.toml", GRAPH);
    assert!(
        problem().unwrap().contains("own is the key of"),
        "same key twice"
    );
    write("b.toml", &GRAPH.replace("\"own\"", "\"intune\""));
    let told = problem().unwrap();
    assert!(
        told.contains("b.toml:2: key: intune is a module of verifyd itself"),
        "{told}"
    );
    std::fs::remove_file(folder.path().join("b.toml")).unwrap();
    assert_eq!(problem(), None);
    drop(folder);
}
