//! What a package takes from the command line's grammar: completions for shells, and man pages.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Failure;
use super::arguments::Cli;

/// Prints what a shell is to load.
pub fn completion(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "milena", &mut script);
    io::stdout().write_all(&script).map_err(Failure::of_output)
}

/// Writes a page for the program and one for each of its commands.
pub fn man(directory: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), directory)
        .map_err(|error| Failure::Failed(format!("{}: {error}", directory.display())))
}
