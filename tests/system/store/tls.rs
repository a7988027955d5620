//! TLS to PostgreSQL: which servers verifyd believes, and the certificate by which its role signs in.

use crate::store::bed::settings;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;
use test_support::bench::Bench;
use test_support::postgres::TestDatabase;
use test_support::private_postgres::PrivatePostgres;
use test_support::tls_identity::Authority;
use test_support::waiting::until;
use verifyd::domain::tls_cause::TlsCause;
use verifyd::ports::store::StoreError;
use verifyd::ports::wake::Listening;
use verifyd_simulator::SimulatorOptions;

/// Without TLS nobody but the superuser connects, and only with a certificate that has its name this role.
const RULES: &str = "host all postgres 127.0.0.1/32 trust\n\
    hostssl all verifyd_serve 127.0.0.1/32 cert\n\
    hostssl all all 127.0.0.1/32 trust\n";

/// A server that speaks TLS, its authority, and files.
struct Scene {
    server: PrivatePostgres,
    authority: Authority,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::named("ours");
        let server = PrivatePostgres::start_with_tls(&authority, RULES);
        let mut sql = PgConnection::connect(&server.url()).await.unwrap();
        for role in [
            "CREATE ROLE reader LOGIN",
            "CREATE ROLE verifyd_serve LOGIN",
        ] {
            sql.execute(role).await.unwrap();
        }
        Self {
            server,
            authority,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn database(&self) -> TestDatabase {
        TestDatabase::create_on(&self.server.url()).await
    }

    /// Returns the path of a file with this content.
    fn file(&self, name: &str, pem: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Returns the paths of certificate and key of this role.
    fn certificate(&self, role: &str) -> [String; 2] {
        let (certificate, key) = self.authority.sign(role);
        [
            self.file(&format!("{role}.crt"), &certificate),
            self.file(&format!("{role}.key"), &key),
        ]
    }
}

/// The address of a database by this host and for this role.
fn address(database: &TestDatabase, host: &str, role: &str, parameters: &[(&str, &str)]) -> String {
    let mut url: url::Url = database.url().parse().unwrap();
    url.set_host(Some(host)).unwrap();
    url.set_username(role).unwrap();
    url.query_pairs_mut().extend_pairs(parameters);
    url.into()
}

/// The pool and the connection that listens are opened.
async fn assert_usable(url: &str) {
    let store = verifyd::store::connect(&settings(url)).await.unwrap();
    store.ping().await.unwrap();
    let listening = store.try_listening().await.unwrap();
    assert_eq!(listening, Listening::Received, "{url}");
}

async fn refusal(url: &str) -> StoreError {
    let connected = verifyd::store::connect(&settings(url)).await;
    connected.err().unwrap_or_else(|| panic!("{url}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_and_role_are_believed_by_their_certificates() {
    let scene = Scene::new().await;
    let database = scene.database().await;
    a_server_is_believed_by_its_authority_and_its_name(&scene, &database).await;
    a_role_signs_in_by_its_certificate(&scene, &database).await;
    a_server_with_old_versions_of_tls_is_named(&scene, &database).await;
}

async fn a_server_with_old_versions_of_tls_is_named(scene: &Scene, database: &TestDatabase) {
    let mut sql = PgConnection::connect(&scene.server.url()).await.unwrap();
    for change in [
        "ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1'",
        "ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.1'",
        "SELECT pg_reload_conf()",
    ] {
        sql.execute(change).await.unwrap();
    }
    let url = address(database, "localhost", "reader", &[("sslmode", "require")]);
    let words = format!("TLS: {}", TlsCause::ProtocolVersion);
    until("the server has read its settings", async || {
        let connected = verifyd::store::connect(&settings(&url)).await;
        connected.is_err_and(|error| error.to_string().contains(&words))
    })
    .await;
    // The database is dropped over TLS.
    for change in [
        "ALTER SYSTEM RESET ssl_min_protocol_version",
        "ALTER SYSTEM RESET ssl_max_protocol_version",
        "SELECT pg_reload_conf()",
    ] {
        sql.execute(change).await.unwrap();
    }
    until("the server has read its settings again", async || {
        PgConnection::connect(&scene.server.url()).await.is_ok()
    })
    .await;
}

async fn a_server_is_believed_by_its_authority_and_its_name(
    scene: &Scene,
    database: &TestDatabase,
) {
    let ours = scene.file("ours.pem", &scene.authority.pem());
    let other = scene.file("other.pem", &Authority::named("other").pem());
    let again = scene.file("again.pem", &Authority::named("ours").pem());
    let trusting = |host: &str, mode: &str, file: &str| {
        let parameters = [("sslmode", mode), ("sslrootcert", file)];
        address(database, host, "reader", &parameters)
    };
    for (host, mode) in [
        ("localhost", "verify-full"),
        ("localhost", "require"),
        ("127.0.0.1", "verify-ca"),
    ] {
        assert_usable(&trusting(host, mode, &ours)).await;
    }
    let machines = address(
        database,
        "localhost",
        "reader",
        &[("sslmode", "verify-full")],
    );
    for (url, said) in [
        (
            trusting("127.0.0.1", "verify-full", &ours),
            "not valid for name",
        ),
        (
            trusting("localhost", "verify-full", &other),
            "UnknownIssuer",
        ),
        (trusting("127.0.0.1", "verify-ca", &other), "UnknownIssuer"),
        (trusting("localhost", "require", &other), "UnknownIssuer"),
        (machines, "UnknownIssuer"),
        (
            trusting("localhost", "verify-full", &again),
            "invalid peer certificate: BadSignature",
        ),
    ] {
        let error = refusal(&url).await;
        assert!(error.to_string().contains(said), "{url}: {error}");
    }
}

async fn a_role_signs_in_by_its_certificate(scene: &Scene, database: &TestDatabase) {
    let ours = scene.file("ours.pem", &scene.authority.pem());
    let trusting = [("sslmode", "verify-full"), ("sslrootcert", ours.as_str())];
    let with = |[certificate, key]: &[String; 2]| {
        let own = [("sslcert", certificate.as_str()), ("sslkey", key.as_str())];
        address(
            database,
            "localhost",
            "verifyd_serve",
            &[trusting, own].concat(),
        )
    };
    assert_usable(&with(&scene.certificate("verifyd_serve"))).await;
    let none = address(database, "localhost", "verifyd_serve", &trusting);
    for (url, said) in [
        (none, "valid client certificate"),
        (
            with(&scene.certificate("reader")),
            "certificate authentication failed",
        ),
    ] {
        let error = refusal(&url).await;
        assert_eq!(error.sqlstate(), Some("28000"), "{url}: {error}");
        assert!(error.to_string().contains(said), "{url}: {error}");
    }
}

/// The authorities are those that the environment names, as for Redis and for calls over https.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_verifies_the_server_by_the_authorities_of_its_machine() {
    let scene = Scene::new().await;
    let database = scene.database().await;
    let [certificate, key] = scene.certificate("verifyd_serve");
    let parameters = [
        ("sslmode", "verify-full"),
        ("sslcert", certificate.as_str()),
        ("sslkey", key.as_str()),
    ];
    let url = address(&database, "localhost", "verifyd_serve", &parameters);
    let mut bench = Bench::on(database, SimulatorOptions::default()).await;
    bench.grant().await;
    let connection = bench.healthy(1);
    bench.set("DATABASE_URL", url);
    let fails = |bench: &Bench, problem: &str, remedy: &str| {
        let found = bench.examined("database");
        assert_eq!(found["state"], "failed", "{found}");
        assert!(found["found"].to_string().contains(problem), "{found}");
        assert!(found["remedy"].to_string().contains(remedy), "{found}");
    };
    fails(&bench, "UnknownIssuer", "sslrootcert");
    bench.set("SSL_CERT_FILE", scene.file("empty.pem", ""));
    let problem = "of the variable SSL_CERT_FILE holds no certificate in PEM";
    fails(&bench, problem, "files of PEM");

    let trusted = scene.file("ours.pem", &scene.authority.pem());
    bench.set("SSL_CERT_FILE", trusted);
    bench.success(&["doctor"]);
    let mut daemon = bench.serve(&[]);
    daemon.wait_for("a bare INSERT wakes this worker");
    bench.record(&[connection], 3).await;
    bench.all_completed().await;
    let succeeded = bench.count("operation_runs WHERE outcome = 'succeeded'");
    assert_eq!(succeeded.await, 3);
    daemon.terminate();
}
