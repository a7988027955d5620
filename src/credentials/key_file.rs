//! The key file of the embedded default.

use super::key_ring::{KEY_BYTES, KeyError, KeyRing};
use crate::domain::text_decoding;
use crate::files;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use zeroize::Zeroizing;

const SETTING: &str = "credentials.key_file";
/// Far more than any key ring needs.
const MAX_FILE_BYTES: usize = 64 * 1024;

impl KeyRing {
    /// Adds the keys of this file, which only its owner may read. Where there is none and `create`
    /// allows it, one with a fresh key is made with mode 0600. Several processes may do so at once:
    /// all end with the same key.
    pub fn load_or_create(&mut self, path: &Path, create: bool) -> Result<(), KeyError> {
        let failed = |problem: String| KeyError::File {
            setting: SETTING,
            path: path.to_owned(),
            problem,
        };
        let text = match read_private(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                make(path).map_err(|error| failed(format!("cannot be created: {error}")))?;
                read_private(path)
            }
            other => other,
        }
        .map_err(|error| failed(format!("cannot be used: {error}")))?;
        self.add_lines(SETTING, path, &text)
    }
}

fn read_private(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = files::open_regular(path)?;
    refuse_if_shared(&file)?;
    let bytes = files::limited(file, MAX_FILE_BYTES)?;
    text_decoding::decode(&bytes).map_err(io::Error::other)
}

/// The text of a file with keys.
pub(super) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = files::read(path, MAX_FILE_BYTES)?;
    text_decoding::decode(&bytes).map_err(io::Error::other)
}

/// Looks at the opened file, not at the path, so that it cannot be exchanged in between.
#[cfg(unix)]
fn refuse_if_shared(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "its mode is {mode:04o}, so that others than its owner can read or change it; \
                 allow only the owner (chmod 600), and if others may have read it, rotate the key"
            ),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_if_shared(_: &File) -> io::Result<()> {
    Ok(())
}

/// Creates the file with a fresh key, or keeps one that another process has just created.
///
/// The text is complete before the file gets its name, so that no process reads half of it.
fn make(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let random = random::<8>()?;
    let mut draft_name = name.to_owned();
    draft_name.push(format!(".{}.new", hex::encode(&random[..])));
    let draft = folder.join(draft_name);
    let written = write_key(&draft).and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let removed = std::fs::remove_file(&draft);
    written?;
    removed?;
    // A key that is lost in a power cut would take every credential with it.
    File::open(folder)?.sync_all()
}

fn write_key(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let id = random::<4>()?;
    let key = random::<KEY_BYTES>()?;
    let encoded = Zeroizing::new(STANDARD.encode(&key[..]));
    let text = Zeroizing::new(format!(
        "# Encrypts the credentials in verifyd's database. Without it they cannot be read.\n\
         # One key per line, the first one writes.\n\
         local-{}:{}\n",
        hex::encode(&id[..]),
        encoded.as_str()
    ));
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn random<const N: usize>() -> io::Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    aws_lc_rs::rand::fill(&mut bytes[..])
        .map_err(|_| io::Error::other("the system gave no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::credentials::CredentialsSettings;
    use std::os::unix::fs::PermissionsExt;

    fn empty_ring() -> KeyRing {
        KeyRing::from_settings(&CredentialsSettings::default()).unwrap()
    }

    #[test]
    fn a_missing_file_is_made_once_with_mode_0600_and_loaded_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verifyd.key");
        let mut first = empty_ring();
        first.load_or_create(&path, true).unwrap();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let mut second = empty_ring();
        second.load_or_create(&path, true).unwrap();
        assert_eq!(first.ids(), second.ids());
        assert_eq!(
            folder.path().read_dir().unwrap().count(),
            1,
            "no draft stays"
        );
    }

    #[test]
    fn processes_that_start_at_once_end_with_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verifyd.key");
        let ids: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut ring = empty_ring();
                        ring.load_or_create(&path, true).unwrap();
                        ring.ids()[0].to_owned()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn a_missing_file_stays_missing_where_creating_is_not_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verifyd.key");
        let error = empty_ring().load_or_create(&path, false).unwrap_err();
        assert!(error.to_string().starts_with("credentials.key_file: "));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verifyd.key");
        empty_ring().load_or_create(&path, true).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = empty_ring()
                .load_or_create(&path, true)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_empty_or_broken_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verifyd.key");
        for (text, expected) in [
            ("# nothing\n", "holds no key; a line must be an id"),
            ("\nk1:short\n", "line 2: "),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = empty_ring()
                .load_or_create(&path, true)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn byte_order_marks_and_kinds_of_line_ends_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verifyd.key");
        let lines = [1, 2].map(|key| format!("k{key}:{}", STANDARD.encode([key; 32])));
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("\u{feff}# Keys{end}{}{end}", lines.join(end));
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let mut ring = empty_ring();
            ring.load_or_create(&path, false).unwrap();
            assert_eq!(ring.ids(), ["k1", "k2"], "{end:?}");
            let settings = CredentialsSettings {
                keys_file: path.clone(),
                ..CredentialsSettings::default()
            };
            let ring = KeyRing::from_settings(&settings).unwrap();
            assert_eq!(ring.ids(), ["k1", "k2"], "{end:?}");
        }
    }
}
