//! Tests whether the modules of `microsoft.modules_dir` can be read.

use super::{Line, State, bad, ok};
use crate::app;
use crate::config::Settings;

pub fn check(settings: &Settings) -> Line {
    match app::providers_offline(settings) {
        Ok(providers) => {
            let modules = providers.all_modules();
            let files = modules.iter().filter(|(_, m)| m.file.is_some()).count();
            let found = match files {
                0 => format!("{} modules", modules.len()),
                files => format!("{} modules, {files} of files", modules.len()),
            };
            ok("modules", found)
        }
        Err(error) => {
            let folder = &settings.microsoft.modules_dir;
            let remedy = if folder.as_os_str().is_empty() || folder.is_dir() {
                "correct the files of microsoft.modules_dir; `verifyd modules validate FILE` tests one"
            } else {
                "let microsoft.modules_dir name a folder that this user can read, or leave it empty"
            };
            bad("modules", State::Failed, format!("{error:#}"), remedy)
        }
    }
}
