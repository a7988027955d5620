//! PgBouncer before a PostgreSQL server.

use crate::port::free_port;
use crate::private_postgres::as_server_user;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Ends when it is dropped; its folder goes with it.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl PgBouncer {
    /// Starts one in transaction mode on a free port before the server of this URL, with so many connections to
    /// each database, which all clients share.
    pub fn before(server: &str, connections: u32) -> Self {
        Self::in_mode("transaction", server, connections)
    }

    /// The same, with the connection next that has been idle for the longest time.
    pub fn sharing_in_turn(server: &str, connections: u32) -> Self {
        Self::in_mode("transaction\nserver_round_robin = 1", server, connections)
    }

    /// The same in session mode: each client has one of the connections.
    pub fn in_session_mode(server: &str, connections: u32) -> Self {
        Self::in_mode("session", server, connections)
    }

    /// The same in statement mode, which allows no transactions.
    pub fn in_statement_mode(server: &str, connections: u32) -> Self {
        Self::in_mode("statement", server, connections)
    }

    fn in_mode(mode: &str, server: &str, connections: u32) -> Self {
        let server: url::Url = server.parse().expect("the address of the server is a URL");
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder");
        // Its user may be another one.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
            .expect("the folder is ours");
        let settings = format!(
            "[databases]\n\
             * = host={} port={} user={}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = {mode}\n\
             default_pool_size = {connections}\n\
             max_client_conn = 1000\n",
            server.host_str().expect("a host"),
            server.port().expect("a port"),
            server.username(),
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), settings).expect("the folder is ours");
        let mut pooler = Self {
            port,
            folder,
            child: None,
        };
        pooler.restart();
        pooler
    }

    /// The same database through this pooler. Statements have no names: PgBouncer before 1.21 does
    /// not know which of its connections knows which name.
    pub fn url_of(&self, database: &str) -> String {
        let mut url: url::Url = database
            .parse()
            .expect("the address of a database is a URL");
        url.set_port(Some(self.port)).expect("it has a host");
        url.set_query(Some("statement-cache-capacity=0"));
        url.into()
    }

    /// Ends it with all connections, and starts it again on the same port.
    pub fn restart(&mut self) {
        self.stop();
        let program = std::env::var("VERIFYD_TEST_PGBOUNCER")
            .ok()
            .filter(|program| !program.is_empty())
            .expect(
                "PgBouncer is missing: run scripts/test, which installs it where it may \
                 (Debian's package: pgbouncer)",
            );
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log file");
        let child = as_server_user("TERM")
            .arg(program)
            .arg(self.folder.path().join("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("PgBouncer starts");
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(180);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                Instant::now() < until,
                "PgBouncer did not start: {}",
                std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.stop();
    }
}
