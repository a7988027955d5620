//! Tests what a module's file may contain, which problems are reported, and that the published schema agrees.

use super::read::read;
use super::{BUILT_IN, Modules, schema};
use crate::domain::Reason;
use crate::domain::module::{ExcessPolicy, Expect};
use serde_json::Value;

const GOOD: &str = r#"key = "mail_archive"
title = "Mail archive"
excess = "warn"

[[permissions]]
role = "Organization.Read.All"
needed_for = "the directory stays unknown"
satisfied_by = ["Directory.Read.All"]

[[permissions]]
resource = "00000002-0000-0ff1-CE00-000000000000"
role = "Exchange.ManageAsApp"
needed_for = "mailboxes cannot be set up"
blocking = true

[[probes]]
key = "mail.domains"
title = "Domains"
path = "/v1.0/domains"
query = "$top=1&$filter=isVerified eq true"
permission = "Organization.Read.All"
expect = { member = "state", one_of = ["on", true, 3], tolerated = ["late"] }
"#;

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

fn as_json(text: &str) -> Option<Value> {
    toml::from_str(text).ok()
}

#[test]
fn every_field_of_a_good_file_is_read() {
    let module = read(GOOD).unwrap();
    assert_eq!(module.excess, ExcessPolicy::Warn);
    let [graph, exchange] = &module.permissions[..] else {
        panic!("{module:?}")
    };
    assert_eq!(graph.key, "Organization.Read.All");
    assert_eq!((graph.resource, graph.blocking), (None, false));
    assert_eq!(
        exchange.key,
        "00000002-0000-0ff1-ce00-000000000000/Exchange.ManageAsApp"
    );
    assert_eq!(exchange.role(), "Exchange.ManageAsApp");
    assert!(exchange.blocking);
    let [probe] = &module.probes[..] else {
        panic!("{module:?}")
    };
    assert_eq!(probe.query, "$top=1&$filter=isVerified%20eq%20true");
    assert_eq!(probe.reason, Reason::ProbeUnexpected);
    let Expect::Member { one_of, .. } = &probe.expect else {
        panic!("{probe:?}")
    };
    assert_eq!(one_of, &["on", "true", "3"]);
    assert!(validator().is_valid(&as_json(GOOD).unwrap()));
}

#[test]
fn the_modules_of_verifyd_fit_the_published_schema() {
    for (name, text) in BUILT_IN {
        let errors: Vec<String> = validator()
            .iter_errors(&as_json(text).unwrap())
            .map(|e| e.to_string())
            .collect();
        assert_eq!(errors, Vec::<String>::new(), "{name}");
    }
    assert_eq!(Modules::built_in().keys().len(), BUILT_IN.len());
}

/// Text to replace in the good file, and its replacement; line, field and words of the problem; whether the
/// schema finds it, too.
const BAD: &str = r#"
key = "mail_archive" |  | 1 | key | is missing; it must be 1 to 64 | schema
key = "mail_archive" | key = "Mail" | 1 | key | lowercase | schema
key = "mail_archive" | key = 7 | 1 | key | must be a text | schema
title = "Mail archive" | titel = "x" | 2 | titel | did you mean title? | schema
excess = "warn" | colour = "x" | 3 | colour | allowed: key, title | schema
excess = "warn" | excess = "loud" | 3 | excess | "info" or "warn" | schema
role = "Organization.Read.All" |  | 5 | permissions[0].role | is missing | schema
role = "Organization.Read.All" | role = "a b" | 6 | permissions[0].role | application role | schema
role = "Organization.Read.All" | role = "a/b" | 6 | permissions[0].role | application role | schema
the directory stays unknown | it stops. | 7 | permissions[0].needed_for | no full stop |
the directory stays unknown | a\u{202E}b | 7 | permissions[0].needed_for | one line |
["Directory.Read.All"] | ["A.B", "A.B"] | 8 | permissions[0].satisfied_by[1] | is there already | schema
["Directory.Read.All"] | "A.B" | 8 | permissions[0].satisfied_by | must be a list | schema
00000002-0000-0ff1-CE00-000000000000 | exchange | 11 | permissions[1].resource | a GUID | schema
blocking = true | blocking = "yes" | 14 | permissions[1].blocking | true or false | schema
key = "mail.domains" | key = "mail" | 17 | probes[0].key | dotted | schema
key = "mail.domains" | key = "provider.identity" | 17 | probes[0].key | checks of verifyd itself | schema
/v1.0/domains | https://graph.microsoft.com/v1.0/domains | 19 | probes[0].path | begin with /v1.0/ | schema
/v1.0/domains | /v1.0/../beta/domains | 19 | probes[0].path | '..' | schema
/v1.0/domains | /v1.0/a/../domains | 19 | probes[0].path | '..' |
/v1.0/domains | /v1.0/a%2e%2e/domains | 19 | probes[0].path | '%' |
/v1.0/domains | /v1.0/domains#x | 19 | probes[0].path | '#' |
/v1.0/domains | /v1.0/domains?x=y | 19 | probes[0].path | the field query |
/v1.0/domains | //evil.example/v1.0/x | 19 | probes[0].path | begin with /v1.0/ | schema
/v1.0/domains | /v2.0/domains | 19 | probes[0].path | begin with /v1.0/ | schema
/v1.0/domains | /v1.0/$batch | 19 | probes[0].path | $batch | schema
$top=1& | $skiptoken=1& | 20 | probes[0].query | allowed: $select | schema
$top=1& | $top=0& | 20 | probes[0].query | 1 to 999 |
$top=1& | $top=1&$top=2& | 20 | probes[0].query | twice |
isVerified eq true | a%zz | 20 | probes[0].query | encodes nothing |
isVerified eq true | a#b | 20 | probes[0].query | percent-encoded | schema
permission = "Organization.Read.All" | permission = "User.Read.All" | 21 | probes[0].permission | of this module: Organization.Read.All |
permission = "Organization.Read.All" | permission = "Exchange.ManageAsApp" | 21 | probes[0].permission | on Microsoft Graph |
{ member = "state", one_of = ["on", true, 3], tolerated = ["late"] } | "lots" | 22 | probes[0].expect | not_empty | schema
one_of = ["on", true, 3] | equals = 1.5 | 22 | probes[0].expect.equals | whole number | schema
one_of = ["on", true, 3], |  | 22 | probes[0].expect | either equals or one_of | schema
one_of = ["on", true, 3] | equals = "late" | 22 | probes[0].expect | allowed and tolerated |
member = "state", |  | 22 | probes[0].expect.member | is missing | schema
title = "Domains" | titel = "Domains" | 18 | probes[0].titel | is not a field here; did you mean title? | schema
[[probes]] | [[probes] | 16 |  | is not TOML | schema
"#;

#[test]
fn every_mistake_is_told_with_line_and_field() {
    let validator = validator();
    for row in BAD.trim().lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [old, new, line, field, words, schema_sees_it] = cells[..] else {
            panic!("{row}");
        };
        assert!(GOOD.contains(old), "{row}");
        let text = GOOD.replacen(old, &new.replace("\\u{202E}", "\u{202E}"), 1);
        let problems = read(&text).expect_err(row);
        let found = problems
            .iter()
            .find(|p| p.line.to_string() == line && p.field == field)
            .unwrap_or_else(|| panic!("{row}: {problems:?}"));
        assert!(found.problem.contains(words), "{row}: {found}");
        let is_valid = as_json(&text).is_some_and(|document| validator.is_valid(&document));
        assert_eq!(!is_valid, schema_sees_it == "schema", "{row}: the schema");
    }
}

#[test]
fn what_would_share_a_check_is_refused() {
    let twice = format!(
        "{GOOD}\n[[probes]]\nkey = \"mail.domains\"\ntitle = \"X\"\npath = \"/beta/x\"\npermission = \"Organization.Read.All\"\nexpect = \"object\"\n"
    );
    let problems = read(&twice).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "24: probes[1].key: mail.domains is the key of probes[0], too"
    );
    let twice = GOOD.replace("Exchange.ManageAsApp", "Organization.Read.All");
    assert!(read(&twice).is_ok(), "another resource, another check");
    let twice = twice.replace(
        "00000002-0000-0ff1-CE00-000000000000",
        "00000003-0000-0000-c000-000000000000",
    );
    let problems = read(&twice).unwrap_err();
    assert!(problems[0].field == "permissions[1].role", "{problems:?}");
}

#[test]
fn lists_and_files_are_bounded() {
    let many: String = (0..51)
        .map(|n| format!("[[permissions]]\nrole = \"R.{n}\"\nneeded_for = \"x\"\n"))
        .collect();
    let text = format!("key = \"a\"\ntitle = \"A\"\n{many}");
    let problems = read(&text).unwrap_err();
    assert!(problems[0].problem.contains("at most 50"), "{problems:?}");
    let text = format!("key = \"a\"\ntitle = \"{}\"\n", "x".repeat(70_000));
    assert!(
        read(&text).unwrap_err()[0]
            .problem
            .contains("at most 65536")
    );
    let text = GOOD.replace("Exchange.ManageAsApp", &"x".repeat(110));
    let problems = read(&text).unwrap_err();
    assert!(problems[0].problem.contains("at most 120"), "{problems:?}");
    let unknown: String = (0..200).map(|n| format!("x{n} = 1\n")).collect();
    assert!(read(&unknown).unwrap_err().len() <= 50);
}
