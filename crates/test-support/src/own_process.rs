//! Tests that need a process of their own: because they change what a whole process shares, or
//! because its environment has to be another one.

use std::ffi::OsStr;
use std::process::Command;

/// Set in the process that a test has started for itself.
const ENTERED: &str = "VERIFYD_TEST_OWN_PROCESS";

/// Runs a test of the calling binary in a process of its own, with these variables besides, and says
/// whether the caller is in that process already: if not, the test has passed there, and is over here.
///
/// [`test_name!`](crate::test_name) makes the name.
pub fn entered(test: &str, environment: &[(&str, &OsStr)]) -> bool {
    if std::env::var_os(ENTERED).is_some() {
        return true;
    }
    let (_, name) = test
        .split_once("::")
        .expect("the name of a crate comes first");
    let output = Command::new(std::env::current_exe().expect("the path of this binary"))
        .args(["--exact", name, "--nocapture"])
        .env(ENTERED, "yes")
        .envs(environment.iter().copied())
        .output()
        .expect("this binary starts once more");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
    false
}

/// The full name of a test of the calling module.
#[macro_export]
macro_rules! test_name {
    ($test:ident) => {
        concat!(module_path!(), "::", stringify!($test))
    };
}
