//! Checks the files of trusted authorities that variables of the environment name, before TLS reads them: its errors
//! name neither variable nor file, or blame the server's certificate.

use super::{CertificatesError, certificates, open_regular};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::{Path, PathBuf};

const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// What mends it.
pub const REMEDY: &str = "let what is named lead to files of PEM that this user can read";

/// The problem of folders in which each file can be read.
pub const EMPTY: &str = "the folders of the variable SSL_CERT_DIR hold no certificate in PEM";

/// Whether a variable names a file or a folder. TLS then trusts nothing else.
pub fn are_named(variable: impl Fn(&'static str) -> Option<OsString>) -> bool {
    let has_folder = |folders: OsString| split(&folders).next().is_some();
    variable(FILE).is_some() || variable(FOLDERS).is_some_and(has_folder)
}

/// Returns which file cannot be used, and why; `None` if TLS can read all of them. Folders may hold no certificate.
pub fn problem(variable: impl Fn(&'static str) -> Option<OsString>) -> Option<String> {
    let file = variable(FILE).map(PathBuf::from);
    let wrong = file.and_then(|path| of_file(FILE, &path, true));
    wrong.or_else(|| {
        let folders = variable(FOLDERS)?;
        split(&folders).find_map(|folder| of_folder(&folder))
    })
}

/// Returns why TLS trusts nobody: variables name files or folders, and none holds a certificate that can be used.
pub fn problem_of_all(
    variable: impl Copy + Fn(&'static str) -> Option<OsString>,
) -> Option<String> {
    if !are_named(variable) || is_any_usable(variable) {
        return None;
    }
    Some(problem(variable).unwrap_or_else(|| EMPTY.to_owned()))
}

fn is_any_usable(variable: impl Fn(&'static str) -> Option<OsString>) -> bool {
    let file = variable(FILE).map(PathBuf::from);
    let folders = variable(FOLDERS).unwrap_or_default();
    let entries = split(&folders).filter_map(|folder| std::fs::read_dir(folder).ok());
    let entries = entries.flatten().filter_map(Result::ok);
    let paths = file.into_iter().chain(entries.map(|entry| entry.path()));
    let mut contents = paths.filter_map(|path| read(&path).ok());
    contents.any(|pem| {
        let mut found = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        found.any(|certificate| RootCertStore::empty().add(certificate).is_ok())
    })
}

/// TLS reads it again.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    open_regular(path)?.read_to_end(&mut pem)?;
    Ok(pem)
}

fn split(folders: &OsStr) -> impl Iterator<Item = PathBuf> {
    std::env::split_paths(folders).filter(|folder| !folder.as_os_str().is_empty())
}

/// A folder may hold other files, too, which TLS skips.
fn of_folder(folder: &Path) -> Option<String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return Some(unreadable("folder", folder, FOLDERS, &error)),
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .find_map(|path| of_file(FOLDERS, &path, false))
}

fn of_file(variable: &str, path: &Path, needs_certificate: bool) -> Option<String> {
    let held = match read(path) {
        Ok(pem) => certificates(&pem).err()?,
        Err(error) => return Some(unreadable("file", path, variable, &error)),
    };
    let counts = needs_certificate || held == CertificatesError::Broken;
    counts.then(|| format!("the file {path:?} of the variable {variable} holds {held}"))
}

fn unreadable(kind: &str, path: &Path, variable: &str, error: &std::io::Error) -> String {
    format!("the {kind} {path:?} of the variable {variable} cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_variable() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            path
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["h".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap().pem();
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let whole = write("whole/a.pem", &certificate);
        write("whole/README", "no certificate");
        let empty = write("empty.pem", "");
        let broken = write("broken/a.pem", &format!("{certificate}{garbage}"));
        let missing = folder.path().join("missing");
        let found = |name: &'static str, path: &Path| {
            problem(|variable| (variable == name).then(|| path.as_os_str().to_owned()))
        };
        for (name, path, words) in [
            (FILE, missing.as_path(), "cannot be read: No such file"),
            (
                FILE,
                folder.path(),
                "cannot be read: it is a directory, allowed: a regular file",
            ),
            (FILE, &empty, "holds no certificate in PEM"),
            (FILE, &broken, "holds a certificate that cannot be parsed"),
            (FOLDERS, &missing, "cannot be read: No such file"),
            (
                FOLDERS,
                broken.parent().unwrap(),
                "holds a certificate that cannot be parsed",
            ),
        ] {
            let problem = found(name, path).unwrap_or_default();
            let named = format!("of the variable {name} {words}");
            assert!(problem.contains(&named), "{named}: {problem}");
        }
        for (name, path) in [
            (FILE, whole.as_path()),
            (FOLDERS, whole.parent().unwrap()),
            (FOLDERS, Path::new("")),
        ] {
            assert_eq!(found(name, path), None, "{name}");
        }
        let of_all = |path: &Path| {
            problem_of_all(|variable| (variable == FOLDERS).then(|| path.as_os_str().to_owned()))
        };
        // Its first certificate can be used, and the second one is skipped.
        assert_eq!(of_all(broken.parent().unwrap()), None);
        assert_eq!(of_all(Path::new("")), None);
        let garbage = write("garbage/a.pem", garbage);
        let problem = of_all(garbage.parent().unwrap()).unwrap_or_default();
        assert!(problem.contains("cannot be parsed"), "{problem}");
        let other = write("other/README", "no certificate");
        let problem = of_all(other.parent().unwrap());
        assert_eq!(problem.as_deref(), Some(EMPTY));
        for (name, path, is_named) in [
            (FILE, "missing", true),
            (FOLDERS, "missing", true),
            (FOLDERS, ":", false),
            ("SSL_CERT", "missing", false),
        ] {
            let named = are_named(|variable| (variable == name).then(|| path.into()));
            assert_eq!(named, is_named, "{name}={path}");
        }
    }
}
