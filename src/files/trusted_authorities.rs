//! Checks the files of trusted authorities that variables of the environment name, before TLS reads them: its errors
//! name neither variable nor file, or blame the server's certificate.

use super::{CertificatesError, certificates};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// What mends it.
pub const REMEDY: &str = "let what is named lead to files of PEM that this user can read";

/// Returns which file cannot be used, and why, or that the folders hold no certificate; `None` if TLS can read all of
/// them, or no variable names one. Where a variable names one, TLS trusts nothing else.
pub fn problem(variable: impl Fn(&'static str) -> Option<OsString>) -> Option<String> {
    let file = variable(FILE).map(PathBuf::from);
    let folders = variable(FOLDERS).unwrap_or_default();
    check(file.as_deref(), &folders).err()
}

fn check(file: Option<&Path>, folders: &OsStr) -> Result<(), String> {
    if let Some(file) = file
        && !of_file(FILE, file)?
    {
        return Err(holding(FILE, file, CertificatesError::Missing));
    }
    let folders: Vec<PathBuf> = std::env::split_paths(folders)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    let mut is_any_trusted = file.is_some() || folders.is_empty();
    for folder in &folders {
        is_any_trusted |= of_folder(folder)?;
    }
    match is_any_trusted {
        true => Ok(()),
        false => {
            let missing = CertificatesError::Missing;
            Err(format!("{folders:?} of the variable {FOLDERS} hold {missing}"))
        }
    }
}

/// Whether the folder has a certificate. It may hold other files, too, which TLS skips.
fn of_folder(folder: &Path) -> Result<bool, String> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| unreadable("folder", folder, FOLDERS, &error))?;
    let mut has_certificate = false;
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_file() {
            has_certificate |= of_file(FOLDERS, &path)?;
        }
    }
    Ok(has_certificate)
}

/// Whether the file has a certificate.
fn of_file(variable: &str, path: &Path) -> Result<bool, String> {
    let pem = std::fs::read(path).map_err(|error| unreadable("file", path, variable, &error))?;
    match certificates(&pem) {
        Ok(_) => Ok(true),
        Err(CertificatesError::Missing) => Ok(false),
        Err(broken) => Err(holding(variable, path, broken)),
    }
}

fn holding(variable: &str, path: &Path, held: CertificatesError) -> String {
    format!("the file {path:?} of the variable {variable} holds {held}")
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
        let other = write("other/README", "no certificate");
        let found = |name: &'static str, path: &Path| {
            problem(|variable| (variable == name).then(|| path.as_os_str().to_owned()))
        };
        for (name, path, words) in [
            (FILE, missing.as_path(), "cannot be read: No such file"),
            (FILE, folder.path(), "cannot be read: "),
            (FILE, &empty, "holds no certificate in PEM"),
            (FILE, &broken, "holds a certificate that cannot be parsed"),
            (FOLDERS, &missing, "cannot be read: No such file"),
            (
                FOLDERS,
                broken.parent().unwrap(),
                "holds a certificate that cannot be parsed",
            ),
            (
                FOLDERS,
                other.parent().unwrap(),
                "hold no certificate in PEM",
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
        // Beside a file with a certificate a folder may be empty.
        let both = problem(|variable| match variable {
            FILE => Some(whole.as_os_str().to_owned()),
            _ => other.parent().map(|folder| folder.as_os_str().to_owned()),
        });
        assert_eq!(both, None);
    }
}
