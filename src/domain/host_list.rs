//! Takes the hosts of PostgreSQL's address apart: `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/…`, which is no URL.

use url::Url;

/// How an address begins that may have several hosts. In any other one a comma is a part of a name.
const BEGINNINGS: [&str; 2] = ["postgres://", "postgresql://"];

/// An address with one host or several.
pub struct HostList<'a> {
    before: &'a str,
    hosts: Vec<&'a str>,
    behind: &'a str,
}

impl<'a> HostList<'a> {
    /// Splits the address at the commas between its hosts. No host has one; user and password may.
    pub fn of(address: &'a str) -> Self {
        let mut beginnings = BEGINNINGS.iter();
        let start = beginnings
            .find(|beginning| address.starts_with(**beginning))
            .map_or(address.len(), |beginning| beginning.len());
        let rest = &address[start..];
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let from = rest[..end].rfind('@').map_or(0, |at| at + 1);
        Self {
            before: &address[..start + from],
            hosts: rest[from..end].split(',').collect(),
            behind: &rest[end..],
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
