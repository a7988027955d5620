//! `migrate --plan` names every lock that a migration takes on a table that is there before: each migration runs in a
//! transaction of its own, and `pg_locks` is compared with the plan.

use crate::store::bed::Bed;
use crate::store::migrate_beside_another_application::beside;
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use std::path::Path;

/// The tables of everybody but the server itself.
const TABLES: &str = "
    SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// What this session locks of these tables.
const LOCKS: &str = "
    SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname, l.mode
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
      AND c.oid::bigint = ANY($1)";

/// From the weakest to the strongest, as the view and as the manual name them.
const MODES: [(&str, &str); 8] = [
    ("AccessShareLock", "ACCESS SHARE"),
    ("RowShareLock", "ROW SHARE"),
    ("RowExclusiveLock", "ROW EXCLUSIVE"),
    ("ShareUpdateExclusiveLock", "SHARE UPDATE EXCLUSIVE"),
    ("ShareLock", "SHARE"),
    ("ShareRowExclusiveLock", "SHARE ROW EXCLUSIVE"),
    ("ExclusiveLock", "EXCLUSIVE"),
    ("AccessExclusiveLock", "ACCESS EXCLUSIVE"),
];

/// The strongest lock of each table, as a place in the list.
fn strongest(locks: impl Iterator<Item = (String, String)>) -> BTreeMap<String, usize> {
    let mut strongest = BTreeMap::new();
    for (table, mode) in locks {
        let place = MODES
            .iter()
            .position(|(view, manual)| mode == *view || mode == *manual);
        let place = place.unwrap_or_else(|| panic!("no mode {mode}"));
        let known = strongest.entry(table).or_insert(place);
        *known = place.max(*known);
    }
    strongest
}

/// Applies one migration after the other, each planned and watched.
async fn assert_planned(bed: &Bed) {
    bed.exec("CREATE SCHEMA verifyd").await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    for (file, version) in files.iter().zip(1_i64..) {
        let planned = bed.store.pending_migrations().await.unwrap();
        let planned = planned.iter().find(|planned| planned.version == version);
        let planned = planned.unwrap_or_else(|| panic!("{version} is not planned"));
        let there: Vec<i64> = sqlx::query_scalar(TABLES)
            .fetch_all(bed.pg())
            .await
            .unwrap();
        let mut tx = bed.pg().begin().await.unwrap();
        let sql = std::fs::read_to_string(file).unwrap();
        // As `migrate` does, whatever the role is called.
        let sql = format!("SET LOCAL search_path TO public; {sql}");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *tx)
            .await
            .unwrap();
        let taken: Vec<(String, String)> = sqlx::query_as(LOCKS)
            .bind(there)
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let locks = planned.locks.iter();
        let planned = locks.map(|lock| (lock.table.clone(), lock.mode.clone()));
        assert_eq!(
            strongest(planned),
            strongest(taken.into_iter()),
            "migration {version}"
        );
    }
    assert!(files.len() >= 17);
}

#[tokio::test]
async fn a_plan_names_every_lock_on_tables_that_verifyd_made() {
    assert_planned(&Bed::empty_postgres().await).await;
}

#[tokio::test]
async fn a_plan_names_every_lock_beside_another_application() {
    assert_planned(&beside().await).await;
}

#[tokio::test]
async fn a_plan_changes_nothing_and_is_empty_after_migrate() {
    let bed = Bed::empty_postgres().await;
    let wanted = bed.store.wanted_schema_version();
    let planned = bed.store.pending_migrations().await.unwrap();
    let versions: Vec<i64> = planned.iter().map(|planned| planned.version).collect();
    assert_eq!(versions, (1..=wanted).collect::<Vec<i64>>());
    assert!(planned.iter().all(|planned| planned.locks.is_empty()));
    assert_eq!(bed.store.schema_version().await.unwrap(), None);
    bed.store.migrate().await.unwrap();
    assert_eq!(bed.store.pending_migrations().await.unwrap(), []);
}
