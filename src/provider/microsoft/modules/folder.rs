//! Reads modules from a folder.

use super::{built_in_keys, read, rules};
use crate::domain::module::{Module, ModuleProblem};
use crate::files;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A problem of a folder of modules, or of one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderProblem {
    pub path: PathBuf,
    pub problem: ModuleProblem,
}

impl fmt::Display for FolderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem.line {
            0 => write!(f, "{}: {}", self.path.display(), self.problem.problem),
            _ => write!(f, "{}:{}", self.path.display(), self.problem),
        }
    }
}

/// A problem of no line.
fn whole(path: &Path, problem: impl Into<String>) -> FolderProblem {
    FolderProblem {
        path: path.to_owned(),
        problem: ModuleProblem {
            line: 0,
            field: String::new(),
            problem: problem.into(),
        },
    }
}

/// The module of a file. Its key must not be that of a module of verifyd itself.
pub fn read_file(path: &Path) -> Result<Module, Vec<FolderProblem>> {
    let text = text_of(path).map_err(|problem| vec![whole(path, problem)])?;
    let wrong = |problem: ModuleProblem| FolderProblem {
        path: path.to_owned(),
        problem,
    };
    let module = read::read(&text)
        .map_err(|problems| problems.into_iter().map(wrong).collect::<Vec<_>>())?;
    if built_in_keys().contains(module.key.as_str()) {
        let at = text
            .lines()
            .position(|line| line.trim_start().starts_with("key"));
        return Err(vec![wrong(ModuleProblem {
            line: at.map_or(1, |at| at + 1),
            field: "key".to_owned(),
            problem: format!(
                "{} is a module of verifyd itself: choose another key",
                module.key
            ),
        })]);
    }
    Ok(Module {
        file: Some(path.display().to_string()),
        ..module
    })
}

fn text_of(path: &Path) -> Result<String, String> {
    let bytes =
        files::read(path, rules::FILE_BYTES).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| "must be UTF-8 text".to_owned())
}

/// Whether it is a module: a file that ends in `.toml` and is not hidden, as the copies of editors are.
fn is_module(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".")
}

/// Reads the modules of a folder, in the order of their files' names. Other files are ignored.
pub(super) fn read_folder(folder: &Path) -> Result<Vec<Arc<Module>>, Vec<FolderProblem>> {
    let unreadable =
        |error: std::io::Error| vec![whole(folder, format!("cannot be read: {error}"))];
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if is_module(&path) {
            files.push(path);
        }
        if files.len() > rules::MODULES {
            let problem = format!("holds more than {} modules", rules::MODULES);
            return Err(vec![whole(folder, problem)]);
        }
    }
    files.sort();
    let mut modules: Vec<Arc<Module>> = Vec::new();
    let mut problems = Vec::new();
    for path in files {
        match read_file(&path) {
            Ok(module) => match modules.iter().find(|known| known.key == module.key) {
                Some(known) => {
                    let file = known.file.as_deref().unwrap_or_default();
                    let problem = format!("{} is the key of {file}, too", module.key);
                    problems.push(FolderProblem {
                        path,
                        problem: ModuleProblem {
                            line: 1,
                            field: "key".to_owned(),
                            problem,
                        },
                    });
                }
                None => modules.push(Arc::new(module)),
            },
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(modules)
    } else {
        Err(problems)
    }
}
