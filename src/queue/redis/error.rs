//! Describes why Redis cannot be used, with the server's own error where it sent one.
//!
//! The client's messages contain no password: they name commands, hosts and answers of the server.

use crate::domain::report::redact::clean;
use crate::domain::tls_cause::TlsCause;
use crate::files::trusted_authorities;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisConnectionInfo, RedisError,
    RedisResult,
};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;

const CLOSED: &str = "the server closed the connection";

/// Timeout for the error that a server sends before any command.
const UNASKED_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest such error that is read.
const MAX_UNASKED_BYTES: u64 = 2048;

/// Characters of a description.
const LENGTH: usize = 1_000;

/// Describes an error without any secret and, as a server or a script may choose its text, without control characters.
pub(super) fn describe(error: &RedisError) -> String {
    clean(&text(error), LENGTH)
}

fn text(error: &RedisError) -> String {
    // Of several commands in one message the first that failed.
    let answers = error.clone().into_server_errors();
    let answer = answers.as_ref().and_then(|answers| answers.first());
    // `WRONGPASS`, `NOAUTH`, `NOPERM`, `LOADING`, `READONLY`, `OOM`, …
    let (code, detail) = match answer {
        Some((_, answer)) => (Some(answer.code()), answer.details()),
        None => (error.code(), error.detail()),
    };
    let Some(code) = code else {
        return match error.kind() {
            ErrorKind::Io => describe_io(error),
            // Its text has several lines, with bytes of the answer.
            ErrorKind::Parse if detail.is_some_and(|d| d.starts_with("Parse error")) => {
                "the server speaks another protocol than that of Redis".to_owned()
            }
            _ => error.to_string(),
        };
    };
    // Behind an error of a script stands which one it is.
    match detail.and_then(|detail| detail.split(" script: ").next()) {
        Some(detail) => format!("the server answers {code} {detail}"),
        None => format!("the server answers {code}"),
    }
}

fn describe_io(error: &RedisError) -> String {
    let text = TlsCause::text_of(error).unwrap_or_else(|| error.to_string());
    let has = |part: &str| text.contains(part);
    // Of the machine's own files. Those that variables name were read before.
    let cause = if has("failed to read PEM") {
        "a file of the authorities that this machine trusts cannot be used"
    } else if error.is_connection_refusal() {
        "no server listens there"
    } else if error.is_timeout() {
        "no answer within the timeout"
    } else if has("lookup address") || has("Name or service not known") {
        "the host's name cannot be resolved"
    } else if has("invalid peer certificate") {
        "the server's certificate is not accepted"
    } else if has("corrupt message") || has("InvalidContentType") {
        "the server speaks no TLS there (rediss://)"
    } else if error.is_connection_dropped() {
        CLOSED
    } else {
        return text;
    };
    format!("{cause}: {text}")
}

/// Opens one connection without any retry. The error describes the first failure.
pub(super) async fn try_to_connect(
    client: &Client,
    connect_timeout: Duration,
    response_timeout: Duration,
) -> Result<MultiplexedConnection, String> {
    let tls = matches!(
        client.get_connection_info().addr(),
        ConnectionAddr::TcpTls { .. }
    );
    if tls && let Some(problem) = trusted_authorities::problem(std::env::var_os) {
        return Err(problem);
    }
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(Some(response_timeout));
    let result = client
        .get_multiplexed_async_connection_with_config(&limits)
        .await;
    match result {
        Ok(connection) => Ok(connection),
        // A server without TLS waits for the rest of a command.
        Err(error) if tls && error.is_timeout() => Err(format!(
            "no answer within the timeout; the server may speak no TLS there (rediss://): {error}"
        )),
        Err(error) => Err(describe_with_answer(client, &limits, &error).await),
    }
}

/// Describes an error; of a refused sign-in and of a closed connection with the server's own answer, which the client
/// leaves out.
async fn describe_with_answer(
    client: &Client,
    limits: &AsyncConnectionConfig,
    error: &RedisError,
) -> String {
    if error.kind() == ErrorKind::AuthenticationFailed
        && let Some(Err(answer)) = sign_in(client, limits).await
    {
        return describe(&answer);
    }
    let said = describe(error);
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) if said.starts_with(CLOSED) => {
            match unasked_error(host, *port).await {
                Some(answer) => format!("the server answers {}", clean(&answer, LENGTH)),
                None => {
                    let error = clean(&error.to_string(), LENGTH);
                    format!("{CLOSED}; it may want TLS (rediss://): {error}")
                }
            }
        }
        _ => said,
    }
}

/// Reads the error that a server sends before it closes a connection at once: at its `maxclients`, or in protected
/// mode. The client misses it, because its commands meet a closed connection.
async fn unasked_error(host: &str, port: u16) -> Option<String> {
    let read = async {
        let stream = TcpStream::connect((host, port)).await.ok()?;
        let mut line = String::new();
        let mut reader = BufReader::new(stream.take(MAX_UNASKED_BYTES));
        reader.read_line(&mut line).await.ok()?;
        // In protected mode advice of several sentences follows.
        let error = line.strip_prefix('-')?.split(". ").next()?;
        Some(error.trim_end().to_owned())
    };
    tokio::time::timeout(UNASKED_TIMEOUT, read).await.ok()?
}

/// Signs in once more, over a connection that did not sign in while it was opened.
async fn sign_in(client: &Client, limits: &AsyncConnectionConfig) -> Option<RedisResult<()>> {
    let info = client.get_connection_info().clone();
    let mut command = redis::cmd("AUTH");
    if let Some(user) = info.redis_settings().username() {
        command.arg(user);
    }
    command.arg(info.redis_settings().password()?);
    let bare = Client::open(info.set_redis_settings(RedisConnectionInfo::default())).ok()?;
    let mut connection: MultiplexedConnection = bare
        .get_multiplexed_async_connection_with_config(limits)
        .await
        .ok()?;
    Some(command.query_async(&mut connection).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::redis::remedy::remedy;

    /// Of the kind that the client of Redis hands on.
    fn described(error: rustls::Error) -> String {
        describe(&std::io::Error::new(std::io::ErrorKind::InvalidData, error).into())
    }

    #[test]
    fn why_tls_failed_is_named_with_its_remedy() {
        use rustls::{AlertDescription as Alert, CertificateError as Flaw, Error, OtherError};
        let authority = std::io::Error::other("CaUsedAsEndEntity");
        let authority = Flaw::Other(OtherError(std::sync::Arc::new(authority)));
        for (error, said, advice) in [
            (authority.into(), "an authority's own", "CA:FALSE"),
            (Flaw::Expired.into(), "has expired", "renewed"),
            (Flaw::NotValidYet.into(), "not valid yet", "wait until"),
            (Flaw::UnknownIssuer.into(), "UnknownIssuer", "SSL_CERT_FILE"),
            (
                Error::AlertReceived(Alert::ProtocolVersion),
                "neither TLS 1.2",
                "enable TLS 1.2",
            ),
            (
                Error::AlertReceived(Alert::HandshakeFailure),
                "handshake_failure (40)",
                "the log of the server",
            ),
            (
                Error::AlertReceived(Alert::CertificateRequired),
                "certificate_required (116)",
                "tls-auth-clients no",
            ),
        ] {
            let is_of_certificate = matches!(error, Error::InvalidCertificate(_));
            let described = described(error);
            assert!(described.contains(said), "{described}");
            assert!(!described.contains("OtherError"), "{described}");
            let words = "the server's certificate is not accepted";
            assert_eq!(
                described.starts_with(words),
                is_of_certificate,
                "{described}"
            );
            let remedy = remedy(&described);
            assert!(remedy.contains(advice), "{described}: {remedy}");
        }
    }
}
