//! Checks the files that the address of a server names for TLS: the driver's errors name neither parameter nor file.

use crate::domain::text_decoding;
use crate::files;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::path::Path;
use url::Url;
use zeroize::Zeroizing;

/// Far more than the certificates of all public authorities need.
const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

/// A file that the driver reads.
struct TlsFile {
    parameters: &'static [&'static str],
    /// Of the environment, where no parameter names the file.
    variable: &'static str,
    content: &'static str,
    has_content: fn(&[u8]) -> bool,
}

const AUTHORITIES: TlsFile = TlsFile {
    parameters: &["sslrootcert", "ssl-root-cert", "ssl-ca"],
    variable: "PGSSLROOTCERT",
    content: "certificate",
    has_content: |pem| CertificateDer::from_pem_slice(pem).is_ok(),
};

const CERTIFICATE: TlsFile = TlsFile {
    parameters: &["sslcert", "ssl-cert"],
    variable: "PGSSLCERT",
    ..AUTHORITIES
};

const KEY: TlsFile = TlsFile {
    parameters: &["sslkey", "ssl-key"],
    variable: "PGSSLKEY",
    content: "unencrypted private key",
    has_content: |pem| PrivateKeyDer::from_pem_slice(pem).is_ok(),
};

/// Refuses what the driver would not find in the files that it reads for this `sslmode`. With `prefer`, too, where
/// the server may have no TLS: whether a file can be used must not depend on the server. A text that the driver does
/// not decode, with a byte order mark for example, is put into the options in place of its file.
pub(super) fn check(mut options: PgConnectOptions, url: &Url) -> Result<PgConnectOptions, String> {
    let mode = options.get_ssl_mode();
    if matches!(mode, PgSslMode::Disable | PgSslMode::Allow) {
        return Ok(options);
    }
    if matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull)
        && let Some(pem) = AUTHORITIES.decoded(url)?
    {
        options = options.ssl_root_cert_from_pem(pem.as_bytes().to_vec());
    }
    if let Some(pem) = CERTIFICATE.decoded(url)? {
        options = options.ssl_client_cert_from_pem(pem.as_bytes());
    }
    if let Some(pem) = KEY.decoded(url)? {
        options = options.ssl_client_key_from_pem(pem.as_bytes());
    }
    Ok(options)
}

impl TlsFile {
    /// The content as text, if the driver would not read the file itself as this text.
    fn decoded(&self, url: &Url) -> Result<Option<Zeroizing<String>>, String> {
        match self.named(url)? {
            Some((name, path)) => self.read(&name, &path),
            None => Ok(None),
        }
    }

    /// Returns what names the file, and its path.
    fn named(&self, url: &Url) -> Result<Option<(String, String)>, String> {
        let parameters = url.query_pairs();
        let meant = parameters.filter(|(name, _)| self.parameters.contains(&&**name));
        match meant.last() {
            // Not to be quoted: it may be a key.
            Some((name, value)) if value.contains("-----BEGIN") => Err(format!(
                "the parameter {name} holds PEM, allowed: the path of a file"
            )),
            Some((name, value)) => Ok(Some((format!("the parameter {name}"), value.into_owned()))),
            None => {
                let value = std::env::var(self.variable).ok();
                let path = value.filter(|value| !value.contains("-----BEGIN"));
                Ok(path.map(|path| (self.variable.to_owned(), path)))
            }
        }
    }

    fn read(&self, name: &str, path: &str) -> Result<Option<Zeroizing<String>>, String> {
        let bytes = files::read(Path::new(path), MAX_FILE_BYTES)
            .map_err(|error| format!("the TLS file {path:?} of {name} cannot be read: {error}"))?;
        let decoded = text_decoding::decode(&bytes).ok();
        let decoded = decoded.filter(|text| text.as_bytes() != bytes.as_slice());
        let pem = decoded
            .as_ref()
            .map_or(bytes.as_slice(), |text| text.as_bytes());
        if !(self.has_content)(pem) {
            let content = self.content;
            return Err(format!(
                "the TLS file {path:?} of {name} holds no {content} in PEM"
            ));
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(query: &str) -> Result<String, String> {
        let text = format!("postgres://u@h/db?{query}");
        let options = check(text.parse().unwrap(), &Url::parse(&text).unwrap())?;
        Ok(format!("{options:?}"))
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_parameter() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["h".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let der = write("der", certificate.der());
        let pem = write("pem", certificate.pem().as_bytes());
        let marked = write(
            "marked",
            format!("\u{feff}{}", certificate.pem()).as_bytes(),
        );
        let key_pem = write("key", key.serialize_pem().as_bytes());
        let encrypted = key.serialize_pem().replace("PRIVATE", "ENCRYPTED PRIVATE");
        let encrypted = write("encrypted", encrypted.as_bytes());
        for (query, problem) in [
            (
                "sslmode=verify-ca&sslrootcert=/nope".to_owned(),
                "the TLS file \"/nope\" of the parameter sslrootcert cannot be read: No such file or directory (os error 2)".to_owned(),
            ),
            (
                "sslmode=require&ssl-cert=/nope".to_owned(),
                "the TLS file \"/nope\" of the parameter ssl-cert cannot be read: No such file or directory (os error 2)".to_owned(),
            ),
            (
                format!("sslmode=verify-full&ssl-ca={der}"),
                format!("the TLS file {der:?} of the parameter ssl-ca holds no certificate in PEM"),
            ),
            (
                format!("sslmode=require&sslcert={key_pem}&sslkey={key_pem}"),
                format!("the TLS file {key_pem:?} of the parameter sslcert holds no certificate in PEM"),
            ),
            (
                format!("sslmode=require&sslcert={pem}&sslkey={encrypted}"),
                format!(
                    "the TLS file {encrypted:?} of the parameter sslkey holds no unencrypted private key in PEM"
                ),
            ),
            // The server may have no TLS.
            (
                "sslmode=prefer&sslcert=/nope".to_owned(),
                "the TLS file \"/nope\" of the parameter sslcert cannot be read: No such file or directory (os error 2)".to_owned(),
            ),
            (
                format!("sslcert={pem}&sslkey=/nope"),
                "the TLS file \"/nope\" of the parameter sslkey cannot be read: No such file or directory (os error 2)".to_owned(),
            ),
            (
                format!("sslmode=prefer&sslcert={der}&sslkey={encrypted}"),
                format!("the TLS file {der:?} of the parameter sslcert holds no certificate in PEM"),
            ),
            (
                "sslkey=-----BEGIN%20PRIVATE%20KEY-----".to_owned(),
                "the parameter sslkey holds PEM, allowed: the path of a file".to_owned(),
            ),
        ] {
            assert_eq!(checked(&query), Err(problem), "{query}");
        }
        // What the driver does not read has no problem.
        for query in [
            "sslmode=disable&sslcert=/nope",
            "sslmode=require&sslrootcert=/nope",
        ] {
            checked(query).unwrap();
        }
        let files = format!("sslmode=verify-full&sslcert={pem}&sslkey={key_pem}&sslrootcert=");
        assert!(
            checked(&format!("{files}{pem}"))
                .unwrap()
                .contains("ssl_root_cert: Some(File(")
        );
        let decoded = checked(&format!("{files}{marked}")).unwrap();
        assert!(
            decoded.contains("ssl_root_cert: Some(Inline([45, 45, 45,"),
            "{decoded}"
        );
    }
}
