//! `scripts/check-deploy`: no part depends on the tools of another.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Runs the script where nothing can be installed, with a promtool that ends with this code and a systemd-analyze that
/// finds nothing. Returns its exit code and what it said.
fn check_deploy(promtool: i32) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, code) in [("promtool", promtool), ("systemd-analyze", 0)] {
        let program = path.join(name);
        std::fs::write(&program, format!("#!/bin/sh\nexit {code}\n")).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    let others = std::env::var("PATH").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check-deploy");
    let output = Command::new(script)
        .env("CARGO_TARGET_DIR", path)
        .env("PATH", format!("{}:{others}", path.display()))
        .env("VERIFYD_TEST_NO_INSTALL", "yes")
        .env_remove("UPDATE_GENERATED")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_part_whose_tools_are_missing_is_skipped_and_no_other() {
    let (code, said) = check_deploy(0);
    assert_eq!(code, Some(2), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains("SKIPPED: Kubernetes ("), "{said}");
    assert!(last.contains("runbooks ("), "{said}");
    assert!(!last.contains("alerts and scraping"), "{said}");
    assert!(!last.contains("unit for systemd"), "{said}");
    assert!(!last.contains("verifyd-run"), "{said}");
    // A tool may end with the code that the script has for what it skipped.
    let (code, said) = check_deploy(2);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.ends_with("FAILED: alerts and scraping\n"), "{said}");
}
