//! Takes the hosts of PostgreSQL's address apart: `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/…`, which is no URL.

use std::borrow::Cow;
use url::{Url, form_urlencoded};

/// How an address begins that may have several hosts. In any other one a comma is a part of a name.
const BEGINNINGS: [&str; 2] = ["postgres://", "postgresql://"];

/// Parameters that take the place of the host before the database.
const OF_A_HOST: [&str; 2] = ["host", "hostaddr"];

/// What stands for a host that a parameter takes the place of: a URL with a user or a port needs one.
const REPLACED: &str = "localhost";

/// An address with one host or several.
pub struct HostList<'a> {
    before: &'a str,
    hosts: Vec<Cow<'a, str>>,
    behind: &'a str,
}

impl<'a> HostList<'a> {
    /// Splits the address at the commas between its hosts. No host has one; user and password may. As libpq does, it
    /// takes an address without a host before the database where a parameter has one.
    pub fn of(address: &'a str) -> Self {
        let mut beginnings = BEGINNINGS.iter();
        let start = beginnings
            .find(|beginning| address.starts_with(**beginning))
            .map_or(address.len(), |beginning| beginning.len());
        let rest = &address[start..];
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let from = rest[..end].rfind('@').map_or(0, |at| at + 1);
        let behind = &rest[end..];
        let mut hosts: Vec<Cow<'a, str>> = rest[from..end].split(',').map(Cow::from).collect();
        if let [only] = hosts.as_mut_slice()
            && is_left_out(only)
            && has_host(behind)
        {
            *only = Cow::from(format!("{REPLACED}{only}"));
        }
        Self {
            before: &address[..start + from],
            hosts,
            behind,
        }
    }

    pub fn is_several(&self) -> bool {
        self.hosts.len() > 1
    }

    /// Returns the address of each host, in their order.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        let hosts = self.hosts.iter();
        hosts.map(|host| format!("{}{host}{}", self.before, self.behind))
    }

    /// Parses the address of the first host; `None` if it is no URL.
    pub fn first(&self) -> Option<Url> {
        Url::parse(&self.addresses().next()?).ok()
    }

    /// Returns the address that this changed URL of the first host stands for, with all hosts.
    pub fn with_all(&self, first: Url) -> String {
        let first = String::from(first);
        if !self.is_several() {
            return first;
        }
        let changed = HostList::of(&first);
        let hosts = self.hosts.join(",");
        format!("{}{hosts}{}", changed.before, changed.behind)
    }
}

/// Whether nothing stands where the host does, or only its port.
fn is_left_out(host: &str) -> bool {
    let port = host.strip_prefix(':').unwrap_or(host);
    port.is_empty() || port.len() < host.len() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a parameter has the host.
fn has_host(behind: &str) -> bool {
    let query = behind.split_once('?').map_or("", |(_, query)| query);
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    parameters.any(|(name, value)| OF_A_HOST.contains(&&*name) && !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_the_user_the_database_and_the_parameters() {
        for (address, each) in [
            ("postgres://h/db", &["postgres://h/db"][..]),
            ("postgres://u:a,b@h", &["postgres://u:a,b@h"]),
            ("postgres://h/a,b?host=c,d", &["postgres://h/a,b?host=c,d"]),
            ("sqlite:a,b.db", &["sqlite:a,b.db"]),
            ("sqlite://a,b.db", &["sqlite://a,b.db"]),
            ("redis://a:1,b:2", &["redis://a:1,b:2"]),
            ("postgresql://a,b", &["postgresql://a", "postgresql://b"]),
            (
                "postgres://u:p@h1:5432,[::1]:5433/db?sslmode=require",
                &[
                    "postgres://u:p@h1:5432/db?sslmode=require",
                    "postgres://u:p@[::1]:5433/db?sslmode=require",
                ],
            ),
            ("postgres://a,", &["postgres://a", "postgres://"]),
            ("postgres://?host=/run", &["postgres://localhost?host=/run"]),
            (
                "postgres://u:p@/db?sslmode=disable&host=/cloudsql/a:b:c",
                &["postgres://u:p@localhost/db?sslmode=disable&host=/cloudsql/a:b:c"],
            ),
            (
                "postgresql://:5433/db?hostaddr=::1",
                &["postgresql://localhost:5433/db?hostaddr=::1"],
            ),
            ("postgres:///db", &["postgres:///db"]),
            ("postgres:///db?host=", &["postgres:///db?host="]),
            ("postgres://::1/db?host=h", &["postgres://::1/db?host=h"]),
            ("postgres://a:/db?host=h", &["postgres://a:/db?host=h"]),
            (
                "postgres://,a/db?host=h",
                &["postgres:///db?host=h", "postgres://a/db?host=h"],
            ),
            ("redis://?host=h", &["redis://?host=h"]),
        ] {
            let found: Vec<String> = HostList::of(address).addresses().collect();
            assert_eq!(found, each, "{address}");
        }
    }

    #[test]
    fn what_is_changed_at_the_first_host_keeps_the_others() {
        let hosts = HostList::of("postgres://u:p@h1:1,h2:2/db?sslmode=require");
        let mut first = hosts.first().unwrap();
        first.set_path("other");
        assert_eq!(
            hosts.with_all(first),
            "postgres://u:p@h1:1,h2:2/other?sslmode=require"
        );
    }
}
