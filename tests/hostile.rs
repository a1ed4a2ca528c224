//! Hostile producers on a real Kafka: batches that inflate, records as long as they may be, and floods of them. The service lives,
//! its memory has a bound, and what is good comes through.

#[path = "../examples/real/child.rs"]
mod child;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "../examples/support/process.rs"]
mod process;

use std::sync::Mutex;
use std::time::Duration;

use child::Installation;
use kafka::{Kafka, client, consume_all, create_topic, produce_lines, unique};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
/// Records of a batch that inflates, and the bytes of each.
const BOMB: (usize, usize) = (300, 1 << 20);

fn settings() -> Vec<String> {
    ["model.rank=4", "model.regularization=0.3", "generation.max_delay=300ms"].map(str::to_owned).into()
}

/// What the broker said of each record.
#[derive(Default)]
struct Reports(Mutex<Vec<Option<RDKafkaErrorCode>>>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let refused = result.as_ref().err().map(|(error, _)| error.rdkafka_error_code().expect("a code"));
        self.0.lock().expect("no test panics here").push(refused);
    }
}

/// One batch of records that are mostly blanks, and which its broker keeps in some kilobytes. Answers what the broker said of it.
fn send_bomb(brokers: &str, topic: &str, codec: &str, record: &str, records: usize) -> Result<(), RDKafkaErrorCode> {
    let producer: BaseProducer<Reports> = client(brokers)
        .set("compression.type", codec)
        .set("message.max.bytes", "1000000000")
        .set("batch.size", "1000000000")
        .set("linger.ms", "5000")
        .set("queue.buffering.max.kbytes", "2000000")
        .set("message.timeout.ms", "60000")
        .create_with_context(Reports::default())
        .expect("a producer");
    for _ in 0..records {
        let sent = producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload(record));
        assert_eq!(sent.map_err(|(error, _)| error), Ok(()));
    }
    producer.flush(PATIENCE).expect("everything has its report");
    let reports = producer.context().0.lock().expect("no test panics here");
    assert_eq!(reports.len(), records);
    assert!(reports.iter().all(|report| *report == reports[0]), "one batch, one verdict: {reports:?}");
    reports[0].map_or(Ok(()), Err)
}

/// A valid event and an invalid one, both of the greatest length.
fn blank(start: &str, end: &str) -> String {
    format!("{start}{}{end}", " ".repeat(BOMB.1 - start.len() - end.len()))
}

fn settled(status: &Value, interactions: usize) -> bool {
    status["counts"]["interactions"] == interactions && status["phase"] == "idle" && status["outbox"] == 0
}

#[test]
fn batches_that_inflate_are_read_in_bounded_memory() {
    let (brokers, dir, name) = (Kafka::shared().brokers(), TempDir::new().expect("a directory"), unique("inflate"));
    // lz4 makes no less than a two hundred and fiftieth of them: more than a batch may have by default.
    create_topic(brokers, &format!("{name}.interactions"), 1, &[("max.message.bytes", "4194304")]);
    let mut service = Installation::make(brokers, &name, dir.path(), &settings()).expect("topics");
    let topic = service.topic("interactions");
    for (at, codec) in ["gzip", "zstd", "lz4"].into_iter().enumerate() {
        // One event that is sent three hundred times.
        let event = blank(&format!(r#"{{"user":"u{at}","item":"i","time":5"#), "}");
        send_bomb(brokers, &topic, codec, &event, BOMB.0).expect("the broker takes it");
        produce_lines(brokers, &topic, [format!(r#"{{"user":"after {codec}","item":"i"}}"#)]);
    }
    service.start().expect("started");
    service.until("everything", |status| settled(status, 6)).expect("good events come through");
    let peak = process::peak_bytes(service.pid().expect("it runs")).expect("the kernel tells") >> 20;
    println!("three batches of {} MiB each, one after the other: {peak} MiB at most", (BOMB.0 * BOMB.1) >> 20);
    // What one batch inflates to is librdkafka's to hold, twice for a moment; three would be more.
    assert!(peak < 850, "{peak} MiB");
    service.stop().expect("a clean exit");
}

#[test]
fn a_broker_that_inflates_itself_refuses_what_inflates() {
    let (brokers, topic, other) = (Kafka::shared().brokers(), unique("plain"), unique("as-it-comes"));
    create_topic(brokers, &topic, 1, &[("compression.type", "uncompressed")]);
    create_topic(brokers, &other, 1, &[]);
    // Far above what a batch may have, and little enough for its heap: it inflates the whole batch before it looks at its size.
    let bomb = |topic: &str| send_bomb(brokers, topic, "gzip", &blank("{", "}"), 20);
    // That setting is all that keeps it out.
    assert_eq!(bomb(&other), Ok(()));
    assert_eq!(bomb(&topic), Err(RDKafkaErrorCode::MessageSizeTooLarge));
    assert_eq!(consume_all(brokers, &topic), []);
    produce_lines(brokers, &topic, [r#"{"user":"u","item":"i"}"#]);
    assert_eq!(consume_all(brokers, &topic).len(), 1);
}

#[test]
fn long_bad_records_become_dead_letters_of_bounded_size_in_bounded_memory() {
    let (brokers, dir, name) = (Kafka::shared().brokers(), TempDir::new().expect("a directory"), unique("long"));
    create_topic(brokers, &format!("{name}.interactions"), 2, &[("max.message.bytes", "4194304")]);
    let mut service = Installation::make(brokers, &name, dir.path(), &settings()).expect("topics");
    let topic = service.topic("interactions");
    let bad = [blank("[", "]"), "[".repeat(BOMB.1), blank("{", "") + "x", "\u{0}".repeat(BOMB.1), blank("{\"user\":\"", "\"}") + "    "];
    let bad: Vec<&String> = bad.iter().cycle().take(150).collect();
    produce_lines(brokers, &topic, &bad);
    produce_lines(brokers, &topic, [r#"{"user":"good","item":"i"}"#]);
    service.start().expect("started");
    service.until("everything", |status| settled(status, 1)).expect("the good one comes through");
    let peak = process::peak_bytes(service.pid().expect("it runs")).expect("the kernel tells") >> 20;
    println!("150 bad records of 1 MiB: {peak} MiB at most");
    assert!(peak < 850, "{peak} MiB");
    let letters = consume_all(brokers, &service.topic("dead_letters"));
    assert_eq!(letters.len(), bad.len());
    for letter in letters {
        let value = letter.value.as_ref().expect("the bytes");
        let from: usize = String::from_utf8_lossy(letter.header("truncated_from").expect("it was cut")).parse().expect("a number");
        assert!(value.len() == 1_000_000 && from >= BOMB.1, "{} of {from}", value.len());
        assert!(letter.header("detail").is_some_and(|detail| (1..=512).contains(&detail.len())));
        assert!(bad.iter().any(|bad| bad.as_bytes().starts_with(value)), "the first million bytes as they came");
    }
    service.stop().expect("a clean exit");
}

/// A batch that cannot be read stops its partition; the operator learns it, and nothing else stops.
#[test]
fn a_batch_that_cannot_be_read_is_told_and_other_partitions_go_on() {
    let (brokers, dir, name) = (Kafka::shared().brokers(), TempDir::new().expect("a directory"), unique("unreadable"));
    create_topic(brokers, &format!("{name}.interactions"), 2, &[]);
    let limits = ["kafka.properties.receive.message.max.bytes=6000000", "kafka.properties.fetch.max.bytes=1000000"];
    let more: Vec<String> = settings().into_iter().chain(limits.map(str::to_owned)).collect();
    let mut service = Installation::make(brokers, &name, dir.path(), &more).expect("topics");
    let topic = service.topic("interactions");
    send_bomb(brokers, &topic, "zstd", &blank(r#"{"user":"u","item":"i","time":5"#, "}"), BOMB.0).expect("the broker takes it");
    service.start().expect("started");
    let told = |status: &Value| status["reason"].as_str().is_some_and(|reason| reason.contains("receive.message.max.bytes"));
    service.until("the reason", told).expect("the status says why");
    let other: Vec<String> = (0..40).map(|n| format!(r#"{{"user":"u{n}","item":"i"}}"#)).collect();
    let producer: BaseProducer = client(brokers).create().expect("a producer");
    for event in &other {
        let sent = producer.send(BaseRecord::<(), str>::to(&topic).partition(1).payload(event));
        assert_eq!(sent.map_err(|(error, _)| error), Ok::<(), KafkaError>(()));
    }
    producer.flush(PATIENCE).expect("sent");
    service.until("the other partition", |status| status["counts"]["interactions"] == other.len()).expect("it goes on");
    assert!(told(&service.status()), "and the reason stays");
    service.stop().expect("a clean exit");
}
