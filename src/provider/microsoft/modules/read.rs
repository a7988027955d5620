//! Reads a module from the text of a file.

use super::fields::{At, Fields, Problems};
use super::rules::{self, RESERVED};
use super::{GRAPH_APP_ID, check_key};
use crate::domain::Reason;
use crate::domain::link::is_guid;
use crate::domain::module::{ExcessPolicy, Expect, Module, ModuleProblem, Probe};
use crate::domain::permission::RequiredPermission;
use crate::domain::text_decoding;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use uuid::Uuid;

// The forms that values must have, as messages name them.
const KEY_FORM: &str = "1 to 64 lowercase letters, digits or '_', not beginning with '_'";
const TEXT_FORM: &str = "one line of text without blanks at its ends";
const ROLE_FORM: &str = "the name of an application role, such as Organization.Read.All";
const GUID_FORM: &str = "a GUID, such as 00000003-0000-0000-c000-000000000000";
const PROBE_KEY_FORM: &str = "dotted lowercase words, such as exchange.mailboxes";
const VALUE_FORM: &str = "1 to 64 letters, digits, '_' or '-'";
const PATH_FORM: &str = "a path on Microsoft Graph that begins with /v1.0/ or /beta/";
const EXPECT_FORM: &str =
    "\"object\", \"list\", \"not_empty\", or { member = \"…\", equals = \"…\" } (or one_of = […])";

/// The module that the text describes, or all that is wrong with it.
pub(super) fn read(text: &str) -> Result<Module, Vec<ModuleProblem>> {
    let text = text_decoding::without_byte_order_mark(text);
    let mut problems = Problems::new(text);
    if text.len() > rules::FILE_BYTES {
        let problem = format!(
            "has {} bytes; allowed: at most {}",
            text.len(),
            rules::FILE_BYTES
        );
        problems.add("", &(0..0), problem);
        return problems.into_result(None);
    }
    match DeTable::parse(text) {
        Ok(document) => {
            let read = module(&document, &mut problems);
            problems.into_result(read)
        }
        Err(error) => {
            let at = error.span().unwrap_or(0..0);
            problems.add("", &at, format!("is not TOML: {}", error.message()));
            problems.into_result(None)
        }
    }
}

fn module(document: &Spanned<DeTable<'_>>, problems: &mut Problems<'_>) -> Option<Module> {
    const FIELDS: [&str; 5] = ["key", "title", "excess", "permissions", "probes"];
    let fields = Fields::new(document.get_ref(), "", 0..0, &FIELDS, problems);
    let key = fields.needed_text("key", rules::KEY, KEY_FORM, rules::is_key, problems);
    let title = fields.needed_text("title", rules::TITLE, TEXT_FORM, rules::is_text, problems);
    let policies = [ExcessPolicy::Info, ExcessPolicy::Warn];
    let is_policy = |text: &str| policies.iter().any(|policy| policy.as_str() == text);
    let excess = fields.text("excess", 16, "\"info\" or \"warn\"", is_policy, problems);
    let excess = excess
        .and_then(|found| policies.into_iter().find(|p| p.as_str() == found.value))
        .unwrap_or_default();

    let mut permissions = Vec::new();
    for item in fields.list("permissions", rules::PERMISSIONS, problems) {
        if let Some(table) = table_of(&item, problems) {
            let read = permission(table, &item, problems);
            permissions.extend(read.map(|permission| (permission, item)));
        }
    }
    if fields.any("permissions").is_none() {
        problems.add(
            "permissions",
            fields.span(),
            "is missing; it must have at least one item",
        );
    }
    is_unique(&permissions, "permission", problems);
    let permissions: Vec<RequiredPermission> = permissions.into_iter().map(|(p, _)| p).collect();

    let mut probes = Vec::new();
    for item in fields.list("probes", rules::PROBES, problems) {
        if let Some(table) = table_of(&item, problems) {
            let read = probe(table, &item, &permissions, problems);
            probes.extend(read.map(|probe| (probe, item)));
        }
    }
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (probe, item) in &probes {
        if let Some(first) = seen.insert(&probe.key, &item.field) {
            let problem = format!("{} is the key of {first}, too", probe.key);
            problems.add(&format!("{}.key", item.field), &item.span, problem);
        }
    }
    Some(Module {
        key: key?.value,
        title: title?.value,
        excess,
        permissions,
        probes: probes.into_iter().map(|(probe, _)| probe).collect(),
        file: None,
    })
}

type Item<'d> = At<&'d Spanned<DeValue<'d>>>;

fn table_of<'d>(item: &Item<'d>, problems: &mut Problems<'_>) -> Option<&'d DeTable<'d>> {
    let table = item.value.get_ref().as_table();
    if table.is_none() {
        problems.add(&item.field, &item.span, "must be a table");
    }
    table
}

/// No two permissions, and no two that would share a check.
fn is_unique(
    permissions: &[(RequiredPermission, Item<'_>)],
    what: &str,
    problems: &mut Problems<'_>,
) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (permission, item) in permissions {
        let length = check_key(permission).len();
        if length > rules::CHECK_KEY {
            let problem = format!(
                "makes the key of a check {length} characters long; allowed: at most {}",
                rules::CHECK_KEY
            );
            problems.add(&format!("{}.role", item.field), &item.span, problem);
        }
        if let Some(first) = seen.insert(check_key(permission), &item.field) {
            let problem = format!("{} is the {what} of {first}, too", permission.role());
            problems.add(&format!("{}.role", item.field), &item.span, problem);
        }
    }
}

fn permission(
    table: &DeTable<'_>,
    item: &Item<'_>,
    problems: &mut Problems<'_>,
) -> Option<RequiredPermission> {
    const FIELDS: [&str; 6] = [
        "role",
        "resource",
        "app_role_id",
        "needed_for",
        "blocking",
        "satisfied_by",
    ];
    let fields = Fields::new(table, &item.field, item.span.clone(), &FIELDS, problems);
    let role = fields.needed_text("role", rules::ROLE, ROLE_FORM, rules::is_role, problems);
    let guid = |name, problems: &mut Problems<'_>| {
        let found = fields.text(name, 36, GUID_FORM, is_guid, problems)?;
        Uuid::try_parse(&found.value).ok()
    };
    let resource = guid("resource", problems).filter(|id| *id != GRAPH_APP_ID);
    let app_role_id = guid("app_role_id", problems);
    let needed_for = fields.needed_text(
        "needed_for",
        rules::NEEDED_FOR,
        "what does not work without it, as the end of \"without it, …\": one line, no full stop",
        |text| rules::is_text(text) && !text.ends_with('.'),
        problems,
    );
    let blocking = fields.flag("blocking", problems);
    let names = fields.texts(
        "satisfied_by",
        rules::SATISFIED_BY,
        rules::ROLE,
        ROLE_FORM,
        rules::is_role,
        problems,
    );
    let role = role?;
    for (index, name) in names.iter().enumerate() {
        if name.value == role.value || names[..index].iter().any(|n| n.value == name.value) {
            let problem = format!("{} is there already", name.value);
            problems.add(&name.field, &name.span, problem);
        }
    }
    let key = |role: &str| match resource {
        Some(resource) => format!("{resource}/{role}"),
        None => role.to_owned(),
    };
    Some(RequiredPermission {
        key: key(&role.value),
        resource,
        app_role_id: app_role_id.map(|id| id.to_string()),
        blocking,
        needed_for: needed_for?.value,
        satisfied_by: names.iter().map(|name| key(&name.value)).collect(),
    })
}

fn probe(
    table: &DeTable<'_>,
    item: &Item<'_>,
    permissions: &[RequiredPermission],
    problems: &mut Problems<'_>,
) -> Option<Probe> {
    const FIELDS: [&str; 8] = [
        "key",
        "title",
        "path",
        "query",
        "permission",
        "blocking",
        "expect",
        "reason",
    ];
    let fields = Fields::new(table, &item.field, item.span.clone(), &FIELDS, problems);
    let is_key = rules::is_probe_key;
    let key = fields.needed_text("key", rules::PROBE_KEY, PROBE_KEY_FORM, is_key, problems);
    if let Some(key) = &key
        && let Some(first) = key.value.split('.').next()
        && RESERVED.contains(&first)
    {
        let problem = format!("must not begin with {first}: those are checks of verifyd itself");
        problems.add(&key.field, &key.span, problem);
    }
    let title = fields.needed_text("title", rules::TITLE, TEXT_FORM, rules::is_text, problems);
    let path = fields.needed_text("path", rules::PATH, PATH_FORM, |_| true, problems);
    if let Some(path) = &path
        && let Some(problem) = rules::path_problem(&path.value)
    {
        problems.add(&path.field, &path.span, problem);
    }
    let query = fields.text("query", rules::QUERY, "a query", |_| true, problems);
    let query = query.map(|query| {
        rules::query(&query.value).unwrap_or_else(|problem| {
            problems.add(&query.field, &query.span, problem);
            String::new()
        })
    });
    let permission = fields.needed_text(
        "permission",
        rules::ROLE,
        ROLE_FORM,
        rules::is_role,
        problems,
    );
    if let Some(needed) = &permission {
        let own: Vec<&str> = permissions
            .iter()
            .filter(|p| p.resource.is_none())
            .map(|p| p.key.as_str())
            .collect();
        if !own.contains(&needed.value.as_str()) {
            let own = match own.join(", ") {
                none if none.is_empty() => "there is none".to_owned(),
                own => own,
            };
            let problem = format!("must be a permission on Microsoft Graph of this module: {own}");
            problems.add(&needed.field, &needed.span, problem);
        }
    }
    let blocking = fields.flag("blocking", problems);
    let expect = match fields.any("expect") {
        Some(found) => expectation(&found, problems),
        None => {
            let field = format!("{}.expect", item.field);
            problems.add(
                &field,
                fields.span(),
                format!("is missing; it must be {EXPECT_FORM}"),
            );
            None
        }
    };
    let codes = rules::REASONS.map(Reason::code);
    let allowed = format!("one of {}", codes.join(", "));
    let reason = fields.text(
        "reason",
        64,
        &allowed,
        |text| codes.contains(&text),
        problems,
    );
    let reason = reason
        .and_then(|found| rules::REASONS.into_iter().find(|r| r.code() == found.value))
        .unwrap_or(rules::REASONS[0]);
    Some(Probe {
        key: key?.value,
        title: title?.value,
        path: path?.value,
        query: query.unwrap_or_default(),
        permission: permission?.value,
        blocking,
        expect: expect?,
        reason,
    })
}

fn expectation(found: &Item<'_>, problems: &mut Problems<'_>) -> Option<Expect> {
    if let Some(word) = found.value.get_ref().as_str() {
        match word {
            "object" => return Some(Expect::Object),
            "list" => return Some(Expect::List),
            "not_empty" => return Some(Expect::NotEmpty),
            _ => {}
        }
    }
    let Some(table) = found.value.get_ref().as_table() else {
        problems.add(&found.field, &found.span, format!("must be {EXPECT_FORM}"));
        return None;
    };
    const FIELDS: [&str; 4] = ["member", "equals", "one_of", "tolerated"];
    let fields = Fields::new(table, &found.field, found.span.clone(), &FIELDS, problems);
    let name = fields.needed_text(
        "member",
        rules::VALUE,
        VALUE_FORM,
        rules::is_value,
        problems,
    );
    let mut values = |name| {
        fields
            .list(name, rules::VALUES, problems)
            .into_iter()
            .filter_map(|item| value_of(&item, problems))
            .collect::<Vec<String>>()
    };
    let (mut one_of, tolerated) = (values("one_of"), values("tolerated"));
    let equals = fields.any("equals");
    if equals.is_some() == fields.any("one_of").is_some() {
        problems.add(&found.field, &found.span, "needs either equals or one_of");
        return None;
    }
    one_of.extend(equals.and_then(|item| value_of(&item, problems)));
    if one_of.is_empty() {
        problems.add(&found.field, &found.span, "allows no value");
        return None;
    }
    if let Some(both) = tolerated.iter().find(|value| one_of.contains(value)) {
        let problem = format!("{both} is allowed and tolerated");
        problems.add(&found.field, &found.span, problem);
    }
    Some(Expect::Member {
        name: name?.value,
        one_of,
        tolerated,
    })
}

/// A text, a whole number, true or false, as it is compared.
fn value_of(item: &Item<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let text = match item.value.get_ref() {
        DeValue::String(text) if text.chars().count() <= rules::VALUE && rules::is_value(text) => {
            Some(text.to_string())
        }
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string()),
        _ => None,
    };
    if text.is_none() {
        let problem = format!("must be true, false, a whole number, or {VALUE_FORM}");
        problems.add(&item.field, &item.span, problem);
    }
    text
}
