//! The client commands against librdkafka's mock cluster.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};

use super::*;
use crate::kafka::OutRecord;
use crate::kafka::admin::{Outlet, follow_topic, read_topic};
use crate::model::digest::LtHash;
use crate::run::keyring::Keyring;
use crate::run::keys::Signer;

struct Broker {
    _cluster: MockCluster<'static, DefaultProducerContext>,
    config: Config,
}

impl Broker {
    /// A cluster of one broker that has the six topics, with two partitions each.
    fn start() -> Broker {
        let cluster = MockCluster::new(1).unwrap();
        let overrides = vec![("kafka.brokers".to_owned(), cluster.bootstrap_servers())];
        let config = Config::load(&Sources { overrides, ..Sources::default() }).unwrap();
        let topics = &config.topics;
        for topic in [&topics.interactions, &topics.forgets, &topics.factors, &topics.generations, &topics.receipts, &topics.dead_letters] {
            cluster.create_topic(topic, 2, 1).unwrap();
        }
        Broker { _cluster: cluster, config }
    }

    fn publish(&self, records: &[(&str, &str, Option<&str>)]) {
        let mut outlet = Outlet::new(&client_settings(&self.config).unwrap()).unwrap();
        for (topic, key, value) in records {
            let value = value.map(|value| value.as_bytes().to_vec());
            let record = OutRecord { topic: (*topic).to_owned(), key: Some(key.as_bytes().to_vec()), value, headers: Vec::new() };
            outlet.send(&record).unwrap();
        }
        outlet.flush().unwrap();
    }

    /// Runs a command as the binary would.
    fn run(&self, line: &[&str]) -> Result<(), CliError> {
        let cli = Cli::try_parse_from(std::iter::once("nepenthe").chain(line.iter().copied())).unwrap();
        match cli.command {
            Command::Send(args) => send::run(&self.config, &args),
            Command::Forget(args) => forget::run(&self.config, &args),
            Command::Verify(args) => verify::run(&self.config, &args),
            Command::Receipt(args) => receipt::run(&self.config, &args),
            other => unreachable!("{other:?}"),
        }
    }

    /// A service of sorts: answers the next request with receipts of these statuses.
    fn answer(&self, statuses: &'static [&'static str]) -> thread::JoinHandle<Value> {
        let (settings, topics) = (client_settings(&self.config).unwrap(), self.config.topics.clone());
        let from = crate::kafka::admin::end_offsets(&settings, &topics.forgets).unwrap();
        thread::spawn(move || {
            let mut request = Value::Null;
            follow_topic(&settings, &topics.forgets, &from, Duration::from_secs(20), |record| {
                request = serde_json::from_slice(record.payload.unwrap()).unwrap();
                ControlFlow::Break(())
            })
            .unwrap();
            let mut outlet = Outlet::new(&settings).unwrap();
            let id = request["request_id"].as_str().unwrap().to_owned();
            for status in [&["accepted"], statuses].concat() {
                for whose in ["somebody else's", id.as_str()] {
                    let value = json!({"request_id": whose, "status": status, "error": "for this test"}).to_string();
                    let key = Some(whose.as_bytes().to_vec());
                    outlet.send(&OutRecord { topic: topics.receipts.clone(), key, value: Some(value.into()), headers: vec![] }).unwrap();
                }
            }
            outlet.flush().unwrap();
            request
        })
    }
}

#[test]
fn send_keeps_each_users_events_in_order() {
    let broker = Broker::start();
    let mut file = tempfile::Builder::new().suffix(".inter").tempfile().unwrap();
    writeln!(file, "user_id:token\titem_id:token\trating:float\ttimestamp:float").unwrap();
    for n in 0..5000 {
        writeln!(file, "u{}\ti{}\t{}\t{}", n % 37, n % 101, 1 + n % 5, 881_250_949 + n).unwrap();
    }
    file.flush().unwrap();
    broker.run(&["send", file.path().to_str().unwrap(), "--time-unit", "s", "--json"]).unwrap();
    let mut times: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let settings = client_settings(&broker.config).unwrap();
    read_topic(&settings, &broker.config.topics.interactions, None, |record| {
        let event: Value = serde_json::from_slice(record.payload.unwrap()).unwrap();
        assert_eq!(record.key, event["user"].as_str().map(str::as_bytes));
        times.entry(event["user"].as_str().unwrap().to_owned()).or_default().push(event["time"].as_i64().unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((times.len(), times.values().map(Vec::len).sum::<usize>()), (37, 5000));
    assert!(times.values().all(|times| times.is_sorted()));
}

#[test]
fn send_refuses_what_is_not_there() {
    let broker = Broker::start();
    let error = broker.run(&["send", "no-such-file.csv"]).unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.message.contains("no-such-file.csv"), "{error}");
    assert_eq!(broker.run(&["send", ".", "--format", "csv"]).unwrap_err().exit, Exit::Usage);
}

#[test]
fn forget_waits_for_its_own_receipts() {
    let broker = Broker::start();
    let service = broker.answer(&["erased", "unlearned", "published"]);
    broker.run(&["forget", "--user", "u7", "--item", "i3", "--wait", "published", "--timeout", "20s"]).unwrap();
    let request = service.join().unwrap();
    assert_eq!((&request["user"], &request["items"]), (&json!("u7"), &json!(["i3"])));

    let service = broker.answer(&["rejected"]);
    let error = broker.run(&["forget", "--user", "u7", "--request-id", "mine", "--wait", "erased", "--timeout", "20s"]).unwrap_err();
    assert_eq!(service.join().unwrap()["request_id"], "mine");
    assert_eq!((error.exit, error.message.as_str()), (Exit::Failed, "mine was rejected: for this test"));

    let service = broker.answer(&["erased"]);
    let error = broker.run(&["forget", "--user", "u8", "--request-id", "late", "--wait", "purged", "--timeout", "3s"]).unwrap_err();
    service.join().unwrap();
    assert!(error.message.starts_with("late has reached erased but not purged within 3s"), "{error}");
}

/// What somebody put under another key is signed all the same.
#[test]
fn a_receipt_of_another_request_is_none_of_this_one() {
    let (broker, dir) = (Broker::start(), tempfile::tempdir().unwrap());
    let signer = Signer::open(&dir.path().join("receipts.pem")).unwrap();
    let keys = dir.path().join("keys.json");
    std::fs::write(&keys, Keyring::kept(dir.path(), &signer.public(), 1).unwrap().to_json().to_string()).unwrap();
    let mut outlet = Outlet::new(&client_settings(&broker.config).unwrap()).unwrap();
    for (asked, named) in [("mine", "mine"), ("swapped", "somebody else's")] {
        let value = json!({"request_id": named, "status": "purged"}).to_string().into_bytes();
        let signature = signer.sign(&value).into_bytes();
        let headers = vec![("key_id", signer.key_id().as_bytes().to_vec()), ("signature", signature)];
        let topic = broker.config.topics.receipts.clone();
        outlet.send(&OutRecord { topic, key: Some(asked.as_bytes().to_vec()), value: Some(value), headers }).unwrap();
    }
    outlet.flush().unwrap();
    let (keys, to) = (keys.to_str().unwrap(), dir.path().join("proof"));
    broker.run(&["receipt", "verify", "mine", "--keys", keys]).unwrap();
    broker.run(&["receipt", "save", "mine", "--keys", keys, "--to", to.to_str().unwrap()]).unwrap();
    let of_another = "it is a receipt of another request: \"somebody else's\"";
    let error = broker.run(&["receipt", "verify", "swapped", "--keys", keys, "--json"]).unwrap_err();
    assert_eq!((error.exit, error.message.as_str()), (Exit::Failed, of_another));
    let to = dir.path().join("none");
    let error = broker.run(&["receipt", "save", "swapped", "--keys", keys, "--to", to.to_str().unwrap()]).unwrap_err();
    assert_eq!((error.message.as_str(), to.exists()), (of_another, false));
}

#[test]
fn forget_says_when_nobody_answers() {
    let broker = Broker::start();
    broker.run(&["forget", "--user", "u7"]).unwrap();
    let error = broker.run(&["forget", "--user", "u7", "--wait", "accepted", "--timeout", "500ms"]).unwrap_err();
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.contains("is `nepenthe run` up"), "{error}");
}

#[test]
fn verify_tells_the_right_rows_from_wrong_ones() {
    let broker = Broker::start();
    let topics = &broker.config.topics;
    let none_yet = broker.run(&["verify"]).unwrap_err();
    assert!(none_yet.message.contains("no generation has been published yet"), "{none_yet}");

    let factors = topics.factors.as_str();
    broker.publish(&[
        (factors, "u/a", Some("old!")),
        (factors, "u/gone", Some("1234")),
        (factors, "i/x", Some("5678")),
        (factors, "u/a", Some("new!")),
        (factors, "u/gone", None),
    ]);
    let ends = crate::kafka::admin::end_offsets(&client_settings(&broker.config).unwrap(), factors).unwrap();
    let upto: BTreeMap<i32, i64> = ends.into_iter().map(|((_, partition), end)| (partition, end)).collect();
    let mut sum = LtHash::default();
    sum.add(b"u/a", b"new!");
    sum.add(b"i/x", b"5678");
    let manifest = |generation: u64, digest: &str| {
        json!({"generation": generation, "upto": upto, "counts": {"users": 1, "items": 1}, "digest": digest}).to_string()
    };
    let generations = topics.generations.as_str();
    broker.publish(&[
        (generations, "generation", Some(&manifest(1, "of an older one"))),
        (generations, "generation", Some(&manifest(2, &sum.finish()))),
    ]);
    broker.run(&["verify"]).unwrap();
    // What a newer generation has written so far is not applied.
    broker.publish(&[(factors, "u/a", Some("next")), (factors, "i/y", Some("next")), (factors, "u/b", Some("next"))]);
    broker.run(&["verify", "--json"]).unwrap();

    broker.publish(&[(generations, "generation", Some(&manifest(3, "of something else")))]);
    let error = broker.run(&["verify"]).unwrap_err();
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.contains("are not generation 3") && error.message.contains("3 offsets follow"), "{error}");
}
