//! Checks the variables of the environment that the driver reads where the address leaves something out. It drops a
//! value that it cannot use, and connects without: of `PGSSLMODE`, without TLS.

use crate::store::address;
use std::ffi::OsString;
use url::Url;

/// A variable that the driver reads.
struct Variable {
    name: &'static str,
    /// What stands for it in an address, and the rule for its values.
    parameters: &'static [&'static str],
    is_in_address: fn(&Url) -> bool,
}

const fn of_parameter(name: &'static str, parameters: &'static [&'static str]) -> Variable {
    Variable {
        name,
        parameters,
        is_in_address: |_| false,
    }
}

/// `PGHOST` and `PGHOSTADDR` are not read, as every address has a host; `PGAPPNAME` neither, nor files of passwords.
const VARIABLES: &[Variable] = &[
    Variable {
        is_in_address: |url| url.port().is_some(),
        ..of_parameter(PORT, &["port"])
    },
    Variable {
        is_in_address: |url| !url.username().is_empty(),
        ..of_parameter("PGUSER", &["user"])
    },
    Variable {
        is_in_address: |url| url.password().is_some(),
        ..of_parameter(PASSWORD, &["password"])
    },
    Variable {
        is_in_address: |url| !url.path().trim_start_matches('/').is_empty(),
        ..of_parameter("PGDATABASE", &["dbname"])
    },
    of_parameter("PGSSLMODE", &["sslmode", "ssl-mode"]),
    of_parameter("PGSSLROOTCERT", &["sslrootcert", "ssl-root-cert", "ssl-ca"]),
    of_parameter("PGSSLCERT", &["sslcert", "ssl-cert"]),
    of_parameter("PGSSLKEY", &["sslkey", "ssl-key"]),
    // The driver puts those of the address behind these.
    of_parameter("PGOPTIONS", &[OPTIONS]),
];

const PORT: &str = "PGPORT";

const PASSWORD: &str = "PGPASSWORD";

const OPTIONS: &str = "options";

/// Returns which variable the driver would drop, or send as no server takes it; `None` if it can use all that it reads
/// beside this address. Never quotes a value.
pub(super) fn problem(
    url: &Url,
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Option<String> {
    let read = VARIABLES.iter().filter(|known| !known.is_given(url));
    read.filter_map(|known| Some((known, variable(known.name)?)))
        // Without a port the driver takes the usual one, as psql does.
        .filter(|(known, value)| known.name != PORT || !value.is_empty())
        .find_map(|(known, value)| {
            let shown = format!("the variable {}", known.name);
            let Ok(value) = value.into_string() else {
                return Some(format!("{shown} is not UTF-8"));
            };
            let parameter = known.parameters.first()?;
            // It may hold the certificate or key itself.
            let lines = match value.contains("-----BEGIN") {
                true => value.replace(['\r', '\n'], ""),
                false => value,
            };
            address::wrong_value(parameter, &shown, &lines)
        })
}

/// Whether the driver finds a password in the address or in its variable. Else it would look into `~/.pgpass`, and log
/// lines of it that it cannot read, passwords with them.
pub(super) fn has_password(url: &Url, variable: impl Fn(&'static str) -> Option<OsString>) -> bool {
    let mut known = VARIABLES.iter().filter(|known| known.name == PASSWORD);
    known.any(|known| known.is_given(url)) || variable(PASSWORD).is_some()
}

impl Variable {
    /// Whether the address has it, so that the variable counts for nothing.
    fn is_given(&self, url: &Url) -> bool {
        let mut names = url.query_pairs().map(|(name, _)| name);
        (self.is_in_address)(url)
            || !self.parameters.contains(&OPTIONS)
                && names.any(|name| self.parameters.contains(&&*name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    fn found(address: &str, name: &'static str, value: &[u8]) -> Option<String> {
        let url = Url::parse(address).unwrap();
        let value = OsString::from_vec(value.to_vec());
        problem(&url, |variable| (variable == name).then(|| value.clone()))
    }

    #[test]
    fn a_variable_that_the_driver_would_drop_is_named() {
        const BARE: &str = "postgres://h";
        for (name, value, words) in [
            (
                "PGSSLMODE",
                &b"requre"[..],
                "the variable PGSSLMODE has another value, allowed: disable, allow, prefer, require",
            ),
            ("PGSSLMODE", b"", "the variable PGSSLMODE has another value"),
            (
                "PGSSLMODE",
                b"require\n",
                "the variable PGSSLMODE holds U+000A LINE FEED",
            ),
            (
                "PGPORT",
                b"54 32",
                "the variable PGPORT has another value, allowed: a number",
            ),
            ("PGPORT", b"0", "the variable PGPORT has another value"),
            ("PGUSER", b"\xff", "the variable PGUSER is not UTF-8"),
            (
                "PGPASSWORD",
                b"s3cret\xff",
                "the variable PGPASSWORD is not UTF-8",
            ),
            (
                "PGPASSWORD",
                b"s3cret\n",
                "the variable PGPASSWORD holds U+000A LINE FEED",
            ),
            (
                "PGDATABASE",
                b"a\tb",
                "the variable PGDATABASE holds U+0009 TAB",
            ),
            (
                "PGSSLROOTCERT",
                b"/a\n",
                "the variable PGSSLROOTCERT holds U+000A LINE FEED",
            ),
            (
                "PGOPTIONS",
                b"-c a=b\x07",
                "the variable PGOPTIONS holds U+0007 BELL",
            ),
        ] {
            let problem = found(BARE, name, value).unwrap_or_default();
            assert!(problem.starts_with(words), "{name}: {problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        for (name, value) in [
            ("PGSSLMODE", &b"VERIFY-FULL"[..]),
            ("PGPORT", b"5433"),
            ("PGPORT", b""),
            ("PGOPTIONS", b"-c search_path=app"),
            (
                "PGSSLKEY",
                b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            ),
            // Not read.
            ("PGAPPNAME", b"\xff"),
            ("PGHOST", b"\n"),
        ] {
            assert_eq!(found(BARE, name, value), None, "{name}");
        }
    }

    #[test]
    fn what_the_address_says_counts_and_not_the_variable() {
        for (address, name) in [
            ("postgres://h?sslmode=require", "PGSSLMODE"),
            ("postgres://h?ssl-mode=require", "PGSSLMODE"),
            ("postgres://h:5432", "PGPORT"),
            ("postgres://h?port=5432", "PGPORT"),
            ("postgres://u@h", "PGUSER"),
            ("postgres://u:p@h", "PGPASSWORD"),
            ("postgres://h?password=p", "PGPASSWORD"),
            ("postgres://h/db", "PGDATABASE"),
            ("postgres://h/?ssl-ca=/ca.pem", "PGSSLROOTCERT"),
        ] {
            assert_eq!(found(address, name, b"\n"), None, "{address}");
        }
        // The driver sends both.
        assert!(found("postgres://h?options=-c%20a=b", "PGOPTIONS", b"\n").is_some());
    }

    #[test]
    fn a_password_is_found_in_the_address_or_in_its_variable() {
        for (address, variable, found) in [
            ("postgres://u:p@h", None, true),
            ("postgres://u@h?password=p", None, true),
            ("postgres://u@h", Some("p"), true),
            ("postgres://u@h", None, false),
        ] {
            let url = Url::parse(address).unwrap();
            let has = has_password(&url, |name| {
                variable.filter(|_| name == PASSWORD).map(OsString::from)
            });
            assert_eq!(has, found, "{address}");
        }
    }
}
