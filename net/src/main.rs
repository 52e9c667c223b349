//! The `milena` binary.

fn main() -> std::process::ExitCode {
    milena_net::cli::main()
}
