//! Processes that end with the test that started them, also where that is killed and drops nothing.

use std::process::Command;

/// Runs the program that the arguments begin with, and ends it by this signal when the thread that started it ends.
/// That thread must not end before the test: none of a pool that ends idle threads.
pub fn ends_with_test(signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    #[test]
    fn a_process_ends_with_the_thread_that_started_it() {
        let thread = std::thread::spawn(|| {
            let mut child = ends_with_test("KILL")
                .args(["sh", "-c", "echo; exec sleep 300"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let output = child.stdout.as_mut().unwrap();
            output.read_exact(&mut [0]).unwrap();
            child
        });
        let status = thread.join().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(9));
    }
}
