//! What a compiler does not hold: who may import whom, banned calls, file lengths, the shape of CHANGELOG.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use milena_tests::workspace;

fn sources(room: &str) -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).expect("a room is a folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source is UTF-8");
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&workspace().join(room), &mut found);
    assert!(!found.is_empty(), "{room} has no source");
    found
}

/// Code of a file without its comments and its test module.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    body.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn core_and_wire_touch_nothing() {
    let banned = [
        "std::time::",
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
        "tokio",
        "SystemTime",
        "HashMap",
        "HashSet",
        "thread_rng",
        "println!",
        "eprintln!",
        "async fn",
        ".await",
    ];
    for room in ["core/src", "wire/src"] {
        for (path, text) in sources(room) {
            let code = code(&text);
            for word in banned {
                assert!(!code.contains(word), "{} uses {word}", path.display());
            }
        }
    }
}

#[test]
fn rooms_import_only_what_they_may() {
    let rules: [(&str, &[&str]); 4] = [
        ("wire/src", &["milena_core", "milena_net", "milena_sim"]),
        ("core/src", &["milena_net", "milena_sim"]),
        ("net/src", &["milena_sim"]),
        ("sim/src", &["milena_net", "tokio"]),
    ];
    for (room, banned) in rules {
        for (path, text) in sources(room) {
            for word in banned {
                assert!(!code(&text).contains(word), "{} uses {word}", path.display());
            }
        }
    }
}

/// The names that a path begins with, after `crate::` or what leads there: one, or each of a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| {
        let letters = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_');
        letters.collect::<String>()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names) = (0, vec![name(group)]);
    for (at, letter) in group.char_indices() {
        match letter {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

/// The modules of a crate's top level, files and folders alike, each with those that its code names.
fn modules_of(room: &str) -> BTreeMap<String, BTreeSet<String>> {
    let root = workspace().join(room);
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources(room) {
        let place = path.strip_prefix(&root).expect("it lies there").with_extension("");
        let steps: Vec<&str> = place.iter().filter_map(|step| step.to_str()).collect();
        let [first, ..] = steps[..] else { continue };
        if ["lib", "main"].contains(&first) {
            continue;
        }
        let depth = steps.len() - usize::from(steps.ends_with(&["mod"]));
        let code = code(&text);
        let roots = ["crate::".to_owned(), "super::".repeat(depth)];
        let met = roots.iter().flat_map(|root| code.split(root.as_str()).skip(1));
        named.entry(first.to_owned()).or_default().extend(met.flat_map(first_names));
    }
    let modules: BTreeSet<String> = named.keys().cloned().collect();
    for (module, others) in &mut named {
        others.retain(|other| other != module && modules.contains(other));
    }
    named
}

/// Those that lead back to themselves, and what leads there.
fn circle(mut left: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    while let Some(free) = left
        .iter()
        .find_map(|(module, named)| named.iter().all(|n| !left.contains_key(n)).then_some(module))
        .cloned()
    {
        left.remove(&free);
    }
    left
}

/// Who reads one module reads those that it names, and none of them leads back. Inside a folder its files may name each other.
#[test]
fn modules_make_no_circle() {
    for room in ["core/src", "net/src", "sim/src"] {
        let modules = modules_of(room);
        let names = modules.values().map(BTreeSet::len).sum::<usize>();
        assert!(modules.len() > 10 && names > 20, "{room}: {modules:?}");
        let left = circle(modules);
        assert!(left.is_empty(), "in {room} these name each other in a circle: {left:#?}");
    }
}

#[test]
fn a_circle_is_seen() {
    assert_eq!(first_names("disk::{self, Disk};"), ["disk"]);
    assert_eq!(first_names("{disk::{self, Disk}, queue, Halt};"), ["disk", "queue", "Halt"]);
    let modules = |named: &[(&str, &[&str])]| {
        let module = |(name, others): &(&str, &[&str])| {
            ((*name).to_owned(), others.iter().map(|other| (*other).to_owned()).collect())
        };
        circle(named.iter().map(module).collect()).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(modules(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]), [""; 0]);
    assert_eq!(
        modules(&[("a", &["b"]), ("b", &["c", "d"]), ("c", &["b"]), ("d", &[])]),
        ["a", "b", "c"]
    );
}

#[test]
fn files_are_one_idea() {
    for room in ["wire", "core", "net", "sim", "tests"] {
        for (path, text) in sources(room) {
            let lines = text.lines().count();
            assert!(
                lines <= 1000,
                "{} has {lines} lines; split its pure parts out",
                path.display()
            );
            let first = text.lines().next().unwrap_or("");
            assert!(
                first.starts_with("//!"),
                "{} does not begin by saying what it is",
                path.display()
            );
        }
    }
}

#[test]
fn nothing_is_left_open() {
    // Spelt in two halves, so that this file does not find itself.
    let banned =
        [["to", "do!("], ["unimpl", "emented!("], ["FIX", "ME"], ["TO", "DO"], ["#[ign", "ore"]]
            .map(|w| w.concat());
    for room in ["wire", "core", "net", "sim", "tests"] {
        for (path, text) in sources(room) {
            for word in &banned {
                assert!(!text.contains(word.as_str()), "{} says {word}", path.display());
            }
        }
    }
}

/// Whether a merge has left this line.
fn is_conflict_mark(line: &str) -> bool {
    line.starts_with(&"<".repeat(7)) || line == "=".repeat(7) || line.starts_with(&">".repeat(7))
}

#[test]
fn no_merge_is_left_half_done() {
    assert!(is_conflict_mark(&format!("{} main", "<".repeat(7))));
    assert!(is_conflict_mark(&"=".repeat(7)) && !is_conflict_mark(&"=".repeat(8)));
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(workspace()).output();
    let listed = listed.expect("git lists what is tracked");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let mut looked_at = 0;
    for path in paths.split_terminator('\0') {
        // What is no text has no lines, and what was removed just now has none any more.
        let Ok(text) = fs::read_to_string(workspace().join(path)) else { continue };
        looked_at += 1;
        let mark = text.lines().position(is_conflict_mark);
        assert_eq!(mark.map(|line| line + 1), None, "{path} has a mark of a merge in this line");
    }
    assert!(looked_at > 100, "{looked_at} files");
}

#[test]
fn only_one_module_names_the_runtime() {
    for (path, text) in sources("net/src") {
        if !path.ends_with("runtime.rs") {
            for word in ["tokio::", "std::thread::"] {
                assert!(
                    !code(&text).contains(word),
                    "{} names {word}; runtime.rs is the only place",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn changelog_has_its_shape() {
    let text =
        fs::read_to_string(workspace().join("CHANGELOG.md")).expect("there is a CHANGELOG.md");
    let order = ["### Safety", "### Features", "### Fixes", "### Internals"];
    for release in text.split("\n## ").skip(1) {
        let heads: Vec<usize> = release
            .lines()
            .filter(|l| l.starts_with("### "))
            .map(|l| {
                order.iter().position(|o| *o == l).unwrap_or_else(|| panic!("no such heading: {l}"))
            })
            .collect();
        assert!(heads.is_sorted(), "headings come in the order {order:?}");
        assert!(!heads.is_empty(), "a release says something");
    }
}

#[test]
fn planted_bugs_say_what_they_are() {
    for entry in fs::read_dir(workspace().join("scenarios/bugs")).expect("scenarios/bugs") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|e| e == "patch") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let head = text.split("\ndiff --git").next().unwrap_or("");
            for word in ["row:", "title:", "properties:"] {
                assert!(
                    head.contains(word),
                    "{} has no `{word}` line before the diff",
                    path.display()
                );
            }
        }
    }
}
