//! Apache Kafka beside Milena.
//!
//! `schemas` holds our message types against the schemas in Kafka's own jar.

use clap::{Parser, Subcommand};

mod check;
mod install;
mod schema;
mod tree;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold our message types against Kafka's schemas.
    Schemas,
}

fn main() -> anyhow::Result<()> {
    let installed = install::install()?;
    let schemas = schema::load(&installed.schemas)?;
    match Arguments::parse().command {
        Command::Schemas => {
            let found = check::check(&schemas);
            found.iter().for_each(|sentence| println!("{sentence}"));
            anyhow::ensure!(found.is_empty(), "{} differences from Kafka's schemas", found.len());
            println!("all messages are Kafka's, field by field and version by version");
        }
    }
    Ok(())
}
