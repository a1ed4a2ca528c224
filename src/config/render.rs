//! The effective configuration as TOML and JSON, secrets hidden.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use toml::{Table, Value};

use super::{Config, Kafka, LogFormat};
use crate::model::{Certify, Objective};

/// Stands for a secret wherever settings are shown.
pub(super) const HIDDEN: &str = "(hidden)";

/// Parts of the names of settings whose value nobody may see. Rather one name too many than a secret in a log:
/// `sasl.oauthbearer.token.endpoint.url` is hidden as well.
const SECRET: [&str; 8] = ["password", "passphrase", "secret", "key.pem", "private.key", "token", "jaas", "oauthbearer.config"];

pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET.iter().any(|part| key.contains(part))
}

impl Kafka {
    /// The librdkafka properties with each secret hidden.
    pub fn shown_properties(&self) -> BTreeMap<String, String> {
        let shown = |(name, value): (&String, &String)| (name.clone(), if is_secret(name) { HIDDEN.to_owned() } else { value.clone() });
        self.properties.iter().map(shown).collect()
    }
}

impl Config {
    /// The effective configuration, secrets hidden; where there are none it can be used as a configuration file.
    pub fn to_toml(&self) -> String {
        let sections = self.sections().into_iter().map(|(name, section)| Table::from_iter([(name.to_owned(), section.into())]).to_string());
        sections.collect::<Vec<_>>().join("\n")
    }

    /// The same as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        self.sections().into_iter().map(|(name, section)| (name.to_owned(), serde_json::json!(section))).collect()
    }

    /// The tables of the file, in the order of the defaults.
    fn sections(&self) -> [(&'static str, Table); 8] {
        [
            ("kafka", self.kafka_section()),
            ("topics", self.topics_section()),
            ("model", self.model_section()),
            ("generation", self.generation_section()),
            ("store", table([("path", text(self.store.path.display())), ("purge_interval", duration(self.purge.interval))])),
            ("receipts", self.receipts_section()),
            ("http", self.http_section()),
            ("log", table([("level", text(&self.log.level)), ("format", text(log_format(self.log.format)))])),
        ]
    }

    fn receipts_section(&self) -> Table {
        let mut section = table([
            ("published_within", duration(self.receipts.published_within)),
            ("purged_within", duration(self.receipts.purged_within)),
        ]);
        section.extend(self.receipts.signing_key.iter().map(|path| ("signing_key".to_owned(), text(path.display()))));
        section
    }

    fn http_section(&self) -> Table {
        let mut section = table([("listen", text(self.http.listen))]);
        section.extend(self.http.token_file.iter().map(|path| ("token_file".to_owned(), text(path.display()))));
        section
    }

    fn kafka_section(&self) -> Table {
        let properties: Table = self.kafka.shown_properties().into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        table([
            ("brokers", text(&self.kafka.brokers)),
            ("group", text(&self.kafka.group)),
            ("transactions", self.kafka.transactions.into()),
            ("properties", properties.into()),
        ])
    }

    fn topics_section(&self) -> Table {
        table([
            ("interactions", text(&self.topics.interactions)),
            ("forgets", text(&self.topics.forgets)),
            ("factors", text(&self.topics.factors)),
            ("generations", text(&self.topics.generations)),
            ("receipts", text(&self.topics.receipts)),
            ("dead_letters", text(&self.topics.dead_letters)),
            ("purge_proof", text(self.purge.proof.name())),
            ("heartbeat", duration(self.purge.heartbeat)),
        ])
    }

    fn model_section(&self) -> Table {
        let model = &self.model;
        let objective = match model.objective {
            Objective::Implicit => "implicit",
            Objective::Explicit => "explicit",
        };
        let certify = match model.certify {
            Certify::Residual => "residual",
            Certify::Global => "global",
        };
        table([
            ("objective", text(objective)),
            ("rank", integer(model.rank as u64)),
            ("regularization", model.regularization.into()),
            ("regularization_exp", model.regularization_exp.into()),
            ("alpha", model.alpha.into()),
            ("unobserved_weight", model.unobserved_weight.into()),
            ("tolerance", model.tolerance.into()),
            ("certify", text(certify)),
            ("max_sweeps", integer(model.max_sweeps.into())),
            ("seed", integer(model.seed)),
            ("threads", integer(model.threads as u64)),
        ])
    }

    fn generation_section(&self) -> Table {
        table([
            ("max_delay", duration(self.generation.max_delay)),
            ("max_events", integer(self.generation.max_events)),
            ("forget_delay", duration(self.generation.forget_delay)),
            ("interim_after", duration(self.generation.interim_after)),
        ])
    }
}

fn table<const N: usize>(settings: [(&str, Value); N]) -> Table {
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn text(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

/// TOML has no more than i64, and no setting allows more.
fn integer(value: u64) -> Value {
    Value::Integer(value.try_into().unwrap_or(i64::MAX))
}

fn duration(value: Duration) -> Value {
    text(format!("{:#}", SignedDuration::try_from(value).unwrap_or(SignedDuration::MAX)))
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}
