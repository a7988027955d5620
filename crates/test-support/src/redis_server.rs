//! Redis for the tests: the shared server with a queue name of one's own, or a private server for
//! what would disturb others.

use crate::ends_with_test::ends_with_test;
use crate::port::free_port;
use crate::tls_identity::Identity;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// URL of the server that scripts/test started.
pub fn redis_url() -> String {
    std::env::var("VERIFYD_TEST_REDIS_URL")
        .unwrap_or_else(|_| panic!("run scripts/test, which starts PostgreSQL and Redis"))
}

/// A name that no other test uses.
pub fn random_queue() -> String {
    format!("test-{}", uuid::Uuid::new_v4().simple())
}

/// A plain connection, to look at what is stored and to do what no client of the queue does.
pub async fn connection(url: &str) -> redis::aio::MultiplexedConnection {
    try_connection(url).await.expect("the test server answers")
}

/// The same where the server may be unavailable.
pub async fn try_connection(url: &str) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let client = redis::Client::open(url).expect("the URL of the test server");
    // The default is half a second, which is little for many commands on a busy machine.
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(120)))
        .set_response_timeout(Some(Duration::from_secs(120)));
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
}

/// Sends one command, which must succeed.
pub async fn command<T: redis::FromRedisValue>(
    connection: &mut redis::aio::MultiplexedConnection,
    words: &[&str],
) -> T {
    let mut command = redis::cmd(words[0]);
    let answer = command.arg(&words[1..]).query_async(connection).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Enqueues this payload with the published script, as a producer in any language does.
pub async fn enqueue(url: &str, queue: &str, id: &[u8], payload: &[u8]) -> redis::RedisResult<i64> {
    redis::cmd("EVAL")
        .arg(include_str!("../../../contracts/enqueue.lua"))
        .arg(4)
        .arg(format!("{queue}:data"))
        .arg(format!("{queue}:active"))
        .arg(format!("{queue}:signal"))
        .arg(format!("{queue}:meta"))
        .arg(id)
        .arg(payload)
        .arg(1)
        .query_async(&mut connection(url).await)
        .await
}

/// Sends hints with the published script, as another application does: one for each entry.
pub async fn hint(redis_url: &str, queue: &str, runs: &[i64]) {
    try_hint(redis_url, queue, runs).await.unwrap();
}

/// The same where Redis may be unavailable.
pub async fn try_hint(redis_url: &str, queue: &str, runs: &[i64]) -> redis::RedisResult<()> {
    let mut redis = try_connection(redis_url).await?;
    let script = redis::Script::new(include_str!("../../../contracts/enqueue.lua"));
    script.prepare_invoke().load_async(&mut redis).await?;
    for part in runs.chunks(500) {
        let mut pipeline = redis::pipe();
        for run in part {
            pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(4);
            for key in ["data", "active", "signal", "meta"] {
                pipeline.arg(format!("{queue}:{key}"));
            }
            pipeline
                .arg(uuid::Uuid::new_v4().to_string())
                .arg(format!(r#"{{"v":1,"operation_run_id":{run}}}"#))
                .arg(1);
        }
        pipeline.exec_async(&mut redis).await?;
    }
    Ok(())
}

/// Keys of a queue, the registry of queues not counted.
pub async fn keys_of(url: &str, queue: &str) -> Vec<String> {
    let mut connection = connection(url).await;
    let mut cursor = 0_u64;
    let mut keys = Vec::new();
    loop {
        let (next, mut found): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{queue}:*"))
            .arg("COUNT")
            .arg(1000)
            .query_async(&mut connection)
            .await
            .expect("SCAN");
        keys.append(&mut found);
        cursor = next;
        if cursor == 0 {
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
}

/// Removes all keys of a queue.
pub async fn remove_queue(url: &str, queue: &str) {
    let keys = keys_of(url, queue).await;
    let mut connection = connection(url).await;
    for part in keys.chunks(500) {
        let _: redis::RedisResult<()> = redis::cmd("UNLINK")
            .arg(part)
            .query_async(&mut connection)
            .await;
    }
}

/// A server of one's own, that may be stopped, flushed and killed. Ends when it is dropped.
#[derive(Debug)]
pub struct PrivateRedis {
    port: u16,
    child: Option<Child>,
    /// A Sentinel's own, which it writes.
    configuration: Option<PathBuf>,
    /// Arguments besides those that every server gets.
    arguments: Vec<String>,
    /// Of its configuration, or of its file of users, which it reads at each start, after it has begun to listen.
    folder: Option<TempDir>,
}

impl PrivateRedis {
    /// Starts one on a free port.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments, which may contradict the usual ones.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut server = Self::stopped();
        server.arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        server.restart();
        server
    }

    /// Starts one with the users of `deploy/redis.acl`, and with `admin`, who may do everything.
    pub fn with_users() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("users.acl");
        // The file as it is, each user with a password.
        let users = include_str!("../../../deploy/redis.acl").replace("resetpass", ">secret");
        assert_eq!(users.matches(">secret").count(), 2);
        let users = format!("{users}user admin on >secret ~* &* +@all\n");
        std::fs::write(&file, users).expect("the folder is ours");
        let mut server = Self::stopped();
        server.arguments = ["--aclfile", &file.display().to_string()]
            .into_iter()
            // As `docker-compose.yml` has it.
            .chain(["--client-output-buffer-limit", "pubsub 1mb 1mb 10"])
            .map(str::to_owned)
            .collect();
        server.folder = Some(folder);
        server.restart();
        server
    }

    /// Starts a Sentinel that alone decides about a failover of the primary of this name on this port, with further
    /// lines of its configuration and further arguments. It takes no server for dead while the test only waits.
    pub fn sentinel(name: &str, primary: u16, lines: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sentinel.conf");
        let configuration = format!(
            "sentinel monitor {name} 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds {name} 600000\n\
             sentinel failover-timeout {name} 5000\n{lines}"
        );
        std::fs::write(&file, configuration).expect("the folder is ours");
        let mut server = Self::stopped();
        let arguments = ["--sentinel"].iter().chain(arguments);
        server.arguments = arguments.map(|&a| a.to_owned()).collect();
        server.configuration = Some(file);
        server.folder = Some(folder);
        server.restart();
        server
    }

    /// The URL of one of these users.
    pub fn url_of(&self, user: &str) -> String {
        format!("redis://{user}:secret@127.0.0.1:{}", self.port)
    }

    /// Chooses a free port and starts nothing yet.
    pub fn stopped() -> Self {
        Self {
            port: free_port(),
            child: None,
            configuration: None,
            arguments: Vec::new(),
            folder: None,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server; what it held is lost.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts an empty server on the same port.
    pub fn restart(&mut self) {
        self.stop();
        let child = ends_with_test("KILL")
            .arg("redis-server")
            .args(&self.configuration)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.port.to_string()])
            .args(["--dir", &std::env::temp_dir().to_string_lossy()])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv, of util-linux");
        let child = self.child.insert(child);
        let deadline = Instant::now() + Duration::from_secs(180);
        while !answers(self.port) {
            assert!(
                Instant::now() < deadline && matches!(child.try_wait(), Ok(None)),
                "redis-server did not start on port {}; scripts/test installs it",
                self.port
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Key and certificate of servers that speak TLS, in files.
#[derive(Debug)]
pub struct TlsFiles {
    key: String,
    /// What a client has to trust.
    pub certificate: String,
    _folder: TempDir,
}

impl TlsFiles {
    /// Writes a certificate of this host that signs itself.
    pub fn of(host: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            path.display().to_string()
        };
        let identity = Identity::of(&[host]);
        Self {
            key: write("key.pem", identity.key_pem()),
            certificate: write("cert.pem", identity.pem()),
            _folder: folder,
        }
    }

    /// The arguments of a server or Sentinel that speaks TLS on this port, and asks no client for a certificate.
    pub fn arguments<'a>(&'a self, port: &'a str) -> [&'a str; 12] {
        [
            "--tls-port",
            port,
            "--tls-cert-file",
            &self.certificate,
            "--tls-key-file",
            &self.key,
            "--tls-ca-cert-file",
            &self.certificate,
            "--tls-auth-clients",
            "no",
            "--tls-replication",
            "yes",
        ]
    }
}

/// Returns whether the server answers anything, be it that a password is missing. It opens its ports one after
/// the other, and reads its users after that: a connection alone tells nothing of either.
fn answers(port: u16) -> bool {
    let answer = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
        stream.write_all(b"PING\r\n")?;
        stream.read_exact(&mut [0])
    });
    answer.is_ok()
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.stop();
    }
}
