//! The documents hold together: links lead somewhere, what is included exists, and the book has every page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn pages_below(folder: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages.extend(pages_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

fn documents() -> Vec<PathBuf> {
    let mut documents = pages_below(&top().join("docs"));
    documents.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "benches/README.md"].map(|name| top().join(name)));
    documents
}

/// Text outside of blocks of code.
fn prose(text: &str) -> String {
    let fences = text.split("\n```").enumerate();
    fences.filter(|(at, _)| at % 2 == 0).map(|(_, part)| part).collect::<Vec<_>>().join("\n")
}

/// As GitHub and mdBook make anchors of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let slug = |heading: &str| {
        let kept = heading.to_lowercase().chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter)).collect::<String>();
        kept.replace(' ', "-")
    };
    headings.map(slug).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = String::new();
    for document in documents() {
        let text = read(&document);
        for (target, _) in prose(&text).split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            let found = file.exists() && (anchor.is_empty() || anchors(&read(&file)).contains(anchor));
            if !found {
                broken += &format!("\n{}: {target}", document.strip_prefix(top()).unwrap().display());
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:{broken}");
}

#[test]
fn the_book_has_every_page_and_what_it_includes() {
    let docs = top().join("docs");
    let summary = read(&docs.join("SUMMARY.md"));
    for page in pages_below(&docs) {
        let name = page.strip_prefix(&docs).unwrap().to_string_lossy().into_owned();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("]({name})")), "SUMMARY.md lacks {name}");
        for included in read(&page).split("{{#include ").skip(1) {
            let file = included.split([':', '}']).next().unwrap();
            assert!(page.parent().unwrap().join(file).is_file(), "{name} includes {file}");
        }
    }
}
