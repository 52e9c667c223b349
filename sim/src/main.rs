//! The `milena-sim` binary.
fn main() {}
