//! Turns the address of a server into the driver's options.

use super::environment::{self, ReadVariables};
use super::tls_files;
use crate::ports::store_error::StoreError;
use crate::store::address;
use sqlx::postgres::PgConnectOptions;

/// Returns the driver's options, whether prepared statements have names, and which variables the driver has read.
pub(super) fn read(
    key: &'static str,
    url: &str,
) -> Result<(PgConnectOptions, bool, ReadVariables), StoreError> {
    let refused = |problem: &str| StoreError::Refused(format!("{key} cannot be used: {problem}"));
    // The driver's own errors may quote parts of the URL.
    if let Some(problem) = address::problem(url) {
        return Err(refused(&problem));
    }
    let parsed = url::Url::parse(url).map_err(|_| refused("it is not a URL"))?;
    if let Some(problem) = environment::problem(&parsed, std::env::var_os) {
        return Err(refused(&problem));
    }
    let named = parsed
        .query_pairs()
        .all(|(parameter, value)| parameter != "statement-cache-capacity" || value != "0");
    let has_name = parsed
        .query_pairs()
        .any(|(key, _)| key == "application_name");
    let mut complete = parsed.clone();
    if !environment::has_password(&parsed, std::env::var_os) {
        // An empty one is what the driver sends without any.
        complete.query_pairs_mut().append_pair("password", "");
    }
    let options: PgConnectOptions = complete
        .as_str()
        .parse()
        .map_err(|_| refused("a parameter has a wrong value"))?;
    let options = tls_files::check(options, &parsed).map_err(|problem| refused(&problem))?;
    // The driver looks an IPv6 address up with the brackets that it has in a URL.
    let address = options
        .get_host()
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let options = match address.map(str::to_owned) {
        Some(address) => options.host(&address),
        None => options,
    };
    // PgBouncer refuses startup parameters that it does not track.
    let options = options.extra_float_digits(None);
    let options = if has_name {
        options
    } else {
        options.application_name("verifyd")
    };
    let variables = ReadVariables::beside(key, &parsed, std::env::var_os);
    Ok((options, named, variables))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_the_system_can_look_up() {
        for (url, host) in [
            ("postgres://u@[::1]:5432/db", "::1"),
            ("postgres://u@[2001:db8::7]/db", "2001:db8::7"),
            ("postgres://u@h/db?host=[::1]", "::1"),
            ("postgres://u@h/db?host=::1", "::1"),
            ("postgres://u@h/db?hostaddr=::1", "::1"),
            ("postgres://u@10.0.0.1/db", "10.0.0.1"),
            ("postgres://u@db.example/db", "db.example"),
        ] {
            assert_eq!(
                read("database.url", url).unwrap().0.get_host(),
                host,
                "{url}"
            );
        }
        for url in [
            "postgres://u@%2Fvar%2Frun%2Fpostgresql/db",
            "postgres://u@localhost/db?host=/var/run/postgresql",
        ] {
            let (options, ..) = read("database.url", url).unwrap();
            let socket = options
                .get_socket()
                .map(|path| path.to_string_lossy().into_owned());
            assert_eq!(socket.as_deref(), Some("/var/run/postgresql"), "{url}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_key_and_without_the_password() {
        for (url, words) in [
            (
                "postgres://u:p4ss#x@h/db",
                "percent-encode # as %23 in the password",
            ),
            (
                "postgres://u:p4ss@h/db?sslmode=no-verify",
                "the parameter sslmode has another value, allowed: disable",
            ),
            (
                "postgres://u:p4ss@h/db?connect_timeout=3",
                "\"connect_timeout\" is not known",
            ),
        ] {
            let error = read("database.listen_url", url).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains("database.listen_url"),
                "{error}"
            );
            assert!(!error.contains("p4ss"), "{error}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_quoting_the_password() {
        for url in [
            "postgres://verifyd:p4ss/word@host/db",
            "postgres://verifyd:p4ss@host/db?sslmode=p4ss",
            "postgres://verifyd:p4ss@host/db?passwort=p4ss",
            "postgres://verifyd:p4ss@host:notaport/db",
        ] {
            let error = read("database.url", url).unwrap_err().to_string();
            assert!(!error.contains("p4ss"), "{error}");
        }
    }

    #[test]
    fn without_a_statement_cache_statements_have_no_names() {
        assert!(read("database.url", "postgres://u@h/d").unwrap().1);
        assert!(
            !read(
                "database.url",
                "postgres://u@h/d?statement-cache-capacity=0"
            )
            .unwrap()
            .1
        );
    }
}
