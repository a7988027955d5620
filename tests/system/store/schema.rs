//! Migrations and what `inspect` finds.

use crate::store::bed::Bed;
use crate::store::fixtures::at_once;

pub async fn migrate_is_repeatable(bed: &Bed) {
    let empty = bed.empty_sibling().await;
    let first = empty.store.migrate().await.unwrap();
    let wanted = empty.store.wanted_schema_version();
    assert_eq!(first.applied, (1..=wanted).collect::<Vec<i64>>());
    assert_eq!(first.version, wanted);
    assert_eq!(first.foreign, Vec::<String>::new());
    for table in [
        "operation_runs",
        "tenants",
        "run_attempts",
        "tenant_inventory",
    ] {
        assert!(
            first.owned.iter().any(|t| t.ends_with(table)),
            "{table}: {:?}",
            first.owned
        );
    }
    let run = empty.queued().await;
    let second = empty.store.migrate().await.unwrap();
    assert_eq!(second.applied, Vec::<i64>::new());
    assert_eq!((second.version, &second.owned), (wanted, &first.owned));
    assert!(empty.store.run(run).await.unwrap().is_some());
}

pub async fn two_processes_may_migrate_at_once(bed: &Bed) {
    let empty = bed.empty_sibling().await;
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(empty.replica().await);
    }
    let migrated = at_once(&stores, 4, |store, _| async move { store.migrate().await });
    let migrated = migrated.await.into_iter().map(Result::unwrap);
    let applied: Vec<i64> = migrated.flat_map(|migrated| migrated.applied).collect();
    let wanted = bed.store.wanted_schema_version();
    assert_eq!(applied, (1..=wanted).collect::<Vec<i64>>());
}

pub async fn a_fresh_database_has_no_version(bed: &Bed) {
    let empty = bed.empty_sibling().await;
    assert_eq!(empty.store.schema_version().await.unwrap(), None);
    let version = bed.store.schema_version().await.unwrap();
    let wanted = bed.store.wanted_schema_version();
    assert_eq!(version, Some(wanted));
    let applied = bed.store.applied_migrations().await.unwrap();
    assert_eq!(applied, (1..=wanted).collect::<Vec<i64>>());
}

pub async fn a_migrated_schema_fits(bed: &Bed) {
    assert_eq!(bed.store.inspect().await.unwrap(), []);
}

pub async fn an_empty_database_lacks_every_table(bed: &Bed) {
    let empty = bed.empty_sibling().await;
    let findings = empty.store.inspect().await.unwrap();
    for table in [
        "operation_runs",
        "provider_connections",
        "run_attempts",
        "workers",
    ] {
        let found = findings
            .iter()
            .find(|f| f.subject.ends_with(table))
            .unwrap();
        assert!(found.fatal);
        assert_eq!(found.problem, "the table is missing");
        assert!(found.remedy.contains("verifyd migrate"));
    }
}

pub async fn sizes_of_tables_are_known(bed: &Bed) {
    bed.queued().await;
    let sizes = bed.store.table_sizes().await.unwrap();
    for table in ["operation_runs", "tenants", "run_attempts"] {
        let found = sizes.iter().find(|size| size.table.ends_with(table));
        assert!(found.is_some_and(|size| size.bytes > 0), "{sizes:?}");
    }
    assert!(sizes.is_sorted_by(|a, b| a.bytes >= b.bytes), "{sizes:?}");
}

pub async fn ping_names_the_server(bed: &Bed) {
    let version = bed.store.ping().await.unwrap();
    assert!(
        version.starts_with(|c: char| c.is_ascii_digit()),
        "{version}"
    );
    assert!(["postgres", "sqlite"].contains(&bed.store.kind()));
    bed.store.close().await;
    assert!(bed.store.ping().await.unwrap_err().is_transient());
}
