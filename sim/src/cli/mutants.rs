//! Planted bugs: each patch of the catalogue is applied to a copy of the workspace, built, and swept until some seed fails.
//!
//! Caught means that a seed fails under the patch, with a property that the patch's header names, and passes without it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

const CAUGHT: u8 = 0;
const ESCAPED: u8 = 1;
const BROKEN: u8 = 2;

/// A patch and what its header says.
struct Bug {
    row: u32,
    title: String,
    properties: BTreeSet<String>,
    /// Where it shows.
    scenario: String,
    path: PathBuf,
}

/// What became of one.
#[derive(serde::Serialize)]
struct Finding {
    row: u32,
    title: String,
    verdict: &'static str,
    seed: Option<u64>,
    property: String,
    story: String,
    seeds_tried: usize,
}

/// Plants the bugs of the rows named, or all, and gives the exit code.
pub(super) fn run(rows: &[u32], dir: &Path, seeds: Vec<u64>, json: bool) -> anyhow::Result<u8> {
    let bugs = catalogue(dir)?;
    let chosen: Vec<&Bug> =
        bugs.iter().filter(|bug| rows.is_empty() || rows.contains(&bug.row)).collect();
    if let Some(missing) = rows.iter().find(|row| !bugs.iter().any(|bug| bug.row == **row)) {
        anyhow::bail!("no patch in {} is of row {missing}", dir.display());
    }
    if chosen.is_empty() {
        return Ok(super::nothing(&format!("there is no patch in {}", dir.display())));
    }
    let workspace = std::env::current_dir()?;
    ensure!(
        workspace.join("Cargo.toml").is_file() && workspace.join("sim").is_dir(),
        "planting bugs copies the workspace: run it there"
    );
    // Always the same place, so that what an earlier call built is of use.
    let nursery = workspace.join("target").join("mutants").join("nursery");
    let mut worst = CAUGHT;
    for bug in chosen {
        let finding = plant(bug, &workspace, &nursery, &seeds)?;
        worst = worst.max(match finding.verdict {
            "caught" => CAUGHT,
            "escaped" => ESCAPED,
            _ => BROKEN,
        });
        if json {
            println!("{}", serde_json::to_string(&finding)?);
        } else {
            let seed = finding.seed.map_or_else(String::new, |seed| format!(" seed {seed}"));
            println!(
                "row {:>3} {:<8}{seed} {} ({})\n        {}",
                finding.row, finding.verdict, finding.property, finding.title, finding.story
            );
        }
    }
    Ok(worst)
}

fn catalogue(dir: &Path) -> anyhow::Result<Vec<Bug>> {
    let mut bugs = Vec::new();
    let entries = fs::read_dir(dir).with_context(|| format!("no patches in {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let said = |name: &str| {
            text.lines()
                .take_while(|line| !line.starts_with("diff --git"))
                .find_map(|line| line.strip_prefix(name))
                .map(|rest| rest.trim().to_owned())
        };
        let field = |name: &str| {
            said(name).with_context(|| format!("{} has no `{name}` line", path.display()))
        };
        let properties = field("properties:")?;
        bugs.push(Bug {
            row: field("row:")?.parse().context("a row is a number")?,
            title: field("title:")?,
            properties: properties
                .split([',', ' '])
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            scenario: said("scenario:").unwrap_or_else(|| "swarm".into()),
            path: fs::canonicalize(&path)?,
        });
    }
    bugs.sort_by_key(|bug| bug.row);
    Ok(bugs)
}

fn plant(bug: &Bug, workspace: &Path, nursery: &Path, seeds: &[u64]) -> anyhow::Result<Finding> {
    let mut finding = Finding {
        row: bug.row,
        title: bug.title.clone(),
        verdict: "broken",
        seed: None,
        property: String::new(),
        story: String::new(),
        seeds_tried: 0,
    };
    let copy = nursery.join("milena");
    copy_sources(workspace, &copy)?;
    // Kept from finding the repository around it, `git apply` patches what is here and asks no index.
    let applied = Command::new("git")
        .arg("apply")
        .arg(&bug.path)
        .current_dir(&copy)
        .env("GIT_CEILING_DIRECTORIES", nursery)
        .output()
        .context("cannot run git")?;
    if !applied.status.success() {
        finding.story = format!("does not apply: {}", first_line(&applied.stderr));
        return Ok(finding);
    }
    // One target folder for all of them: only what a patch touches is built again.
    let target = workspace.join("target").join("mutants");
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--profile", "sim", "--package", "milena-sim"])
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", &target)
        // Each is built once and swept briefly: what building saves outweighs what running loses.
        .env("CARGO_PROFILE_SIM_INCREMENTAL", "true")
        .output()
        .context("cannot run cargo")?;
    if !built.status.success() {
        finding.story = format!("does not build: {}", first_line(&built.stderr));
        return Ok(finding);
    }
    let program = target.join("sim").join("milena-sim");
    sweep(bug, &program, nursery, seeds, &mut finding)?;
    Ok(finding)
}

/// Sweeps in slices, so that a bug that shows early costs little.
fn sweep(
    bug: &Bug,
    program: &Path,
    out: &Path,
    seeds: &[u64],
    finding: &mut Finding,
) -> anyhow::Result<()> {
    finding.verdict = "escaped";
    for slice in seeds.chunks(50) {
        let range = format!("{}..+{}", slice[0], slice.len());
        let output = Command::new(program)
            .args(["--format", "json", "--out"])
            .arg(out)
            .args(["swarm", "--scenario", &bug.scenario])
            .args(["--failures-max", "1000", "--seeds", &range])
            .stderr(Stdio::null())
            .output()?;
        for line in String::from_utf8(output.stdout)?.lines() {
            let report: serde_json::Value = serde_json::from_str(line)?;
            finding.seeds_tried += 1;
            let property = report["property"].as_str().unwrap_or_default();
            if report["verdict"] != "failed" || finding.verdict == "caught" {
                continue;
            }
            let seed = report["seed"].as_u64().context("a report names its seed")?;
            finding.seed = Some(seed);
            finding.property = property.to_owned();
            finding.story = report["story"].as_str().unwrap_or_default().to_owned();
            if bug.properties.contains(property) && passes_unpatched(&bug.scenario, seed)? {
                finding.verdict = "caught";
            }
        }
        if finding.verdict == "caught" {
            return Ok(());
        }
    }
    Ok(())
}

fn passes_unpatched(scenario: &str, seed: u64) -> anyhow::Result<bool> {
    let scenario = crate::scenario::named(scenario)
        .with_context(|| format!("there is no scenario `{scenario}`"))?;
    let schedule = scenario.expand(seed);
    Ok(crate::report::run(schedule, false).verdict == crate::report::Verdict::Held)
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| line.contains("error")).or_else(|| text.lines().next());
    line.unwrap_or_default().to_owned()
}

/// Makes a folder hold what a build needs: sources and manifests, no build products and no history. Files that are equal
/// already keep their times, so that only what a patch touches is built again.
fn copy_sources(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if ["target", ".git", "out", "milena-data"].iter().any(|skipped| name == *skipped) {
            continue;
        }
        let path = to.join(&name);
        names.insert(name);
        if entry.file_type()?.is_dir() {
            copy_sources(&entry.path(), &path)?;
        } else {
            let bytes = fs::read(entry.path())?;
            if fs::read(&path).ok().as_ref() != Some(&bytes) {
                fs::write(&path, bytes)?;
            }
        }
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if names.contains(&entry.file_name()) {
            continue;
        }
        // What an earlier patch added, or was here when an earlier one was planted.
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
