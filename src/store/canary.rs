//! For tests: random text that stands for what must disappear, and a search of every byte of a directory.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;

/// 24 random bytes as text, which is what a name can be. LZ4 keeps the first such text of a block as it is.
pub(crate) fn canary() -> String {
    let mut bytes = [0; 24];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    URL_SAFE.encode(bytes)
}

/// Files that hold one of the texts, as it is or in hex.
pub(crate) fn holders(dir: &Path, texts: &[&String]) -> Vec<String> {
    let hex = |text: &String| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let needles: Vec<String> = texts.iter().flat_map(|text| [text.to_string(), hex(text), hex(text).to_uppercase()]).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holders(&path, texts));
            continue;
        }
        // RocksDB may remove a file between the two calls.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if needles.iter().any(|needle| holds(&bytes, needle.as_bytes())) {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    // By the first byte, as a window comparison of every place is slow without optimisation.
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == needle[0]) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
