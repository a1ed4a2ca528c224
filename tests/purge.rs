//! The last stage on a real Kafka: what was forgotten leaves the compacted topic and the state directory, and a receipt
//! says so only then.

#[path = "../examples/real/child.rs"]
mod child;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "../examples/support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use child::Installation;
use kafka::{Kafka, consume_all, create_topic, produce_lines, unique};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Segments that close and are cleaned at once; production has minutes and hours.
const QUICK: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "300"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("max.compaction.lag.ms", "300"),
    ("delete.retention.ms", "604800000"),
];

fn settings() -> Vec<String> {
    let settings = ["model.rank=8", "model.regularization=0.3", "generation.max_delay=300ms", "generation.forget_delay=0ms"];
    let purge = ["store.purge_interval=200ms", "topics.heartbeat=500ms"];
    settings.into_iter().chain(purge).map(str::to_owned).collect()
}

/// A name that is found wherever it is.
fn canary() -> String {
    let mut bytes = [0; 24];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn plays(user: &str, item: &str) -> Vec<String> {
    let mut plays: Vec<String> = (0..400)
        .map(|n| {
            json!({"user": format!("u{}", n % 40), "item": format!("i{}", n * 7 % 20), "event_id": format!("e{n}"), "time": n}).to_string()
        })
        .collect();
    plays.extend(
        ["i1", "i2", item].map(|item| json!({"user": user, "item": item, "event_id": format!("{user}-{item}"), "time": 5}).to_string()),
    );
    plays
}

fn settled(status: &Value, interactions: usize) -> bool {
    status["counts"]["interactions"] == interactions && status["phase"] == "idle" && status["outbox"] == 0
}

/// Files under a directory that hold the text.
fn holders(dir: &Path, text: &str) -> Vec<String> {
    let files = std::fs::read_dir(dir).expect("the state directory").map(|entry| entry.expect("a file").path());
    // RocksDB may remove a file in between.
    let holds = |path: &Path| std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
    files.filter(|path| path.is_file() && holds(path)).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_forgotten_person_leaves_the_topic_and_the_disk() {
    let (broker, dir, name) = (Kafka::shared().brokers(), TempDir::new().expect("a directory"), unique("purge"));
    let (user, item) = (canary(), canary());
    create_topic(broker, &format!("{name}.factors"), 2, &QUICK);
    let mut service = Installation::make(broker, &name, dir.path(), &settings()).expect("topics");
    produce_lines(broker, &service.topic("interactions"), plays(&user, &item));
    service.start().expect("started");
    service.until("a generation", |status| settled(status, 403)).expect("a generation");
    assert!(!holders(&service.state, &user).is_empty(), "the search finds what is there");
    let forget = ["forget", "--user", &user, "--request-id", "r", "--wait", "purged", "--timeout", "120s"];
    let receipt = service.json(&forget).expect("purged");
    assert_eq!((&receipt["status"], &receipt["purged_from"]), (&json!("purged"), &json!(["disk", "rows"])));
    assert!(receipt["stages"]["purged"].as_str() > receipt["stages"]["published"].as_str());

    let rows = consume_all(broker, &service.topic("factors"));
    let keys = [format!("u/{user}"), format!("i/{item}")];
    for key in &keys {
        let left: Vec<_> = rows.iter().filter(|row| row.key_text() == *key).map(|row| row.value.is_some()).collect();
        assert_eq!(left, [false], "of {key} the tombstone alone is left");
    }
    let upto: BTreeMap<String, i64> = serde_json::from_value(manifest(&service, broker)["upto"].clone()).expect("offsets");
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    let published = rows.iter().filter(|row| row.offset < upto[&row.partition.to_string()] && row.key_text() != "heartbeat");
    published.for_each(|row| *times.entry(row.key_text()).or_default() += 1);
    assert!(times.values().all(|times| *times == 1), "no replaced row is left: {times:?}");
    assert!(rows.iter().any(|row| row.key_text() == "heartbeat"));
    for text in [&user, &item] {
        assert_eq!(holders(&service.state, text), [""; 0]);
    }
    service.done(&["verify"]).expect("heartbeats are no rows to a reader");
    service.done(&["recommend", "u1", "--from-topic"]).expect("nor to another");
    service.until("an empty page", |status| status["forgets"]["pending"]["published"] == 0).expect("nothing waits");
    service.stop().expect("a clean exit");
}

fn manifest(service: &Installation, broker: &str) -> Value {
    consume_all(broker, &service.topic("generations")).last().expect("a manifest").json()
}

#[test]
fn without_compaction_a_receipt_stays_published_and_says_why() {
    let (broker, dir) = (Kafka::shared().brokers(), TempDir::new().expect("a directory"));
    let (user, item) = (canary(), canary());
    // The planned settings: a segment closes after ten minutes.
    let mut service = Installation::make(broker, &unique("open"), dir.path(), &settings()).expect("topics");
    produce_lines(broker, &service.topic("interactions"), plays(&user, &item));
    service.start().expect("started");
    service.until("a generation", |status| settled(status, 403)).expect("a generation");
    service.done(&["forget", "--user", &user, "--request-id", "r", "--wait", "published"]).expect("published");
    let told = |status: &Value| status["purge"]["reason"].as_str().is_some_and(|reason| reason.contains("still has the record"));
    service.until("the reason", told).expect("the status says why");
    assert_eq!(holders(&service.state, &user), [""; 0], "the disk does not wait for the topic");
    assert_eq!(service.code(&["purge"]).expect("an exit"), 3, "the service purges");
    let status = service.json(&["status", "--json"]).expect("a status");
    assert_eq!(status["forgets"]["pending"]["published"], 1);
    service.stop().expect("a clean exit");

    assert_eq!(service.code(&["purge"]).expect("an exit"), 1, "the topic is not clean");
    let done = service.json(&["purge", "--json", "--set", "topics.purge_proof=none"]).expect("purged");
    assert_eq!((&done["purged"], &done["topic_proof"]), (&json!(1), &json!("none")));
    assert_eq!(service.json(&["purge", "--json"]).expect("nothing waits")["purged"], 0);
    service.start().expect("started again");
    service.until("a drained outbox", |status| status["ready"] == true && status["outbox"] == 0).expect("sent");
    let receipts = consume_all(broker, &service.topic("receipts"));
    let last = receipts.last().expect("receipts").json();
    assert_eq!((&last["status"], &last["purged_from"]), (&json!("purged"), &json!(["disk"])));
    service.stop().expect("a clean exit");
}

#[test]
fn a_broker_that_never_compacts_is_named_and_nothing_is_purged() {
    let (broker, dir, name) = (Kafka::start_with("log.cleaner.enable=false"), TempDir::new().expect("a directory"), unique("idle"));
    let (user, item) = (canary(), canary());
    create_topic(broker.brokers(), &format!("{name}.factors"), 1, &QUICK);
    let mut service = Installation::make(broker.brokers(), &name, dir.path(), &settings()).expect("topics");
    assert_eq!(service.code(&["topics", "--check"]).expect("an exit"), 1, "no proof can ever come");
    let reports = service.json(&["topics", "--json"]).expect("reports");
    let factors = reports.as_array().expect("a list").iter().find(|report| report["topic"] == format!("{name}.factors"));
    let differences = factors.expect("the factors topic")["differences"].as_array().expect("a list").clone();
    assert!(differences.iter().any(|difference| difference["setting"] == "log.cleaner.enable"), "{differences:?}");
    produce_lines(broker.brokers(), &service.topic("interactions"), plays(&user, &item));
    service.start().expect("started");
    service.until("a generation", |status| settled(status, 403)).expect("a generation");
    service.done(&["forget", "--user", &user, "--request-id", "r", "--wait", "published"]).expect("published");
    let told = |status: &Value| status["purge"]["reason"].as_str().is_some_and(|reason| reason.contains("still has the record"));
    service.until("the reason", told).expect("the status says why");
    assert_eq!(service.status()["forgets"]["pending"]["published"], 1);
    service.stop().expect("a clean exit");
}
