//! Typed and checked reads of single settings. Each refusal says which, what, from where and what is allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use tracing_subscriber::EnvFilter;

use super::layers::property_name;
use super::render::{HIDDEN, is_secret};

/// Why there is no configuration. Meant for exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}; correct --config or NEPENTHE_CONFIG, or leave both out", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{origin}: unknown setting {key}; {hint}")]
    Unknown { key: String, origin: Origin, hint: String },
    #[error("{origin}: {key} = {value} is refused: it must be {expected}")]
    Invalid { key: String, value: String, origin: Origin, expected: String },
    #[error("{origin}: {key} is refused: {why}")]
    Forbidden { key: String, origin: Origin, why: &'static str },
    #[error("{origin}: {key} and {other} are both {name:?}; an output topic must have a name of its own")]
    Clash { key: String, other: String, name: String, origin: Origin },
    #[error("{origin}: {key}: cannot read the secret from {}: {source}", path.display())]
    Secret { key: String, path: PathBuf, origin: Origin, source: std::io::Error },
    #[error("the value of the environment variable {variable} is not UTF-8: set it again or unset it")]
    NotUnicode { variable: String },
    #[error("a setting on the command line is written name=value, for example model.rank=32")]
    NotAnAssignment,
    #[error("{key} has no value in the embedded defaults: this binary is broken, build it again")]
    Missing { key: &'static str },
}

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Defaults,
    /// Lines count from 1.
    File {
        path: PathBuf,
        line: usize,
    },
    /// The name of an environment variable.
    Variable(String),
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Defaults => f.write_str("defaults"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::CommandLine => f.write_str("command line"),
        }
    }
}

/// A value as it was given.
pub(super) enum Given {
    Toml(toml::Value),
    /// From the environment or the command line, where quotes are optional.
    Text(String),
}

impl Given {
    /// As a string; `None` for a TOML value of another type.
    fn string(&self) -> Option<String> {
        match self {
            Given::Toml(toml::Value::String(text)) => Some(text.clone()),
            Given::Toml(_) => None,
            Given::Text(text) => match self.scalar() {
                Some(toml::Value::String(quoted)) => Some(quoted),
                _ => Some(text.clone()),
            },
        }
    }

    /// As TOML; `None` for text that is none, which then is a string without quotes.
    fn scalar(&self) -> Option<toml::Value> {
        match self {
            Given::Toml(value) => Some(value.clone()),
            Given::Text(text) => text.trim().parse().ok(),
        }
    }

    /// For an error message.
    fn shown(&self) -> String {
        match self {
            Given::Toml(value) => value.to_string(),
            Given::Text(text) => format!("{text:?}"),
        }
    }
}

pub(super) struct Entry {
    pub given: Given,
    pub origin: Origin,
}

/// The strongest word on each setting, by dotted name.
pub(super) struct Settings(BTreeMap<String, Entry>);

/// What a number must be, in words and as a test; infinite values and NaN are refused before.
pub(super) type Bound = (&'static str, fn(f64) -> bool);

impl Settings {
    pub fn new(entries: BTreeMap<String, Entry>) -> Settings {
        Settings(entries)
    }

    fn entry(&self, key: &'static str) -> Result<&Entry, ConfigError> {
        self.0.get(key).ok_or(ConfigError::Missing { key })
    }

    pub fn clash(&self, key: &str, other: &str, name: &str) -> ConfigError {
        // The one that somebody set is the one to change.
        let set = [key, other].into_iter().filter_map(|key| self.0.get(key)).find(|entry| entry.origin != Origin::Defaults);
        let origin = set.map_or(Origin::Defaults, |entry| entry.origin.clone());
        ConfigError::Clash { key: key.to_owned(), other: other.to_owned(), name: name.to_owned(), origin }
    }

    /// A setting that is well written but does not go with the others.
    pub fn refused(&self, key: &'static str, expected: &str) -> ConfigError {
        self.entry(key).map_or_else(|missing| missing, |entry| refuse(key, entry, expected))
    }

    /// 1 to `longest` bytes.
    pub fn text_within(&self, key: &'static str, longest: usize) -> Result<String, ConfigError> {
        let entry = self.entry(key)?;
        let fits = |text: &String| (1..=longest).contains(&text.len()) && !text.contains('\0');
        entry.given.string().filter(fits).ok_or_else(|| refuse(key, entry, format!("a string of 1 to {longest} bytes")))
    }

    /// `None` when not set or set to nothing.
    pub fn path_if_set(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(entry) = self.0.get(key) else { return Ok(None) };
        let text = entry.given.string().ok_or_else(|| refuse(key, entry, "a path, as a string"))?;
        Ok(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
    }

    pub fn flag(&self, key: &'static str) -> Result<bool, ConfigError> {
        let entry = self.entry(key)?;
        entry.given.scalar().and_then(|value| value.as_bool()).ok_or_else(|| refuse(key, entry, "true or false"))
    }

    pub fn integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let entry = self.entry(key)?;
        let given = entry.given.scalar().and_then(|value| value.as_integer()).and_then(|value| u64::try_from(value).ok());
        given.filter(|value| range.contains(value)).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            refuse(key, entry, format!("an integer from {low} to {high}"))
        })
    }

    pub fn number(&self, key: &'static str, bound: Bound) -> Result<f64, ConfigError> {
        number(key, self.entry(key)?, bound)
    }

    pub fn number_if_set(&self, key: &'static str, bound: Bound) -> Result<Option<f64>, ConfigError> {
        self.0.get(key).map(|entry| number(key, entry, bound)).transpose()
    }

    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let entry = self.entry(key)?;
        let given = entry.given.string();
        match choices.iter().find(|(name, _)| given.as_deref() == Some(*name)) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
                Err(refuse(key, entry, names.join(" or ")))
            }
        }
    }

    pub fn duration(&self, key: &'static str, range: RangeInclusive<Duration>) -> Result<Duration, ConfigError> {
        let entry = self.entry(key)?;
        let parsed = entry.given.string().and_then(|text| text.trim().parse::<SignedDuration>().ok());
        let given = parsed.and_then(|duration| Duration::try_from(duration).ok());
        given.filter(|duration| range.contains(duration)).ok_or_else(|| {
            let (low, high) = (range.start().as_millis(), range.end().as_secs() / 3600);
            refuse(key, entry, format!("a duration from {low}ms to {high}h, written like \"500ms\", \"5s\" or \"1h\""))
        })
    }

    /// A duration, or `None` for "forever".
    pub fn duration_or_ever(&self, key: &'static str, range: RangeInclusive<Duration>) -> Result<Option<Duration>, ConfigError> {
        if self.entry(key)?.given.string().is_some_and(|text| text.trim() == "forever") {
            return Ok(None);
        }
        self.duration(key, range.clone()).map(Some).map_err(|_| {
            let (low, high) = (range.start().as_secs() / 3600, range.end().as_secs() / 3600);
            self.refused(key, &format!("\"forever\", or a duration from {low}h to {high}h, written like \"720h\""))
        })
    }

    pub fn address(&self, key: &'static str) -> Result<SocketAddr, ConfigError> {
        let entry = self.entry(key)?;
        let given = entry.given.string().and_then(|text| text.trim().parse().ok());
        given.ok_or_else(|| refuse(key, entry, "an IP address and a port, written like \"127.0.0.1:9464\" or \"[::1]:9464\""))
    }

    pub fn topic(&self, key: &'static str) -> Result<String, ConfigError> {
        let entry = self.entry(key)?;
        let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        let valid = |name: &String| (1..=249).contains(&name.len()) && name.chars().all(letter) && name != "." && name != "..";
        let expected = "a topic name: 1 to 249 letters, digits, `.`, `_` or `-`, neither \".\" nor \"..\"";
        entry.given.string().filter(valid).ok_or_else(|| refuse(key, entry, expected))
    }

    /// A comma-separated list, without blanks around its members.
    pub fn brokers(&self, key: &'static str) -> Result<String, ConfigError> {
        let entry = self.entry(key)?;
        let expected = "one or more host:port, comma separated, written like \"broker-1:9092,broker-2:9092\"";
        let text = entry.given.string().ok_or_else(|| refuse(key, entry, expected))?;
        let brokers: Vec<_> = text.split(',').map(str::trim).collect();
        if brokers.iter().all(|broker| is_broker(broker)) { Ok(brokers.join(",")) } else { Err(refuse(key, entry, expected)) }
    }

    pub fn log_filter(&self, key: &'static str) -> Result<String, ConfigError> {
        let entry = self.entry(key)?;
        // A lone word that is no level would silently be taken for the name of a module.
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let meant = |part: &str| part.contains('=') || levels.iter().any(|level| part.trim().eq_ignore_ascii_case(level));
        let valid = |filter: &String| filter.split(',').all(meant) && EnvFilter::builder().parse(filter).is_ok();
        let expected = "off, error, warn, info, debug or trace, or such as \"info,nepenthe::kafka=debug\"";
        entry.given.string().filter(valid).ok_or_else(|| refuse(key, entry, expected))
    }

    /// librdkafka's properties by their own names. What runs foreign code or is for nepenthe to decide is refused;
    /// a secret written `file:PATH` is read from there.
    pub fn properties(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let mut properties = BTreeMap::new();
        for (key, entry) in &self.0 {
            let Some(name) = property_name(key) else { continue };
            if let Some(why) = forbidden(name) {
                return Err(ConfigError::Forbidden { key: key.clone(), origin: entry.origin.clone(), why });
            }
            let value = match (&entry.given, entry.given.string()) {
                (_, Some(text)) => text,
                (Given::Toml(value), None) if value.is_integer() || value.is_float() || value.is_bool() => value.to_string(),
                _ => return Err(refuse(key, entry, "a string, a number or a boolean")),
            };
            properties.insert(name.to_owned(), revealed(key, entry, value)?);
        }
        Ok(properties)
    }
}

fn number(key: &str, entry: &Entry, (expected, allowed): Bound) -> Result<f64, ConfigError> {
    let given = entry.given.scalar().and_then(|value| value.as_float().or(value.as_integer().map(|integer| integer as f64)));
    given.filter(|number| number.is_finite() && allowed(*number)).ok_or_else(|| refuse(key, entry, expected))
}

fn refuse(key: &str, entry: &Entry, expected: impl Into<String>) -> ConfigError {
    let shown = entry.given.shown();
    // user:password@host is no broker, but somebody may try.
    let hide = is_secret(key) || (key == "kafka.brokers" && shown.contains('@'));
    let value = if hide { HIDDEN.to_owned() } else { shown };
    ConfigError::Invalid { key: key.to_owned(), value, origin: entry.origin.clone(), expected: expected.into() }
}

fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')),
    };
    host_is_valid && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Why a librdkafka property cannot be set. The Kafka room refuses the same ones; here the refusal can say where the
/// property was given.
fn forbidden(property: &str) -> Option<&'static str> {
    Some(match property {
        "plugin.library.paths" | "sasl.kerberos.kinit.cmd" | "ssl.engine.id" | "ssl.engine.location" | "ssl.providers" => {
            "it makes the process run or load foreign code"
        }
        "bootstrap.servers" | "metadata.broker.list" => "set kafka.brokers instead",
        "group.id" => "set kafka.group instead",
        "transactional.id" => "nepenthe makes it; kafka.transactions turns transactions on and off",
        "allow.auto.create.topics" => "topics need the settings that `nepenthe topics` gives them",
        "enable.auto.commit"
        | "auto.commit.enable"
        | "auto.commit.interval.ms"
        | "enable.auto.offset.store"
        | "auto.offset.reset"
        | "offset.store.method"
        | "offset.store.path" => "offsets are kept in the store, with the data they belong to",
        "group.protocol"
        | "partition.assignment.strategy"
        | "isolation.level"
        | "enable.partition.eof"
        | "statistics.interval.ms"
        | "enable.idempotence"
        | "enable.gapless.guarantee"
        | "acks"
        | "request.required.acks"
        | "delivery.report.only.error"
        | "partitioner" => "nepenthe sets it: its guarantees rest on it",
        _ => return None,
    })
}

/// The value itself, or for a secret written `file:PATH` what is in that file, without the line end.
fn revealed(key: &str, entry: &Entry, value: String) -> Result<String, ConfigError> {
    match value.strip_prefix("file:").filter(|_| is_secret(key)) {
        None => Ok(value),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(source) => Err(ConfigError::Secret { key: key.to_owned(), path: path.into(), origin: entry.origin.clone(), source }),
        },
    }
}
