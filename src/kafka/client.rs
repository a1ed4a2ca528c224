//! From settings to librdkafka clients: which properties an operator may give, what we set ourselves, and where its log goes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};

use super::OutRecord;
use super::trouble::Trouble;

/// Largest record that we hand to a broker: the largest event that we take (1 MiB) as a dead letter, with its headers,
/// and room to spare.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// How to reach the cluster.
#[derive(Clone)]
pub struct ClientSettings {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// Consumer group; also the name under which read-only helpers appear.
    pub group: String,
    /// librdkafka properties of the operator; they go over our defaults, never over what [`check_properties`] refuses.
    pub properties: BTreeMap<String, String>,
}

/// Values can be passwords, keys and tokens under names that we cannot list: only the names are printed.
impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("ClientSettings").field("brokers", &self.brokers).field("group", &self.group).field("properties", &names).finish()
    }
}

/// A property that may not be set from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kafka.properties: `{key}` is refused because {why}; {remedy}")]
pub struct PropertyRefused {
    pub key: String,
    pub why: &'static str,
    pub remedy: &'static str,
}

/// A client that librdkafka did not make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Refused(#[from] PropertyRefused),
    #[error("kafka.properties: librdkafka does not take `{key}` ({why}); correct or remove it")]
    Property { key: String, why: &'static str },
    #[error("cannot make a Kafka {role} for {brokers}: {reason}; check [kafka] in the configuration")]
    Create { role: &'static str, brokers: String, reason: String },
}

const RUNS_CODE: &str = "it makes the process run a command or load a library named in the configuration";
const REMOVE: &str = "remove it";
const OWNED: &str = "nepenthe sets it: offsets live with the state, and exactness depends on it";

/// Keys that an operator may not set, why, and what to do instead.
pub(crate) const REFUSED: &[(&str, &str, &str)] = &[
    ("sasl.kerberos.kinit.cmd", RUNS_CODE, "keep the ticket fresh outside of the process"),
    ("ssl.engine.location", RUNS_CODE, "give the key by ssl.key.location or ssl.keystore.location"),
    ("ssl.engine.id", RUNS_CODE, "give the key by ssl.key.location or ssl.keystore.location"),
    ("ssl.providers", RUNS_CODE, "configure providers in the system's openssl.cnf"),
    ("plugin.library.paths", RUNS_CODE, REMOVE),
    ("bootstrap.servers", OWNED, "set kafka.brokers"),
    ("metadata.broker.list", OWNED, "set kafka.brokers"),
    ("group.id", OWNED, "set kafka.group"),
    ("group.protocol", OWNED, REMOVE),
    ("partition.assignment.strategy", OWNED, REMOVE),
    ("enable.auto.commit", OWNED, REMOVE),
    ("auto.commit.enable", OWNED, REMOVE),
    ("auto.commit.interval.ms", OWNED, REMOVE),
    ("enable.auto.offset.store", OWNED, REMOVE),
    ("auto.offset.reset", OWNED, REMOVE),
    ("offset.store.method", OWNED, REMOVE),
    ("offset.store.path", OWNED, REMOVE),
    ("isolation.level", OWNED, REMOVE),
    ("enable.partition.eof", OWNED, REMOVE),
    ("allow.auto.create.topics", OWNED, "create topics with `nepenthe topics`"),
    ("statistics.interval.ms", OWNED, REMOVE),
    ("transactional.id", OWNED, "switch transactions by kafka.transactions"),
    ("enable.idempotence", OWNED, REMOVE),
    ("enable.gapless.guarantee", OWNED, REMOVE),
    ("acks", OWNED, REMOVE),
    ("request.required.acks", OWNED, REMOVE),
    ("delivery.report.only.error", OWNED, REMOVE),
    ("partitioner", OWNED, REMOVE),
];

/// Checks the operator's properties: none that runs foreign code, none that the guarantees rest on.
///
/// # Errors
/// [`PropertyRefused`] for the first such key, in the order of the keys.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Result<(), PropertyRefused> {
    for key in properties.keys() {
        if let Some((_, why, remedy)) = REFUSED.iter().find(|(refused, _, _)| *refused == key.trim()) {
            return Err(PropertyRefused { key: key.clone(), why, remedy });
        }
    }
    Ok(())
}

/// Our `defaults`, over them the operator's properties, over those what is ours alone (`owned`).
fn config(settings: &ClientSettings, defaults: &[(&str, &str)], owned: &[(&str, &str)]) -> Result<ClientConfig, ClientError> {
    check_properties(&settings.properties)?;
    let mut config = ClientConfig::new();
    config.set("client.id", "nepenthe").set("reconnect.backoff.max.ms", "5000").set("socket.keepalive.enable", "true");
    // A lone record or a commit must not wait for another one to share its packet.
    config.set("socket.nagle.disable", "true").set("log.connection.close", "false");
    for (key, value) in defaults {
        config.set(*key, *value);
    }
    for (key, value) in &settings.properties {
        config.set(key, value);
    }
    for (key, value) in owned {
        config.set(*key, *value);
    }
    config.set("bootstrap.servers", &settings.brokers);
    // Asking for librdkafka's own debugging is asking to see it.
    let debugging = settings.properties.contains_key("debug");
    config.set_log_level(if debugging { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    Ok(config)
}

/// For the way in: group-managed partitions, offsets of our own, committed records only.
pub(super) fn source_config(settings: &ClientSettings) -> Result<ClientConfig, ClientError> {
    let defaults = [
        // Compressed batches inflate, up to a thousandfold, and all of one answer at once: small answers, and none while the
        // queue is full, bound what may be in memory. Of what is read ahead only keys and values count for librdkafka; it
        // takes 300 bytes beside each: 64 MiB of small records took 260 MB more.
        ("fetch.max.bytes", "4194304"),
        ("queued.max.messages.kbytes", "16384"),
        ("queued.min.messages", "10000"),
        // A zstd batch that inflates beyond this cannot be read, and nothing after it in its partition.
        ("receive.message.max.bytes", "1073741824"),
        // The default second of silence after a full queue costs more than half of the rate.
        ("fetch.queue.backoff.ms", "10"),
        // A topic made after the start is found within this time, not within five minutes.
        ("topic.metadata.refresh.interval.ms", "5000"),
    ];
    let owned = [
        ("group.id", settings.group.as_str()),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("statistics.interval.ms", "1000"),
        ("enable.partition.eof", "false"),
    ];
    config(settings, &defaults, &[&owned[..], &READING[..]].concat())
}

/// For one pass over a topic by hand-assigned partitions; the group is named because librdkafka wants one, never joined.
pub(super) fn reader_config(settings: &ClientSettings, seen: Seen) -> Result<ClientConfig, ClientError> {
    let mut owned = READING.to_vec();
    owned.extend([("group.id", settings.group.as_str()), ("enable.partition.eof", "true")]);
    if seen == Seen::Everything {
        owned.push(("isolation.level", "read_uncommitted"));
    }
    let defaults = [("fetch.queue.backoff.ms", "10"), ("queued.max.messages.kbytes", "16384"), ("queued.min.messages", "10000")];
    config(settings, &defaults, &owned)
}

/// Which records a pass over a topic sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Committed,
    /// Also those of transactions that failed: they are in the topic like any other.
    Everything,
}

/// Common to all that read.
const READING: [(&str, &str); 5] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "earliest"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
];

/// How much a producer promises. Brokers differ; each step down is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// Records of one parcel become visible together.
    Transaction,
    /// No duplicates by retries, order kept.
    Idempotence,
    /// Acknowledged by all in-sync replicas.
    Acknowledged,
}

/// For the way out. The id is used for [`Promise::Transaction`] alone.
pub(super) fn producer_config(settings: &ClientSettings, promise: Promise, id: Option<&str>) -> Result<ClientConfig, ClientError> {
    let record_bytes = MAX_RECORD_BYTES.to_string();
    let mut defaults = vec![
        ("compression.type", "lz4"),
        ("linger.ms", "5"),
        ("batch.size", "1000000"),
        ("message.max.bytes", record_bytes.as_str()),
        // What waits for its acknowledgement, and no more, is held twice: records are made as they go.
        ("queue.buffering.max.messages", "50000"),
        ("queue.buffering.max.kbytes", "65536"),
        ("message.timeout.ms", "60000"),
    ];
    // The same partition for a key as Java's clients choose; librdkafka's own default differs.
    let mut owned = vec![("partitioner", "murmur2_random"), ("acks", "all"), ("statistics.interval.ms", "0")];
    if promise != Promise::Acknowledged {
        owned.push(("enable.idempotence", "true"));
    }
    if let (Promise::Transaction, Some(id)) = (promise, id) {
        owned.push(("transactional.id", id));
        // Brokers take up to 15 minutes by default.
        defaults.push(("transaction.timeout.ms", "600000"));
    }
    config(settings, &defaults, &owned)
}

/// For topics and their settings.
pub(super) fn admin_config(settings: &ClientSettings) -> Result<ClientConfig, ClientError> {
    config(settings, &[], &[])
}

/// What librdkafka says when it makes no client, without the value that it disliked: that may be a secret.
pub(super) fn creation_error(role: &'static str, settings: &ClientSettings, error: KafkaError) -> ClientError {
    use rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN;
    match error {
        KafkaError::ClientConfig(result, _, key, _) => {
            let why = if result == RD_KAFKA_CONF_UNKNOWN { "no such property" } else { "not a value that it accepts" };
            ClientError::Property { key, why }
        }
        other => ClientError::Create { role, brokers: settings.brokers.clone(), reason: other.to_string() },
    }
}

/// librdkafka's log line, as one of ours.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(target: "librdkafka", "{facility}: {message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", "{facility}: {message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "librdkafka", "{facility}: {message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", "{facility}: {message}"),
    }
}

/// Queues a record. The bytes are copied; an error leaves nothing queued.
pub(super) fn produce<C>(producer: &BaseProducer<C>, record: &OutRecord) -> Result<(), KafkaError>
where
    C: ProducerContext<DeliveryOpaque = ()>,
{
    let mut out = BaseRecord::<[u8], [u8]>::to(&record.topic);
    if let Some(key) = &record.key {
        out = out.key(key.as_slice());
    }
    if let Some(value) = &record.value {
        out = out.payload(value.as_slice());
    }
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let insert = |headers: OwnedHeaders, (key, value): &(&'static str, Vec<u8>)| headers.insert(Header { key, value: Some(value) });
        out = out.headers(record.headers.iter().fold(headers, insert));
    }
    producer.send(out).map_err(|(error, _)| error)
}

/// The context of clients that need no call-backs but the log.
#[derive(Default)]
pub(super) struct Plain {
    pub trouble: Trouble,
}

impl rdkafka::ClientContext for Plain {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.trouble.heard(facility, message);
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl rdkafka::consumer::ConsumerContext for Plain {}

/// Is it the brokers' absence that this code tells of?
pub(super) fn is_absence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve | Code::OperationTimedOut | Code::MessageTimedOut)
}

/// Is it our rights or credentials that this code tells of?
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Authentication
            | Code::SSL
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// A broker's answer in words for an operator, with what to do where that is known.
pub(super) fn explain(brokers: &str, error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) if is_absence(code) => {
            format!("no answer from the brokers at {brokers} ({error}); are they up and is kafka.brokers right?")
        }
        Some(code) if is_refusal(code) => format!("{brokers} refused us ({error}); check the credentials in kafka.properties and the ACLs"),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition) => {
            format!("{brokers} does not know the topic ({error}); create it with `nepenthe topics`")
        }
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            format!("a record is too large ({error}); raise max.message.bytes of its topic to {MAX_RECORD_BYTES}")
        }
        _ => format!("{brokers}: {error}"),
    }
}

/// How long something takes is the one question here that needs a clock.
#[expect(clippy::disallowed_methods, reason = "patience with brokers is measured; nothing that is stored depends on it")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// The longest that a helper waits for one answer of a broker.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> ClientSettings {
        let properties = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        ClientSettings { brokers: "127.0.0.1:1".into(), group: "g".into(), properties }
    }

    #[test]
    fn every_refused_key_is_named_with_a_remedy() {
        for (key, _, _) in REFUSED {
            let refused = check_properties(&with(key, "x").properties).unwrap_err();
            assert_eq!(refused.key, *key);
            assert!(!refused.remedy.is_empty());
            assert!(refused.to_string().contains(key));
        }
        assert!(check_properties(&with(" group.id ", "x").properties).is_err(), "blanks do not smuggle a key in");
        assert_eq!(check_properties(&with("sasl.password", "x").properties), Ok(()));
    }

    #[test]
    fn secrets_are_in_no_text() {
        let settings = with("sasl.oauthbearer.client.secret", "hunter2");
        assert!(!format!("{settings:?}").contains("hunter2"));
        let bad = with("security.protocol", "hunter2");
        let error = producer_config(&bad, Promise::Idempotence, None).unwrap().create_native_config().err().unwrap();
        let error = creation_error("producer", &bad, error);
        assert!(matches!(&error, ClientError::Property { key, .. } if key == "security.protocol"));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn operators_override_defaults_but_not_what_is_ours() {
        let tuned = source_config(&with("fetch.max.bytes", "1000000")).unwrap();
        assert_eq!(tuned.get("fetch.max.bytes"), Some("1000000"));
        assert_eq!(tuned.get("isolation.level"), Some("read_committed"));
        assert!(matches!(source_config(&with("isolation.level", "x")), Err(ClientError::Refused(_))));
        let plain = producer_config(&with("linger.ms", "1"), Promise::Acknowledged, Some("id")).unwrap();
        assert_eq!((plain.get("enable.idempotence"), plain.get("transactional.id"), plain.get("acks")), (None, None, Some("all")));
    }

    #[test]
    fn librdkafka_takes_every_configuration_we_make() {
        let settings = with("client.rack", "a");
        for config in [
            source_config(&settings).unwrap(),
            reader_config(&settings, Seen::Committed).unwrap(),
            admin_config(&settings).unwrap(),
            producer_config(&settings, Promise::Transaction, Some("id")).unwrap(),
            producer_config(&settings, Promise::Idempotence, None).unwrap(),
            producer_config(&settings, Promise::Acknowledged, None).unwrap(),
        ] {
            config.create_native_config().unwrap();
        }
    }
}
