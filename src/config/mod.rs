//! The effective configuration: options before environment before file before the embedded defaults.
//! The only reader of files and of the environment.
//!
//! Two steps. [`layers`] gathers what each source says, with the place it was said at, and refuses names that do not
//! exist. [`Config::load`] reads the strongest word on each setting, checks its range and makes the types the rest of
//! the program works with, so that nothing behind it meets an unchecked value.

mod check;
mod layers;
mod render;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use check::{Bound, Settings};
pub use check::{ConfigError, Origin};
pub use layers::{Sources, assignment, notify_socket};

use crate::model::{Certify, Millis, Objective, Params};

/// Everything an operator can set, checked. `src/default.toml` has the meaning, unit and range of each.
#[derive(Debug, Clone)]
pub struct Config {
    pub kafka: Kafka,
    pub topics: Topics,
    pub model: Params,
    pub generation: Generation,
    pub store: Store,
    pub purge: Purge,
    pub keep: Keep,
    pub receipts: Receipts,
    pub http: Http,
    pub log: Log,
}

#[derive(Clone)]
pub struct Kafka {
    /// `host:port`, comma separated.
    pub brokers: String,
    pub group: String,
    /// Any librdkafka property that is not dangerous (see [`Config::load`]); holds secrets in the clear.
    pub properties: BTreeMap<String, String>,
    /// Publish each generation in a transaction. Off for brokers that have none.
    pub transactions: bool,
}

/// Secrets stay out of logs and panics.
impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("brokers", &self.brokers)
            .field("group", &self.group)
            .field("properties", &self.shown_properties())
            .field("transactions", &self.transactions)
            .finish()
    }
}

#[derive(Debug, Clone)]
pub struct Topics {
    pub interactions: String,
    pub forgets: String,
    pub factors: String,
    pub generations: String,
    pub receipts: String,
    pub dead_letters: String,
}

/// When a new generation starts.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Longest time that a change waits.
    pub max_delay: Duration,
    /// Changed interactions that start one at once.
    pub max_events: u64,
    /// Longest time that a forget waits.
    pub forget_delay: Duration,
    /// What a solve must be expected to take before what changed is published ahead of it.
    pub interim_after: Duration,
}

#[derive(Debug, Clone)]
pub struct Store {
    pub path: PathBuf,
}

/// How long is kept what outlives a forget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// `store.fence_retention`; `None` is for ever.
    pub fences: Option<Duration>,
    /// `store.backup_retention`; `None` is for ever.
    pub backups: Option<Duration>,
}

impl Keep {
    /// Backups that were taken earlier are deleted by now.
    pub fn backups_since(&self, now: Millis) -> Millis {
        self.backups.map_or(0, |kept| now - kept.as_millis() as Millis)
    }
}

/// When and how far forgets are purged: `store.purge_interval`, `topics.purge_proof`, `topics.heartbeat`.
#[derive(Debug, Clone)]
pub struct Purge {
    /// Forgets that were published since are purged together.
    pub interval: Duration,
    pub proof: TopicProof,
    /// Time between two records that make the segments of the factors topic roll.
    pub heartbeat: Duration,
}

/// What must be gone from the factors topic before a forget counts as purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicProof {
    /// Nothing: only the disk is looked at.
    None,
    /// Every row that was removed or replaced.
    Rows,
    /// Also the tombstones, which hold the names.
    Names,
}

impl TopicProof {
    pub const CHOICES: [(&'static str, TopicProof); 3] =
        [("none", TopicProof::None), ("rows", TopicProof::Rows), ("names", TopicProof::Names)];

    pub fn name(self) -> &'static str {
        TopicProof::CHOICES[self as usize].0
    }
}

#[derive(Debug, Clone)]
pub struct Receipts {
    /// Ed25519 key file (PKCS#8 PEM); default: `receipts.pem` in the state directory, made at the first start.
    pub signing_key: Option<PathBuf>,
    /// Time within which a forget should be published; only told, decides nothing.
    pub published_within: Duration,
    /// Time within which a published forget should be purged; only told, decides nothing.
    pub purged_within: Duration,
}

#[derive(Debug, Clone)]
pub struct Http {
    pub listen: SocketAddr,
    /// File with the token that readers must show; without one only loopback addresses are listened on.
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Log {
    /// A tracing filter: `info`, `warn`, `nepenthe=debug`, …
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A week: longer waits are a mistake in the unit.
const LONGEST_WAIT: Duration = Duration::from_secs(168 * 3600);
/// Thirty days: the month that the law gives.
const LONGEST_OBJECTIVE: Duration = Duration::from_secs(720 * 3600);

/// A hundred years.
const LONGEST_KEPT: Duration = Duration::from_secs(36_525 * 24 * 3600);

impl Config {
    /// Gathers all sources and checks every setting.
    ///
    /// # Errors
    /// The first thing that is wrong, with the name of the setting, its value (unless it is a secret), where it was
    /// given and what is allowed. Meant for exit code 2.
    pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
        let settings = layers::gather(sources)?;
        Ok(Config {
            kafka: Kafka {
                brokers: settings.brokers("kafka.brokers")?,
                group: settings.text_within("kafka.group", 255)?,
                properties: settings.properties()?,
                transactions: settings.flag("kafka.transactions")?,
            },
            topics: topics(&settings)?,
            model: model(&settings)?,
            generation: Generation {
                max_delay: settings.duration("generation.max_delay", Duration::from_millis(1)..=LONGEST_WAIT)?,
                max_events: settings.integer("generation.max_events", 1..=i64::MAX as u64)?,
                forget_delay: settings.duration("generation.forget_delay", Duration::ZERO..=LONGEST_WAIT)?,
                interim_after: settings.duration("generation.interim_after", Duration::ZERO..=LONGEST_WAIT)?,
            },
            store: Store { path: settings.text_within("store.path", 4096)?.into() },
            purge: Purge {
                interval: settings.duration("store.purge_interval", Duration::from_millis(100)..=LONGEST_WAIT)?,
                proof: settings.choice("topics.purge_proof", &TopicProof::CHOICES)?,
                heartbeat: settings.duration("topics.heartbeat", Duration::from_millis(100)..=LONGEST_WAIT)?,
            },
            keep: Keep {
                fences: settings.duration_or_ever("store.fence_retention", Duration::from_secs(3600)..=LONGEST_KEPT)?,
                backups: settings.duration_or_ever("store.backup_retention", Duration::from_secs(3600)..=LONGEST_KEPT)?,
            },
            receipts: Receipts {
                signing_key: settings.path_if_set("receipts.signing_key")?,
                published_within: settings.duration("receipts.published_within", Duration::from_millis(1)..=LONGEST_OBJECTIVE)?,
                purged_within: settings.duration("receipts.purged_within", Duration::from_millis(1)..=LONGEST_OBJECTIVE)?,
            },
            http: http(&settings)?,
            log: Log {
                level: settings.log_filter("log.level")?,
                format: settings.choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?,
            },
        })
    }
}

fn http(settings: &Settings) -> Result<Http, ConfigError> {
    let http = Http { listen: settings.address("http.listen")?, token_file: settings.path_if_set("http.token_file")? };
    if http.token_file.is_none() && !http.listen.ip().is_loopback() {
        return Err(settings.refused("http.listen", "a loopback address, or http.token_file must name a file with the token to ask for"));
    }
    Ok(http)
}

fn model(settings: &Settings) -> Result<Params, ConfigError> {
    let objective = settings.choice("model.objective", &[("implicit", Objective::Implicit), ("explicit", Objective::Explicit)])?;
    let usual = match objective {
        Objective::Implicit => 0.02,
        Objective::Explicit => 0.12,
    };
    let above_zero: Bound = ("a number above 0", |x: f64| x > 0.0);
    Ok(Params {
        objective,
        rank: settings.integer("model.rank", 1..=1024)? as usize,
        regularization: settings.number_if_set("model.regularization", above_zero)?.unwrap_or(usual),
        regularization_exp: settings.number("model.regularization_exp", ("a number from 0 to 2", |x| (0.0..=2.0).contains(&x)))?,
        alpha: settings.number("model.alpha", ("a number of at least 0", |x| x >= 0.0))?,
        unobserved_weight: settings.number("model.unobserved_weight", above_zero)?,
        tolerance: settings.number("model.tolerance", ("a number from 1e-12 to 1e-1", |x| (1e-12..=1e-1).contains(&x)))?,
        certify: settings.choice("model.certify", &[("residual", Certify::Residual), ("global", Certify::Global)])?,
        max_sweeps: settings.integer("model.max_sweeps", 1..=100_000)? as u32,
        seed: settings.integer("model.seed", 0..=i64::MAX as u64)?,
        threads: settings.integer("model.threads", 0..=1024)? as usize,
    })
}

fn topics(settings: &Settings) -> Result<Topics, ConfigError> {
    let topics = Topics {
        interactions: settings.topic("topics.interactions")?,
        forgets: settings.topic("topics.forgets")?,
        factors: settings.topic("topics.factors")?,
        generations: settings.topic("topics.generations")?,
        receipts: settings.topic("topics.receipts")?,
        dead_letters: settings.topic("topics.dead_letters")?,
    };
    let inputs = [("topics.interactions", &topics.interactions), ("topics.forgets", &topics.forgets)];
    let outputs = [
        ("topics.factors", &topics.factors),
        ("topics.generations", &topics.generations),
        ("topics.receipts", &topics.receipts),
        ("topics.dead_letters", &topics.dead_letters),
    ];
    // What goes out must never come back in as an event, and each output has a key space of its own.
    for (place, (key, name)) in outputs.iter().enumerate() {
        if let Some((other, _)) = inputs.iter().chain(&outputs[..place]).find(|(_, other)| other == name) {
            return Err(settings.clash(key, other, name));
        }
    }
    Ok(topics)
}
