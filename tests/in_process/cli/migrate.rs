//! `migrate --plan` on the embedded database.

use super::{Desk, assert_holds, finish, json as parsed, stderr, stdout};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_lists_what_is_pending_and_creates_no_file() {
    let desk = Desk::new().await;
    let plan = desk.json("migrate --plan --json");
    assert_eq!(plan["database"], "sqlite");
    assert_eq!(plan["version"], Value::Null);
    let pending = plan["pending"].as_array().unwrap().len();
    assert!(pending >= 17, "{plan}");
    assert_eq!(plan["pending"][0]["locks"], json!([]));
    let shown = stdout(&desk.ends("migrate --plan", 0));
    let first = format!("schema version none (sqlite), {pending} migrations to apply");
    assert_holds(&shown, &first);
    assert_eq!(plan["pending"][0]["name"], "0001_verifyd_state");
    assert_holds(&shown, "  0001_verifyd_state: attempts, workers");
    let files = std::fs::read_dir(desk.folder.path()).unwrap();
    assert_eq!(files.count(), 0);

    desk.ends("migrate", 0);
    let plan = desk.json("migrate --plan --json");
    assert_eq!(plan["version"], pending);
    assert_eq!(plan["pending"], json!([]));
    desk.ends("migrate --plan --enforce", 2);
    let plan = desk.json("migrate --plan --partition-by-month --json");
    let none = "SQLite has no partitions";
    assert_eq!(plan["partitioning"]["obstacles"], json!([none]));
    let refused = desk.ends("migrate --partition-by-month", 1);
    assert_holds(&stderr(&refused), none);
}

/// What the command leaves that is to use this file.
fn with_file(desk: &Desk, file: &Path, line: &str) -> Output {
    let mut command = desk.command(line);
    command.env("DATABASE_URL", format!("sqlite:{}", file.display()));
    finish(command, "")
}

/// A file with a table of another application.
async fn theirs(file: &Path, table: &'static str) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file);
    let mut theirs = options.create_if_missing(true).connect().await.unwrap();
    theirs.execute(table).await.unwrap();
    theirs
}

/// All files of a folder, but for the shared memory, and what they hold.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| !path.display().to_string().ends_with("-shm"))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_application_is_never_changed() {
    const RUNS: &str = "CREATE TABLE operation_runs (id INTEGER PRIMARY KEY)";
    let desk = Desk::new().await;
    let folder = desk.folder.path().join("theirs");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("app.db");
    theirs(&file, RUNS).await.close().await.unwrap();
    // As a process leaves it that was killed: what it wrote last is in the write-ahead log.
    let open = desk.folder.path().join("open.db");
    let mut killed = theirs(&open, "PRAGMA journal_mode = WAL").await;
    killed.execute(RUNS).await.unwrap();
    for ending in ["", "-wal"] {
        let from = desk.folder.path().join(format!("open.db{ending}"));
        std::fs::copy(from, folder.join(format!("killed.db{ending}"))).unwrap();
    }
    killed.close().await.unwrap();
    let before = content(&folder);
    assert_eq!(before.len(), 3);
    for file in [file, folder.join("killed.db")] {
        for line in ["migrate --plan", "migrate", "tokens list"] {
            let output = with_file(&desk, &file, line);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{line}: {said}");
            assert_holds(&said, "tables of another application: operation_runs");
            assert!(content(&folder) == before, "{line}: {}", file.display());
        }
    }
}

/// Nothing tells that the file is another application's: a plan is made before it becomes verifyd's.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_no_file() {
    let desk = Desk::new().await;
    let folder = desk.folder.path().join("theirs");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("notes.db");
    let made = theirs(&file, "CREATE TABLE notes (id INTEGER PRIMARY KEY)").await;
    made.close().await.unwrap();
    let before = content(&folder);
    let plan = parsed(&with_file(&desk, &file, "migrate --plan --json"));
    assert_eq!(plan["version"], Value::Null);
    assert!(content(&folder) == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_migrate_makes_another_applications_file_its_own() {
    let desk = Desk::new().await;
    let folder = desk.folder.path().join("theirs");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("notes.db");
    let notes = "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT)";
    theirs(&file, notes).await.close().await.unwrap();
    let before = content(&folder);
    let create = "tokens create --name x --scope read";
    for line in ["runs list", create, "serve", "doctor"] {
        let output = with_file(&desk, &file, line);
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert_holds(&said, "none of verifyd's: notes");
        assert_holds(&said, "run `verifyd migrate` if that file");
        assert!(content(&folder) == before, "{line}");
    }
    let done = |line: &str| {
        let output = with_file(&desk, &file, line);
        assert!(output.status.success(), "{line}: {}", stderr(&output));
    };
    done("migrate");
    done(create);
    // It goes on beside verifyd.
    let mut shared = theirs(&file, "INSERT INTO notes DEFAULT VALUES").await;
    let more = "CREATE TABLE more_notes (id INTEGER PRIMARY KEY)";
    shared.execute(more).await.unwrap();
    shared.close().await.unwrap();
    done("migrate");
    done("runs list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_only_be_read_is_planned() {
    let desk = Desk::new().await;
    let folder = desk.folder.path().join("read");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("verifyd.db");
    let migrated = with_file(&desk, &file, "migrate");
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    let before = content(&folder);
    let may = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    may(&file, 0o444);
    may(&folder, 0o555);
    let output = with_file(&desk, &file, "migrate --plan --json");
    may(&folder, 0o755);
    let plan = parsed(&output);
    assert!(plan["version"].is_i64(), "{plan}");
    assert_eq!(plan["pending"], json!([]));
    assert!(content(&folder) == before);
}
