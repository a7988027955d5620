//! The password in a file, as short-lived tokens of cloud providers are given to a process.

use super::environment::OF_PASSWORD;
use crate::domain::server_address;
use crate::domain::text_decoding;
use crate::files;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::store_error::StoreError;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Far more than any token needs.
const MAX_FILE_BYTES: usize = 64 * 1024;

/// Longest time that a reading is waited for: its folder may be one of another machine.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

type Reading = JoinHandle<Result<SecretString, String>>;

/// The file of `database.password_file`.
pub(super) struct PasswordFile {
    path: PathBuf,
    latest: Mutex<Latest>,
    /// One that has not ended in time.
    reading: tokio::sync::Mutex<Option<Reading>>,
}

struct Latest {
    password: SecretString,
    read_at: DateTime<Utc>,
    /// Whether reading has failed since.
    is_stale: bool,
}

impl PasswordFile {
    /// Reads the file. `None`: the path is empty.
    pub(super) fn open(path: &Path) -> Result<Option<Arc<Self>>, StoreError> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let password =
            read(path).map_err(|why| StoreError::Settings(unusable(path, &why).into()))?;
        let latest = Latest {
            password,
            read_at: SystemClock.now(),
            is_stale: false,
        };
        Ok(Some(Arc::new(Self {
            path: path.to_owned(),
            latest: Mutex::new(latest),
            reading: tokio::sync::Mutex::default(),
        })))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn password(&self) -> SecretString {
        self.latest.lock().password.clone()
    }

    /// Adds to the error of a connection what may be wrong with the password, of which it quotes nothing.
    pub(super) fn named_in(&self, error: StoreError) -> StoreError {
        let is_refused = OF_PASSWORD.iter().any(|sign| error.has(*sign));
        match is_refused && text_decoding::has_blank_around(self.password().expose_secret()) {
            true => error
                .with_more("; the password in database.password_file begins or ends with a blank"),
            false => error,
        }
    }

    /// When the file was last read.
    pub(super) fn read_at(&self) -> DateTime<Utc> {
        self.latest.lock().read_at
    }

    /// Reads the file again, and returns whether the password is another one. What cannot be used is logged once, and
    /// the former password stays.
    pub(super) async fn reread(&self) -> bool {
        let path = self.path.clone();
        self.reread_by(move || read(&path)).await
    }

    /// The same by this function, unless an earlier one has not ended yet: then that one is waited for again.
    async fn reread_by(
        &self,
        read: impl FnOnce() -> Result<SecretString, String> + Send + 'static,
    ) -> bool {
        let mut reading = self.reading.lock().await;
        let current = reading.get_or_insert_with(|| tokio::task::spawn_blocking(read));
        let waited = tokio::time::timeout(READ_TIMEOUT, current).await;
        let read = match waited {
            Ok(read) => {
                *reading = None;
                read.unwrap_or_else(|_| Err("reading it was interrupted".to_owned()))
            }
            Err(_) => Err(format!("it was not read within {READ_TIMEOUT:?}")),
        };
        let mut latest = self.latest.lock();
        match read {
            Ok(password) => {
                if latest.is_stale {
                    tracing::info!("database.password_file can be used again");
                }
                let is_other = password.expose_secret() != latest.password.expose_secret();
                *latest = Latest {
                    password,
                    read_at: SystemClock.now(),
                    is_stale: false,
                };
                is_other
            }
            Err(why) => {
                if !latest.is_stale {
                    let why = unusable(&self.path, &why);
                    tracing::warn!("{why}; the password that was read before stays in use");
                }
                latest.is_stale = true;
                false
            }
        }
    }
}

fn unusable(path: &Path, why: &str) -> String {
    format!(
        "database.password_file: {} cannot be used: {why}",
        path.display()
    )
}

/// The content without the line end at its end. An error quotes nothing of it.
fn read(path: &Path) -> Result<SecretString, String> {
    let bytes = files::read_regular(path, MAX_FILE_BYTES).map_err(|error| error.to_string())?;
    let text = text_decoding::decode(&bytes).map_err(|error| error.to_string())?;
    let password = text_decoding::without_line_end(&text);
    if password.is_empty() {
        return Err("it is empty".to_owned());
    }
    match server_address::control_in("it", password) {
        Some(control) => Err(control),
        None => Ok(SecretString::from(password.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store_error::{Code, Detail};

    #[test]
    fn what_is_no_password_is_refused_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for (content, words) in [
            (&b""[..], "it is empty"),
            (b"\n", "it is empty"),
            (b"s3cr\xffet", "UTF-8"),
            (b"s3cret\nsecond", "it holds U+000A LINE FEED"),
            (b"s3cret\x1b", "it holds U+001B ESCAPE"),
            (&[b's'; MAX_FILE_BYTES + 1], "longer than 64 KiB"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = PasswordFile::open(&path).err().unwrap().to_string();
            assert!(error.contains(words), "{words}: {error}");
            assert!(error.contains("database.password_file: /"), "{error}");
            assert!(!error.contains("s3cr"), "{error}");
        }
        let refused = || {
            let code = Code::Sqlstate("28P01".to_owned());
            StoreError::Refused(Detail::new("password authentication failed", Some(code)))
        };
        for content in ["a token ", " a token\n", "a token\u{a0}\r\n", "a token"] {
            std::fs::write(&path, content).unwrap();
            let file = PasswordFile::open(&path).unwrap().unwrap();
            let named = file.named_in(refused()).to_string();
            let is_named = named.ends_with("begins or ends with a blank");
            assert_eq!(is_named, content != "a token", "{content:?}: {named}");
            assert!(!named.contains("a token"), "{named}");
            let other = StoreError::Unavailable("no server listens there".into());
            let other = file.named_in(other).to_string();
            assert!(other.ends_with("listens there"), "{content:?}: {other}");
        }
        for content in ["a token", "a token\n", "a token\r\n", "\u{feff}a token"] {
            std::fs::write(&path, content).unwrap();
            let file = PasswordFile::open(&path).unwrap().unwrap();
            assert_eq!(file.password().expose_secret(), "a token", "{content:?}");
        }
        for (path, words) in [
            (folder.path(), "it is a directory, allowed: a regular"),
            (Path::new("/dev/zero"), "it is a device, allowed: a regular"),
            (folder.path().join("nope").as_path(), "No such file"),
        ] {
            let error = PasswordFile::open(path).err().unwrap().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        #[cfg(unix)]
        {
            let pipe = folder.path().join("pipe");
            rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
            let error = PasswordFile::open(&pipe).err().unwrap().to_string();
            assert!(
                error.contains("it is a pipe, allowed: a regular"),
                "{error}"
            );
        }
        assert!(PasswordFile::open(Path::new("")).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_any_more_leaves_the_password_that_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "first").unwrap();
        let file = PasswordFile::open(&path).unwrap().unwrap();
        assert!(!file.reread().await);
        std::fs::remove_file(&path).unwrap();
        assert!(!file.reread().await);
        assert_eq!(file.password().expose_secret(), "first");
        std::fs::write(&path, "second").unwrap();
        assert!(file.reread().await);
        assert_eq!(file.password().expose_secret(), "second");
    }

    #[tokio::test]
    async fn a_reading_that_hangs_holds_nothing_up_and_counts_once_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "first").unwrap();
        let file = PasswordFile::open(&path).unwrap().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let hanging = move || receiver.recv().map_err(|_| "nothing came".to_owned());
        let reading = tokio::time::timeout(100 * READ_TIMEOUT, file.reread_by(hanging));
        assert_eq!(reading.await, Ok(false));
        assert!(!file.reread().await);
        assert_eq!(file.password().expose_secret(), "first");
        sender.send(SecretString::from("second")).unwrap();
        // On a busy machine not within the time of one call.
        while !file.reread().await {}
        assert_eq!(file.password().expose_secret(), "second");
    }
}
