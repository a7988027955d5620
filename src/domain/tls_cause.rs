//! Why a TLS handshake failed: a closed list, with the same words in reports, deliveries, `doctor` and the log.

use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

/// How TLS names the certificate of a server that is an authority's own, as `openssl req -x509` makes it. Its type is
/// that of a library that TLS does not expose.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

/// The cause of any alert, for its words.
pub const REFUSED: TlsCause = TlsCause::Refused(AlertDescription::HandshakeFailure);

/// A cause. No text quotes anything of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsCause {
    /// Also of a certificate that is signed by itself.
    UnknownIssuer,
    AuthorityAsServer,
    Expired,
    NotYetValid,
    WrongName,
    /// Of the host, before any handshake.
    InvalidName,
    Revoked,
    /// Any other flaw of the certificate.
    Certificate,
    ProtocolVersion,
    /// The peer has ended the handshake with this alert.
    Refused(AlertDescription),
    NotTls,
    /// The peer closed the connection without an alert.
    Closed,
    /// Anything else.
    Failed,
}

impl TlsCause {
    /// Returns why TLS failed, if one of the causes of this error is TLS's own.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        error_of_tls(error).map(Self::from)
    }

    /// Returns the text of an error that one of TLS has caused: TLS's own, except where that has names of Rust's types or
    /// seconds of the Unix epoch.
    pub fn text_of(error: &(dyn Error + 'static)) -> Option<String> {
        let error = error_of_tls(error)?;
        let cause = Self::from(error);
        Some(match (cause, error) {
            (Self::Expired | Self::NotYetValid | Self::AuthorityAsServer, _) => {
                format!("invalid peer certificate: {cause}")
            }
            (_, rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                format!("invalid peer certificate: {}", other.0)
            }
            (Self::ProtocolVersion | Self::Refused(_), _) => cause.to_string(),
            _ => error.to_string(),
        })
    }

    /// Returns what is wrong, and what to do about it.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::UnknownIssuer => (
                "the certificate was issued by an authority that the worker does not trust, or by itself",
                "add the authority to those that verifyd trusts, if it is a private one (SSL_CERT_FILE names a file of \
                 all of them), or let the proxy that intercepts TLS pass this host",
            ),
            Self::AuthorityAsServer => (
                "the certificate is an authority's own",
                "give the server a certificate that is no authority's own (basicConstraints CA:FALSE), of an authority that \
                 verifyd trusts",
            ),
            Self::Expired => (
                "the certificate has expired",
                "set the clock of the worker (NTP), or have the certificate renewed",
            ),
            Self::NotYetValid => (
                "the certificate is not valid yet",
                "set the clock of the worker (NTP), or wait until the certificate is valid",
            ),
            Self::WrongName => (
                "the certificate is not for this host",
                "correct the host of the address, or the proxy or DNS entry that leads elsewhere",
            ),
            Self::InvalidName => (
                "the host of the address is no name that a certificate can have",
                "correct the host of the address",
            ),
            Self::Revoked => (
                "the certificate was revoked",
                "have the certificate of the server replaced",
            ),
            Self::Certificate => (
                "the certificate cannot be used",
                "have the certificate replaced, or let the proxy that made it pass this host",
            ),
            Self::ProtocolVersion => (
                "the peer speaks neither TLS 1.2 nor TLS 1.3",
                "enable TLS 1.2 or 1.3 on the server, or on the proxy that answers for it",
            ),
            Self::Refused(_) => (
                "the peer refused the handshake with the alert",
                "look at the log of the server or proxy: it may require a client certificate, which verifyd has none of",
            ),
            Self::NotTls => (
                "the peer does not speak TLS on this port",
                "correct scheme and port of the address, or let the proxy on the way pass TLS",
            ),
            Self::Closed => (
                "the peer closed the connection during the TLS handshake",
                "let firewalls and proxies on the way pass TLS to this host",
            ),
            Self::Failed => (
                "the TLS handshake failed",
                "look at the log of the server, and for proxies on the way",
            ),
        }
    }

    /// Returns what is wrong; for an alert without its name.
    pub const fn text(self) -> &'static str {
        self.words().0
    }

    /// Returns what to do about it, as words that follow others.
    pub const fn step(self) -> &'static str {
        self.words().1
    }
}

impl fmt::Display for TlsCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())?;
        match self {
            Self::Refused(alert) => write!(f, " {} ({})", name(*alert), u8::from(*alert)),
            _ => Ok(()),
        }
    }
}

impl From<&rustls::Error> for TlsCause {
    fn from(error: &rustls::Error) -> Self {
        use rustls::Error as Tls;
        match error {
            Tls::InvalidCertificate(flaw) => Self::from(flaw),
            Tls::AlertReceived(AlertDescription::ProtocolVersion)
            | Tls::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::ProtocolVersion,
            Tls::AlertReceived(alert) => Self::Refused(*alert),
            Tls::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            _ => Self::Failed,
        }
    }
}

impl From<&CertificateError> for TlsCause {
    fn from(flaw: &CertificateError) -> Self {
        use CertificateError as Flaw;
        match flaw {
            // The latter of another authority with the name of a trusted one, such as one that was made again.
            Flaw::UnknownIssuer | Flaw::BadSignature => Self::UnknownIssuer,
            Flaw::Expired | Flaw::ExpiredContext { .. } => Self::Expired,
            Flaw::NotValidYet | Flaw::NotValidYetContext { .. } => Self::NotYetValid,
            Flaw::NotValidForName | Flaw::NotValidForNameContext { .. } => Self::WrongName,
            Flaw::Revoked => Self::Revoked,
            Flaw::Other(other) if other.0.to_string() == AUTHORITY_AS_SERVER => {
                Self::AuthorityAsServer
            }
            _ => Self::Certificate,
        }
    }
}

/// The error of TLS that has caused this one.
fn error_of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |&cause| inner(cause))
        .find_map(|cause| cause.downcast_ref::<rustls::Error>())
}

/// The next cause. An I/O error does not include its inner error in the chain of causes, and a shared error is only seen as
/// what it is within its `Arc`.
fn inner<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(shared) = cause.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    match cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => Some(inner),
        None => cause.source(),
    }
}

/// The name of an alert as the standards write it: `handshake_failure`.
fn name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnrecognisedName => return "unrecognized_name".to_owned(),
        AlertDescription::UnknownPSKIdentity => return "unknown_psk_identity".to_owned(),
        AlertDescription::EncryptedClientHelloRequired => return "ech_required".to_owned(),
        _ => {}
    }
    let mut name = String::new();
    let mut was_lower = false;
    for sign in alert.as_str().unwrap_or("unknown").chars() {
        if was_lower && sign.is_ascii_uppercase() {
            name.push('_');
        }
        was_lower = sign.is_ascii_lowercase();
        name.push(sign.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: rustls::Error) -> TlsCause {
        // As the connection of a tunnel hands it on.
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        TlsCause::of(&error).unwrap()
    }

    #[test]
    fn what_tls_says_has_its_cause() {
        use CertificateError as Flaw;
        for (flaw, cause) in [
            (Flaw::UnknownIssuer, TlsCause::UnknownIssuer),
            (Flaw::Expired, TlsCause::Expired),
            (Flaw::NotValidYet, TlsCause::NotYetValid),
            (Flaw::NotValidForName, TlsCause::WrongName),
            (Flaw::Revoked, TlsCause::Revoked),
            (Flaw::BadSignature, TlsCause::UnknownIssuer),
            (Flaw::BadEncoding, TlsCause::Certificate),
        ] {
            assert_eq!(of(rustls::Error::InvalidCertificate(flaw)), cause);
        }
        for (error, cause) in [
            (
                rustls::Error::AlertReceived(AlertDescription::ProtocolVersion),
                TlsCause::ProtocolVersion,
            ),
            (
                PeerIncompatible::ServerDoesNotSupportTls12Or13.into(),
                TlsCause::ProtocolVersion,
            ),
            (InvalidMessage::InvalidContentType.into(), TlsCause::NotTls),
            (rustls::Error::DecryptError, TlsCause::Failed),
        ] {
            assert_eq!(of(error), cause);
        }
        let lost = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(TlsCause::of(&lost), None);
    }

    #[test]
    fn the_text_of_an_error_has_no_name_of_rust_and_no_seconds() {
        use CertificateError as Flaw;
        use rustls::OtherError;
        use rustls::pki_types::UnixTime;
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let other = |said: &str| {
            let said = io::Error::other(said.to_owned());
            Flaw::Other(OtherError(Arc::new(said)))
        };
        for (error, text) in [
            (
                Flaw::NotValidYetContext {
                    time: at(1_796_140_559),
                    not_before: at(1_811_808_000),
                }
                .into(),
                "invalid peer certificate: the certificate is not valid yet",
            ),
            (
                Flaw::ExpiredContext {
                    time: at(1_811_808_000),
                    not_after: at(1_796_140_559),
                }
                .into(),
                "invalid peer certificate: the certificate has expired",
            ),
            (
                other(AUTHORITY_AS_SERVER).into(),
                "invalid peer certificate: the certificate is an authority's own",
            ),
            (
                other("UnsupportedVersion").into(),
                "invalid peer certificate: UnsupportedVersion",
            ),
            (
                Flaw::UnknownIssuer.into(),
                "invalid peer certificate: UnknownIssuer",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::ProtocolVersion),
                "the peer speaks neither TLS 1.2 nor TLS 1.3",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
                "the peer refused the handshake with the alert handshake_failure (40)",
            ),
        ] {
            // As the client of Redis shares it.
            let shared: Arc<dyn Error + Send + Sync> = Arc::new(io::Error::other(error));
            assert_eq!(TlsCause::text_of(&shared).as_deref(), Some(text));
        }
    }

    #[test]
    fn an_alert_is_named_as_the_standards_do() {
        for (alert, named) in [
            (AlertDescription::HandshakeFailure, "handshake_failure (40)"),
            (AlertDescription::UnknownCA, "unknown_ca (48)"),
            (
                AlertDescription::CertificateRequired,
                "certificate_required (116)",
            ),
            (
                AlertDescription::UnrecognisedName,
                "unrecognized_name (112)",
            ),
            (
                AlertDescription::UnknownPSKIdentity,
                "unknown_psk_identity (115)",
            ),
            (
                AlertDescription::EncryptedClientHelloRequired,
                "ech_required (121)",
            ),
            (AlertDescription::Unknown(200), "unknown (200)"),
        ] {
            let cause = of(rustls::Error::AlertReceived(alert)).to_string();
            assert!(cause.ends_with(&format!("the alert {named}")), "{cause}");
        }
    }
}
