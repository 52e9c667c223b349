//! What a compiler does not hold: who may import whom, banned calls, file lengths, the shape of CHANGELOG.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

/// The folders of core, each with those that its code names.
fn folders_of_core() -> BTreeMap<String, BTreeSet<String>> {
    let root = workspace().join("core/src");
    let folder_of = |path: &Path| {
        let mut parts = path.strip_prefix(&root).ok()?.components();
        let first = parts.next()?.as_os_str().to_str()?.to_owned();
        parts.next().map(|_| first)
    };
    let files = sources("core/src").into_iter();
    let files: Vec<(String, String)> =
        files.filter_map(|(path, text)| Some((folder_of(&path)?, code(&text)))).collect();
    let names: BTreeSet<&String> = files.iter().map(|(folder, _)| folder).collect();
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (folder, code) in &files {
        let others = names.iter().filter(|name| **name != folder);
        let met = others.filter(|name| code.contains(&format!("crate::{name}::")));
        named.entry(folder.clone()).or_default().extend(met.map(|name| (*name).clone()));
    }
    named
}

/// Who reads one room of core reads those that it names, and none of them leads back.
#[test]
fn the_folders_of_core_make_no_circle() {
    let mut left = folders_of_core();
    assert!(left.len() > 5, "{left:?}");
    loop {
        let rests = |(folder, named): (&String, &BTreeSet<String>)| {
            named.iter().all(|other| !left.contains_key(other)).then(|| folder.clone())
        };
        let Some(free) = left.iter().find_map(rests) else { break };
        left.remove(&free);
    }
    assert!(left.is_empty(), "these folders name each other in a circle: {left:#?}");
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
