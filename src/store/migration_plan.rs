//! What each migration does and locks: `migrations/plan.toml`, compiled in.

use super::migrations;
use crate::ports::schema::{PendingMigration, TableLock};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::LazyLock;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    migration: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: i64,
    title: String,
    #[serde(default)]
    locks: Vec<Lock>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    statement: String,
    table: String,
    mode: String,
    #[serde(default)]
    own: bool,
}

#[expect(clippy::expect_used, reason = "compiled in, and read by a test")]
static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    toml::from_str(include_str!("../../migrations/plan.toml")).expect("a plan of the migrations")
});

/// The tables that a migration may lock.
pub(super) fn tables() -> Vec<String> {
    let locks = PLAN.migration.iter().flat_map(|entry| &entry.locks);
    let tables: BTreeSet<&String> = locks.map(|lock| &lock.table).collect();
    tables.into_iter().cloned().collect()
}

/// The migrations that are not applied, ascending, with their locks on tables that are `there`; of those that may be
/// another application's, only on `owned` ones.
pub(super) fn pending(
    applied: &BTreeSet<i64>,
    there: &[String],
    owned: &[String],
) -> Vec<PendingMigration> {
    let entries = PLAN.migration.iter();
    let left = entries.filter(|entry| !applied.contains(&entry.version));
    // The same in both databases.
    let sources = migrations::postgres();
    left.map(|entry| {
        let source = sources
            .iter()
            .find(|(version, ..)| *version == entry.version);
        let locks = entry.locks.iter().filter(|lock| {
            there.contains(&lock.table) && (!lock.own || owned.contains(&lock.table))
        });
        PendingMigration {
            version: entry.version,
            name: source.map_or_else(String::new, |(_, name, _)| (*name).to_owned()),
            title: entry.title.clone(),
            locks: locks
                .map(|lock| TableLock {
                    statement: lock.statement.clone(),
                    table: lock.table.clone(),
                    mode: lock.mode.clone(),
                })
                .collect(),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrations::{Source, WANTED_VERSION};

    fn dense(text: &str) -> String {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ")
    }

    #[test]
    fn every_migration_is_planned_and_every_statement_is_one_of_it() {
        let versions: Vec<i64> = PLAN.migration.iter().map(|entry| entry.version).collect();
        assert_eq!(versions, (1..=WANTED_VERSION).collect::<Vec<i64>>());
        let sources: Vec<Source> = migrations::postgres();
        let names = |sources: &[Source]| sources.iter().map(|s| s.1).collect::<Vec<_>>();
        assert_eq!(names(&sources), names(&migrations::sqlite()));
        for (entry, (version, name, sql)) in PLAN.migration.iter().zip(sources) {
            assert_eq!(entry.version, version);
            assert!(!entry.title.is_empty());
            for lock in &entry.locks {
                assert!(dense(sql).contains(&lock.statement), "{name}: {lock:?}");
            }
        }
    }

    #[test]
    fn what_is_applied_missing_or_not_its_own_is_not_locked() {
        let runs = ["operation_runs".to_owned()];
        let first: BTreeSet<i64> = (1..=7).collect();
        let locks = |there: &[String], owned: &[String]| {
            let planned = pending(&first, there, owned);
            assert_eq!(planned[0].version, 8);
            planned[0]
                .locks
                .iter()
                .map(|lock| lock.mode.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(locks(&[], &[]), Vec::<String>::new());
        assert_eq!(locks(&runs, &[]), Vec::<String>::new());
        assert_eq!(locks(&runs, &runs), ["SHARE"]);
        let all: BTreeSet<i64> = (1..=WANTED_VERSION).collect();
        assert_eq!(pending(&all, &runs, &runs), []);
    }
}
