//! The `milena-sim` binary; `cargo sim` is its alias.

use std::process::ExitCode;

/// A run allocates for every message, batch and disk command: a tenth of its time with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    milena_sim::cli::main()
}
