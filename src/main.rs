//! The program `verifyd`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    verifyd::cli::main()
}
