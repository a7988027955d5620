//! The Unix socket of a process. A connection carries one request and its answer, each a JSON text up to the end of the
//! stream.

use super::Observed;
use super::state::DebugState;
use crate::telemetry::build_info::BUILD;
use crate::telemetry::log_filter::LogFilterState;
use serde::{Deserialize, Serialize};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Longest request that is read, in bytes.
const MAX_REQUEST: u64 = 4096;

/// Longest answer that is read, in bytes: thousands of runs in flight.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Timeout of one exchange. The next one waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an exchange that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What a process is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    State,
    /// Adds directives to `log.filter` for a time; without any, ends that.
    LogFilter {
        add: Option<String>,
        seconds: u64,
    },
}

/// What a process answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    State(Box<DebugState>),
    LogFilter(LogFilterState),
    Refused(String),
}

/// The socket at which a process answers. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Returns whether a process of this user may ask: it could read the memory of this process anyway.
fn may_ask(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

impl Socket {
    /// Binds the path, also where a process that was killed has left its socket. Only the owner may connect.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
        if is_socket {
            match UnixStream::connect(path).await {
                Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                }
                Err(error) => return Err(error),
            }
        }
        let socket = Self {
            listener: UnixListener::bind(path)?,
            path: path.to_owned(),
        };
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// Answers one request after the other, for ever.
    pub(super) async fn answer(&self, observed: &Observed) {
        loop {
            if let Err(error) = self.answer_next(observed).await {
                tracing::debug!(%error, "a request at debug.socket was not answered");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn answer_next(&self, observed: &Observed) -> io::Result<()> {
        let (stream, _) = self.listener.accept().await?;
        tokio::time::timeout(TIMEOUT, exchange(stream, observed)).await?
    }
}

async fn exchange(mut stream: UnixStream, observed: &Observed) -> io::Result<()> {
    let mut request = Vec::new();
    let mut limited = (&mut stream).take(MAX_REQUEST);
    limited.read_to_end(&mut request).await?;
    let answer = if !may_ask(stream.peer_cred()?.uid()) {
        Answer::Refused("only root and the user of the process may ask".to_owned())
    } else {
        match serde_json::from_slice(&request) {
            Ok(request) => observed.answer(request).await,
            Err(_) => Answer::Refused(format!(
                "no request that version {} understands",
                BUILD.version
            )),
        }
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

/// Asks the process at this socket.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Answer> {
    let request = serde_json::to_vec(request)?;
    if request.len() as u64 > MAX_REQUEST {
        let length = request.len();
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the request has {length} bytes with its filter, allowed: {MAX_REQUEST} at most"
            ),
        ));
    }
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(&request).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok::<Answer, io::Error>(serde_json::from_slice(&answer)?)
    };
    // Others may be before this one.
    tokio::time::timeout(2 * TIMEOUT, exchange).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_own_user_may_ask() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_ask(0) && may_ask(own));
        assert!(!may_ask(own + 1));
    }

    #[tokio::test]
    async fn a_request_that_is_longer_than_what_is_read_is_not_sent() {
        let request = |length| Request::LogFilter {
            add: Some("x".repeat(length)),
            seconds: 1,
        };
        let folder = tempfile::tempdir().unwrap();
        let nobody = folder.path().join("debug.sock");
        let error = ask(&nobody, &request(4096)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("4096 at most"), "{error}");
        let error = ask(&nobody, &request(4000)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("debug.sock");
        // Dropping it leaves the file.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::bind(&path).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        Socket::bind(&path).await.unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
