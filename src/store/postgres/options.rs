//! Turns the address of a server into the driver's options.

use super::environment::{self, ReadVariables};
use super::tls_files;
use crate::domain::host_list::HostList;
use crate::ports::store_error::StoreError;
use crate::store::address;
use sqlx::postgres::PgConnectOptions;

/// What an address says.
pub(super) struct Address {
    /// The driver's options of each host.
    pub hosts: Vec<PgConnectOptions>,
    /// Whether prepared statements have names.
    pub named: bool,
    pub has_password: bool,
    /// What the driver has read beside it. That is the same for each host: all have a port or none has one.
    pub variables: ReadVariables,
}

/// Reads the address of this key.
pub(super) fn read(key: &'static str, url: &str) -> Result<Address, StoreError> {
    let refused = |why: &str| StoreError::Settings(format!("{key} cannot be used: {why}").into());
    // The driver's own errors may quote parts of the URL.
    if let Some(problem) = address::problem(url) {
        return Err(refused(&problem));
    }
    let list = HostList::of(url);
    let first = list.first().ok_or_else(|| refused("it is not a URL"))?;
    let hosts = list.addresses().map(|url| of_host(&url));
    let hosts: Result<Vec<_>, _> = hosts.collect();
    Ok(Address {
        hosts: hosts.map_err(|problem| refused(&problem))?,
        named: first
            .query_pairs()
            .all(|(parameter, value)| parameter != "statement-cache-capacity" || value != "0"),
        has_password: first.password().is_some()
            || first.query_pairs().any(|(name, _)| name == "password"),
        variables: ReadVariables::beside(key, &first, std::env::var_os),
    })
}

/// The driver's options for the address of one host.
fn of_host(url: &str) -> Result<PgConnectOptions, String> {
    let parsed = url::Url::parse(url).map_err(|_| "it is not a URL")?;
    if let Some(problem) = environment::problem(&parsed, std::env::var_os) {
        return Err(problem);
    }
    let has_name = parsed
        .query_pairs()
        .any(|(key, _)| key == "application_name");
    let known: Vec<(String, String)> = parsed
        .query_pairs()
        .filter(|(name, _)| name != address::SESSION_ATTRIBUTES)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let mut complete = parsed.clone();
    complete.query_pairs_mut().clear().extend_pairs(known);
    if !environment::has_password(&parsed, std::env::var_os) {
        // An empty one is what the driver sends without any.
        complete.query_pairs_mut().append_pair("password", "");
    }
    let options: PgConnectOptions = complete
        .as_str()
        .parse()
        .map_err(|_| "a parameter has a wrong value")?;
    let options = tls_files::check(options, &parsed)?;
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
    Ok(if has_name {
        options
    } else {
        options.application_name("verifyd")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_host(url: &str) -> PgConnectOptions {
        let mut hosts = read("database.url", url).unwrap().hosts;
        assert_eq!(hosts.len(), 1, "{url}");
        hosts.remove(0)
    }

    fn refusal(key: &'static str, url: &str) -> String {
        read(key, url).err().unwrap().to_string()
    }

    #[test]
    fn hosts_are_what_the_system_can_look_up() {
        for (url, host) in [
            ("postgres://u@[::1]:5432/db", "::1"),
            ("postgres://u@[2001:db8::7]/db", "2001:db8::7"),
            ("postgres://u@h/db?host=[::1]", "::1"),
            ("postgres://u@h/db?host=::1", "::1"),
            ("postgres://u@h/db?hostaddr=::1", "::1"),
            ("postgres:///db?host=db.example", "db.example"),
            ("postgres://u@10.0.0.1/db", "10.0.0.1"),
            ("postgres://u@db.example/db", "db.example"),
        ] {
            assert_eq!(only_host(url).get_host(), host, "{url}");
        }
        for url in [
            "postgres://u@%2Fvar%2Frun%2Fpostgresql/db",
            "postgres://u@localhost/db?host=/var/run/postgresql",
            "postgres://?host=/var/run/postgresql",
            "postgres://u:p@:5433/db?host=/var/run/postgresql",
        ] {
            let socket = only_host(url)
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
            let error = refusal("database.listen_url", url);
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
            let error = refusal("database.url", url);
            assert!(!error.contains("p4ss"), "{error}");
        }
    }

    #[test]
    fn without_a_statement_cache_statements_have_no_names() {
        let named = |url| read("database.url", url).unwrap().named;
        assert!(named("postgres://u@h/d"));
        assert!(!named("postgres://u@h/d?statement-cache-capacity=0"));
    }
}
