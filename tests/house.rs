//! The house rules that no compiler checks: which room may import what, how long lines and files are, and what no file
//! may hold. Each failure names file, line and rule.

#[path = "support/source.rs"]
mod source;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use source::{Found, code_of, paths_in};

const LONGEST_LINE: usize = 140;
const LONGEST_FILE: usize = 450;
const LONGEST_FUNCTION: usize = 80;

/// What only some rooms may name: a path is guarded when it begins with one of these.
const GUARDED: &[&str] = &[
    "crate::cli",
    "crate::config",
    "crate::http",
    "crate::kafka",
    "crate::metrics",
    "crate::run",
    "crate::store",
    "axum",
    "clap",
    "indicatif",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "prometheus",
    "rand",
    "rdkafka",
    "rocksdb",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
];

/// A room with rules: of what is guarded it may name itself and what is listed. `cli`, `run` and `main` have none.
struct Room {
    name: &'static str,
    may: &'static [&'static str],
    why: &'static str,
}

const ROOMS: &[Room] = &[
    Room { name: "model", may: &[], why: "the core is pure: no Kafka, no RocksDB, no HTTP, no clock, no files, no environment" },
    Room { name: "kafka", may: &["rdkafka", "std::time::Instant", "tokio"], why: "it is the way in and out; run.rs joins it to the rest" },
    Room { name: "store", may: &["rocksdb", "std::fs", "std::time::Instant"], why: "it keeps; run.rs joins it to the rest" },
    Room {
        name: "http",
        may: &["axum", "std::net", "std::time::Instant", "tokio"],
        why: "the pages know only `Views`; run.rs answers them",
    },
    Room { name: "metrics", may: &["prometheus"], why: "metrics are told facts; they look at nothing" },
    Room { name: "config", may: &["std::env", "std::fs", "std::net"], why: "it is read before anything else lives" },
];

impl Room {
    fn may_name(&self, path: &str) -> bool {
        let own = format!("crate::{}", self.name);
        let allowed = |rule: &&str| **rule == own || self.may.contains(rule);
        GUARDED.iter().filter(|rule| begins_with(path, rule)).all(allowed)
    }
}

#[test]
fn no_room_imports_what_it_may_not() {
    let mut broken = String::new();
    for file in &product_files() {
        let Some(room) = room_of(file) else { continue };
        for Found { path, line } in paths_in(&code_of(&read(file))) {
            let path = as_seen_from_crate(&path, room);
            if !room.may_name(&path) {
                note(&mut broken, file, line, &format!("`{}` may not name `{path}`: {}", room.name, room.why));
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn nothing_outside_tests_can_panic_on_purpose() {
    const CALLS: [&str; 7] = [".unwrap()", ".unwrap_err()", "panic!", "todo!", "unimplemented!", "dbg!", "process::exit"];
    let mut broken = String::new();
    for file in &product_files() {
        for (index, line) in code_of(&read(file)).lines().enumerate() {
            for call in CALLS.iter().filter(|call| names(line, call)) {
                let remedy = "return a typed error, or `expect` with the invariant that makes it impossible";
                note(&mut broken, file, index + 1, &format!("`{call}` outside tests: {remedy}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn lines_files_and_functions_fit() {
    let mut broken = String::new();
    for file in files_under(".", &["rs", "sh", "toml", "html", "css", "js"]).iter().chain(&files_under("scripts", &[""])) {
        let text = read(file);
        for (index, line) in text.lines().enumerate() {
            let length = line.chars().count();
            if length > LONGEST_LINE && !is_generated(file) {
                note(&mut broken, file, index + 1, &format!("{length} characters, {LONGEST_LINE} is the limit"));
            }
            if line.ends_with([' ', '\t']) {
                note(&mut broken, file, index + 1, "blanks at the end of the line");
            }
        }
        if file.extension().is_some_and(|extension| extension == "rs") {
            let length = text.lines().count();
            if length > LONGEST_FILE {
                note(&mut broken, file, length, &format!("{length} lines, {LONGEST_FILE} is the limit: split it by its reasons to exist"));
            }
            for (name, line, length) in functions_of(&code_of(&text)).into_iter().filter(|(_, _, length)| *length > LONGEST_FUNCTION) {
                note(&mut broken, file, line, &format!("`{name}` has {length} lines, {LONGEST_FUNCTION} is the limit"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// Written in two halves, so that this file does not hold what it looks for.
const NOWHERE: &[(&str, &str)] = &[
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/Us", "ers/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "do it, or open an issue"),
    (concat!("<<<<", "<<< "), "a merge that was not finished"),
];

#[test]
fn no_file_holds_what_belongs_nowhere() {
    const TEXT: [&str; 14] = ["", "rs", "toml", "md", "sh", "xml", "json", "yml", "yaml", "html", "css", "js", "lock", "txt"];
    let mut broken = String::new();
    for file in files_under(".", &TEXT) {
        for (index, line) in read(&file).lines().enumerate() {
            for (needle, what) in NOWHERE.iter().filter(|(needle, _)| line.contains(needle)) {
                note(&mut broken, &file, index + 1, &format!("{needle:?}: {what}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn every_crate_comes_from_the_one_registry() {
    let mut broken = String::new();
    let lock = top().join("Cargo.lock");
    for (index, line) in read(&lock).lines().enumerate().filter(|(_, line)| line.starts_with("source = ")) {
        if line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"" {
            note(&mut broken, &lock, index + 1, &format!("{line}: a build elsewhere may not reach it"));
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// A change that moves what a mutant breaks would otherwise be found by `make mutants` alone, which takes an hour.
#[test]
fn every_mutant_applies_as_it_is() {
    let patches = files_under("tests/mutants", &["patch"]);
    assert!(!patches.is_empty());
    let mut broken = String::new();
    for patch in &patches {
        let mut command = std::process::Command::new("patch");
        command.args(["--dry-run", "--force", "--strip", "1", "--fuzz", "0", "--input"]).arg(patch).arg("--directory").arg(top());
        let said = command.output().expect("scripts/setup asks for patch");
        if !said.status.success() {
            let why = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
            note(&mut broken, patch, 1, &format!("it does not apply any more, make it anew: {}", why.trim()));
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file that cannot be read fails the test that wanted to look at it; a binary one reads as empty.
fn read(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    String::from_utf8(bytes).unwrap_or_default()
}

fn note(broken: &mut String, file: &Path, line: usize, what: &str) {
    let file = file.strip_prefix(top()).unwrap_or(file);
    let _ = writeln!(broken, "\n{}:{line}: {what}", file.display());
}

/// Files below `folder` whose extension is one of `extensions` ("" is none), without what git does not keep.
fn files_under(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![top().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry of the directory").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if ![".git", "target"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if extensions.contains(&path.extension().unwrap_or_default().to_string_lossy().as_ref()) && name != ".git" {
                files.push(path.components().collect());
            }
        }
    }
    files.sort();
    files
}

/// Lock files and recorded test cases are not written by hand.
fn is_generated(file: &Path) -> bool {
    file.ends_with("Cargo.lock") || file.components().any(|part| part.as_os_str() == "proptest-regressions")
}

/// The sources without those that only a test build includes.
fn product_files() -> Vec<PathBuf> {
    let all = files_under("src", &["rs"]);
    let tests: Vec<PathBuf> = all.iter().flat_map(|file| test_files_of(file)).collect();
    all.into_iter().filter(|file| !tests.contains(file)).collect()
}

/// The files that `file` declares as modules under `#[cfg(test)]`.
fn test_files_of(file: &Path) -> Vec<PathBuf> {
    let folder = file.parent().unwrap_or(file);
    let stem = file.file_stem().unwrap_or_default();
    let below = if ["mod", "lib", "main"].iter().any(|top| stem == *top) { folder.to_owned() } else { folder.join(stem) };
    let source = read(file);
    let declared = source.split("#[cfg(test)]").skip(1).filter_map(|item| item.split([';', '{']).next());
    let files = declared.filter_map(|item| {
        let name = item.split_once("mod ")?.1.trim();
        let named = item.split_once("#[path = \"").and_then(|(_, path)| Some(path.split_once('"')?.0));
        Some(named.map_or_else(|| below.join(format!("{name}.rs")), |path| folder.join(path)))
    });
    files.collect()
}

fn in_room(file: &Path, room: &str) -> bool {
    let Ok(inside) = file.strip_prefix(top().join("src")) else { return false };
    let first = inside.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    first.is_some_and(|first| first == room || first == format!("{room}.rs"))
}

fn room_of(file: &Path) -> Option<&'static Room> {
    ROOMS.iter().find(|room| in_room(file, room.name))
}

/// `super::super::kafka::X` leaves the room as surely as `crate::kafka::X`.
fn as_seen_from_crate(path: &str, room: &Room) -> String {
    let below = path.trim_start_matches("super::");
    let other = |name: &&str| ROOMS.iter().any(|room| room.name == *name) || ["cli", "run"].contains(name);
    match below.split("::").next().filter(other) {
        Some(name) if below.len() < path.len() && name != room.name => format!("crate::{below}"),
        _ => path.to_owned(),
    }
}

fn begins_with(path: &str, rule: &str) -> bool {
    path.strip_prefix(rule).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether `line` holds `call` as a word of its own.
fn names(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !call.starts_with(char::is_alphabetic) || !before.is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

/// Name, first line and number of lines of every function; relies on rustfmt's indentation.
fn functions_of(code: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let body = lines[start..].iter().take_while(|line| **line != closing).count();
        let declares = |line: &&str| line.ends_with(';') && line.strip_prefix(indent).is_some_and(|line| !line.starts_with(' '));
        if !line.ends_with('}') && !lines[start..].iter().take(body).any(declares) {
            functions.push((name, start + 1, body + 1));
        }
    }
    functions
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line.trim_start();
    while let Some(after) =
        ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe "].iter().find_map(|word| rest.strip_prefix(word))
    {
        rest = after;
    }
    let named = rest.strip_prefix("fn ")?;
    Some(named.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect())
}
