//! Unit tests that need a process of their own.

use std::process::{Command, Output};

/// Set in that process.
const ENTERED: &str = "VERIFYD_TEST_OWN_PROCESS";

/// Runs a test in a process of its own, and returns what that has printed once it has passed. `None`: the caller is in
/// that process. `test`: its path from the name of this crate on.
pub(super) fn output_of(test: &str) -> Option<Output> {
    if std::env::var_os(ENTERED).is_some() {
        return None;
    }
    let (_, name) = test.split_once("::").unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", name]).env(ENTERED, "yes");
    let output = again.env("RUST_LIB_BACKTRACE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    Some(output)
}
