//! Why an exchange failed. Errors of libraries may quote addresses, so only their kinds are kept.

use super::guard::NoPublicAddress;
use super::proxy::{ProxyTrouble, tls_step};
use crate::domain::tls_cause::TlsCause;
use std::borrow::Cow;
use std::error::Error;
use std::io;

/// The end of an exchange without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct Failure {
    pub kind: FailureKind,
    /// Host and port of the proxy that was used.
    pub proxy: Option<String>,
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailureKind {
    #[error("the address may not be called")]
    AddressRefused,
    #[error("no connection")]
    Unreachable,
    #[error("the connection timed out")]
    ConnectTimeout,
    #[error("no trusted TLS connection: {0}")]
    Tls(TlsCause),
    #[error("{0}")]
    Proxy(ProxyTrouble),
    /// The peer has certainly not begun with the request.
    #[error("the peer has refused the request, or not processed it")]
    NotProcessed,
    /// The connection was lost, and nothing, or not all, of the answer arrived.
    #[error("the connection was lost")]
    Lost,
    /// The peer has ended this one request (HTTP/2's RST_STREAM).
    #[error("the peer has ended the request")]
    Reset,
    #[error("the answer is not HTTP")]
    NotHttp,
    #[error("the peer sends without end and does not answer")]
    EndlessHead,
    #[error("the exchange timed out")]
    Timeout,
}

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Self {
        Self { kind, proxy: None }
    }
}

impl FailureKind {
    /// Of a connection that could not be opened, before TLS.
    pub(super) fn of_connecting(error: &(dyn Error + 'static)) -> Self {
        let any = |is: fn(&(dyn Error + 'static)) -> bool| is(error) || causes(error).any(is);
        if any(|cause| cause.is::<NoPublicAddress>()) {
            Self::AddressRefused
        } else if any(is_timeout) {
            Self::ConnectTimeout
        } else {
            Self::Unreachable
        }
    }

    /// Of a TLS handshake.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        match TlsCause::of(error) {
            Some(cause) => Self::Tls(cause),
            None if is_timeout(error) => Self::ConnectTimeout,
            None => Self::Tls(TlsCause::Closed),
        }
    }

    /// Returns why TLS or the proxy failed, if that is what failed.
    pub fn cause(self) -> Option<String> {
        match self {
            Self::Tls(cause) => Some(cause.to_string()),
            Self::Proxy(trouble) => Some(trouble.to_string()),
            _ => None,
        }
    }

    /// Returns what to do where TLS failed, with the peer or with the proxy, as words that follow others.
    fn step(self) -> Option<Cow<'static, str>> {
        match self {
            Self::Tls(cause) => Some(cause.step().into()),
            Self::Proxy(ProxyTrouble::Tls(cause)) => Some(tls_step(cause)),
            _ => None,
        }
    }

    /// Returns the same as the label of a next step.
    pub fn label(self) -> Option<String> {
        let step = self.step()?;
        Some(format!("{}{}", step[..1].to_ascii_uppercase(), &step[1..]))
    }

    /// Returns what failed and, where TLS did, what to do about it.
    pub fn explained(self) -> String {
        match self.step() {
            Some(step) => format!("{self}; {step}"),
            None => self.to_string(),
        }
    }

    /// Of an open connection. `unsent`: the connection has handed the request back.
    pub(super) fn of_exchange(error: &hyper::Error, unsent: bool) -> Self {
        if unsent {
            return Self::NotProcessed;
        }
        let h2 = causes(error).find_map(|cause| cause.downcast_ref::<h2::Error>());
        if let Some(h2) = h2 {
            // A stream that ends with GOAWAY is above its last id; others end with the connection.
            let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM) && h2.is_reset();
            if h2.is_remote() && (refused || h2.is_go_away()) {
                return Self::NotProcessed;
            }
            if h2.is_remote() && h2.is_reset() {
                return Self::Reset;
            }
        }
        let any = |is: fn(&(dyn Error + 'static)) -> bool| causes(error).any(is);
        if any(is_timeout) {
            Self::Timeout
        } else if error.is_parse() || error.is_parse_too_large() {
            Self::NotHttp
        } else {
            Self::Lost
        }
    }
}

fn is_timeout(cause: &(dyn Error + 'static)) -> bool {
    cause
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// The causes of an error, outermost first, itself not counted.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (**cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::limits;
    use rustls::AlertDescription;

    #[test]
    fn each_step_fits_a_report() {
        for cause in [
            TlsCause::UnknownIssuer,
            TlsCause::AuthorityAsServer,
            TlsCause::Expired,
            TlsCause::NotYetValid,
            TlsCause::WrongName,
            TlsCause::InvalidName,
            TlsCause::Revoked,
            TlsCause::Certificate,
            TlsCause::ProtocolVersion,
            TlsCause::Refused(AlertDescription::HandshakeFailure),
            TlsCause::NotTls,
            TlsCause::Closed,
            TlsCause::Failed,
        ] {
            let of_proxy = FailureKind::Proxy(ProxyTrouble::Tls(cause))
                .label()
                .unwrap();
            assert!(of_proxy.contains("outbound.proxy"), "{of_proxy}");
            for label in [FailureKind::Tls(cause).label().unwrap(), of_proxy] {
                assert!(label.chars().count() <= limits::TITLE_CHARS, "{label}");
                assert!(label.starts_with(|first: char| first.is_ascii_uppercase()));
            }
        }
    }
}
