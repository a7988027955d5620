//! `doctor`, `migrate` and `config` before anything is there.

use super::{Desk, assert_holds, finish, stderr, stdout};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use test_support::tls_identity::Identity;

#[tokio::test(flavor = "multi_thread")]
async fn doctor_and_config_on_the_embedded_default() {
    let desk = Desk::new().await;
    // `serve` would create the file and its key itself. Another user may run `doctor`, whose they would be.
    let before = desk.json("doctor --json");
    let parts = before["parts"].as_array().unwrap();
    let database = parts.iter().find(|part| part["part"] == "database");
    let database = database.unwrap();
    assert_eq!(database["state"], "warning");
    assert_holds(database["remedy"].as_str().unwrap(), "verifyd migrate");
    desk.ends("support-bundle --output bundle", 0);
    let left = std::fs::read_dir(desk.folder.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["bundle"]);
    for line in [
        "runs list",
        "runs show 1",
        "connections list",
        "connections disable 1",
        "enqueue --connection 1",
        "acknowledgements list",
        "onboarding show 1",
        "webhooks list",
        "tokens list",
        "prune --older-than 1d",
    ] {
        let said = stderr(&desk.ends(line, 1));
        let database = desk.folder.path().canonicalize().unwrap();
        let database = database.join("verifyd.db");
        let wanted = format!("there is no database at {}", database.display());
        assert!(said.contains(&wanted), "{line}: {said}");
        assert_holds(&said, "`verifyd migrate`");
    }
    // 1 would mean that connections break.
    desk.ends("plan --module intune", 2);
    let left = std::fs::read_dir(desk.folder.path()).unwrap();
    assert_eq!(left.count(), 1);
    let migrated = desk.json("migrate --json");
    assert!(!migrated["applied"].as_array().unwrap().is_empty());
    let again = desk.json("migrate --json");
    assert_eq!(again["applied"], serde_json::json!([]));
    let after = desk.run("doctor");
    assert!(after.status.success(), "{}", stdout(&after));
    for part in [
        "version", "config", "database", "schema", "guards", "queue", "keys", "runs",
    ] {
        assert_holds(&stdout(&after), part);
    }
    let enforced = desk.json("migrate --enforce --json");
    assert_eq!(enforced["guards"]["added"], serde_json::json!([]));
    assert_eq!(
        enforced["guards"]["in_place"][0],
        "verifyd_guard_completed_run"
    );
    let printed = desk.json("config print --json");
    assert_eq!(printed["worker.concurrency"]["value"], 64);
    let default = desk.run("config default");
    assert!(stdout(&default).contains("[database]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_that_cannot_be_opened_has_a_remedy_of_its_own() {
    let desk = Desk::new().await;
    let text = desk.folder.path().join("text");
    std::fs::write(&text, "no database ".repeat(1000)).unwrap();
    for (path, found, remedy) in [
        ("missing/verifyd.db", "No such file", "create the folder"),
        ("text", "not a database", "name a file of SQLite"),
    ] {
        let with_path = |line: &str| {
            let mut command = desk.command(line);
            command.env("DATABASE_URL", format!("sqlite:{path}"));
            finish(command, "")
        };
        let doctor = with_path("doctor");
        assert_eq!(doctor.status.code(), Some(1), "{}", stdout(&doctor));
        assert_holds(&stdout(&doctor), found);
        assert_holds(&stdout(&doctor), remedy);
        let serve = with_path("serve");
        assert_eq!(serve.status.code(), Some(1), "{}", stderr(&serve));
        assert_holds(&stderr(&serve), remedy);
    }
}

/// A command that ends some time and is bound by the modes of files, which root is not.
fn bound_by_modes(desk: &Desk, line: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg("300");
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        let rights = "--bounding-set=-dac_override,-dac_read_search";
        command.args(["setpriv", rights, "--"]);
    }
    command.arg(env!("CARGO_BIN_EXE_verifyd"));
    desk.prepared(command, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_from_a_file_that_may_only_be_read() {
    let desk = Desk::new().await;
    let folder = desk.folder.path().join("data");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("verifyd.db");
    let with_file = |mut command: Command| {
        command.env("DATABASE_URL", format!("sqlite:{}", file.display()));
        finish(command, "")
    };
    let migrated = with_file(desk.command("migrate"));
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    let may = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    for (of_file, of_folder) in [(0o444, 0o755), (0o644, 0o555), (0o444, 0o555)] {
        may(&file, of_file);
        may(&folder, of_folder);
        let serve = with_file(bound_by_modes(&desk, "serve"));
        let doctor = with_file(bound_by_modes(&desk, "doctor"));
        let migrate = with_file(bound_by_modes(&desk, "migrate"));
        may(&folder, 0o755);
        // Of a process that could only read.
        for ending in ["wal", "shm"] {
            let _ = std::fs::remove_file(folder.join(format!("verifyd.db-{ending}")));
        }
        let told = [
            (serve.status, stderr(&serve)),
            (doctor.status, stdout(&doctor)),
        ];
        for (status, told) in told {
            assert_eq!(status.code(), Some(1), "{of_file:o} {of_folder:o}: {told}");
            assert_holds(&told, &format!("the file {} cannot be ", file.display()));
            assert_holds(&told, "a file that this user may write");
        }
        let told = format!("{}{}", stdout(&migrate), stderr(&migrate));
        assert_holds(&told, &format!("the file {} cannot be ", file.display()));
        assert!(!told.contains("role"), "{told}");
        // Nothing is left to migrate, and another user may run `serve`.
        if migrate.status.success() {
            assert_holds(&told, "`doctor` as the user of `serve`");
        }
    }
}

/// Heartbeats wait for the lock, too.
#[tokio::test(flavor = "multi_thread")]
async fn no_worker_seems_alive_whose_file_is_locked() {
    let desk = Desk::new().await;
    desk.ends("migrate", 0);
    let options = SqliteConnectOptions::new().filename(desk.folder.path().join("verifyd.db"));
    let mut other = options.connect().await.unwrap();
    let queued = "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context)
                  VALUES (1, 1, 'provider.connection.check', 'queued', '{}')";
    other.execute(queued).await.unwrap();
    let remedy = || {
        let mut command = desk.command("doctor --json");
        command.env("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "6s");
        let report: Value = serde_json::from_slice(&finish(command, "").stdout).unwrap();
        let mut parts = report["parts"].as_array().unwrap().iter();
        let runs = parts.find(|line| line["part"] == "runs").unwrap();
        runs["remedy"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(remedy(), "start `verifyd serve`");
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    assert_holds(&remedy(), "heartbeats cannot be written either");
    other.execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_cannot_reach_or_bind_has_the_remedy_of_doctor() {
    let desk = Desk::new().await;
    for (line, code) in [("runs list", 1), ("plan --module health_check", 2)] {
        let mut command = desk.command(line);
        command.env("DATABASE_URL", "postgres://u:s3cr3t@127.0.0.1:1/app");
        let output = finish(command, "");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert_holds(&said, "→ check database.url (DATABASE_URL), and that");
        assert!(!said.contains("s3cr3t"), "{said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let serve = format!("serve --listen {}", taken.local_addr().unwrap());
    let said = stderr(&desk.ends(&serve, 1));
    assert_holds(&said, "set http.listen to another port");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_authorities_are_read_before_redis_is_asked() {
    let desk = Desk::new().await;
    let file = desk.folder.path().join("authorities.pem");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&file, broken).unwrap();
    let mut command = desk.command("doctor --json");
    command
        .env("REDIS_URL", "rediss://127.0.0.1:1")
        .env("SSL_CERT_FILE", &file);
    let report: Value = serde_json::from_slice(&finish(command, "").stdout).unwrap();
    // Another part says the same of calls to the outside.
    let mut parts = report["parts"].as_array().unwrap().iter();
    let queue = parts.find(|line| line["part"] == "queue").unwrap();
    assert_holds(
        queue["found"].as_str().unwrap(),
        "of the variable SSL_CERT_FILE holds a certificate that cannot be parsed",
    );
    assert_holds(
        queue["remedy"].as_str().unwrap(),
        "let what is named lead to files of PEM",
    );
}

/// TLS would skip it, and every call end as `tls_failed`.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_authorities_are_read_before_anything_is_called() {
    let desk = Desk::new().await;
    let file = desk.folder.path().join("authorities.pem");
    std::fs::write(&file, "").unwrap();
    let ends = |line: &str, name: &str, value: &Path| {
        let mut command = desk.command(line);
        command.env(name, value);
        let output = finish(command, "");
        assert_eq!(output.status.code(), Some(1), "{line}: {}", stderr(&output));
        format!("{}{}", stdout(&output), stderr(&output))
    };
    for line in ["serve", "doctor"] {
        let said = ends(line, "SSL_CERT_FILE", &file);
        assert_holds(
            &said,
            "of the variable SSL_CERT_FILE holds no certificate in PEM",
        );
        assert_holds(&said, "let what is named lead to files of PEM");
        let said = ends(line, "SSL_CERT_DIR", &desk.folder.path().join("missing"));
        assert_holds(&said, "of the variable SSL_CERT_DIR cannot be read: ");
    }
}

/// TLS skips a broken file of a folder, and trusts the others.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_skipped_is_a_warning() {
    let desk = Desk::new().await;
    let folder = desk.folder.path().join("authorities");
    std::fs::create_dir(&folder).unwrap();
    let whole = Identity::of(&["authority.example"]).pem();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(folder.join("whole.pem"), whole).unwrap();
    std::fs::write(folder.join("broken.pem"), broken).unwrap();
    let mut command = desk.command("doctor");
    command.env("SSL_CERT_DIR", &folder);
    let output = finish(command, "");
    let told = stdout(&output);
    assert!(output.status.success(), "{told}");
    assert_holds(&told, "https skips it: the file");
    assert_holds(
        &told,
        "of the variable SSL_CERT_DIR holds a certificate that cannot be parsed",
    );
}

/// What brings the embedded database up to date when a command opens it.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_at_the_start_are_logged_by_number_and_name() {
    let desk = Desk::new().await;
    let logged = || {
        let mut command = desk.command("tokens create --name x --scope read");
        command.env("VERIFYD__LOG__FILTER", "info");
        let output = finish(command, "");
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let said = logged();
    assert_holds(&said, "migrations applied");
    assert_holds(&said, "0001_verifyd_state, 0002_application_tables, ");
    let again = logged();
    assert!(!again.contains("migrations applied"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mends_keys_and_modules_fits_what_is_wrong() {
    let desk = Desk::new().await;
    let shared = desk.folder.path().join("shared");
    std::fs::write(&shared, "k1:x\n").unwrap();
    std::fs::set_permissions(&shared, Permissions::from_mode(0o644)).unwrap();
    for (key, value, part, found, remedy) in [
        (
            "CREDENTIALS__LARAVEL_KEYS",
            "x",
            "keys",
            "as in the Laravel application's APP_KEY",
            "correct what is named",
        ),
        (
            "CREDENTIALS__KEYS_FILE",
            "/nope",
            "keys",
            "/nope: cannot be read: ",
            "let credentials.keys_file name a file",
        ),
        (
            "CREDENTIALS__KEY_FILE",
            shared.to_str().unwrap(),
            "keys",
            "chmod 600",
            "correct what is named",
        ),
        (
            "MICROSOFT__MODULES_DIR",
            "/nope",
            "modules",
            "/nope: cannot be read: ",
            "let microsoft.modules_dir name a folder",
        ),
    ] {
        let mut command = desk.command("doctor --json");
        command.env(format!("VERIFYD__{key}"), value);
        let report: Value = serde_json::from_slice(&finish(command, "").stdout).unwrap();
        let mut parts = report["parts"].as_array().unwrap().iter();
        let line = parts.find(|line| line["part"] == part && line["state"] == "failed");
        let line = line.unwrap_or_else(|| panic!("{key}: {report}"));
        assert_holds(line["found"].as_str().unwrap(), found);
        assert_holds(line["remedy"].as_str().unwrap(), remedy);
    }
}
