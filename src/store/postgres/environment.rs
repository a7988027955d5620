//! Checks the variables of the environment that the driver reads where the address leaves something out. It drops a
//! value that it cannot use, and connects without: of `PGSSLMODE`, without TLS.

use crate::ports::store_error::{Sign, StoreError};
use crate::store::address;
use std::ffi::OsString;
use url::Url;

/// A variable that the driver reads.
#[derive(Debug)]
struct Variable {
    name: &'static str,
    /// What it stands for, in words.
    what: &'static str,
    /// What stands for it in an address, and the rule for its values.
    parameters: &'static [&'static str],
    is_in_address: fn(&Url) -> bool,
    /// Signs of the errors of a connection that it may be the cause of.
    errors: &'static [Sign],
}

const fn of_parameter(
    name: &'static str,
    parameters: &'static [&'static str],
    errors: &'static [Sign],
) -> Variable {
    Variable {
        name,
        what: parameters[0],
        parameters,
        is_in_address: |_| false,
        errors,
    }
}

/// `PGHOST` and `PGHOSTADDR` are not read, as every address has a host, or a parameter for it; `PGAPPNAME` neither, nor
/// files of passwords.
const VARIABLES: &[Variable] = &[
    Variable {
        what: "the port",
        is_in_address: |url| url.port().is_some(),
        ..of_parameter(PORT, &["port"], &[("", "no server listens")])
    },
    Variable {
        what: "the user",
        is_in_address: |url| !url.username().is_empty(),
        ..of_parameter(
            "PGUSER",
            &["user"],
            &[("28P01", ""), ("28000", ""), ("", "name of this user")],
        )
    },
    Variable {
        what: "the password",
        is_in_address: |url| url.password().is_some(),
        ..of_parameter(PASSWORD, &["password"], OF_PASSWORD)
    },
    Variable {
        what: "the database",
        is_in_address: |url| !url.path().trim_start_matches('/').is_empty(),
        ..of_parameter("PGDATABASE", &["dbname"], &[("3D000", "")])
    },
    of_parameter(
        "PGSSLMODE",
        address::SSL_MODE,
        &[("", "does not support TLS"), ("", "no encryption")],
    ),
    of_parameter(
        "PGSSLROOTCERT",
        address::AUTHORITIES,
        &[("", "UnknownIssuer"), ("", "certificate: BadSignature")],
    ),
    of_parameter(
        "PGSSLCERT",
        address::CLIENT_CERTIFICATE,
        OF_CLIENT_CERTIFICATE,
    ),
    of_parameter("PGSSLKEY", address::CLIENT_KEY, OF_CLIENT_CERTIFICATE),
    // The driver puts those of the address behind these.
    of_parameter(
        "PGOPTIONS",
        &[OPTIONS],
        &[
            ("", "configuration parameter"),
            ("", "invalid value for parameter"),
            ("", "the parameter options holds"),
            ("", "startup parameter"),
        ],
    ),
];

/// Signs of the errors of a connection that the password may be the cause of.
pub(super) const OF_PASSWORD: &[Sign] = &[("28P01", ""), ("", "with this password")];

const PORT: &str = "PGPORT";

const PASSWORD: &str = "PGPASSWORD";

const OPTIONS: &str = "options";

const OF_CLIENT_CERTIFICATE: &[Sign] = &[
    ("", "valid client certificate"),
    ("", "alert unknown_ca"),
    ("", "KeyMismatch"),
    ("", "must be given together"),
];

/// Returns the variables that the driver reads beside this address, with their values.
fn in_use(
    url: &Url,
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> impl Iterator<Item = (&'static Variable, OsString)> {
    let read = VARIABLES.iter().filter(move |known| !known.is_given(url));
    read.filter_map(move |known| Some((known, variable(known.name)?)))
        // Without a port the driver takes the usual one, as psql does.
        .filter(|(known, value)| known.name != PORT || !value.is_empty())
}

/// Returns which variable the driver would drop, or send as no server takes it; `None` if it can use all that it reads
/// beside this address. Never quotes a value.
pub(super) fn problem(
    url: &Url,
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Option<String> {
    in_use(url, variable).find_map(|(known, value)| {
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

/// The variables that the driver has read beside an address.
#[derive(Debug)]
pub(super) struct ReadVariables {
    /// The key of the address.
    key: &'static str,
    variables: Vec<&'static Variable>,
}

impl ReadVariables {
    /// Those that are set, and that the address leaves something to.
    pub fn beside(
        key: &'static str,
        url: &Url,
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Self {
        let mut names = url.query_pairs().map(|(name, _)| name);
        let has_options = names.any(|name| name == OPTIONS || name.starts_with("options["));
        let variables = in_use(url, variable)
            .map(|(known, _)| known)
            // Of both either may be the cause.
            .filter(|known| !(has_options && known.parameters.contains(&OPTIONS)))
            .collect();
        Self { key, variables }
    }

    /// The same where the password is in a file, which counts before the variable.
    pub fn without_password(mut self) -> Self {
        self.variables.retain(|known| known.name != PASSWORD);
        self
    }

    /// Adds to the error of a connection the variables that may be its cause.
    pub fn named_in(&self, error: StoreError) -> StoreError {
        let is_cause = |known: &Variable| known.errors.iter().any(|sign| error.has(*sign));
        let causes = self.variables.iter().filter(|known| is_cause(known));
        let causes: Vec<String> = causes
            .map(|known| format!("{} to the variable {}", known.what, known.name))
            .collect();
        match causes.is_empty() {
            true => error,
            false => error.with_more(&format!("; {} leaves {}", self.key, causes.join(" and "))),
        }
    }
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
    use crate::ports::store_error::Detail;
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
    fn the_variable_that_may_be_the_cause_of_an_error_is_named() {
        const WRONG_PASSWORD: &str = "password authentication failed (SQLSTATE 28P01)";
        const WRONG_OPTION: &str = "unrecognized configuration parameter \"a\" (SQLSTATE 42704)";
        let read = |address: &str| {
            let url = Url::parse(address).unwrap();
            let set = [
                "PGPORT",
                "PGUSER",
                "PGPASSWORD",
                "PGDATABASE",
                "PGSSLROOTCERT",
                "PGOPTIONS",
            ];
            ReadVariables::beside("database.url", &url, |name| {
                set.contains(&name).then(|| OsString::from("5"))
            })
        };
        let named = |variables: ReadVariables, said: &str| {
            variables
                .named_in(StoreError::Refused(Detail::said(said)))
                .to_string()
        };
        for (address, said, names) in [
            (
                "postgres://u@h/db",
                WRONG_PASSWORD,
                "; database.url leaves the password to the variable PGPASSWORD",
            ),
            (
                "postgres://h/db",
                WRONG_PASSWORD,
                "; database.url leaves the user to the variable PGUSER and the password to the variable PGPASSWORD",
            ),
            ("postgres://u:p@h/db", WRONG_PASSWORD, ""),
            (
                "postgres://u:p@h/db",
                WRONG_OPTION,
                "; database.url leaves options to the variable PGOPTIONS",
            ),
            ("postgres://u:p@h/db?options=-c%20a=b", WRONG_OPTION, ""),
            ("postgres://u:p@h/db?options[a]=b", WRONG_OPTION, ""),
            (
                "postgres://u:p@h",
                "database \"5\" does not exist (SQLSTATE 3D000)",
                "; database.url leaves the database to the variable PGDATABASE",
            ),
            (
                "postgres://h",
                "TLS: invalid peer certificate: BadSignature",
                "; database.url leaves sslrootcert to the variable PGSSLROOTCERT",
            ),
            (
                "postgres://h",
                "too many clients already (SQLSTATE 53300)",
                "",
            ),
        ] {
            let wanted = format!("the database refused: {said}{names}");
            assert_eq!(named(read(address), said), wanted, "{address}");
        }
        let beside_a_file = read("postgres://h/db").without_password();
        let wanted = "; database.url leaves the user to the variable PGUSER";
        assert!(named(beside_a_file, WRONG_PASSWORD).ends_with(wanted));
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
