//! SQLite: the file itself.

use crate::store::bed::{Bed, settings};
use crate::store::fixtures::succeeded;
use std::collections::BTreeSet;
use verifyd::domain::ConnectionId;
use verifyd::domain::completion::Completion;
use verifyd::ports::store::StoreError;

/// What the schema may call: all of it is in SQLite 3.37, and STRICT tables are in no older version.
const FUNCTIONS: [&str; 14] = [
    "cast",
    "coalesce",
    "count",
    "json_each",
    "json_extract",
    "json_set",
    "json_type",
    "json_valid",
    "length",
    "max",
    "nullif",
    "printf",
    "raise",
    "strftime",
];

/// Words before a parenthesis that are no calls.
const KEYWORDS: [&str; 10] = [
    "and", "check", "default", "exists", "in", "is", "key", "not", "or", "when",
];

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
    for (url, words) in [
        ("sqlite::memory:", "sqlite:FILE"),
        ("sqlite://", "sqlite:FILE"),
        ("sqlite:x.db?mode=memory", "sqlite:FILE"),
        (
            "sqlite:x.db?colour=red",
            "the parameter \"colour\" is not known",
        ),
        (
            "sqlite:x.db?vfs=nope",
            "the parameter vfs has another value",
        ),
        ("sqlite:x.db?vfs=unix-none", "share the file"),
        ("sqlite:x.db?mode=ro", "verifyd writes the file"),
        ("sqlite:x.db?immutable=1", "verifyd writes the file"),
    ] {
        let error = verifyd::store::connect(&settings(url)).await.unwrap_err();
        assert!(matches!(error, StoreError::Settings(_)), "{url}: {error}");
        assert!(error.to_string().contains(words), "{url}: {error}");
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
    // As `doctor` sees it, too.
    let error = bed.store.schema_version().await.unwrap_err();
    assert!(error.to_string().contains("tenants"), "{error}");
}

/// SQLite's own functions read a number as a day, and `now` as any time.
#[tokio::test]
async fn what_only_sqlite_reads_is_no_time() {
    let bed = Bed::sqlite().await;
    let connection = ConnectionId(1);
    let run = bed
        .completed(&Completion {
            connection: Some(connection),
            ..succeeded()
        })
        .await;
    let latest = async || bed.store.latest_report(connection).await.unwrap();
    assert!(latest().await.is_some());
    bed.unguard().await;
    // The same moment in both forms.
    bed.exec("UPDATE verifyd_latest_reports SET completed_at = '2025-11-20T12:00:00.000Z'")
        .await;
    bed.save(run, "completed_at = '2025-11-20 12:00'").await;
    assert!(latest().await.is_some());
    bed.save(run, "completed_at = '2461000'").await;
    assert_eq!(latest().await, None);

    let connection = bed.connection_with(7, "sealed").await;
    bed.exec("UPDATE provider_credentials SET expires_at = 'now'")
        .await;
    bed.set_credential(connection, "sealed again").await;
    let before = "SELECT \"before\" FROM verifyd_audit_entries ORDER BY id DESC LIMIT 1";
    let before = bed.text(before).await;
    assert!(before.contains("\"expires_at\":null"), "{before}");
}

/// Whoever writes the file with another library runs its triggers and computes its indexes with that.
#[tokio::test]
async fn producers_need_no_newer_library_than_3_37() {
    let bed = Bed::sqlite().await;
    let schema = bed.text("SELECT group_concat(sql, char(10)) FROM sqlite_master");
    let schema = schema.await;
    let lines = schema.lines().map(|line| line.split("--").next().unwrap());
    let code = lines.collect::<Vec<_>>().join("\n");
    // Without what is quoted.
    let code = code.split('\'').step_by(2).collect::<Vec<_>>().join("''");
    let code = code.to_lowercase();
    for operator in ["->", "distinct from"] {
        assert!(!code.contains(operator), "{operator}: {code}");
    }
    let names = bed.text("SELECT group_concat(name, ' ') FROM sqlite_master");
    let names = names.await;
    let known: BTreeSet<&str> = names.split(' ').chain(FUNCTIONS).chain(KEYWORDS).collect();
    let is_no_word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let called = code.match_indices('(').map(|(at, _)| {
        let before = code[..at].trim_end();
        before.rsplit(is_no_word).next().unwrap()
    });
    let called: BTreeSet<&str> = called.filter(|word| !word.is_empty()).collect();
    assert!(called.contains("json_extract"), "{called:?}");
    let newer: Vec<&&str> = called.difference(&known).collect();
    assert!(newer.is_empty(), "{newer:?}");
}
