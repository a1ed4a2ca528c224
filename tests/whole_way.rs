//! The binary on a real Kafka, seen only from outside: topics, pages, exit codes.

#[path = "../examples/real/child.rs"]
mod child;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "../examples/real/oracle.rs"]
mod oracle;
#[path = "../examples/support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::process::Command;

use base64::Engine;
use child::Installation;
use ed25519_dalek::{Signature, Verifier};
use kafka::{Kafka, consume_all, produce_lines, unique};
use nepenthe::model::{Certify, Objective, Params};
use nepenthe::run::keys::Signer;
use oracle::Model;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Settings under which retrains of the small world agree.
fn params(objective: Objective) -> Params {
    Params {
        objective,
        rank: 16,
        regularization: if objective == Objective::Implicit { 0.1 } else { 0.3 },
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-7,
        certify: Certify::Residual,
        max_sweeps: 5_000,
        seed: 42,
        threads: 0,
    }
}

fn settings(params: &Params) -> Vec<String> {
    let mut settings = child::model_settings(params);
    settings.extend(["generation.max_delay=300ms".to_owned(), "generation.forget_delay=0ms".to_owned()]);
    settings
}

struct Play {
    user: String,
    item: String,
    time: i64,
    event: String,
}

/// Two tastes, sixty people, forty things.
fn plays() -> Vec<Play> {
    let mut plays = Vec::new();
    for u in 0..60u32 {
        for i in 0..40u32 {
            let draw = blake3::hash(&[u.to_le_bytes(), i.to_le_bytes()].concat()).as_bytes()[0];
            if draw % 100 < if u % 2 == i % 2 { 50 } else { 10 } {
                let (user, item, time) = (format!("u{u}"), format!("i{i}"), i64::from(draw) * 1000);
                let event =
                    json!({"event_id": format!("e{u}-{i}"), "user": user, "item": item, "value": 1 + draw % 5, "time": time}).to_string();
                plays.push(Play { user, item, time, event });
            }
        }
    }
    plays
}

fn settled(status: &Value, interactions: usize) -> bool {
    let certificate = |name: &str| status["certificate"][name].as_f64().unwrap_or(f64::NAN);
    status["counts"]["interactions"] == interactions
        && certificate("residual") <= certificate("tolerance")
        && status["phase"] == "idle"
        && status["outbox"] == 0
}

fn installation(name: &str, dir: &TempDir, params: &Params) -> Installation {
    Installation::make(Kafka::shared().brokers(), &unique(name), dir.path(), &settings(params)).expect("topics")
}

fn the_whole_way(objective: Objective) {
    let (dir, params, mut left) = (TempDir::new().expect("a directory"), params(objective), plays());
    let mut service = installation("whole", &dir, &params);
    let lines = left.iter().fold(String::new(), |text, play| text + &play.event + "\n");
    let send = ["send", "-", "--format", "jsonl"];
    service.feed(&send, &lines).expect("sent");
    service.start().expect("started");
    service.until("first generation", |status| settled(status, left.len())).expect("a generation");

    type Covers = Box<dyn Fn(&Play) -> bool>;
    let wishes: [(&str, &[&str], Covers); 5] = [
        ("user", &["--user", "u7"], Box::new(|play| play.user == "u7")),
        ("pair", &["--user", "u8", "--item", "i2"], Box::new(|play| play.user == "u8" && play.item == "i2")),
        ("items", &["--item", "i3", "--everybody"], Box::new(|play| play.item == "i3")),
        ("window", &["--user", "u9", "--from", "0", "--to", "90000"], Box::new(|play| play.user == "u9" && play.time <= 90_000)),
        ("events", &["--user", "u10", "--event-id", "e10-4"], Box::new(|play| play.event.contains("\"e10-4\""))),
    ];
    for (shape, arguments, covers) in &wishes {
        let before = left.len();
        left.retain(|play| !covers(play));
        let receipt = service.json(&[&["forget", "--wait", "published", "--request-id", shape], *arguments].concat()).expect("a receipt");
        assert_eq!(receipt["selector"], *shape);
        assert_eq!(receipt["removed"]["interactions"], before - left.len(), "{receipt}");
        assert_eq!((receipt["status"].as_str(), &receipt["exactness"]), (Some("published"), &json!(["E0", "E1"])));
        // After a kill at once the next request finds the state as it was.
        service.kill();
        service.start().expect("started again");
    }
    service.until("recovered service", |status| settled(status, left.len())).expect("recovered");
    service.done(&["verify"]).expect("the topic holds the generation");

    let digest = service.status()["digest"].clone();
    service.feed(&send, &lines).expect("replayed");
    service
        .until("replay taken in", |status| {
            status["lag"].as_array().is_some_and(|lag| {
                let read: i64 = lag.iter().filter_map(|at| at["next"].as_i64()).sum();
                read >= 2 * plays().len() as i64 && lag.iter().all(|at| at["records"] == 0)
            })
        })
        .expect("replayed");
    service.until("settled", |status| settled(status, left.len())).expect("nothing came back");
    service.done(&["verify"]).expect("the topic holds the generation");
    assert_eq!(service.status()["digest"], digest, "a replay changes nothing");

    service.stop().expect("a clean exit");
    let model = Model::of_state(&service.state).expect("a state");
    let reference = Params { seed: 7, tolerance: 1e-10, ..params };
    let scratch = Model::from_scratch(&reference, left.iter().map(|play| play.event.as_str())).expect("a model");
    assert_eq!(model.data, scratch.data, "E0: the data are those of a store that never saw the forgotten");
    let (distance, same) = model.distance(&scratch).expect("the same names");
    assert!(distance < 1e-5 && same == 1.0, "E2: {distance}, {same}");
}

#[test]
fn learning_and_forgetting_survive_kills_and_replays_implicit() {
    the_whole_way(Objective::Implicit);
}

#[test]
fn learning_and_forgetting_survive_kills_and_replays_explicit() {
    the_whole_way(Objective::Explicit);
}

#[test]
fn bad_records_become_dead_letters_and_the_good_ones_pass() {
    let (dir, params) = (TempDir::new().expect("a directory"), params(Objective::Implicit));
    // A topic that lets records pass which are larger than we read.
    let (brokers, name) = (Kafka::shared().brokers(), unique("bad"));
    kafka::create_topic(brokers, &format!("{name}.interactions"), 3, &[("max.message.bytes", "4194304")]);
    let mut service = Installation::make(brokers, &name, dir.path(), &settings(&params)).expect("topics");
    let (interactions, forgets) = (service.topic("interactions"), service.topic("forgets"));
    service.start().expect("started");
    let long = "x".repeat(257);
    let huge = format!(r#"{{"user":"u","item":"i","note":"{}"}}"#, "y".repeat((1 << 20) + 1));
    let expected = [
        ("invalid_json", "{".to_owned()),
        ("oversize", huge),
        ("invalid_json", r#"{"user":"u","item":"i","value":NaN}"#.to_owned()),
        ("invalid_json", r#"{"user":"u","item":"i","value":1e999}"#.to_owned()),
        ("invalid_value", r#"{"user":"u","item":"i","value":-1}"#.to_owned()),
        ("invalid_id", r#"{"user":"","item":"i"}"#.to_owned()),
        ("invalid_id", format!(r#"{{"user":"{long}","item":"i"}}"#)),
        ("invalid_time", r#"{"user":"u","item":"i","time":-1}"#.to_owned()),
        ("invalid_time", r#"{"user":"u","item":"i","time":"2200-01-01T00:00:00Z"}"#.to_owned()),
        ("unknown_type", r#"{"type":"play","user":"u","item":"i"}"#.to_owned()),
        ("missing_field", r#"{"user":"u"}"#.to_owned()),
    ];
    produce_lines(brokers, &interactions, expected.iter().map(|(_, line)| line));
    produce_lines(brokers, &interactions, [&b"{\"user\":\"\xff\",\"item\":\"i\"}"[..]]);
    produce_lines(brokers, &forgets, ["{}", r#"{"user":"u","time":5,"to":6}"#, r#"{"user":null,"items":["i"]}"#]);
    kafka::produce(brokers, &interactions, [(Some("tombstone"), None::<&str>)]);
    produce_lines(brokers, &interactions, [r#"{"user":"good","item":"i"}"#]);
    service.until("the good one", |status| settled(status, 1)).expect("the process lives");
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for letter in consume_all(brokers, &service.topic("dead_letters")) {
        let header = |name: &str| String::from_utf8_lossy(letter.header(name).expect("a header")).into_owned();
        assert!(!header("detail").is_empty() && header("offset").parse::<i64>().is_ok());
        assert!([&interactions, &forgets].contains(&&header("topic")));
        *found.entry(header("error")).or_default() += 1;
    }
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    let more = ["invalid_utf8", "no_selector", "future_forget", "invalid_field"];
    expected.iter().map(|(error, _)| *error).chain(more).for_each(|error| *wanted.entry(error.to_owned()).or_default() += 1);
    assert_eq!(found, wanted);
    service.stop().expect("a clean exit");
}

#[test]
fn receipts_are_signed_and_name_nobody() {
    let (dir, params) = (TempDir::new().expect("a directory"), params(Objective::Implicit));
    let mut service = installation("signed", &dir, &params);
    produce_lines(Kafka::shared().brokers(), &service.topic("interactions"), [r#"{"user":"somebody","item":"something","time":1}"#]);
    service.start().expect("started");
    service.until("a generation", |status| settled(status, 1)).expect("a generation");
    service.done(&["forget", "--user", "somebody", "--request-id", "r", "--wait", "published"]).expect("forgotten");
    let receipts = consume_all(Kafka::shared().brokers(), &service.topic("receipts"));
    service.stop().expect("a clean exit");
    let signer = Signer::open(&service.state.join("receipts.pem")).expect("the key");
    let key = ed25519_dalek::VerifyingKey::from_bytes(&signer.public()).expect("a public key");
    let mut statuses = Vec::new();
    for receipt in receipts {
        let value = receipt.value.clone().expect("a value");
        let signature = base64::engine::general_purpose::STANDARD.decode(receipt.header("signature").expect("signed")).expect("base64");
        key.verify(&value, &Signature::from_slice(&signature).expect("64 bytes")).expect("a good signature");
        assert_eq!(receipt.header("key_id"), Some(signer.key_id().as_bytes()));
        let text = String::from_utf8(value).expect("JSON");
        assert!(!text.contains("somebody") && !text.contains("something"), "{text}");
        statuses.push(receipt.json()["status"].as_str().expect("a status").to_owned());
    }
    assert_eq!(statuses, ["erased", "unlearned", "published"]);

    // The topic is checked with the keys in the state directory; a rotation leaves what was signed before verifiable.
    service.done(&["keys", "rotate"]).expect("rotated");
    service.start().expect("started");
    service.done(&["forget", "--user", "nobody", "--request-id", "s", "--wait", "published"]).expect("forgotten");
    for request in ["r", "s"] {
        service.done(&["receipt", "verify", request]).expect("right signatures");
    }
    service.stop().expect("a clean exit");
    let renewed = Signer::open(&service.state.join("receipts.pem")).expect("the key");
    assert_ne!(renewed.key_id(), signer.key_id());
    let newest = consume_all(Kafka::shared().brokers(), &service.topic("receipts")).pop().expect("a receipt");
    assert_eq!(newest.header("key_id"), Some(renewed.key_id().as_bytes()));
    assert_eq!(service.code(&["receipt", "verify", "t"]).expect("an exit"), 1, "no such receipt");
}

#[test]
fn a_state_in_use_or_of_an_unknown_version_is_refused() {
    let (dir, params) = (TempDir::new().expect("a directory"), params(Objective::Implicit));
    let mut service = installation("exit", &dir, &params);
    service.start().expect("started");
    service.until("service", |status| status["ready"] == true).expect("ready");
    assert_eq!(service.code(&["run"]).expect("an exit"), 3, "a second process");
    service.stop().expect("a clean exit");
    assert_eq!(service.code(&["run", "--set", "model.rank=0"]).expect("an exit"), 2, "out of range");
    assert_eq!(service.code(&["run", "--set", "model.rang=1"]).expect("an exit"), 2, "unknown key");
    assert_eq!(service.code(&["run", "--set", "model.objective=explicit"]).expect("an exit"), 2, "another objective");
    let (key, elsewhere) = (service.state.join("hash.key"), dir.path().join("hash.key"));
    std::fs::rename(&key, &elsewhere).expect("the hash key is lost");
    for command in ["run", "purge", "status"] {
        assert_eq!(service.code(&[command]).expect("an exit"), 4, "{command} without the key of the fences");
        assert!(!key.exists(), "{command} makes no new key");
    }
    std::fs::write(&key, "7".repeat(64)).expect("another key");
    for command in ["run", "purge", "status"] {
        assert_eq!(service.code(&[command]).expect("an exit"), 4, "{command} with another key");
    }
    std::fs::rename(&elsewhere, &key).expect("the key is back");
    assert_eq!(service.code(&["status"]).expect("an exit"), 0, "as before");
    std::fs::write(service.state.join("CURRENT"), "MANIFEST-999999\n").expect("damaged");
    assert_eq!(service.code(&["run"]).expect("an exit"), 4, "damaged");
}

#[test]
fn a_broker_that_comes_back_finds_the_service_waiting() {
    let (dir, params) = (TempDir::new().expect("a directory"), params(Objective::Implicit));
    let mut broker = Kafka::start();
    let mut service = Installation::make(broker.brokers(), "away", dir.path(), &settings(&params)).expect("topics");
    service.start().expect("started");
    service.until("service", |status| status["ready"] == true).expect("ready");
    broker.stop();
    service.until("trouble", |status| status["ready"] == false && status["reason"].is_string()).expect("not ready");
    broker.restart();
    produce_lines(broker.brokers(), &service.topic("interactions"), [r#"{"user":"u","item":"i"}"#]);
    service.until("a generation", |status| settled(status, 1) && status["ready"] == true).expect("resumed");
    service.stop().expect("a clean exit");
}

#[test]
fn the_demo_holds_what_it_claims() {
    let output = Command::new(env!("CARGO_BIN_EXE_nepenthe")).arg("demo").output().expect("the demo runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.contains("claims held"), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "plain when piped");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "80 columns");
}
