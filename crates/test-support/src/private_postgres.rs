//! A PostgreSQL server of one's own, that may be stopped, crashed and started again.

use crate::ends_with_test::ends_with_test;
use crate::port::free_port;
use crate::tls_identity::Authority;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends when it is dropped; its folder goes with it.
#[derive(Debug)]
pub struct PrivatePostgres {
    port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl PrivatePostgres {
    /// Makes a cluster and starts it on a free port.
    pub fn start() -> Self {
        let mut server = Self::initialized();
        server.resume();
        server
    }

    /// The same with TLS, by a certificate of this authority for `localhost`. It believes certificates of clients that the
    /// authority has signed. `rules` are those of `pg_hba.conf`.
    pub fn start_with_tls(authority: &Authority, rules: &str) -> Self {
        let mut server = Self::initialized();
        let (certificate, key) = authority.sign("localhost");
        // Where it looks for them by default.
        server.write("server.crt", &certificate);
        server.write("server.key", &key);
        server.write("authority.crt", &authority.pem());
        server.append(
            "postgresql.auto.conf",
            "ssl = on\nssl_ca_file = 'authority.crt'\n",
        );
        server.write("pg_hba.conf", rules);
        server.resume();
        server
    }

    /// A cluster that is not started yet.
    fn initialized() -> Self {
        let server = Self::empty();
        done(
            postgres_command("initdb")
                .arg("--pgdata")
                .arg(server.inside().join("data"))
                .args(["--username", "postgres", "--auth", "trust"])
                .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"]),
        );
        server
    }

    /// Crashes this server, copies it, and starts both: the copy follows as a standby, and reads only, until it is
    /// promoted. Not every PostgreSQL of the tests has `pg_basebackup`.
    pub fn standby(&mut self) -> Self {
        let mut standby = Self::empty();
        self.crash();
        let [from, to] = [&*self, &standby].map(|server| server.inside().join("data"));
        done(as_server_user("INT").args(["cp", "-R"]).args([from, to]));
        self.resume();
        standby.write("standby.signal", "");
        let primary = format!("host=127.0.0.1 port={} user=postgres", self.port);
        let setting = format!("primary_conninfo = '{primary}'\n");
        standby.append("postgresql.auto.conf", &setting);
        standby.resume();
        standby
    }

    /// A folder and a port.
    fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Its user, when that is another one, has to pass through and owns what is inside.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))
            .expect("the folder is ours");
        let inside = folder.path().join("postgres");
        std::fs::create_dir(&inside).expect("the folder is ours");
        give_away(&inside);
        Self {
            port: free_port(),
            folder,
            child: None,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Has it ask every role but `postgres` for a password, from when its configuration is read again.
    pub fn require_passwords(&self) {
        let rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 password\n";
        self.write("pg_hba.conf", rules);
    }

    fn inside(&self) -> PathBuf {
        self.folder.path().join("postgres")
    }

    /// Writes a file of the cluster, which nobody else may read.
    fn write(&self, name: &str, text: &str) {
        let file = self.inside().join("data").join(name);
        std::fs::write(&file, text).expect("the folder is ours");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
            .expect("the file is ours");
        give_away(&file);
    }

    fn append(&self, name: &str, text: &str) {
        let file = self.inside().join("data").join(name);
        let before = std::fs::read_to_string(file).expect("the cluster has this file");
        self.write(name, &(before + text));
    }

    /// Ends it as a crash does: nothing is written any more, clients are cut off. What was
    /// committed is there again after `resume`.
    pub fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            // QUIT: the server ends its own processes, which KILL would leave behind.
            let _ = Command::new("kill")
                .args(["-s", "QUIT", &child.id().to_string()])
                .status();
            let until = Instant::now() + Duration::from_secs(180);
            while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
            // Else it would seem ready before it is.
            let _ = std::fs::remove_file(self.inside().join("data/postmaster.pid"));
        }
    }

    /// Starts it on the same port with what it has.
    pub fn resume(&mut self) {
        self.crash();
        let inside = self.inside();
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log file");
        let child = postgres_command("postgres")
            .arg("-D")
            .arg(inside.join("data"))
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", inside.display()))
            .stderr(log)
            .spawn()
            .expect("postgres: run scripts/test, which says where it is");
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(180);
        while !self.is_ready() {
            assert!(
                Instant::now() < until,
                "PostgreSQL did not start: {}",
                std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last line of postmaster.pid says so once connections are taken.
    fn is_ready(&self) -> bool {
        std::fs::read_to_string(self.inside().join("data/postmaster.pid"))
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "ready"))
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Runs a program to its end.
fn done(command: &mut Command) {
    let made = command
        .output()
        .expect("a program: run scripts/test, which says where PostgreSQL's are");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// Lets the user that the server runs as own this.
fn give_away(path: &Path) {
    if let Some(user) = other_user() {
        done(Command::new("chown").arg(user).arg(path));
    }
}

/// PostgreSQL refuses to run as root: then, the user that it runs as.
fn other_user() -> Option<&'static str> {
    let root = Path::new("/proc/self")
        .metadata()
        .is_ok_and(|m| m.uid() == 0);
    root.then(|| {
        let known = Command::new("id")
            .arg("postgres")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match known {
            Ok(status) if status.success() => "postgres",
            _ => "nobody",
        }
    })
}

/// A program of PostgreSQL's, run by the right user, that ends with this test.
fn postgres_command(program: &str) -> Command {
    let folder = std::env::var("VERIFYD_TEST_PG_BIN")
        .expect("run scripts/test, which starts PostgreSQL and Redis");
    let mut command = as_server_user("INT");
    command
        .arg(Path::new(&folder).join(program))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Runs the program that its arguments begin with by a user who may run servers, and ends it by
/// this signal when the test ends.
pub(crate) fn as_server_user(signal: &str) -> Command {
    let mut command = ends_with_test(signal);
    if let Some(user) = other_user() {
        command.args([
            "--reuid",
            user,
            "--regid",
            user_group(user),
            "--clear-groups",
        ]);
    }
    // A folder that every user may enter.
    command.current_dir("/");
    command
}

fn user_group(user: &str) -> &'static str {
    if user == "nobody" {
        "nogroup"
    } else {
        "postgres"
    }
}
