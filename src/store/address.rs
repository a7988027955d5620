//! Explains what is wrong with the address of a database.

use crate::domain::host_list::HostList;
use crate::domain::server_address;
use crate::domain::text_decoding::{Named, is_left_by_copying};
use percent_encoding::percent_decode_str;
use std::net::IpAddr;
use url::{Url, form_urlencoded};

const SSL_MODES: &[&str] = &[
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// Names of one parameter.
pub(super) const SSL_MODE: &[&str] = &["sslmode", "ssl-mode"];
pub(super) const AUTHORITIES: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca"];
pub(super) const CLIENT_CERTIFICATE: &[&str] = &["sslcert", "ssl-cert"];
pub(super) const CLIENT_KEY: &[&str] = &["sslkey", "ssl-key"];

/// Parameters that the driver takes for the same.
const SAME: &[&[&str]] = &[
    SSL_MODE,
    AUTHORITIES,
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    &["host", "hostaddr"],
];

/// The allowed parameters after `?` in the URL. The driver would ignore, and log, any other.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    SESSION_ATTRIBUTES,
];

/// libpq's parameter for an address with several hosts. The driver does not know it.
pub(super) const SESSION_ATTRIBUTES: &str = "target_session_attrs";

/// Its allowed values, which mean the same here: verifyd writes.
const WRITABLE: &[&str] = &["read-write", "primary"];

/// Parameters that would count for each host alike.
const OF_ONE_HOST: &[&str] = &["host", "hostaddr", "port"];

/// The allowed parameters of a database in a file, each with its values, and why there is no other one.
const EMBEDDED_PARAMETERS: &[(&str, &[&str], &str)] = &[
    ("mode", &["rw", "rwc"], WRITES),
    ("cache", &["private", "shared"], "SQLite has no other"),
    ("immutable", &["0", "false"], WRITES),
    (
        "vfs",
        &["unix", "unix-dotfile", "unix-excl"],
        "several processes and connections share the file and have to lock it",
    ),
];

const WRITES: &str = "verifyd writes the file";

const IN_MEMORY: &str = "it names a database in memory, of which every connection and every process would see another; \
     allowed: sqlite:FILE";

const SQLITE_URI: &str = "the path begins with file:, from which on SQLite reads a URI with parameters of its own; leave \
     file: out, or write ./ before it if the file's name begins so";

/// Returns what is wrong with `postgres://…` or `sqlite:…`; `None` if the driver can parse it. Never quotes user or
/// password.
pub fn problem(text: &str) -> Option<String> {
    if text.starts_with("sqlite:") {
        return embedded_problem(text);
    }
    let hosts = HostList::of(text);
    if let Some(problem) = hosts.addresses().find_map(|text| problem_of_host(&text)) {
        return Some(problem);
    }
    match hosts.is_several() {
        true => problem_of_several(&hosts),
        false => None,
    }
}

fn problem_of_several(hosts: &HostList<'_>) -> Option<String> {
    let first = hosts.first()?;
    let mut names = first.query_pairs().map(|(name, _)| name);
    if let Some(name) = names.find(|name| OF_ONE_HOST.contains(&&**name)) {
        return Some(format!(
            "the parameter {name} stands beside several hosts; write hosts and ports before the database, as \
             h1:5432,h2:5432, and leave it out"
        ));
    }
    let ports = hosts.addresses().map(|address| {
        let url = Url::parse(&address);
        url.is_ok_and(|url| url.port().is_some())
    });
    let ports: Vec<bool> = ports.collect();
    (ports.contains(&true) && ports.contains(&false)).then(|| {
        "some of its hosts have a port and others none; give each its own, as h1:5432,h2:5432, or none".to_owned()
    })
}

fn problem_of_host(text: &str) -> Option<String> {
    if let Some(problem) = server_address::problem(text) {
        return Some(problem);
    }
    // Just read.
    let url = Url::parse(text).ok()?;
    let is_known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[");
    server_address::unknown_parameter(&url, is_known, &PARAMETERS.join(", "))
        .or_else(|| {
            url.query_pairs().find_map(|(name, value)| {
                wrong_value(&name, &format!("the parameter {name}"), &value)
            })
        })
        .or_else(|| server_address::repeated_parameter(url.query_pairs(), SAME))
}

fn embedded_problem(text: &str) -> Option<String> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let last = text.chars().next_back();
    if let Some(last) = last.filter(|c| is_left_by_copying(*c)) {
        let remedy = match query {
            "" => server_address::remove_or_encode(last),
            // No value that is allowed has one.
            _ => "remove it".to_owned(),
        };
        return Some(format!("it ends with {}; {remedy}", Named(last)));
    }
    // As the driver takes it off.
    let path = path
        .trim_start_matches("sqlite://")
        .trim_start_matches("sqlite:");
    // SQLite reads the path after it was decoded.
    let Ok(file) = percent_decode_str(path).decode_utf8() else {
        return Some(
            "the path has a % that begins no character of UTF-8; percent-encode % as %25"
                .to_owned(),
        );
    };
    if file.contains(":memory:") {
        return Some(IN_MEMORY.to_owned());
    }
    if file.starts_with("file:") {
        return Some(SQLITE_URI.to_owned());
    }
    if let Some(control) = file.chars().find(|c| c.is_control()) {
        return Some(format!("the path holds {}; remove it", Named(control)));
    }
    let parameters = form_urlencoded::parse(query.as_bytes());
    let mut each = parameters;
    let wrong = each.find_map(|(name, value)| {
        let mut known = EMBEDDED_PARAMETERS.iter();
        match known.find(|(known, ..)| *known == name) {
            None => {
                let names: Vec<&str> = EMBEDDED_PARAMETERS.iter().map(|(name, ..)| *name).collect();
                Some(format!(
                    "the parameter {name:?} is not known, allowed: {}; percent-encode a ? of the path as %3F",
                    names.join(", ")
                ))
            }
            Some(_) if name == "mode" && value == "memory" => Some(IN_MEMORY.to_owned()),
            Some((_, allowed, _)) if allowed.contains(&&*value) => None,
            Some((_, allowed, why)) => {
                let allowed = format!("{}; {why}", allowed.join(", "));
                Some(another_value(&format!("the parameter {name}"), &allowed))
            }
        }
    });
    wrong.or_else(|| server_address::repeated_parameter(parameters, &[]))
}

fn another_value(shown: &str, allowed: &str) -> String {
    format!("{shown} has another value, allowed: {allowed}")
}

/// Whether it names a setting: the driver ignores a parameter `options[` without its bracket.
fn is_setting(parameter: &str) -> bool {
    let setting = parameter
        .strip_prefix("options[")
        .and_then(|rest| rest.strip_suffix(']'));
    setting.is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-$".contains(&b))
    })
}

/// Returns what is wrong with the value of a known parameter, or of the variable that stands in for it. `shown`: what
/// names it.
pub(super) fn wrong_value(parameter: &str, shown: &str, value: &str) -> Option<String> {
    if parameter.starts_with("options[") && !is_setting(parameter) {
        return Some(
            "a parameter that begins with options[ names no setting in brackets, allowed: options[NAME]=VALUE"
                .to_owned(),
        );
    }
    if let Some(control) = server_address::control_in(shown, value) {
        return Some(control);
    }
    let wrong = |allowed: &str| Some(another_value(shown, allowed));
    match parameter {
        "sslmode" | "ssl-mode" if !SSL_MODES.contains(&&*value.to_ascii_lowercase()) => {
            wrong(&SSL_MODES.join(", "))
        }
        "port" if !value.parse::<u16>().is_ok_and(|port| port > 0) => {
            wrong("a number from 1 to 65535")
        }
        "hostaddr" if value.parse::<IpAddr>().is_err() => wrong("an IP address"),
        "statement-cache-capacity" if value.parse::<usize>().is_err() => wrong("a whole number"),
        "host" if value.is_empty() => wrong("a host, or the path of a socket's folder"),
        "host" if value.contains(',') && !value.starts_with('/') => {
            wrong("one host; write several before the database, as h1:5432,h2:5432")
        }
        SESSION_ATTRIBUTES if !WRITABLE.contains(&value) => {
            wrong(&format!("{}; verifyd writes", WRITABLE.join(", ")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_documented() {
        let page = include_str!("../../docs/reference/configuration.md");
        for parameter in PARAMETERS {
            assert!(page.contains(&format!("`{parameter}`")), "{parameter}");
        }
    }

    #[test]
    fn the_parameter_that_is_wrong_is_named_with_what_is_allowed() {
        for (query, words) in [
            (
                "sslmode=no-verify",
                "the parameter sslmode has another value, allowed: disable, allow, prefer, require, verify-ca, verify-full",
            ),
            ("sslmode=", "the parameter sslmode"),
            ("application_name=x&ssl-mode=on", "the parameter ssl-mode"),
            (
                "port=x",
                "the parameter port has another value, allowed: a number",
            ),
            ("port=70000", "the parameter port"),
            ("port=0", "the parameter port"),
            (
                "options[statement_timeout=5",
                "names no setting in brackets, allowed: options[NAME]=VALUE",
            ),
            ("options[]=5", "allowed: options[NAME]=VALUE"),
            ("options[a%00b]=5", "allowed: options[NAME]=VALUE"),
            (
                "password=S3cret!%00",
                "the parameter password holds U+0000 NUL; no control",
            ),
            (
                "dbname=a%0Ab",
                "the parameter dbname holds U+000A LINE FEED; no control",
            ),
            (
                "options[search_path]=%1B",
                "the parameter options[search_path] holds U+001B ESCAPE",
            ),
            (
                "hostaddr=h",
                "the parameter hostaddr has another value, allowed: an IP address",
            ),
            (
                "statement-cache-capacity=-1",
                "the parameter statement-cache-capacity",
            ),
            ("host=", "the parameter host"),
            (
                "sslmode=verify-full&port=5433&sslmode=disable",
                "the parameter sslmode stands there twice; leave one out",
            ),
            (
                "sslmode=verify-full&sslm%6Fde=verify-full",
                "the parameter sslmode stands there twice",
            ),
            (
                "sslmode=verify-full&ssl-mode=disable",
                "the parameters sslmode and ssl-mode stand beside each other; leave one out",
            ),
            (
                "ssl-ca=/a&sslrootcert=/b",
                "the parameters ssl-ca and sslrootcert stand beside",
            ),
            (
                "hostaddr=::1&host=h",
                "the parameters hostaddr and host stand beside",
            ),
            (
                "options[search_path]=a&options[search_path]=b",
                "the parameter options[search_path] stands there twice",
            ),
            (
                "password=S3cret!&password=S3cret!",
                "the parameter password stands there twice",
            ),
            ("host=a,b", "allowed: one host; write several before"),
            (
                "target_session_attrs=any",
                "the parameter target_session_attrs has another value, allowed: read-write, primary; verifyd writes",
            ),
            (
                "connect_timeout=5",
                "the parameter \"connect_timeout\" is not known, allowed: sslmode",
            ),
            (
                "channel_binding=require",
                "the parameter \"channel_binding\" is not known",
            ),
            (
                "application_name=me@work&&sslmod=require",
                "the parameter \"sslmod\" is not known",
            ),
            ("S3cret!=x", "percent-encode ? as %3F"),
            (
                "application_name=a\tb",
                "it holds U+0009 TAB; no control character is allowed",
            ),
        ] {
            let problem = problem(&format!("postgres://u:p@h/db?{query}")).unwrap_or_default();
            assert!(problem.contains(words), "{query}: {problem}");
            assert!(!problem.contains("S3cret"), "{problem}");
        }
        for (address, words) in [
            ("postgres://h/db?password=a&secretpart=1", "& as %26"),
            ("postgres://h/db?password=a&port=x&secretpart", "& as %26"),
            (
                "postgres://u:12?secretpart=word@h/db",
                "percent-encode ? as %3F",
            ),
            (
                "postgres://u:p@ss?secretpart=word@h/db",
                "percent-encode ? as %3F",
            ),
            (
                "postgres://u:p@ss?port=1&secretpart&host=x@h/db",
                "percent-encode ? as %3F",
            ),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.contains(words), "{address}: {problem}");
            assert!(!problem.contains("secretpart"), "{problem}");
        }
        for query in [
            "password=a&port=5433",
            "sslmode=require",
            "ssl-ca=/ca.pem&ssl-cert=/c.pem&ssl-key=/k.pem",
            "sslmode=VERIFY-FULL&sslrootcert=/ca.pem",
            "host=/var/run/postgresql",
            "host=::1&port=5433",
            "hostaddr=::1",
            "options[search_path]=app",
            "options[search_path]=app&options[jit]=off&options=-c%20x",
            "statement-cache-capacity=0",
            "target_session_attrs=primary",
        ] {
            assert_eq!(
                problem(&format!("postgres://u:p@h/db?{query}")),
                None,
                "{query}"
            );
        }
    }

    #[test]
    fn a_list_of_hosts_is_checked_host_by_host() {
        for address in [
            "postgres://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write",
            "postgres://u@h1,h2/db",
            "postgres://h1,h2",
            "postgres://u:p@[::1]:5432,10.0.0.1:5432/db",
            "postgres://u:a,b@h/db",
            "postgres://?host=/var/run/postgresql",
            "postgres:///db?host=h&port=5433",
            "postgres://u:p@:5433/db?hostaddr=10.0.0.1",
        ] {
            assert_eq!(problem(address), None, "{address}");
        }
        for (address, words) in [
            ("postgres://u:S3cret@h1:5432,h2/db", "or none"),
            ("postgres://u:S3cret@h1,h2:5432/db", "give each its own"),
            ("postgres://u:S3cret@h1:1,h2:x/db", "the port is not"),
            ("postgres://u:S3cret@h1:1,h2:0/db", "the port is not"),
            ("postgres://u:S3cret@h1,,h2/db", "the host is missing"),
            ("postgres://u:S3cret@/db?host=", "the host is missing"),
            ("postgres://?host=h1,h2", "allowed: one host; write several"),
            ("postgres://u:S3cret@,h2/db?host=h1", "the host is missing"),
            ("postgres://u:S3cret@h1,::1/db", "must be in brackets"),
            (
                "postgres://u:S3cret@h1,h2/db?hostaddr=::1",
                "the parameter hostaddr stands beside several hosts",
            ),
            (
                "postgres://u:S3cret@h1,h2/db?port=5432",
                "the parameter port stands beside several hosts",
            ),
            ("postgres://u:S3cret,1/2@h/db", "percent-encode / as %2F"),
            ("postgres://u:S3cret@h1,h2/db#x", "percent-encode #"),
            (
                "postgres://u:S3cret@h1,h2/db?sslmode=require&ssl-mode=allow",
                "the parameters sslmode and ssl-mode stand beside",
            ),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.contains(words), "{address}: {problem}");
            assert!(!problem.contains("S3cret"), "{address}: {problem}");
        }
    }

    #[test]
    fn the_parameter_of_a_file_that_is_wrong_is_named_with_what_is_allowed() {
        for (rest, words) in [
            (
                "x.db?foo=1",
                "the parameter \"foo\" is not known, allowed: mode, cache, immutable, vfs; percent-encode",
            ),
            ("x.db?mode=rw&=1", "the parameter \"\" is not known"),
            (
                "x.db?mode=foo",
                "the parameter mode has another value, allowed: rw, rwc; verifyd writes the file",
            ),
            ("x.db?mode=ro", "allowed: rw, rwc; verifyd writes the file"),
            ("x.db?immutable=1", "allowed: 0, false; verifyd writes"),
            (
                "x.db?cache=shared&immutable=true",
                "the parameter immutable",
            ),
            (
                "x.db?vfs=unix-none",
                "several processes and connections share",
            ),
            (":memory:", "a database in memory"),
            ("%3Amemory%3A", "a database in memory"),
            ("//%3amemory:", "a database in memory"),
            ("file:x.db", "the path begins with file:"),
            ("%66ile%3Ax.db?mode=rwc", "the path begins with file:"),
            (
                "file:x.db%3Fmode%3Dmemory%26cache%3Dshared",
                "the path begins with file:",
            ),
            ("x%00.db", "the path holds U+0000 NUL; remove it"),
            ("x%0A.db", "the path holds U+000A LINE FEED; remove it"),
            ("x.db?mode=memory", "allowed: sqlite:FILE"),
            (
                "x.db\u{200b}",
                "it ends with U+200B ZERO WIDTH SPACE; remove it",
            ),
            ("//x.db?mode=rwc\"", "it ends with U+0022 QUOTATION MARK"),
            (
                "x.db?cache=",
                "the parameter cache has another value, allowed: private, shared",
            ),
            (
                "x.db?immutable=yes",
                "the parameter immutable has another value, allowed: 0, false",
            ),
            (
                "x.db?mode=rwc&vfs=nope",
                "the parameter vfs has another value, allowed: unix, unix-dotfile",
            ),
            ("100%ff.db", "percent-encode % as %25"),
            (
                "x.db?mode=rw&cache=private&mode=rwc",
                "the parameter mode stands there twice; leave one out",
            ),
        ] {
            let problem = problem(&format!("sqlite:{rest}")).unwrap_or_default();
            assert!(problem.contains(words), "{rest}: {problem}");
        }
        for rest in [
            "x.db",
            "//a%3Fb.db?mode=rwc&cache=private",
            "x.db?immutable=0&vfs=unix",
            "it's.db?mode=rw",
            "./file:x.db",
            "profile:x.db",
        ] {
            let address = format!("sqlite:{rest}");
            assert_eq!(problem(&address), None, "{rest}");
            assert!(
                address
                    .parse::<sqlx::sqlite::SqliteConnectOptions>()
                    .is_ok()
            );
        }
    }
}
