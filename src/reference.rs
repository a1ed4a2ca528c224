//! `docs/reference/` is written from the code, by tests that fail when it has drifted: `make reference` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

/// Compares a page with what the code says now, or writes it when told to.
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment")]
#[track_caller]
pub(crate) fn hold(page: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(page);
    if std::env::var_os("NEPENTHE_WRITE_REFERENCE").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == text, "docs/reference/{page} is not what the code says: `make reference` writes it anew");
}

const METRICS: &str = "\
# Metrics

Written from what `/metrics` serves. Every series of a closed set is there at 0 from the start; no label
holds a user, an item or a request. The values of `error` are those of [dead letters](../producers.md#dead-letters).

| name | kind | labels | meaning |
|---|---|---|---|
";

/// Name, kind, labels with the values of closed sets, and help, from what is served.
pub(crate) fn metrics(text: &str) -> String {
    let mut page = METRICS.to_owned();
    for line in text.lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else { continue };
        let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels(text, name));
    }
    page
}

fn labels(text: &str, name: &str) -> String {
    const CLOSED: [&str; 6] = ["kind", "outcome", "status", "stage", "phase", "certified"];
    let mut labels: Vec<(&str, Vec<&str>)> = Vec::new();
    let series = ["{", "_bucket{"].map(|mark| format!("{name}{mark}"));
    for line in text.lines().filter(|line| series.iter().any(|start| line.starts_with(start))) {
        let pairs = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).unwrap().0;
        for (label, value) in pairs.split(',').filter_map(|pair| pair.split_once('=')).filter(|(label, _)| *label != "le") {
            let at = labels.iter().position(|(known, _)| *known == label).unwrap_or_else(|| {
                labels.push((label, Vec::new()));
                labels.len() - 1
            });
            let value = value.trim_matches('"');
            if CLOSED.contains(&label) && !labels[at].1.contains(&value) {
                labels[at].1.push(value);
            }
        }
    }
    let told = labels.iter().map(|(label, values)| match &values[..] {
        [] => format!("`{label}`"),
        values => format!("`{label}`: {}", values.join(", ")),
    });
    told.collect::<Vec<_>>().join("; ")
}

const CONFIGURATION: &str = "\
# Configuration

Written from `src/default.toml`. The environment variable of a setting is its name in capitals with two
underscores in front of each part: `kafka.brokers` is `NEPENTHE__KAFKA__BROKERS`.
";

/// The settings, from the file of defaults: comments above a table or a key describe it.
fn configuration(defaults: &str) -> String {
    let mut page = CONFIGURATION.to_owned();
    let (mut table, mut said) = (String::new(), Vec::new());
    for line in defaults.lines() {
        let comment = line.strip_prefix('#').map(str::trim);
        let unset = comment.and_then(|text| text.split_once(" = ")).filter(|(name, _)| is_name(name));
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name.to_owned();
            let _ = writeln!(page, "\n## `[{table}]`");
            paragraph(&mut page, &mut said);
        } else if let Some((name, _)) = unset {
            let _ = writeln!(page, "\n### `{table}.{name}`\n\nNot set by default.");
            paragraph(&mut page, &mut said);
        } else if let Some((name, value)) = line.split_once(" = ").filter(|(name, _)| is_name(name)) {
            let _ = writeln!(page, "\n### `{table}.{name}`\n\nDefault: `{value}`.");
            paragraph(&mut page, &mut said);
        } else if let Some(text) = comment {
            said.push(text.to_owned());
        } else if table.is_empty() && !said.is_empty() {
            // The head of the file.
            paragraph(&mut page, &mut said);
        }
    }
    page
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn paragraph(page: &mut String, said: &mut Vec<String>) {
    if !said.is_empty() {
        let text = std::mem::take(said).join("\n");
        // Nothing in a description is markup but what stands between back quotes.
        let plain = |text: &str| text.replace('*', "\\*").replace('<', "&lt;").replace('_', "\\_");
        let parts = text.split('`').enumerate().map(|(at, part)| if at % 2 == 0 { plain(part) } else { part.to_owned() });
        let _ = writeln!(page, "\n{}", parts.collect::<Vec<_>>().join("`"));
    }
}

#[test]
fn the_configuration_page_is_what_the_defaults_say() {
    let text = configuration(include_str!("default.toml"));
    assert!(text.contains("### `http.token_file`\n\nNot set by default.") && text.contains("### `model.rank`\n\nDefault: `64`."));
    hold("configuration.md", &text);
}
