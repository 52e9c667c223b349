//! The `milena-sim` binary; `cargo sim` is its alias.

use std::process::ExitCode;

fn main() -> ExitCode {
    milena_sim::cli::main()
}
