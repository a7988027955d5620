//! The program `verifyd`: everything is in the library.

use std::process::ExitCode;

/// A worker allocates small things in great numbers, on several threads: the C library's allocator
/// takes about a quarter of its time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    verifyd::cli::main()
}
