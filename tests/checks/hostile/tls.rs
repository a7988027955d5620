//! Certificates that must not be believed. The roots that are trusted are the machine's, so the
//! test runs itself again where they are its own.

use super::{checked, cloud, connection};
use crate::world::{World, reasons};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use verifyd::domain::reason::Reason;

/// Where the parent has put the root's certificate and key for its child.
const FOLDER: &str = "VERIFYD_TEST_ROOT_FOLDER";
const NAME: &str = "hostile::tls::only_a_certificate_that_is_trusted_valid_and_ours_is_believed";

fn root() -> (CertificateParams, KeyPair) {
    let mut root = CertificateParams::new(Vec::<String>::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (root, KeyPair::generate().unwrap())
}

/// Serves one name with one certificate; keeps what it was told after the handshake.
fn serve(chain: CertificateDer<'static>, key: &KeyPair) -> (String, Arc<Mutex<Vec<u8>>>) {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let told: Arc<Mutex<Vec<u8>>> = Arc::default();
    let keep = Arc::clone(&told);
    // Ends with the test's process.
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = Stream::new(&mut connection, &mut tcp);
            let mut buffer = [0; 8192];
            // The form comes after the headers.
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                keep.lock().unwrap().extend_from_slice(&buffer[..read]);
                if keep
                    .lock()
                    .unwrap()
                    .windows(13)
                    .any(|w| w == b"client_secret")
                {
                    break;
                }
            }
            let body = r#"{"error": "invalid_client", "error_codes": [7000215]}"#;
            let answer =
                super::answer("401 Unauthorized", "connection: close\r\n", body.as_bytes());
            let _ = stream.write_all(&answer);
            connection.send_close_notify();
            let _ = connection.complete_io(&mut tcp);
        }
    });
    (url, told)
}

/// A certificate for this name; expired, or signed by nobody.
fn certificate(
    issuer: Option<&Issuer<'_, KeyPair>>,
    name: &str,
    expired: bool,
) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(if expired { 2021 } else { 2900 }, 1, 1);
    let made = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    (made.unwrap().der().clone(), key)
}

/// Runs this very test in a process that trusts one root, ours, and no other.
fn again(folder: &Path) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(FOLDER, folder)
        .env("SSL_CERT_FILE", folder.join("root.pem"))
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_that_is_trusted_valid_and_ours_is_believed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        let folder = tempfile::tempdir().unwrap();
        let (params, key) = root();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("root.pem"), pem).unwrap();
        std::fs::write(folder.path().join("root.key"), key.serialize_pem()).unwrap();
        return again(folder.path());
    };
    let key = std::fs::read_to_string(Path::new(&folder).join("root.key")).unwrap();
    let issuer = Issuer::new(root().0, KeyPair::from_pem(&key).unwrap());
    let cases = [
        (
            "right",
            certificate(Some(&issuer), "localhost", false),
            Reason::SecretInvalid,
        ),
        (
            "another_name",
            certificate(Some(&issuer), "login.example.com", false),
            Reason::TlsFailed,
        ),
        (
            "expired",
            certificate(Some(&issuer), "localhost", true),
            Reason::TlsFailed,
        ),
        (
            "self_signed",
            certificate(None, "localhost", false),
            Reason::TlsFailed,
        ),
    ];
    let served: Vec<_> = cases
        .into_iter()
        .map(|(name, (chain, key), reason)| (name, serve(chain, &key), reason))
        .collect();
    let world = World::with(|settings| {
        for (name, (url, _), _) in &served {
            cloud(settings, name, url);
        }
    })
    .await;
    for (number, (name, (_, told), reason)) in served.iter().enumerate() {
        let id = connection(&world, number, name).await;
        let run = checked(&world, id, name).await;
        assert_eq!(reasons(&run, &["fail"]), [reason.code()], "{name}");
        // Nothing is said to whom is not believed, the secret least of all.
        let said = !told.lock().unwrap().is_empty();
        assert_eq!(said, *reason != Reason::TlsFailed, "{name}");
    }
}
