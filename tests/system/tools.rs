//! Tools that are not Rust's, which scripts bring into `target`.

use std::path::PathBuf;
use std::process::Command;

/// Runs the script of this name in `scripts`; returns the place that it prints.
pub fn installed(script: &str) -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    let done = Command::new("sh")
        .arg(format!("{root}/scripts/{script}"))
        .current_dir(root)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "scripts/{script}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().into()
}
