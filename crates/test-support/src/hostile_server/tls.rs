//! A server with a certificate of the test's choice.

use super::answer;
use crate::tls_identity;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ServerConnection, Stream};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Serves one name with one certificate; keeps what it was told after the handshake.
pub fn serve(chain: CertificateDer<'static>, key: &KeyPair) -> (String, Arc<Mutex<Vec<u8>>>) {
    let config = Arc::new(tls_identity::server(chain, key));
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
            let answer = answer("401 Unauthorized", "connection: close\r\n", body.as_bytes());
            let _ = stream.write_all(&answer);
            connection.send_close_notify();
            let _ = connection.complete_io(&mut tcp);
        }
    });
    (url, told)
}

/// A certificate for this name; expired, or signed by nobody.
pub fn certificate(
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
