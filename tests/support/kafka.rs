//! A real Apache Kafka for integration tests, and what a test does with one: make topics, put records in, read all of
//! them back. Include it with `#[path = "support/kafka.rs"] mod kafka;`.
//!
//! The helpers take a broker list, so they serve librdkafka's mock cluster as well (except [`create_topic`], which the
//! mock cluster has its own call for).

#![allow(dead_code, reason = "each test binary includes this file and uses its own part of it")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// What makes a JVM start fast at the cost of its top speed, which tests do not ask for.
const JVM_OPTIONS: &str = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC";
/// For one of several on a machine.
const SMALL_HEAP: &str = "-Xms128m -Xmx320m";

/// One broker on 127.0.0.1 with a directory of its own. Dropping it ends the broker and removes the directory.
///
/// The broker belongs to a `scripts/kafka run` that ends it when our end of a pipe closes: a test process that is
/// killed, or that ends while a static still holds a `Kafka`, leaves nothing running.
pub struct Kafka {
    /// `None` where the keeper has made the directory and removes it: a static is never dropped.
    dir: Option<TempDir>,
    /// Of a node in a cluster: its number and the ports of all.
    place: Option<(usize, String)>,
    /// Further settings of the node, one a line.
    settings: String,
    brokers: String,
    pid: u32,
    keeper: Option<Child>,
}

impl Kafka {
    /// Starts a broker on a free port; takes some seconds.
    ///
    /// # Panics
    /// With the script's own words when the broker cannot be had: without the jars, `make kafka` is what helps.
    pub fn start() -> Kafka {
        Kafka::start_with("")
    }

    /// As [`Kafka::start`], with further settings of the node, one a line; `@PORT@` and `@CONTROLLER@` stand for its ports.
    pub fn start_with(settings: impl Into<String>) -> Kafka {
        Kafka::start_in(Some(TempDir::with_prefix("nepenthe-kafka-").expect("a directory for the broker")), settings.into())
    }

    /// Runs one of Kafka's own tools.
    pub fn tool(class: &str, arguments: &[&str]) {
        let output = script("tool", None).arg(class).args(arguments).output().expect("scripts/kafka tool");
        assert!(output.status.success(), "{class} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn start_in(dir: Option<TempDir>, settings: String) -> Kafka {
        let mut kafka = Kafka { dir, place: None, settings, brokers: String::new(), pid: 0, keeper: None };
        kafka.restart();
        kafka
    }

    /// Node `id` (from 1) of the cluster with these ports, not started yet; see `scripts/kafka node`.
    pub fn node(id: usize, ports: &str) -> Kafka {
        let dir = TempDir::with_prefix("nepenthe-kafka-").expect("a directory for the broker");
        Kafka { dir: Some(dir), place: Some((id, ports.to_owned())), settings: String::new(), brokers: String::new(), pid: 0, keeper: None }
    }

    /// One broker for all tests of a binary; they keep apart by the names of their topics, see [`unique`].
    pub fn shared() -> &'static Kafka {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Kafka::start_in(None, String::new()))
    }

    /// `127.0.0.1:PORT`; stays the same over [`Kafka::restart`].
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The broker's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Shuts the broker down in order; its data stay. Nothing to do when it is down.
    pub fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().expect("the keeper of the broker ends when its stdin does");
        }
    }

    /// Ends the broker at once, as a crash does; its data stay.
    pub fn kill(&mut self) {
        let status = script("kill", self.dir.as_ref()).status().expect("scripts/kafka kill");
        assert!(status.success(), "scripts/kafka kill: {status}");
        self.stop();
    }

    /// Stops the broker if it runs, and starts it on the same port with the same data.
    pub fn restart(&mut self) {
        self.begin();
        self.await_start();
    }

    /// The first half of [`Kafka::restart`]: the nodes of a cluster come up together or not at all.
    pub fn begin(&mut self) {
        self.stop();
        let mut command = script(if self.place.is_some() { "node" } else { "run" }, self.dir.as_ref());
        if let Some((id, ports)) = &self.place {
            command.arg(id.to_string()).arg(ports);
        }
        let options = if self.place.is_some() { format!("{JVM_OPTIONS} {SMALL_HEAP}") } else { JVM_OPTIONS.to_owned() };
        let keeper = command
            .env("KAFKA_OPTS", options)
            .env("KAFKA_SETTINGS", &self.settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("scripts/kafka cannot be started (bash is needed): {error}"));
        self.keeper = Some(keeper);
    }

    /// The second half of [`Kafka::restart`].
    pub fn await_start(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("what scripts/kafka says");
        let Some((brokers, pid)) = parse_started(&line) else {
            let mut reason = String::new();
            let _ = keeper.stderr.take().expect("stderr is piped").read_to_string(&mut reason);
            let _ = keeper.wait();
            panic!("no broker to test against: {}", reason.trim());
        };
        (self.brokers, self.pid, self.keeper) = (brokers, pid, Some(keeper));
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            // Waits so that the directory is not removed under a living broker; must not panic while a test panics.
            let _ = keeper.wait();
        }
    }
}

fn script(command: &str, dir: Option<&TempDir>) -> Command {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka"));
    script.arg(command).args(dir.map(TempDir::path));
    script
}

/// Takes `brokers=127.0.0.1:PORT pid=PID` apart.
fn parse_started(line: &str) -> Option<(String, u32)> {
    let (brokers, pid) = line.trim().split_once(' ')?;
    Some((brokers.strip_prefix("brokers=")?.to_owned(), pid.strip_prefix("pid=")?.parse().ok()?))
}

/// A name that no other test of this process has used: for topics and groups on a shared broker.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A client's configuration for `brokers`, quick to notice that a broker is back.
pub fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "500");
    config
}

/// Creates a topic with one replica and `settings` such as `("cleanup.policy", "compact")`, and waits until the broker
/// serves it.
pub fn create_topic(brokers: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().expect("an admin client");
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let wanted = settings.iter().fold(wanted, |wanted, (key, value)| wanted.set(key, value));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let made = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(admin.create_topics([&wanted], &options))
        .unwrap_or_else(|error| panic!("topic {topic} cannot be created: {error}"));
    for result in made {
        result.unwrap_or_else(|(name, code)| panic!("topic {name} cannot be created: {code}"));
    }
}

/// Counts what could not be delivered, with the first reason.
#[derive(Default, Clone)]
pub struct Failures(Arc<OnceLock<KafkaError>>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            // Only the first is kept.
            let _ = self.0.set(error.clone());
        }
    }
}

/// An idempotent producer that keeps the order of each key. With `patience` records outlast brokers that are away.
pub fn producer(brokers: &str, patience: Duration) -> ThreadedProducer<Failures> {
    client(brokers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", "8000000")
        .set("message.timeout.ms", patience.as_millis().to_string())
        .set("linger.ms", "5")
        .create_with_context(Failures::default())
        .expect("a producer")
}

/// Queues a record, `None` for one without key or value.
pub fn send(producer: &ThreadedProducer<Failures>, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) {
    let mut record = BaseRecord::<[u8], [u8]>::to(topic);
    (record.key, record.payload) = (key, value);
    loop {
        match producer.send(record) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("a record cannot be sent to {topic}: {error}"),
        }
    }
}

/// Waits until all records are acknowledged.
pub fn delivered(producer: &ThreadedProducer<Failures>, patience: Duration) {
    producer.flush(patience).unwrap_or_else(|error| panic!("records were not acknowledged: {error}"));
    if let Some(error) = producer.context().0.get() {
        panic!("a record was not delivered: {error}");
    }
}

/// Sends records `(key, value)`, `None` for a record without one, and waits until all of them are acknowledged. Records
/// of the same key keep their order.
pub fn produce<K: AsRef<[u8]>, V: AsRef<[u8]>>(brokers: &str, topic: &str, records: impl IntoIterator<Item = (Option<K>, Option<V>)>) {
    let producer = producer(brokers, PATIENCE);
    for (key, value) in records {
        send(&producer, topic, key.as_ref().map(AsRef::as_ref), value.as_ref().map(AsRef::as_ref));
    }
    delivered(&producer, PATIENCE);
}

/// [`produce`] for values without keys, spread over the partitions.
pub fn produce_lines<V: AsRef<[u8]>>(brokers: &str, topic: &str, lines: impl IntoIterator<Item = V>) {
    produce(brokers, topic, lines.into_iter().map(|line| (None::<&[u8]>, Some(line))));
}

/// One record as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Message {
    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    /// The key as text, for readable assertions.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned()
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        let value = self.value.as_deref().unwrap_or_default();
        serde_json::from_slice(value).unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(value)))
    }
}

impl From<&BorrowedMessage<'_>> for Message {
    fn from(message: &BorrowedMessage<'_>) -> Message {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Message {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect(),
        }
    }
}

/// Every committed record of a topic from its start to its present end, by partition, then offset.
pub fn consume_all(brokers: &str, topic: &str) -> Vec<Message> {
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", unique("reader"))
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        // The one way to learn of the end that also holds where the last records are transaction markers.
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let partitions = partitions(&consumer, topic);
    let mut from_start = TopicPartitionList::new();
    for partition in &partitions {
        from_start.add_partition_offset(topic, *partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&from_start).expect("an assignment");
    let mut open = partitions.len();
    let mut messages = Vec::new();
    while open > 0 {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => messages.push(Message::from(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            // Said again and again while a broker is away; librdkafka goes on by itself.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::OperationTimedOut,
            ))) => {}
            Some(Err(error)) => panic!("{topic} cannot be read: {error}"),
            None => panic!("{topic}: nothing came for {PATIENCE:?} and {open} partitions are not at their end"),
        }
    }
    messages.sort_by_key(|message| (message.partition, message.offset));
    messages
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap_or_else(|error| panic!("no metadata of {topic}: {error}"));
    let found = metadata.topics().iter().find(|found| found.name() == topic).expect("metadata of the topic asked for");
    assert!(found.error().is_none(), "topic {topic}: {:?}", found.error());
    found.partitions().iter().map(|partition| partition.id()).collect()
}
