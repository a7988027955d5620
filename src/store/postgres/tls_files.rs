//! Checks the files that the address of a server names for TLS: the driver's errors name neither parameter nor file.

use crate::domain::text_decoding;
use crate::files::{self, CertificatesError, certificates, trusted_authorities};
use crate::store::address;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::path::Path;
use url::Url;
use zeroize::Zeroizing;

/// Far more than the certificates of all public authorities need.
const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

/// What is in every text of PEM, and in no path.
const PEM: &str = "-----BEGIN";

/// A file that the driver reads.
struct TlsFile {
    parameters: &'static [&'static str],
    /// Of the environment, where no parameter names the file.
    variable: &'static str,
    /// Fails with what PEM holds that the driver cannot use.
    check: fn(&[u8]) -> Result<(), String>,
}

const AUTHORITIES: TlsFile = TlsFile {
    parameters: address::AUTHORITIES,
    variable: "PGSSLROOTCERT",
    check: |pem| match certificates(pem) {
        Ok(_) => Ok(()),
        Err(held) => Err(held.to_string()),
    },
};

const CERTIFICATE: TlsFile = TlsFile {
    parameters: address::CLIENT_CERTIFICATE,
    variable: "PGSSLCERT",
    check: |pem| {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        // The driver reads no more than the first one, which has to be the key's. The others are for the server.
        match chain.as_deref() {
            Ok([first, ..]) if ParsedCertificate::try_from(first).is_ok() => Ok(()),
            Ok([]) => Err(CertificatesError::Missing.to_string()),
            _ => Err(CertificatesError::Broken.to_string()),
        }
    },
};

const KEY: TlsFile = TlsFile {
    parameters: address::CLIENT_KEY,
    variable: "PGSSLKEY",
    check: |pem| {
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| "no unencrypted private key in PEM".to_owned())?;
        match any_supported_type(&key) {
            Ok(_) => Ok(()),
            Err(_) => Err("a private key that cannot be used".to_owned()),
        }
    },
};

/// Refuses what the driver would not find in the files that it reads for this `sslmode`. With `prefer`, too, where
/// the server may have no TLS: whether a file can be used must not depend on the server. A text that the driver does
/// not decode, with a byte order mark for example, is put into the options in place of its file.
pub(super) fn check(mut options: PgConnectOptions, url: &Url) -> Result<PgConnectOptions, String> {
    // As libpq does, where an empty one is none; the driver would not verify the server. Unlike libpq, it trusts the
    // authorities of the machine, too.
    if matches!(options.get_ssl_mode(), PgSslMode::Require)
        && (AUTHORITIES.named(url)?).is_some_and(|(_, path)| !path.is_empty())
    {
        options = options.ssl_mode(PgSslMode::VerifyCa);
    }
    let mode = options.get_ssl_mode();
    if matches!(mode, PgSslMode::Disable | PgSslMode::Allow) {
        return Ok(options);
    }
    if matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        if AUTHORITIES.named(url)?.is_none()
            && let Some(problem) = trusted_authorities::problem_of_all(std::env::var_os)
        {
            return Err(problem);
        }
        if let Some(pem) = AUTHORITIES.decoded(url)? {
            options = options.ssl_root_cert_from_pem(pem.as_bytes().to_vec());
        }
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
            Some((name, value)) if value.contains(PEM) => {
                (self.check)(value.as_bytes()).map_err(|held| format!("{name} holds {held}"))?;
                Ok(Some(value))
            }
            Some((name, path)) => self.read(&name, &path),
            None => Ok(None),
        }
    }

    /// Returns what names the file, and its path; of a variable its content, too, which the driver takes as well.
    fn named(&self, url: &Url) -> Result<Option<(String, Zeroizing<String>)>, String> {
        let mut parameters = url.query_pairs();
        match parameters.find(|(name, _)| self.parameters.contains(&&**name)) {
            // Not to be quoted: it may be a key.
            Some((name, value)) if value.contains(PEM) => Err(format!(
                "the parameter {name} holds PEM, allowed: the path of a file"
            )),
            Some((name, value)) => {
                let path = Zeroizing::new(value.into_owned());
                Ok(Some((format!("the parameter {name}"), path)))
            }
            None => {
                let value = std::env::var(self.variable).ok();
                let name = format!("the variable {}", self.variable);
                Ok(value.map(|value| (name, Zeroizing::new(value))))
            }
        }
    }

    fn read(&self, name: &str, path: &str) -> Result<Option<Zeroizing<String>>, String> {
        // The driver reads it again.
        let bytes = files::read_regular(Path::new(path), MAX_FILE_BYTES)
            .map_err(|error| format!("the TLS file {path:?} of {name} cannot be read: {error}"))?;
        let decoded = text_decoding::decode(&bytes).ok();
        let decoded = decoded.filter(|text| text.as_bytes() != bytes.as_slice());
        let pem = decoded
            .as_ref()
            .map_or(bytes.as_slice(), |text| text.as_bytes());
        (self.check)(pem)
            .map_err(|held| format!("the TLS file {path:?} of {name} holds {held}"))?;
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
        let empty = write("empty", b"");
        let armoured =
            |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let garbage = armoured("CERTIFICATE");
        let broken = write("broken", garbage.as_bytes());
        let second = format!("{}{garbage}", certificate.pem());
        let second = write("second", second.as_bytes());
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let pipe = pipe.to_str().unwrap();
        let broken_key = write("broken_key", armoured("PRIVATE KEY").as_bytes());
        for (query, problem) in [
            (
                "sslmode=verify-ca&sslrootcert=/nope".to_owned(),
                "the TLS file \"/nope\" of the parameter sslrootcert cannot be read: No such file or directory (os error 2)".to_owned(),
            ),
            (
                "sslmode=require&sslrootcert=/nope".to_owned(),
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
            (
                format!("sslmode=verify-ca&sslrootcert={empty}"),
                format!("the TLS file {empty:?} of the parameter sslrootcert holds no certificate in PEM"),
            ),
            (
                format!("sslmode=verify-ca&sslrootcert={broken}"),
                format!("the TLS file {broken:?} of the parameter sslrootcert holds a certificate that cannot be parsed"),
            ),
            (
                format!("sslmode=verify-ca&sslrootcert={second}"),
                format!("the TLS file {second:?} of the parameter sslrootcert holds a certificate that cannot be parsed"),
            ),
            (
                format!("sslmode=require&sslcert={broken}&sslkey={key_pem}"),
                format!("the TLS file {broken:?} of the parameter sslcert holds a certificate that cannot be parsed"),
            ),
            (
                format!("sslmode=require&sslcert={pem}&sslkey={broken_key}"),
                format!("the TLS file {broken_key:?} of the parameter sslkey holds a private key that cannot be used"),
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
                format!("sslcert={pem}&sslkey={pipe}"),
                format!("the TLS file {pipe:?} of the parameter sslkey cannot be read: it is a pipe, allowed: a regular file"),
            ),
            (
                "sslkey=-----BEGIN%20PRIVATE%20KEY-----".to_owned(),
                "the parameter sslkey holds PEM, allowed: the path of a file".to_owned(),
            ),
        ] {
            assert_eq!(checked(&query), Err(problem), "{query}");
        }
        let chain = format!("sslmode=require&sslcert={second}&sslkey={key_pem}");
        // What the driver does not read has no problem.
        for query in [
            "sslmode=disable&sslcert=/nope",
            "sslmode=prefer&sslrootcert=/nope",
            "sslmode=require&sslrootcert=",
            &*chain,
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
