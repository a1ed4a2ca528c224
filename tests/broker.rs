//! The real broker that other tests rest on: it starts, keeps its data and its address over a stop and a crash, tells
//! committed from aborted, and goes away.

#[path = "support/kafka.rs"]
mod kafka;

use std::path::PathBuf;
use std::time::Duration;

use kafka::{Kafka, consume_all, create_topic, produce, produce_lines};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn data_and_address_outlive_a_stop_and_a_crash() {
    let mut broker = Kafka::start();
    let address = broker.brokers().to_owned();
    create_topic(&address, "kept", 3, &[("cleanup.policy", "compact")]);
    produce(&address, "kept", (0..300).map(|n| (Some(format!("k{n}")), Some(format!("v{n}")))));
    produce(&address, "kept", [(Some("k7"), None::<&str>)]);
    let before = consume_all(&address, "kept");
    assert_eq!(before.len(), 301);
    assert_eq!(before.iter().filter(|message| message.value.is_none()).map(kafka::Message::key_text).collect::<Vec<_>>(), ["k7"]);

    broker.restart();
    assert_eq!(broker.brokers(), address);
    assert_eq!(consume_all(&address, "kept"), before);

    broker.kill();
    broker.restart();
    assert_eq!(broker.brokers(), address);
    assert_eq!(consume_all(&address, "kept"), before);

    let process = PathBuf::from(format!("/proc/{}", broker.pid()));
    assert!(process.exists(), "the broker's own process is the one it names");
    drop(broker);
    assert!(!process.exists(), "a dropped broker is gone");
}

#[test]
fn aborted_records_are_not_read() {
    let broker = Kafka::shared();
    let topic = kafka::unique("transactions");
    create_topic(broker.brokers(), &topic, 2, &[]);
    produce_lines(broker.brokers(), &topic, ["outside"]);
    let producer: BaseProducer = kafka::client(broker.brokers()).set("transactional.id", &topic).create().expect("a producer");
    producer.init_transactions(PATIENCE).expect("transactions");
    for (text, commit) in [("aborted", false), ("committed", true), ("aborted too", false)] {
        producer.begin_transaction().expect("a transaction");
        producer.send(BaseRecord::<str, str>::to(&topic).payload(text)).map_err(|(error, _)| error).expect("a record");
        producer.flush(PATIENCE).expect("acknowledged");
        if commit {
            producer.commit_transaction(PATIENCE).expect("committed");
        } else {
            producer.abort_transaction(PATIENCE).expect("aborted");
        }
    }
    let mut values: Vec<_> = consume_all(broker.brokers(), &topic).into_iter().map(|message| message.value.expect("a value")).collect();
    values.sort();
    assert_eq!(values, [b"committed".to_vec(), b"outside".to_vec()]);
}
