//! The command line: names that others script against. Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration
//! (one line says what and what helps), 70 a bug of our own, 130 interrupted; those of `cluster status --check` say how the
//! cluster is. With `--format json` an error is a JSON object, a line of standard error.

mod arguments;
mod bench;
mod consume;
mod manual;
mod produce;
mod serve;
mod status;
mod template;
mod topic;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use crate::client::Client;
use crate::config::{self, FromFile};
use arguments::{Cli, ClientOptions, ClusterCommand, Command, Format};

/// Why a command ended without success.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2: the operator or user must change something.
    Usage(String),
    /// Exit code 2 of `cluster status --check`: nobody answers.
    Unavailable(String),
    /// Nothing failed, and the exit code is an answer of its own.
    Found(u8),
    /// Standard output was closed by who read it, as `head` does: nobody wants more, so the command ends quietly, code 0.
    Unheard,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(format!("{error:#}"))
    }
}

impl Failure {
    /// What a failed write to standard output means.
    fn of_output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unheard,
            _ => Failure::Failed(format!("standard output: {error}")),
        }
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    // What is no text at all is some text that no flag has.
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let format = wanted_format(&arguments);
    let (line, code) = match parse(arguments).and_then(run) {
        Ok(()) | Err(Failure::Unheard) => return ExitCode::SUCCESS,
        Err(Failure::Found(code)) => return ExitCode::from(code),
        Err(Failure::Failed(line)) => (line, 1),
        Err(Failure::Usage(line) | Failure::Unavailable(line)) => (line, 2),
    };
    // Where standard error is closed too, the code alone has to say it.
    let _ = match format {
        Format::Human => writeln!(io::stderr(), "milena: {line}"),
        Format::Json => writeln!(io::stderr(), "{}", json!({"error": line, "exit_code": code})),
    };
    ExitCode::from(code)
}

/// The format that errors are to have, those of the arguments among them.
fn wanted_format(arguments: &[String]) -> Format {
    let is_json = arguments.iter().any(|argument| argument == "--format=json")
        || arguments.windows(2).any(|pair| pair == ["--format", "json"]);
    if is_json { Format::Json } else { Format::Human }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Dev(dev) => serve::dev(&dev),
        Command::Start(start) => serve::start(&start),
        Command::Topic(command) => topic::run(&command),
        Command::Produce(command) => produce::run(&command),
        Command::Consume(command) => consume::run(&command),
        Command::Cluster(ClusterCommand::Status { check, client }) => status::run(&client, check),
        Command::Bench(bench) => bench::run(&bench),
        Command::Completion { shell } => manual::completion(shell),
        Command::Man { directory } => manual::man(&directory),
    }
}

/// The names that a file of `--config` may have.
fn file_names() -> BTreeSet<String> {
    let command = Cli::command();
    let start = command.find_subcommand("start").expect("there is a command start");
    start
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|name| !["config", "help"].contains(name))
        .map(String::from)
        .collect()
}

/// Reads arguments, with those of `--config` among them.
fn parse(mut arguments: Vec<String>) -> Result<Cli, Failure> {
    let mut from_file = FromFile::default();
    if arguments.get(1).is_some_and(|command| command == "start") {
        let known = file_names();
        let flags;
        (flags, from_file) =
            config::with_file(arguments.split_off(2), &known).map_err(Failure::Usage)?;
        arguments.extend(flags);
    }
    Cli::try_parse_from(arguments).map_err(|error| {
        use clap::error::{ContextKind, ErrorKind};
        match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
            _ => {
                let line = one_line(&error.render().to_string());
                let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string);
                Failure::Usage(flag.map_or(line.clone(), |flag| from_file.blame(&line, &flag)))
            }
        }
    })
}

/// How long produce and consume wait for a cluster that comes back.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// How long all others do.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

impl ClientOptions {
    /// A client that says what it waits for.
    fn client(&self, default_timeout: Duration) -> Client {
        let bootstrap = self.bootstrap.iter().map(ToString::to_string).collect();
        Client::telling(
            bootstrap,
            self.timeout.unwrap_or(default_timeout),
            match self.format {
                Format::Human => |line| drop(writeln!(io::stderr(), "milena: {line}")),
                Format::Json => |line| drop(writeln!(io::stderr(), "{}", json!({"waits": line}))),
            },
        )
    }
}

/// Bytes for JSON: a string where they are UTF-8, else an object with their base64.
fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"base64": BASE64_STANDARD.encode(bytes)}),
    }
}

/// Prints a command's answer in the wanted form. All that goes to standard output but the records of `consume` goes here.
fn output(
    format: Format,
    human: impl FnOnce() -> String,
    json: impl FnOnce() -> Value,
) -> Result<(), Failure> {
    let text = match format {
        Format::Human => human(),
        Format::Json => json().to_string(),
    };
    writeln!(io::stdout(), "{text}").map_err(Failure::of_output)
}

/// `1 node`, `2 nodes`.
fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Lines of rows below their heads, in columns as wide as what they hold.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut lines = vec![heads.iter().map(|head| head.to_string()).collect::<Vec<_>>()];
    lines.extend(rows);
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let aligned = lines.iter().map(|line| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_string()
    });
    aligned.collect()
}

/// The parser's message in one line.
fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join(" ").replace(" tip: ", "; ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    if line.ends_with("see --help") { line.into() } else { format!("{line}; see --help") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(arguments: &[&str]) -> String {
        let all = std::iter::once("milena").chain(arguments.iter().copied());
        match parse(all.map(String::from).collect()) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    /// The example has every name, and each value in it is the default.
    #[test]
    fn the_example_of_a_configuration_file_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/milena.toml");
        let start = |path: &str| match parse(
            ["milena", "start", "--config", path].map(String::from).into(),
        ) {
            Ok(Cli { command: Command::Start(start) }) => start,
            other => panic!("{other:?}"),
        };
        let given = start(path);
        let defaults = ["--node-id=1", "--cluster=1@a:1", "--data=x"];
        let arguments = ["milena", "start"].into_iter().chain(defaults).map(String::from);
        let Ok(Cli { command: Command::Start(defaults) }) = parse(arguments.collect()) else {
            panic!("it needs no more")
        };
        assert_eq!(given.tuning, defaults.tuning);
        assert!(given.settings().is_ok());

        let example = std::fs::read_to_string(path).unwrap();
        let name =
            |line: &str| Some(line.trim_start_matches("# ").split_once(" = ")?.0.to_string());
        let names: BTreeSet<String> =
            example.lines().filter_map(name).filter(|name| !name.contains(' ')).collect();
        let known = file_names();
        assert_eq!(names, known);
        // What is commented out can be taken in as it stands.
        let is_value = |line: &&str| name(line).is_some_and(|name| known.contains(&name));
        let all: Vec<&str> =
            example.lines().filter(is_value).map(|line| line.trim_start_matches("# ")).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), all.join("\n")).unwrap();
        assert!(start(file.path().to_str().unwrap()).settings().is_ok());
    }

    #[test]
    fn a_fault_is_one_line_that_names_it() {
        let line = fault(&["dev", "--nodse", "3"]);
        assert!(
            line.contains("--nodse") && line.contains("--nodes") && !line.contains('\n'),
            "{line}"
        );
        let line = fault(&["dev", "--nodes", "99"]);
        assert!(line.contains("99") && line.contains("--nodes") && !line.contains('\n'), "{line}");
        let line = fault(&["topic", "create"]);
        assert!(line.contains("<NAME>") && !line.contains('\n'), "{line}");
    }
}
