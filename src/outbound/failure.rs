//! Why an exchange failed. Errors of libraries may quote addresses, so only their kinds are kept.

use super::guard::NoPublicAddress;
use super::proxy::ProxyTrouble;
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
    #[error("no trusted TLS connection")]
    Tls,
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
    /// Of a connection that could not be opened, TLS included.
    pub(super) fn of_connecting(error: &(dyn Error + 'static)) -> Self {
        let any = |is: fn(&(dyn Error + 'static)) -> bool| is(error) || causes(error).any(is);
        if any(|cause| cause.is::<NoPublicAddress>()) {
            Self::AddressRefused
        } else if any(is_tls) {
            Self::Tls
        } else if any(is_timeout) {
            Self::ConnectTimeout
        } else {
            Self::Unreachable
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

/// Whether TLS failed: a certificate that is not trusted, or a handshake that broke. An I/O error does not include its
/// inner error in the chain of causes, so it is unwrapped here.
fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    let io = cause.downcast_ref::<io::Error>();
    let inner = io.and_then(io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

/// The causes of an error, outermost first, itself not counted.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (**cause).source())
}
