//! Certificates that must not be believed. The roots that are trusted are the machine's, so the
//! test runs in a process of its own, where they are the test's.

use super::{checked, cloud, connection};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;
use test_support::hostile_server::tls::{certificate, serve};
use test_support::world::{World, reasons};
use test_support::{own_process, test_name};
use verifyd::domain::reason::Reason;

/// Where the parent has put the root's certificate and key for its child.
const FOLDER: &str = "VERIFYD_TEST_ROOT_FOLDER";
const NAME: &str = test_name!(only_a_certificate_that_is_trusted_valid_and_ours_is_believed);

fn root() -> (CertificateParams, KeyPair) {
    let mut root = CertificateParams::new(Vec::<String>::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (root, KeyPair::generate().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_that_is_trusted_valid_and_ours_is_believed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        let folder = tempfile::tempdir().unwrap();
        let (params, key) = root();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("root.pem"), pem).unwrap();
        std::fs::write(folder.path().join("root.key"), key.serialize_pem()).unwrap();
        let trusted = folder.path().join("root.pem");
        // An empty folder, so that one root is trusted, ours, and no other.
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        own_process::entered(
            NAME,
            &[
                (FOLDER, folder.path().as_os_str()),
                ("SSL_CERT_FILE", trusted.as_os_str()),
                ("SSL_CERT_DIR", empty.as_os_str()),
            ],
        );
        return;
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
