//! Reads files that people name: secrets, keys, certificates, configuration.

pub mod trusted_authorities;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::fs::{File, FileType};
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Timeout for the writer of a pipe.
const PIPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a file of at most `most` bytes. A pipe, as the shell makes one of `<(command)`, has a timeout of ten
/// seconds; other kinds of file are refused: a device may have no end.
pub fn read(path: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    read_within(path, most, PIPE_TIMEOUT)
}

fn read_within(path: &Path, most: usize, timeout: Duration) -> io::Result<Zeroizing<Vec<u8>>> {
    if is_regular(path)? {
        return limited(File::open(path)?, most);
    }
    // Opening it waits for a writer, and nothing but the end of the process ends that.
    let (sender, answer) = mpsc::sync_channel(1);
    let path = path.to_owned();
    std::thread::spawn(move || {
        let _ = sender.send(File::open(path).and_then(|pipe| limited(pipe, most)));
    });
    answer.recv_timeout(timeout).unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "the pipe was not written and closed within {} s",
                timeout.as_secs()
            ),
        ))
    })
}

/// Reads a regular file of at most `most` bytes: one that is read again later, as a pipe gives its content once.
pub fn read_regular(path: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    limited(open_regular(path)?, most)
}

/// Opens a file that is no pipe: opening one would wait for a writer.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    match kind.is_file() {
        true => File::open(path),
        false => Err(refused(kind, "a regular file")),
    }
}

fn refused(found: FileType, allowed: &str) -> io::Error {
    let found = name_of(found);
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {found}, allowed: {allowed}"),
    )
}

/// What is no regular file, in words.
#[cfg(unix)]
fn name_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(not(unix))]
fn name_of(_: FileType) -> &'static str {
    "no regular file"
}

/// Reads up to the limit, into a buffer that is overwritten when it is dropped. It is allocated at full size:
/// a buffer that grows leaves copies in memory.
pub fn limited(source: impl Read, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    source.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!(
            "it is longer than {} KiB, allowed: at most that; is it the right file?",
            most / 1024
        )));
    }
    Ok(bytes)
}

/// Why a text has no certificates that TLS can use: what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificatesError {
    #[error("no certificate in PEM")]
    Missing,
    #[error("a certificate that cannot be parsed")]
    Broken,
}

/// Returns all certificates of a text, each of which TLS takes as an authority's.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let mut certificates = Vec::new();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| CertificatesError::Broken)?;
        roots
            .add(certificate.clone())
            .map_err(|_| CertificatesError::Broken)?;
        certificates.push(certificate);
    }
    match certificates.is_empty() {
        true => Err(CertificatesError::Missing),
        false => Ok(certificates),
    }
}

/// False: a pipe.
#[cfg(unix)]
fn is_regular(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_file() || kind.is_fifo() {
        return Ok(kind.is_file());
    }
    Err(refused(kind, "a file or a pipe"))
}

#[cfg(not(unix))]
fn is_regular(_: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 64 * 1024;

    #[test]
    fn a_file_is_read_into_the_room_that_it_has_from_the_start() {
        for length in [1, 40, MOST] {
            let bytes = limited("s".repeat(length).as_bytes(), MOST).unwrap();
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes.capacity(), MOST + 1, "it has grown");
        }
        assert!(limited("s".repeat(MOST + 1).as_bytes(), MOST).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_may_have_no_end_is_refused_or_read_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        for (path, found) in [
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/null"), "a device"),
            (folder.path(), "a directory"),
        ] {
            let error = read(path, MOST).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
        let pipe = |name| {
            let pipe = folder.path().join(name);
            rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
            pipe
        };
        let error = read_within(&pipe("silent"), MOST, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        let written = pipe("written");
        let writer = std::thread::spawn({
            let written = written.clone();
            move || std::fs::write(written, "s3cr3t")
        });
        let read = read_within(&written, MOST, Duration::from_secs(120)).unwrap();
        assert_eq!(read.as_slice(), b"s3cr3t");
        writer.join().unwrap().unwrap();
    }
}
