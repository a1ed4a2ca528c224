//! What each source says: names, values and where they were said, merged so that the strongest source wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::check::{ConfigError, Entry, Given, Origin, Settings};

/// The weakest source, and with [`OPTIONAL`] the list of all names.
const DEFAULTS: &str = include_str!("../default.toml");

/// Settings that have no value by default.
pub(super) const OPTIONAL: [&str; 3] = ["model.regularization", "receipts.signing_key", "http.token_file"];

/// librdkafka's own names follow; any is taken here and checked by librdkafka.
const PROPERTIES: &str = "kafka.properties";

/// The variable that names the file.
const FILE_VARIABLE: &str = "NEPENTHE_CONFIG";

/// In front of every setting in the environment. Two underscores: `NEPENTHE_PORT` and the like are set by
/// Kubernetes for a service of that name and are none of ours.
const VARIABLE_PREFIX: &str = "NEPENTHE__";

/// Where settings come from besides the embedded defaults; a later field is stronger, and within a list a later entry.
/// Not `Debug`: environment and options may hold secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Variables by name and value; what does not begin with `NEPENTHE__` is ignored.
    pub env: Vec<(String, String)>,
    /// Settings by dotted name (`kafka.brokers`) and value, as given on the command line.
    pub overrides: Vec<(String, String)>,
}

impl Sources {
    /// The sources of this process: `file` (else the one that `NEPENTHE_CONFIG` names), the real environment and `overrides`.
    ///
    /// # Errors
    /// [`ConfigError::NotUnicode`] for one of our variables whose value is not UTF-8.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
    pub fn from_process(file: Option<PathBuf>, overrides: Vec<(String, String)>) -> Result<Sources, ConfigError> {
        let named = || std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = file.or_else(named);
        let env = std::env::vars_os().filter_map(our_variable).collect::<Result<_, _>>()?;
        Ok(Sources { file, env, overrides })
    }
}

/// Where the service manager wants to be told that the service is ready: NOTIFY_SOCKET of systemd.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn notify_socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

fn our_variable((name, value): (OsString, OsString)) -> Option<Result<(String, String), ConfigError>> {
    let name = name.into_string().ok().filter(|name| name.starts_with(VARIABLE_PREFIX))?;
    Some(match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(ConfigError::NotUnicode { variable: name }),
    })
}

/// Splits `kafka.brokers=broker:9092`, as given to `--set`, into name and value.
///
/// # Errors
/// [`ConfigError::NotAnAssignment`] without a name or `=`. The text is not repeated: it may hold a secret.
pub fn assignment(text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(ConfigError::NotAnAssignment),
    }
}

/// Reads all sources and refuses names that do not exist.
///
/// # Errors
/// A file that cannot be read or is not TOML; an unknown name.
pub(super) fn gather(sources: &Sources) -> Result<Settings, ConfigError> {
    let mut entries = BTreeMap::new();
    read_toml(DEFAULTS, Path::new("default.toml"), None, &mut entries)?;
    let known = Known(entries.keys().cloned().chain(OPTIONAL.map(str::to_owned)).collect());
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        read_toml(&text, path, Some(&known), &mut entries)?;
    }
    for (name, value) in &sources.env {
        if let Some(key) = key_of_variable(name) {
            known.check(&key, || Origin::Variable(name.clone()))?;
            entries.insert(key, Entry { given: Given::Text(value.clone()), origin: Origin::Variable(name.clone()) });
        }
    }
    for (key, value) in &sources.overrides {
        known.check(key, || Origin::CommandLine)?;
        entries.insert(key.clone(), Entry { given: Given::Text(value.clone()), origin: Origin::CommandLine });
    }
    Ok(Settings::new(entries))
}

/// `NEPENTHE__MODEL__MAX_SWEEPS` → `model.max_sweeps`. The names of librdkafka have dots and no underscores, and a shell
/// cannot set a variable with a dot, so below `kafka.properties` an underscore means a dot.
fn key_of_variable(name: &str) -> Option<String> {
    let key = name.strip_prefix(VARIABLE_PREFIX)?.to_ascii_lowercase().replace("__", ".");
    Some(match property_name(&key) {
        Some(property) => format!("{PROPERTIES}.{}", property.replace('_', ".")),
        None => key,
    })
}

/// What librdkafka calls the setting `key`; `None` for a setting of ours.
pub(super) fn property_name(key: &str) -> Option<&str> {
    key.strip_prefix(PROPERTIES)?.strip_prefix('.')
}

/// The reverse of [`key_of_variable`], for suggestions.
fn variable_of_key(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Adds what `text` says to `entries`, checking names when `known` is there.
fn read_toml(text: &str, path: &Path, known: Option<&Known>, entries: &mut BTreeMap<String, Entry>) -> Result<(), ConfigError> {
    let line = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    // Not the error's own Display: it quotes the line, which may hold a secret.
    let syntax = |error: toml::de::Error| ConfigError::Syntax {
        path: path.to_path_buf(),
        line: line(error.span().map_or(0, |span| span.start)),
        message: error.message().trim_end().to_owned(),
    };
    let spans = DeTable::parse(text).map_err(syntax)?;
    let values = text.parse::<toml::Table>().map_err(syntax)?;
    let mut leaves = Vec::new();
    flatten("", spans.get_ref(), &values, &mut leaves);
    for (key, offset, value) in leaves {
        let origin = || match known {
            None => Origin::Defaults,
            Some(_) => Origin::File { path: path.to_path_buf(), line: line(offset) },
        };
        if let Some(known) = known {
            match value {
                Some(_) => known.check(&key, origin)?,
                None => known.check_table(&key, origin)?,
            }
        }
        if let Some(value) = value {
            entries.insert(key, Entry { given: Given::Toml(value.clone()), origin: origin() });
        }
    }
    Ok(())
}

/// Dotted name, byte offset and value of each leaf; `None` for a table itself, so that its name is checked too.
fn flatten<'v>(prefix: &str, spans: &DeTable<'_>, values: &'v toml::Table, leaves: &mut Vec<(String, usize, Option<&'v toml::Value>)>) {
    for (name, span) in spans.iter() {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        let offset = name.span().start;
        match (span.get_ref(), values.get(name.get_ref().as_ref())) {
            (DeValue::Table(spans), Some(toml::Value::Table(values))) => {
                leaves.push((key.clone(), offset, None));
                flatten(&key, spans, values, leaves);
            }
            (_, value) => leaves.push((key, offset, value)),
        }
    }
}

/// All names of settings.
struct Known(Vec<String>);

impl Known {
    fn check(&self, key: &str, origin: impl Fn() -> Origin) -> Result<(), ConfigError> {
        if property_name(key).is_some_and(|name| !name.is_empty()) || self.0.iter().any(|known| known == key) {
            return Ok(());
        }
        Err(self.unknown(key, origin()))
    }

    fn check_table(&self, key: &str, origin: impl Fn() -> Origin) -> Result<(), ConfigError> {
        if key == PROPERTIES || property_name(key).is_some() || self.has_table(key) { Ok(()) } else { Err(self.unknown(key, origin())) }
    }

    fn has_table(&self, key: &str) -> bool {
        self.0.iter().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }

    fn unknown(&self, key: &str, origin: Origin) -> ConfigError {
        let hint = match (self.nearest(key), &origin) {
            _ if key == PROPERTIES || self.has_table(key) => format!("{key} is a table: name a setting in it"),
            _ if self.0.iter().any(|known| known == key) => format!("{key} is a value and no table"),
            (Some(near), Origin::Variable(_)) => format!("did you mean {}?", variable_of_key(near)),
            (Some(near), _) => format!("did you mean {near}?"),
            (None, _) => "`nepenthe config` prints all of them".to_owned(),
        };
        ConfigError::Unknown { key: key.to_owned(), origin, hint }
    }

    /// The known name that somebody who wrote `key` most likely meant: the same last part, else close in spelling.
    fn nearest(&self, key: &str) -> Option<&str> {
        let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
        let likeness = |known: &str| if last(known) == last(key) { 1.0 } else { strsim::jaro_winkler(known, key) };
        // Without a dot it may be a table that was meant.
        let tables = self.0.iter().filter_map(|known| known.split_once('.')).map(|(table, _)| table).filter(|_| !key.contains('.'));
        let best = self.0.iter().map(String::as_str).chain(tables).map(|known| (likeness(known), known));
        let (likeness, known) = best.max_by(|a, b| a.0.total_cmp(&b.0))?;
        (likeness >= 0.9).then_some(known)
    }
}
