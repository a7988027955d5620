//! The rules for the fields of a module's file, for the reader and the published schema.

use crate::domain::Reason;
use crate::domain::report::redact;
use http::uri::PathAndQuery;

/// Bytes of one file.
pub(super) const FILE_BYTES: usize = 65_536;
/// Modules of a folder.
pub(super) const MODULES: usize = 100;
/// Permissions of a module.
pub(super) const PERMISSIONS: usize = 50;
/// Permissions that may stand in for another one.
pub(super) const SATISFIED_BY: usize = 20;
/// Probes of a module.
pub(super) const PROBES: usize = 20;
/// Values of a member that a probe allows.
pub(super) const VALUES: usize = 20;
/// Characters of a title.
pub(super) const TITLE: usize = 100;
/// Characters of what a permission is needed for.
pub(super) const NEEDED_FOR: usize = 200;
/// Characters of a module's key.
pub(super) const KEY: usize = 64;
/// Characters of a probe's key.
pub(super) const PROBE_KEY: usize = 100;
/// Characters of the key of a check.
pub(super) const CHECK_KEY: usize = 120;
/// Characters of a role's name.
pub(super) const ROLE: usize = 120;
/// Characters of a member's name, and of one of its values.
pub(super) const VALUE: usize = 64;
/// Characters of a path.
pub(super) const PATH: usize = 300;
/// Characters of a query.
pub(super) const QUERY: usize = 500;

pub(super) const KEY_PATTERN: &str = "^[a-z0-9][a-z0-9_]{0,63}$";
pub(super) const PROBE_KEY_PATTERN: &str = "^[a-z0-9_]+(\\.[a-z0-9_]+)+$";
pub(super) const ROLE_PATTERN: &str = "^[A-Za-z0-9._:-]+$";
pub(super) const VALUE_PATTERN: &str = "^[A-Za-z0-9_-]+$";
pub(super) const PATH_PATTERN: &str = "^/(v1\\.0|beta)/[A-Za-z0-9]";
pub(super) const GUID_PATTERN: &str =
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// First words of keys that are checks of verifyd itself.
pub(super) const RESERVED: [&str; 8] = [
    "application",
    "credential",
    "engine",
    "permissions",
    "preflight",
    "provider",
    "report",
    "verifyd",
];

/// Parameters that a query may have.
pub(super) const PARAMETERS: [&str; 6] = [
    "$select", "$top", "$filter", "$count", "$expand", "$orderby",
];

/// Reasons that a probe may fail with where the answer is not the expected one, the default first.
pub(super) const REASONS: [Reason; 2] = [Reason::ProbeUnexpected, Reason::IntuneInactive];

/// A line of text for people.
pub(super) fn is_text(text: &str) -> bool {
    !text.trim().is_empty()
        && redact::clean(text, usize::MAX) == text
        && !redact::holds_jwt(text)
        && text.trim() == text
}

/// The key of a module.
pub(super) fn is_key(text: &str) -> bool {
    crate::domain::connection::is_cloud_key(text) && text.len() <= KEY
}

/// The key of a probe: dotted words.
pub(super) fn is_probe_key(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    text.contains('.') && text.split('.').all(is_word)
}

/// The name of a role.
pub(super) fn is_role(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// A value that evidence may show, or the name of a member.
pub(super) fn is_value(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Returns what is wrong with a path below the Graph base.
pub(super) fn path_problem(path: &str) -> Option<&'static str> {
    let Some(rest) = ["/v1.0/", "/beta/"]
        .iter()
        .find_map(|v| path.strip_prefix(v))
    else {
        return Some(
            "must begin with /v1.0/ or /beta/: a path on Microsoft Graph, without its address",
        );
    };
    if path.contains('?') {
        return Some("must hold no query: that is the field query");
    }
    if path.contains(['#', '%', '\\', ' ']) {
        return Some("must hold no blank, '#', '%' or '\\'");
    }
    if rest
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Some("must hold no empty part, '.' or '..'");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~()'=,$@:!*/".contains(&b);
    if !path.bytes().all(allowed) || PathAndQuery::try_from(path).is_err() {
        return Some("may hold letters, digits and -._~()'=,$@:!*/ only");
    }
    if rest.split('/').any(|part| part == "$batch") {
        return Some("must not be $batch: a probe is one GET");
    }
    None
}

/// Returns the query as it is sent, with encoded blanks; or what is wrong with it.
pub(super) fn query(query: &str) -> Result<String, String> {
    let mut seen: Vec<&str> = Vec::new();
    for part in query.split('&') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if !PARAMETERS.contains(&name) {
            let allowed = PARAMETERS.join(", ");
            return Err(format!(
                "{name:?} is no parameter of a probe; allowed: {allowed}"
            ));
        }
        if seen.contains(&name) {
            return Err(format!("{name} is there twice"));
        }
        seen.push(name);
        if value.is_empty() {
            return Err(format!("{name} has no value"));
        }
        if name == "$top" && !value.parse::<u16>().is_ok_and(|n| (1..=999).contains(&n)) {
            return Err("$top must be from 1 to 999".to_owned());
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || " -._~()',$:/;*@!=%".contains(c);
        if let Some(c) = value.chars().find(|c| !allowed(*c)) {
            return Err(format!("{name} holds {c:?}: write it percent-encoded"));
        }
        let encoded =
            |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
        if value.split('%').skip(1).any(|rest| !encoded(rest)) {
            return Err(format!("{name} holds a '%' that encodes nothing"));
        }
    }
    let encoded = query.replace(' ', "%20");
    match PathAndQuery::try_from(format!("/?{encoded}")) {
        Ok(_) => Ok(encoded),
        Err(_) => Err("is no query of an address".to_owned()),
    }
}
