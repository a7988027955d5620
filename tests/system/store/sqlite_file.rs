//! SQLite: the file itself.

use crate::store::bed::{Bed, settings};
use verifyd::ports::store::StoreError;

#[cfg(unix)]
#[tokio::test]
async fn the_file_and_its_companions_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::sqlite().await;
    bed.queued().await;
    let file = bed.url().strip_prefix("sqlite:").unwrap().to_owned();
    for suffix in ["", "-wal", "-shm"] {
        let mode = std::fs::metadata(format!("{file}{suffix}"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    for url in [
        "sqlite::memory:",
        "sqlite://",
        "sqlite:x.db?mode=memory",
        "sqlite:x.db?colour=red",
    ] {
        let error = verifyd::store::connect(&settings(url)).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{url}: {error}");
        assert!(error.to_string().contains("sqlite:FILE"), "{url}: {error}");
    }
    assert!(!std::path::Path::new("x.db").exists());
    let nowhere = "sqlite:/nowhere/at/all/verifyd.db";
    let error = verifyd::store::connect(&settings(nowhere))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/at/all/verifyd.db"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_of_another_application_is_refused_and_left_alone() {
    let bed = Bed::sqlite().await.empty_sibling().await;
    bed.exec("CREATE TABLE tenants (id INTEGER PRIMARY KEY)")
        .await;
    let error = bed.store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::Schema(_)), "{error}");
    assert!(error.to_string().contains("tenants"), "{error}");
    assert_eq!(bed.count("sqlite_master").await, 1);
    assert_eq!(bed.store.schema_version().await.unwrap(), None);
}
