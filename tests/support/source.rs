//! Reads Rust source as far as the house rules need it: code without comments, literals and unit tests, and every path
//! that the code names, with the groups of `use` spelled out.

/// A path such as `crate::store::Store`, and the line it stands on (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: String,
    pub line: usize,
}

/// The code with comments and literals blanked and `#[cfg(test)]` modules left out; lines keep their numbers.
pub fn code_of(source: &str) -> String {
    without_tests(&without_words(source))
}

/// Every path of two or more segments, and every single segment that a `use` names.
pub fn paths_in(code: &str) -> Vec<Found> {
    let tokens = tokens_of(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let imports = tokens[at].text == "use";
        at += usize::from(imports);
        let before = found.len();
        let next = tree(&tokens, at, "", &mut found);
        if !imports {
            // A lone word is a variable or a keyword, unless it is a crate that a `use` brings in.
            let lone: Vec<Found> = found.drain(before..).filter(|found| found.path.contains("::")).collect();
            found.extend(lone);
        }
        at = next.max(at + 1);
    }
    found
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn tokens_of(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                letter if is_word(letter) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                other => other.len_utf8(),
            };
            if !first.is_whitespace() {
                tokens.push(Token { text: &rest[..length], line: index + 1 });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Reads `a::b::{c, d::*}` from `at` on, adds each path with `prefix` before it, and returns the place behind it.
fn tree(tokens: &[Token], mut at: usize, prefix: &str, found: &mut Vec<Found>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut path = prefix.to_owned();
    let line = tokens.get(at).map_or(0, |token| token.line);
    // `::std::fs` is `std::fs`.
    at += usize::from(text(at) == "::");
    while text(at).starts_with(is_word) || (text(at) == "*" && !path.is_empty()) {
        path = if path.is_empty() { text(at).to_owned() } else { format!("{path}::{}", text(at)) };
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
        if text(at) == "{" {
            return group(tokens, at, &path, found);
        }
    }
    if path.len() > prefix.len() {
        found.push(Found { path, line });
    }
    at
}

/// Reads `{…}`, whose opening brace is at `at`.
fn group(tokens: &[Token], mut at: usize, prefix: &str, found: &mut Vec<Found>) -> usize {
    at += 1;
    while let Some(token) = tokens.get(at).filter(|token| token.text != "}") {
        let next = if token.text == "," { at } else { tree(tokens, at, prefix, found) };
        at = next.max(at + 1);
        if tokens.get(at).is_some_and(|token| token.text == "as") {
            at += 2;
        }
    }
    at + 1
}

/// Blanks comments, strings and characters.
fn without_words(source: &str) -> String {
    let letters: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < letters.len() {
        let end = word_end(&letters, at);
        match end {
            Some(end) => {
                code.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
                at = end;
            }
            None => {
                code.push(letters[at]);
                at += 1;
            }
        }
    }
    // Trailing blanks would be of our own making.
    code.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The end of the comment or literal that begins at `at`, `None` when there is none.
fn word_end(letters: &[char], at: usize) -> Option<usize> {
    let next = letters.get(at + 1).copied();
    let fresh = at == 0 || !is_word(letters[at - 1]);
    match (letters[at], next) {
        ('/', Some('/')) => Some(letters[at..].iter().position(|letter| *letter == '\n').map_or(letters.len(), |length| at + length)),
        ('/', Some('*')) => Some(block_comment_end(letters, at)),
        ('"', _) => Some(string_end(letters, at + 1)),
        ('b', Some('"')) if fresh => Some(string_end(letters, at + 2)),
        ('r', Some('"' | '#')) if fresh => raw_string_end(letters, at + 1),
        ('b', Some('r')) if fresh => raw_string_end(letters, at + 2),
        ('\'', Some('\\')) => letters[at + 3..].iter().position(|letter| *letter == '\'').map(|length| at + 4 + length),
        ('\'', Some(_)) if letters.get(at + 2) == Some(&'\'') => Some(at + 3),
        _ => None,
    }
}

fn block_comment_end(letters: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut at = at;
    while at < letters.len() {
        match (letters[at], letters.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(letters: &[char], mut at: usize) -> usize {
    while at < letters.len() && letters[at] != '"' {
        at += if letters[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(letters.len())
}

/// `at` is behind the `r`; `None` for a raw identifier.
fn raw_string_end(letters: &[char], at: usize) -> Option<usize> {
    let hashes = letters[at..].iter().take_while(|letter| **letter == '#').count();
    if letters.get(at + hashes) != Some(&'"') {
        return None;
    }
    let mut closing = vec!['#'; hashes];
    closing.insert(0, '"');
    let start = at + hashes + 1;
    let length = letters[start..].windows(closing.len()).position(|window| window == closing);
    Some(length.map_or(letters.len(), |length| start + length + closing.len()))
}

/// Blanks every item under `#[cfg(test)]`, to its closing brace or semicolon.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = item_end(&item[MARK.len()..]) + MARK.len();
        kept.extend(item[..end].chars().filter(|letter| *letter == '\n'));
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

fn item_end(item: &str) -> usize {
    let mut depth = 0usize;
    for (at, letter) in item.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[test]
fn paths_are_found_in_groups_and_bodies_but_not_in_words() {
    let code = code_of(
        "use crate::{store::{Store, a::*}, kafka as k};\n\
         use rdkafka;\n\
         // crate::run\n\
         fn f<'a>() { let c = '\"'; ::std::fs::read(\"crate::cli\"); r#\"crate::http\"#; /* crate::x */ a.b() }\n\
         #[cfg(test)]\nmod tests { use crate::metrics; }\n\
         use std::env;",
    );
    let found: Vec<(String, usize)> = paths_in(&code).into_iter().map(|found| (found.path, found.line)).collect();
    let expected =
        [("crate::store::Store", 1), ("crate::store::a::*", 1), ("crate::kafka", 1), ("rdkafka", 2), ("std::fs::read", 4), ("std::env", 7)];
    assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
}
