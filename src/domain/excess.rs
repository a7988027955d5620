//! Excess: granted permissions beyond the required ones.

use super::permission::RequiredPermission;
use std::collections::{BTreeMap, BTreeSet};

/// Permissions beyond the required ones. Sorted, so that equal grants give equal findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excess {
    /// Granted permissions that nothing needs.
    pub unneeded: BTreeSet<String>,
    /// Granted permissions that stand in for required ones, with the ones that would suffice.
    pub broader: BTreeMap<String, BTreeSet<String>>,
}

impl Excess {
    /// Compares the keys that are granted with everything that is required of the connection.
    ///
    /// What is required by its own name is needed. Where a required permission is not granted itself, the
    /// permission that stands in for it is needed, but broader; one that is needed anyway comes first.
    pub fn of<'r>(
        granted: &BTreeSet<String>,
        required: impl IntoIterator<Item = &'r RequiredPermission>,
    ) -> Self {
        let required: BTreeMap<&str, &RequiredPermission> = required
            .into_iter()
            .map(|permission| (permission.key.as_str(), permission))
            .collect();
        let mut needed: BTreeSet<&str> = required
            .keys()
            .copied()
            .filter(|key| granted.contains(*key))
            .collect();
        let mut broader: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (key, permission) in &required {
            let stand_ins = || permission.satisfied_by.iter().map(String::as_str);
            if needed.contains(key)
                || stand_ins().any(|name| required.contains_key(name) && needed.contains(name))
            {
                continue;
            }
            let taken = stand_ins()
                .find(|name| needed.contains(name))
                .or_else(|| stand_ins().find(|name| granted.contains(*name)));
            if let Some(name) = taken {
                needed.insert(name);
                broader
                    .entry(name.to_owned())
                    .or_default()
                    .insert((*key).to_owned());
            }
        }
        for instead in broader.values_mut() {
            // One that includes another of them is enough for both.
            let all = instead.clone();
            instead.retain(|key| {
                let stand_ins = required.get(key.as_str()).map(|p| &p.satisfied_by);
                !stand_ins.is_some_and(|names| names.iter().any(|name| all.contains(name)))
            });
        }
        Self {
            unneeded: granted
                .iter()
                .filter(|key| !needed.contains(key.as_str()))
                .cloned()
                .collect(),
            broader,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.unneeded.is_empty() && self.broader.is_empty()
    }

    /// Returns the number of granted permissions beyond the required ones.
    pub fn len(&self) -> usize {
        self.unneeded.len() + self.broader.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(key: &str, satisfied_by: &[&str]) -> RequiredPermission {
        RequiredPermission {
            key: key.to_owned(),
            resource: None,
            app_role_id: None,
            blocking: false,
            needed_for: String::new(),
            satisfied_by: satisfied_by.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_is_required_is_no_excess_and_the_rest_is() {
        let module = [required("Org.Read", &["Dir.Read", "Dir.Write"])];
        let found = Excess::of(&set(&["Org.Read"]), &module);
        assert!(found.is_empty());
        let found = Excess::of(&set(&["Org.Read", "Dir.Write", "Mail.Send"]), &module);
        assert_eq!(found.unneeded, set(&["Dir.Write", "Mail.Send"]));
        assert!(found.broader.is_empty());
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_stand_in_is_told_with_what_would_do() {
        let module = [
            required("Org.Read", &["Org.Write", "Dir.Read", "Dir.Write"]),
            required("Dir.Read", &["Dir.Write"]),
            required("App.Read", &["App.Write", "Dir.Read", "Dir.Write"]),
        ];
        let found = Excess::of(&set(&["Dir.Write"]), &module);
        assert_eq!(found.unneeded, set(&[]));
        assert_eq!(
            found.broader,
            [("Dir.Write".to_owned(), set(&["Dir.Read"]))].into(),
            "Dir.Read includes the other two"
        );
        // Dir.Read is required by its own name and includes the others.
        let found = Excess::of(&set(&["Dir.Read", "Org.Write"]), &module);
        assert_eq!(found.unneeded, set(&["Org.Write"]));
        assert!(found.broader.is_empty());
    }

    #[test]
    fn what_is_needed_anyway_stands_in_first() {
        // Dir.Write stands in for 0.Read already, so A.Write is not needed.
        let module = [
            required("A.Read", &["A.Write", "Dir.Write"]),
            required("0.Read", &["Dir.Write"]),
        ];
        let found = Excess::of(&set(&["Dir.Write", "A.Write"]), &module);
        assert_eq!(found.unneeded, set(&["A.Write"]));
        assert_eq!(
            found.broader,
            [("Dir.Write".to_owned(), set(&["0.Read", "A.Read"]))].into()
        );
    }

    #[test]
    fn of_several_stand_ins_one_is_needed() {
        let module = [required("A.Read", &["A.Write", "Dir.Write"])];
        let found = Excess::of(&set(&["Dir.Write", "A.Write"]), &module);
        assert_eq!(found.unneeded, set(&["Dir.Write"]));
        assert_eq!(
            found.broader,
            [("A.Write".to_owned(), set(&["A.Read"]))].into()
        );
        // Nothing is granted that satisfies it: nothing is needed of what is there.
        assert_eq!(Excess::of(&set(&["X"]), &module).unneeded, set(&["X"]));
    }
}
