//! A state directory that is lost, on a real Kafka: the backup of before comes back, and what was forgotten since does not.

#[path = "../examples/real/child.rs"]
mod child;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "../examples/support/process.rs"]
mod process;

use std::collections::BTreeMap;

use child::Installation;
use kafka::{Kafka, consume_all, produce_lines, unique};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tempfile::TempDir;

fn settings() -> Vec<String> {
    let settings = ["model.rank=8", "model.regularization=0.3", "generation.max_delay=300ms", "generation.forget_delay=0ms"];
    settings.map(str::to_owned).into()
}

fn plays(users: std::ops::Range<u32>) -> Vec<String> {
    let pairs = users.flat_map(|user| (0..10).map(move |item| (user, item)));
    let line = |(user, item): (u32, u32)| {
        let (name, event) = (format!("i{}", (user + item * 3) % 20), format!("e{user}-{item}"));
        json!({"user": format!("u{user}"), "item": name, "event_id": event, "time": 5})
    };
    pairs.map(|pair| line(pair).to_string()).collect()
}

fn settled(status: &Value, interactions: u64) -> bool {
    status["counts"]["interactions"] == interactions && status["phase"] == "idle" && status["outbox"] == 0 && status["ready"] == true
}

/// The newest value of each key, as a reader has it.
fn live(broker: &str, topic: &str) -> BTreeMap<String, bool> {
    let rows = consume_all(broker, topic).into_iter().filter(|row| row.key_text() != "heartbeat");
    let newest: BTreeMap<String, bool> = rows.map(|row| (row.key_text(), row.value.is_some())).collect();
    newest.into_iter().filter(|(_, live)| *live).collect()
}

fn numbers(broker: &str, service: &Installation) -> Vec<u64> {
    consume_all(broker, &service.topic("generations")).iter().map(|record| record.json()["generation"].as_u64().unwrap()).collect()
}

/// What retention does to a topic: everything that it has goes.
fn cut_off(broker: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = kafka::client(broker).create().expect("an admin client");
    let mut all = TopicPartitionList::new();
    let ends = consume_all(broker, topic).into_iter().map(|record| (record.partition, record.offset + 1));
    for (partition, end) in ends.collect::<BTreeMap<i32, i64>>() {
        all.add_partition_offset(topic, partition, Offset::Offset(end)).expect("a partition");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(admin.delete_records(&all, &AdminOptions::new())).expect("records are deleted");
}

#[test]
fn a_restored_backup_forgets_what_was_forgotten_since() {
    let (broker, dir) = (Kafka::shared().brokers(), TempDir::new().expect("a directory"));
    let mut service = Installation::make(broker, &unique("restore"), dir.path(), &settings()).expect("topics");
    let [backup, lost, again] = ["backup", "lost", "again"].map(|name| dir.path().join(name));
    produce_lines(broker, &service.topic("interactions"), plays(0..30));
    service.start().expect("started");
    service.until("a generation", |status| settled(status, 300)).expect("a generation");
    service.done(&["forget", "--user", "u0", "--request-id", "before", "--wait", "published"]).expect("forgotten");
    // While it runs.
    let taken = service.json(&["backup", backup.to_str().unwrap(), "--json"]).expect("a backup");
    assert!(taken["generation"].as_u64() >= Some(2) && taken["digest"].is_string());
    service.until("the backup told", |status| status["backups"]["count"] == 1).expect("told");

    produce_lines(broker, &service.topic("interactions"), plays(30..40));
    service.until("newcomers", |status| settled(status, 390)).expect("learnt");
    for user in ["u1", "u31"] {
        service.done(&["forget", "--user", user, "--request-id", user, "--wait", "published"]).expect("forgotten");
    }
    service.until("all forgets", |status| settled(status, 370)).expect("settled");
    service.stop().expect("a clean exit");
    let before = (live(broker, &service.topic("factors")), numbers(broker, &service));
    let last = before.1.iter().copied().max().expect("generations");

    std::fs::rename(&service.state, &lost).expect("the state directory is lost");
    service.done(&["restore", backup.to_str().unwrap()]).expect("restored");
    for command in [&["recommend", "u1"][..], &["recommend", "u2"], &["similar", "i1"]] {
        assert_eq!(service.code(command).expect("an exit"), 1, "{command:?} before it has caught up");
    }
    service.start().expect("started on the restored state");
    service.until("what was lost", |status| settled(status, 370) && status["restoring"].is_null()).expect("caught up");
    service.done(&["verify"]).expect("the topic holds the generation");
    assert_eq!(live(broker, &service.topic("factors")), before.0, "the same rows, and nobody else's");
    let numbers = numbers(broker, &service);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers.contains(&(last + 1)), "{numbers:?} after {last}");
    assert_eq!(service.code(&["recommend", "u1"]).expect("an exit"), 1, "forgotten since");
    assert_eq!(service.code(&["recommend", "u35"]).expect("an exit"), 0, "came since");
    service.stop().expect("a clean exit");

    // Retention has taken the forgets: the backup alone would bring people back.
    cut_off(broker, &service.topic("forgets"));
    std::fs::rename(&service.state, &again).expect("lost again");
    service.done(&["restore", backup.to_str().unwrap()]).expect("restored");
    service.start().expect("started");
    let ended = service.until("an end", |status| status["ready"] == true).expect_err("it must not go on");
    assert!(ended.contains("exit status: 1"), "{ended}");
    service.kill();
    std::fs::remove_dir_all(&service.state).expect("removed");
    service.done(&["restore", backup.to_str().unwrap(), "--ledger", lost.to_str().unwrap()]).expect("restored with the ledger");
    service.start().expect("started");
    service.until("what was lost", |status| settled(status, 370) && status["restoring"].is_null()).expect("caught up");
    service.done(&["verify"]).expect("the topic holds the generation");
    assert_eq!(live(broker, &service.topic("factors")), before.0);
    service.stop().expect("a clean exit");
}
