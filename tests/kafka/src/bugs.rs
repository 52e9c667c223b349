//! Planted bugs: each patch beside this crate is built into a copy of the last commit, and the comparison has to find it.
//!
//! Found means that an answer of the API that the patch names differs where the broker without the patch answers the same
//! requests as the table says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::brokers::Broker;
use crate::install::{Installed, run};
use crate::oracle::Oracle;
use crate::side::Schemas;
use crate::table::Table;

/// How a difference begins that is no answer, or none that can be read.
const UNREADABLE: &str = "no answer that can be read";

/// A patch, and what the lines before it say.
struct Bug {
    name: String,
    title: String,
    /// Whose answers show it.
    api: String,
    path: PathBuf,
}

/// Plants the bugs whose names begin as one of these, or all, and compares up to so many sequences for each.
pub fn find(
    installed: &Installed,
    schemas: &Schemas,
    names: &[String],
    sequences: u64,
) -> Result<()> {
    let chosen = |bug: &Bug| names.is_empty() || names.iter().any(|n| bug.name.starts_with(&**n));
    let bugs: Vec<_> = catalogue()?.into_iter().filter(chosen).collect();
    ensure!(!bugs.is_empty(), "no patch has such a name");
    let copy = Copy::of_last_commit()?;
    let sound = differences(installed, schemas, &copy.build()?, sequences, |_| false)?;
    println!("without a bug: {} differences that have no row", sound.len());
    let mut escaped = Vec::new();
    for bug in &bugs {
        let mut git = Command::new("git");
        run(git.arg("apply").arg(&bug.path).current_dir(&copy.tree))
            .with_context(|| format!("{} no longer applies: plant it again", bug.name))?;
        let news = |kind: &String| {
            (kind.starts_with(&bug.api) || kind.starts_with(UNREADABLE)) && !sound.contains(kind)
        };
        let built = copy.build().with_context(|| format!("{} does not build", bug.name));
        let found = built.and_then(|one| differences(installed, schemas, &one, sequences, news));
        copy.restore()?;
        match found?.iter().find(|kind| news(kind)) {
            Some(kind) => println!("found    {} ({})\n         {kind}", bug.name, bug.title),
            None => {
                println!("escaped  {} ({})", bug.name, bug.title);
                escaped.push(&*bug.name);
            }
        }
    }
    ensure!(escaped.is_empty(), "not found: {}", escaped.join(", "));
    Ok(())
}

/// What no row explains in the first sequences, up to one in which something `wanted` is.
fn differences(
    installed: &Installed,
    schemas: &Schemas,
    milena: &Path,
    sequences: u64,
    wanted: impl Fn(&String) -> bool,
) -> Result<BTreeSet<String>> {
    let table = Table::load()?;
    let brokers = [Broker::kafka(installed)?, Broker::milena(milena)?];
    let mut oracle = Oracle::new(schemas, &table, brokers)?;
    for seed in 0..sequences {
        if let Err(error) = oracle.sequence(seed) {
            let kind = format!("{UNREADABLE} at seed {seed}: {}", error.root_cause());
            oracle.open.insert(kind, (1, String::new()));
            break;
        }
        if oracle.open.keys().any(&wanted) {
            break;
        }
    }
    Ok(oracle.open.into_keys().collect())
}

fn catalogue() -> Result<Vec<Bug>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bugs");
    let mut bugs = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".patch"))
        else {
            continue;
        };
        let text = fs::read_to_string(&path)?;
        let says = |field: &str| {
            let mut head = text.lines().take_while(|line| !line.starts_with("diff --git"));
            let line = head.find_map(|line| line.strip_prefix(field)).map(str::trim);
            line.map(String::from).with_context(|| format!("{name} has no line `{field}`"))
        };
        let (title, api) = (says("title:")?, says("api:")?);
        bugs.push(Bug { name: name.into(), title, api, path: path.clone() });
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bugs)
}

/// A copy of the workspace to plant bugs in; always the same place, so that what was built stays of use.
struct Copy {
    tree: PathBuf,
    build: PathBuf,
}

impl Copy {
    fn of_last_commit() -> Result<Copy> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let room = workspace.join("target/kafka/planted");
        let copy = Copy { tree: room.join("tree"), build: room.join("build") };
        let git = || {
            let mut git = Command::new("git");
            git.current_dir(&workspace);
            git
        };
        if copy.tree.exists() {
            run(git().args(["worktree", "remove", "--force"]).arg(&copy.tree))?;
        }
        run(git().args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(&copy.tree))?;
        Ok(copy)
    }

    fn build(&self) -> Result<PathBuf> {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--package", "milena-net", "--target-dir"]);
        run(cargo.arg(&self.build).current_dir(&self.tree))?;
        Ok(self.build.join("debug/milena"))
    }

    fn restore(&self) -> Result<()> {
        run(Command::new("git").args(["checkout", "--quiet", "."]).current_dir(&self.tree))
    }
}

impl Drop for Copy {
    /// What is not removed, the next call removes.
    fn drop(&mut self) {
        let mut git = Command::new("git");
        let _ = run(git.args(["worktree", "remove", "--force"]).arg(&self.tree));
    }
}
