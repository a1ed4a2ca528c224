//! `nepenthe config`: what the process would run with.

use std::io::{self, Write};

use crate::config::Config;

/// Prints the effective configuration to standard output, secrets hidden: TOML, or one JSON object. With `check` it only
/// says that the configuration is valid, for it was checked when it was loaded.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run(config: &Config, check: bool, json: bool) -> io::Result<()> {
    print(config, check, json, &mut io::stdout().lock())
}

fn print(config: &Config, check: bool, json: bool, out: &mut impl Write) -> io::Result<()> {
    match (check, json) {
        (true, true) => writeln!(out, "{}", serde_json::json!({ "valid": true })),
        (true, false) => {
            // Not data: a script reads the exit code.
            writeln!(io::stderr(), "the configuration is valid")
        }
        (false, true) => writeln!(out, "{:#}", config.to_json()),
        (false, false) => write!(out, "{}", config.to_toml()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn printed(check: bool, json: bool) -> String {
        let config = Config::load(&Sources::default()).unwrap();
        let mut out = Vec::new();
        print(&config, check, json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn prints_toml_json_or_nothing_but_the_verdict() {
        assert!(printed(false, false).contains("rank = 64\n"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed(false, true)).unwrap()["model"]["rank"], 64);
        assert_eq!(printed(true, true), "{\"valid\":true}\n");
        assert_eq!(printed(true, false), "");
    }
}
