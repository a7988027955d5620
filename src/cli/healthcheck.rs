//! `verifyd healthcheck`: for containers, which do not have curl.

use super::args::HealthcheckArgs;
use super::{exit, output};
use crate::config::Settings;
use crate::http::health::CHECK_TIMEOUT;
use anyhow::Context as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Beyond what the process itself may wait for the database, twice.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes of an answer that are read: all metrics are some tens of KiB.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

pub async fn run(settings: &Settings, args: &HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let (healthy, body) = ask(settings.http.listen, path).await?;
    output::line(body);
    Ok(exit::passed(healthy))
}

/// Asks the process that listens there. Returns whether the status is 200, and the body.
pub(super) async fn ask(listen: SocketAddr, path: &str) -> anyhow::Result<(bool, String)> {
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let timeout = 2 * CHECK_TIMEOUT + TIMEOUT;
    let answer = tokio::time::timeout(timeout, exchange(address, path))
        .await
        .with_context(|| format!("{address}{path}: no answer within the timeout"))?;
    let answer = match answer {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            anyhow::bail!("{address}{path}: nothing listens there: {error}")
        }
        answer => answer.with_context(|| format!("{address}{path}"))?,
    };
    anyhow::ensure!(
        answer.starts_with("HTTP/"),
        "{address}{path}: what listens there speaks no HTTP"
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.starts_with("HTTP/1.1 200 "), body.to_owned()))
}

/// One request, without an HTTP client for it.
async fn exchange(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
