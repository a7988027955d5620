//! `scripts/test`: it runs what it is asked for, and names at its end what failed.

use std::path::Path;

/// What `cargo test` prints when tests fail, one of them with output that looks like more of it, and
/// when a suite is ended by a signal.
const PRINTED: &str = "\
   Compiling verifyd v0.1.0
     Running unittests src/lib.rs (target/debug/deps/verifyd-1)
test domain::good ... ok
test result: ok. 1 passed; 0 failed; 0 ignored
     Running tests/one.rs (target/debug/deps/one-1)
test part::first ... FAILED
failures:

---- part::first stdout ----
    text of the test
failures:
    not_a_test

failures:
    part::first
    second

test result: FAILED. 0 passed; 2 failed; 0 ignored
\u{1b}[1m\u{1b}[31merror\u{1b}[0m: test failed, to rerun pass `--test one`
     Running tests/system/main.rs (target/debug/deps/system-1)
running 3 tests
error: test failed, to rerun pass `--test system`
     Running tests/two.rs (target/debug/deps/two-1)
test result: ok. 7 passed; 0 failed; 0 ignored
";

/// With a `cargo` that only prints, and keeps what it was asked for.
#[test]
fn the_test_command_runs_everything_and_names_what_failed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let (printed, asked) = (folder.path().join("printed"), folder.path().join("asked"));
    std::fs::write(&printed, PRINTED).unwrap();
    let cargo = folder.path().join("cargo");
    std::fs::write(
        &cargo,
        format!(
            "#!/bin/sh\necho \"$*\" >'{}'\ncat '{}'\nexit 101\n",
            asked.display(),
            printed.display()
        ),
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&cargo, mode).unwrap();
    let path = std::env::var("PATH").unwrap();
    for (given, wanted) in [
        (
            &["--lib", "--", "a b"][..],
            "test --locked --workspace --no-fail-fast --lib -- a b",
        ),
        (
            &["--lib", "--no-fail-fast"],
            "test --locked --workspace --lib --no-fail-fast",
        ),
    ] {
        let output = std::process::Command::new(root.join("scripts/test"))
            .args(given)
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .env("VERIFYD_TEST_NO_INSTALL", "yes")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(101), "{output:?}");
        assert_eq!(std::fs::read_to_string(&asked).unwrap().trim_end(), wanted);
        let (runner, end) = said.split_once("\nscripts/test: ").unwrap();
        assert!(runner.contains("7 passed"), "{said}");
        assert_eq!(
            end,
            "failed (exit code 101):\n  \
             tests/one.rs: part::first\n  \
             tests/one.rs: second\n  \
             tests/system/main.rs: ended before its last test, by a signal or by itself\n"
        );
    }
}
