//! What those who type commands get to see when something is not as usual.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};
use milena_tests::{Cluster, milena};

/// Runs a command whose standard output nobody reads any more, with lines on its standard input.
fn unheard(cluster: &Cluster, arguments: &[&str], input: &str) -> Result<Output> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut process = Command::new(milena())
        .args(arguments)
        .env("MILENA_BOOTSTRAP", cluster.bootstrap())
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()?;
    process.stdin.take().expect("a pipe").write_all(input.as_bytes())?;
    Ok(process.wait_with_output()?)
}

#[test]
fn a_command_that_nobody_listens_to_ends_quietly() -> Result<()> {
    let cluster = Cluster::start(1, &[])?;
    let commands: [(&[&str], &str); 8] = [
        (&["topic", "create", "t", "--partitions", "2", "--replication-factor", "1"], ""),
        (&["topic", "list"], ""),
        (&["topic", "describe", "t"], ""),
        (&["produce", "t"], "a\nb\n"),
        (&["consume", "t"], ""),
        (&["cluster", "status"], ""),
        (&["topic", "delete", "t"], ""),
        (&["--help"], ""),
    ];
    for format in ["human", "json"] {
        for (arguments, input) in commands {
            let mut arguments = arguments.to_vec();
            if arguments != ["--help"] {
                arguments.extend(["--format", format]);
            }
            let output = unheard(&cluster, &arguments, input)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() == Some(0) && said.is_empty(),
                "milena {arguments:?}: {}, {said}",
                output.status
            );
        }
    }
    // What failed still says so.
    let output = unheard(&cluster, &["topic", "describe", "absent"], "")?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(())
}
