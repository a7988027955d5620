//! The migrations, compiled in: one folder per kind of database, the same numbers in both.

use crate::ports::schema::Migrated;
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The version that this build needs.
pub(super) const WANTED_VERSION: i64 = 24;

macro_rules! migrations {
    ($folder:literal: $($version:literal $name:literal),+ $(,)?) => {
        vec![$((
            $version,
            $name,
            include_str!(concat!("../../migrations/", $folder, "/", $name, ".sql")),
        )),+]
    };
}

/// Stands before the guards in a migration that also changes rows.
const AGAIN: &str = "-- `verifyd migrate --enforce` runs what follows again.";

/// The guards of a SQLite file. They may be applied again.
pub(super) fn sqlite_guards() -> [&'static str; 4] {
    let members = include_str!("../../migrations/sqlite/0022_repeated_members.sql");
    [
        include_str!("../../migrations/sqlite/0015_old_libraries.sql"),
        include_str!("../../migrations/sqlite/0017_unclaimed_contexts.sql"),
        include_str!("../../migrations/sqlite/0020_audit_ids.sql"),
        members
            .split_once(AGAIN)
            .map_or(members, |(_, guards)| guards),
    ]
}

/// Whether a guard of a SQLite file raises this text.
pub(super) fn sqlite_raises(text: &str) -> bool {
    let raised = format!("RAISE(ABORT, '{text}')");
    sqlite().iter().any(|(.., sql)| sql.contains(&raised))
}

pub(super) type Source = (i64, &'static str, &'static str);

pub(super) fn postgres() -> Vec<Source> {
    migrations!(
        "postgres": 1 "0001_verifyd_state", 2 "0002_application_tables", 3 "0003_guards",
        4 "0004_access", 5 "0005_acknowledgements", 6 "0006_notices",
        7 "0007_inventory_digest", 8 "0008_turns",
        9 "0009_workspace", 10 "0010_context_size", 11 "0011_acknowledgement_actors",
        12 "0012_webhook_circuits", 13 "0013_earlier_runs", 14 "0014_connection_facts",
        15 "0015_old_libraries", 16 "0016_kept_answers", 17 "0017_unclaimed_contexts",
        18 "0018_sweep_lock", 19 "0019_audit_entries", 20 "0020_audit_ids",
        21 "0021_provider_budgets", 22 "0022_repeated_members", 23 "0023_attempt_causes",
        24 "0024_refusals"
    )
}

pub(super) fn sqlite() -> Vec<Source> {
    migrations!(
        "sqlite": 1 "0001_verifyd_state", 2 "0002_application_tables", 3 "0003_guards",
        4 "0004_access", 5 "0005_acknowledgements", 6 "0006_notices",
        7 "0007_inventory_digest", 8 "0008_turns",
        9 "0009_workspace", 10 "0010_context_size", 11 "0011_acknowledgement_actors",
        12 "0012_webhook_circuits", 13 "0013_earlier_runs", 14 "0014_connection_facts",
        15 "0015_old_libraries", 16 "0016_kept_answers", 17 "0017_unclaimed_contexts",
        18 "0018_sweep_lock", 19 "0019_audit_entries", 20 "0020_audit_ids",
        21 "0021_provider_budgets", 22 "0022_repeated_members", 23 "0023_attempt_causes",
        24 "0024_refusals"
    )
}

/// Logs the migrations that were applied now, by their names, which begin with their numbers.
pub(super) fn log_applied(sources: &[Source], migrated: &Migrated) {
    let names: Vec<&str> = sources
        .iter()
        .filter(|(version, ..)| migrated.applied.contains(version))
        .map(|(_, name, _)| *name)
        .collect();
    if !names.is_empty() {
        tracing::info!(migrations = names.join(", "), "migrations applied");
    }
}

/// A migrator that takes no lock of its own: both kinds run it inside one transaction that holds
/// one. (The migrator's own lock belongs to the session, which a transaction pooler shares out, and
/// does not exist for SQLite.)
pub(super) fn migrator(sources: Vec<Source>, table: &'static str) -> Migrator {
    let mut migrator = Migrator::with_migrations(
        sources
            .into_iter()
            .map(|(version, name, sql)| {
                Migration::new(
                    version,
                    name.into(),
                    MigrationType::Simple,
                    sql.into_sql_str(),
                    false,
                )
            })
            .collect(),
    );
    migrator.set_locking(false);
    migrator.dangerous_set_table_name(table);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &str) -> Vec<String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("migrations")
            .join(folder);
        let mut names: Vec<String> = std::fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_file_is_compiled_in_under_the_same_number_for_both() {
        for (folder, sources) in [("postgres", postgres()), ("sqlite", sqlite())] {
            let compiled: Vec<String> = sources.iter().map(|s| format!("{}.sql", s.1)).collect();
            assert_eq!(compiled, files(folder), "{folder}");
            for (version, name, _) in &sources {
                assert_eq!(
                    name.split('_').next().unwrap().parse::<i64>().unwrap(),
                    *version
                );
            }
            assert_eq!(sources.last().unwrap().0, WANTED_VERSION);
        }
        assert_eq!(files("postgres"), files("sqlite"));
    }
}
