//! The last stage over fakes, and over a real RocksDB with a canary in everything that a forget can name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::config::{Generation, Topics};
use crate::http::Views;
use crate::kafka::admin::Prover;
use crate::kafka::client::ClientSettings;
use crate::kafka::{Batch, OutRecord, Parcel, Parceled, Positions, Record, Sink, Source, SourceState};
use crate::metrics::Metrics;
use crate::model::event::Refusal;
use crate::model::fence::HashKey;
use crate::model::generation::Job;
use crate::model::processor::{InputTopics, State};
use crate::model::receipt::Receipt;
use crate::model::unlearn::Unwatched;
use crate::model::{Objective, Params};
use crate::run::board::Board;
use crate::run::keys::Signer;
use crate::run::purger::Worker;
use crate::run::service::{Parts, Ports};
use crate::run::solver::{Progress, Solved, Solver};
use crate::store::canary::{canary, holders};
use crate::store::memory::MemoryStore;
use crate::store::rocks::RocksStore;
use crate::store::{Family, Store};

const INTERVAL: Millis = 1_000;

fn key() -> HashKey {
    HashKey::new([9; 32])
}

fn params(objective: Objective) -> Params {
    Params {
        objective,
        rank: 4,
        regularization: 0.5,
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.2,
        tolerance: 1e-7,
        max_sweeps: 20_000,
        seed: 1,
        threads: 1,
        certify: crate::model::Certify::Residual,
    }
}

fn topics() -> Topics {
    let name = |name: &str| name.to_owned();
    Topics {
        interactions: name("plays"),
        forgets: name("forgets"),
        factors: name("factors"),
        generations: name("generations"),
        receipts: name("receipts"),
        dead_letters: name("dead"),
    }
}

/// Lines that wait to be read, topic and text.
#[derive(Default)]
struct Lines(Vec<(u16, String)>, [i64; 2]);

impl Source for Lines {
    fn poll(&mut self) -> Option<Batch> {
        let mut batch = Batch { topics: Arc::from(["plays".to_owned(), "forgets".to_owned()]), ..Batch::default() };
        for (topic, line) in self.0.drain(..) {
            let offset = self.1[topic as usize];
            self.1[topic as usize] += 1;
            let record = Record { topic, partition: 0, offset, timestamp: Some(1_000_000), key: None, payload: None, reset: false };
            batch.push(record, None, Some(line.as_bytes()));
        }
        (!batch.records.is_empty()).then_some(batch)
    }

    fn stored(&mut self, _: &Positions) {}

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

#[derive(Default)]
struct AtOnce(Option<Job>);

impl Solver for AtOnce {
    fn cancel(&mut self) {}

    fn start(&mut self, job: Job) {
        self.0 = Some(job);
    }

    fn poll(&mut self) -> Option<Solved> {
        let job = self.0.take()?;
        Some(Solved { result: job.run(&Unwatched).map_err(|e| e.to_string()), seconds: 0.0 })
    }
}

/// Delivers everything; keeps it by topic.
#[derive(Default)]
struct Delivered(Option<Parcel>, BTreeMap<String, Vec<OutRecord>>);

impl Sink for Delivered {
    fn send(&mut self, parcel: Parcel) {
        self.0 = Some(parcel);
    }

    fn poll(&mut self) -> Option<Parceled> {
        let parcel = self.0.take()?;
        let mut ends = Positions::new();
        for record in parcel.records {
            let log = self.1.entry(record.topic.clone()).or_default();
            log.push(record.clone());
            ends.insert((record.topic, 0), log.len() as i64);
        }
        for record in parcel.then.map(|then| then(&ends)).unwrap_or_default() {
            self.1.entry(record.topic.clone()).or_default().push(record);
        }
        Some(Parceled::Delivered { ends, sent: BTreeMap::new() })
    }
}

/// Keeps orders until the test answers.
#[derive(Default)]
struct Scripted {
    ordered: Option<Order>,
    answer: Option<Purged>,
}

impl Purger for Scripted {
    fn start(&mut self, order: Order) {
        assert!(self.ordered.replace(order).is_none(), "one order at a time");
    }

    fn poll(&mut self) -> Option<Purged> {
        self.ordered.as_ref().and(self.answer.is_some().then_some(()))?;
        self.ordered = None;
        self.answer.take()
    }
}

struct Rig {
    service: Service,
    source: Lines,
    sink: Delivered,
    purger: Scripted,
    solver: AtOnce,
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    now: Millis,
}

impl Rig {
    fn open(store: Arc<dyn Store>, objective: Objective, proof: TopicProof) -> Rig {
        let tables = Tables::new(store.clone(), objective, &key()).unwrap();
        let inputs = InputTopics { interactions: "plays".to_owned(), forgets: "forgets".to_owned() };
        let state = State::open(params(objective), inputs, tables.restore(key()).unwrap(), &tables).unwrap();
        let next = ["plays", "forgets"].map(|topic| state.positions().get(&(topic.to_owned(), 0)).copied().unwrap_or(0));
        let metrics = Arc::new(Metrics::new(Refusal::CODES).unwrap());
        let board = Arc::new(Board::new(store, key(), metrics.clone(), Arc::new(Progress::default()), 0));
        let timing = Generation { max_delay: Duration::ZERO, max_events: 1, forget_delay: Duration::ZERO, interim_after: Duration::MAX };
        let purge = Purge { interval: Duration::from_secs(1), proof, heartbeat: Duration::from_secs(1) };
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(&dir.path().join("key.pem")).unwrap();
        let now = 2_000_000;
        let parts = Parts { state, tables, topics: topics(), timing, purge, signer, metrics: metrics.clone(), board: board.clone() };
        let service = Service::new(parts, now).unwrap();
        let source = Lines(Vec::new(), next);
        Rig { service, source, sink: Delivered::default(), purger: Scripted::default(), solver: AtOnce::default(), metrics, board, now }
    }

    fn memory(proof: TopicProof) -> Rig {
        Rig::open(Arc::new(MemoryStore::default()), Objective::Implicit, proof)
    }

    fn turns(&mut self, turns: usize) {
        for _ in 0..turns {
            let Rig { service, source, sink, purger, solver, now, .. } = self;
            service.turn(&mut Ports { source, sink, solver, purger }, *now, true).unwrap();
        }
        self.service.observe(&self.source, self.now);
    }

    fn play(&mut self, line: &str) {
        self.source.0.push((0, line.to_owned()));
        self.turns(12);
    }

    fn forget(&mut self, line: &str) {
        self.source.0.push((1, line.to_owned()));
        self.turns(12);
    }

    /// Lets time pass and answers the order that comes.
    fn answer(&mut self, answer: impl FnOnce(&Order) -> Purged) -> Order {
        self.now += INTERVAL;
        self.turns(1);
        let order = self.purger.ordered.clone().expect("an order");
        self.purger.answer = Some(answer(&order));
        self.turns(6);
        order
    }

    fn pass(&mut self) {
        self.now += INTERVAL;
        self.turns(3);
    }

    fn receipt(&self, id: &str) -> Receipt {
        self.service.tables().request(&key().request(id)).unwrap().unwrap().receipt
    }

    fn board_reason(&self) -> String {
        self.board.status()["purge"]["reason"].as_str().unwrap_or_default().to_owned()
    }

    fn statuses(&self) -> Vec<String> {
        let read = |record: &OutRecord| {
            let receipt: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
            receipt["status"].as_str().unwrap().to_owned()
        };
        self.sink.1["receipts"].iter().map(read).collect()
    }
}

fn erased(leftover: Option<&str>) -> Purged {
    Purged::Disk { result: Ok(Erased { files: 1, bytes: 5, leftover: leftover.map(str::to_owned) }), seconds: 0.1 }
}

/// What a look finds that reads everything that was sent.
fn looked(rig_log: &[OutRecord], compacted: bool) -> impl FnOnce(&Order) -> Purged + use<> {
    let mut records: Vec<(i64, OutRecord)> = rig_log.iter().cloned().enumerate().map(|(at, record)| (at as i64, record)).collect();
    if compacted {
        let last: BTreeMap<Option<Vec<u8>>, i64> = records.iter().map(|(at, record)| (record.key.clone(), *at)).collect();
        records.retain(|(at, record)| last[&record.key] == *at);
    }
    move |order| {
        let Order::Topic(order) = order else { panic!("the topic is due, not {order:?}") };
        let must_be_gone = |hash: &[u8], generation: Option<u64>| {
            let row = order.gone.iter().find(|row| row.key == key().record(hash))?;
            generation.is_none_or(|generation| generation <= row.generation).then_some(row.generation)
        };
        Purged::Topic { result: Ok(Finding::of(&order.upto, &records, &must_be_gone)), seconds: 0.01 }
    }
}

#[test]
fn a_receipt_waits_for_disk_and_topic() {
    let mut rig = Rig::memory(TopicProof::Rows);
    rig.play(r#"{"user":"a","item":"x","time":1}"#);
    rig.play(r#"{"user":"b","item":"x","time":1}"#);
    rig.forget(r#"{"request_id":"r","user":"a","time":5}"#);
    assert_eq!(rig.receipt("r").status, Status::Published);
    assert_eq!(rig.purger.ordered, None, "what is published meanwhile is purged together");
    let order = rig.answer(|_| erased(Some("a snapshot is open")));
    let Order::Disk(ranges) = order else { panic!("the disk comes first") };
    assert!(ranges.contains(&crate::store::plays::range_of(0)), "{ranges:?}");
    assert_eq!(rig.receipt("r").status, Status::Published);
    assert!(rig.board_reason().contains("a snapshot is open"));
    rig.answer(|_| erased(None));
    assert_eq!((rig.receipt("r").status, rig.service.tables().gone().unwrap().len()), (Status::Published, 1));
    let log = rig.sink.1["factors"].clone();
    rig.answer(looked(&log, false));
    assert_eq!(rig.receipt("r").status, Status::Published);
    assert!(rig.board_reason().contains("still has the record"), "{}", rig.board_reason());
    assert!(rig.metrics.render().contains("nepenthe_forgets_pending{stage=\"published\"} 1"));
    rig.answer(|_| Purged::Topic { result: Err("broker away".to_owned()), seconds: 0.0 });
    assert!(rig.board_reason().contains("broker away"));
    rig.answer(looked(&log, true));
    let receipt = rig.receipt("r");
    assert_eq!((receipt.status, receipt.purged_from), (Status::Purged, vec!["disk".to_owned(), "rows".to_owned()]));
    assert!(receipt.stages.purged > receipt.stages.published);
    assert_eq!(rig.statuses(), ["erased", "unlearned", "published", "purged"]);
    assert_eq!(rig.service.tables().gone().unwrap(), []);
    let text = rig.metrics.render();
    for line in ["nepenthe_forgets_pending{stage=\"published\"} 0", "nepenthe_forget_duration_seconds_count{stage=\"purged\"} 1"] {
        assert!(text.contains(line), "{line}");
    }
    rig.pass();
    assert_eq!(rig.purger.ordered, None, "nothing waits");
}

#[test]
fn without_a_proof_of_the_topic_the_receipt_claims_none() {
    let mut rig = Rig::memory(TopicProof::None);
    rig.play(r#"{"user":"a","item":"x","time":1}"#);
    rig.forget(r#"{"request_id":"r","user":"a","time":5}"#);
    rig.answer(|_| erased(None));
    assert_eq!((rig.receipt("r").status, rig.receipt("r").purged_from), (Status::Purged, vec!["disk".to_owned()]));
}

#[test]
fn names_wait_for_the_tombstones_too() {
    let mut rig = Rig::memory(TopicProof::Names);
    rig.play(r#"{"user":"a","item":"x","time":1}"#);
    rig.forget(r#"{"request_id":"r","user":"a","time":5}"#);
    rig.answer(|_| erased(None));
    let log = rig.sink.1["factors"].clone();
    rig.answer(looked(&log, true));
    assert_eq!(rig.receipt("r").status, Status::Published);
    assert!(rig.board_reason().contains("tombstone"));
    let rows: Vec<OutRecord> =
        log.iter().map(|record| OutRecord { key: Some(b"heartbeat".to_vec()), value: None, ..record.clone() }).collect();
    rig.answer(looked(&rows, true));
    assert_eq!(rig.receipt("r").purged_from, ["disk", "rows", "names"]);
}

#[test]
fn a_restart_begins_the_proof_anew() {
    let store = Arc::new(MemoryStore::default());
    {
        let mut rig = Rig::open(store.clone(), Objective::Implicit, TopicProof::Rows);
        rig.play(r#"{"user":"a","item":"x","time":1}"#);
        rig.forget(r#"{"request_id":"r","user":"a","time":5}"#);
        rig.answer(|_| erased(None));
        assert_eq!(rig.receipt("r").status, Status::Published);
    }
    let mut rig = Rig::open(store, Objective::Implicit, TopicProof::Rows);
    rig.turns(3);
    assert!(rig.metrics.render().contains("nepenthe_forgets_pending{stage=\"published\"} 1"));
    assert!(matches!(rig.answer(|_| erased(None)), Order::Disk(_)));
    let order = rig.answer(looked(&[], true));
    let Order::Topic(TopicOrder { upto, gone, .. }) = order else { panic!("the topic follows") };
    assert!(upto[&0] > 0 && gone.len() == 2, "what must be gone is known: {upto:?} {gone:?}");
    assert_eq!(rig.receipt("r").status, Status::Purged);
}

#[test]
fn later_forgets_do_not_hold_up_earlier_ones() {
    let mut rig = Rig::memory(TopicProof::Rows);
    for user in ["a", "b", "c"] {
        rig.play(&format!(r#"{{"user":"{user}","item":"x","time":1}}"#));
    }
    rig.forget(r#"{"request_id":"1","user":"a","time":5}"#);
    rig.answer(|_| erased(None));
    let early = rig.sink.1["factors"].clone();
    rig.answer(looked(&early, false));
    rig.forget(r#"{"request_id":"2","user":"b","time":5}"#);
    // Disk and topic are both due; the disk goes first.
    assert!(matches!(rig.answer(|_| erased(None)), Order::Disk(_)));
    // Clean up to the first request's end; what came after is as it was sent.
    let late = rig.sink.1["factors"].clone();
    let last: BTreeMap<Option<Vec<u8>>, usize> = early.iter().enumerate().map(|(at, record)| (record.key.clone(), at)).collect();
    let kept = late.iter().enumerate().filter(|(at, record)| *at >= early.len() || last[&record.key] == *at);
    let records: Vec<(i64, OutRecord)> = kept.map(|(at, record)| (at as i64, record.clone())).collect();
    rig.answer(|order| {
        let Order::Topic(order) = order else { panic!("the topic is due") };
        assert!(order.need[&0] < order.upto[&0]);
        Purged::Topic { result: Ok(Finding::of(&order.upto, &records, &|_, _| None)), seconds: 0.0 }
    });
    assert_eq!((rig.receipt("1").status, rig.receipt("2").status), (Status::Purged, Status::Published));
}

#[test]
fn a_failing_store_ends_the_loop_and_a_lost_thread_is_told() {
    let mut rig = Rig::memory(TopicProof::None);
    rig.play(r#"{"user":"a","item":"x","time":1}"#);
    rig.forget(r#"{"request_id":"r","user":"a","time":5}"#);
    rig.answer(|_| Purged::Lost("the thread is gone".to_owned()));
    assert!(rig.board_reason().contains("the thread is gone"));
    rig.pass();
    assert_eq!(rig.purger.ordered, None, "nobody would do it");

    let mut rig = Rig::memory(TopicProof::None);
    rig.play(r#"{"user":"a","item":"x","time":1}"#);
    rig.forget(r#"{"request_id":"r","user":"a","time":5}"#);
    rig.now += INTERVAL;
    rig.turns(1);
    let error = StoreError::Io { action: "flush", cause: "no space left".to_owned() };
    rig.purger.answer = Some(Purged::Disk { result: Err(error), seconds: 0.0 });
    let Rig { service, source, sink, purger, solver, now, .. } = &mut rig;
    let ended = service.turn(&mut Ports { source, sink, solver, purger }, *now, true).unwrap_err();
    assert!(ended.to_string().contains("no space left"), "{ended}");
}

#[test]
fn a_receipt_names_the_backups_that_may_hold_what_it_forgot() {
    let mut rig = Rig::memory(TopicProof::None);
    rig.play(r#"{"user":"a","item":"x","time":1}"#);
    rig.forget(r#"{"request_id":"r","user":"a","time":5}"#);
    let (store, day) = (rig.service.tables().store().clone(), 24 * 3_600_000);
    for age in [3 * day, day] {
        crate::store::backups::note_backup(&*store, rig.now - age).unwrap();
    }
    rig.service.keep(Keep { backups: Some(Duration::from_secs(2 * 24 * 3600)), ..Keep::default() });
    let newest = instant(rig.now - day);
    rig.answer(|_| erased(None));
    let backups = rig.receipt("r").backups.expect("they may hold it");
    assert_eq!((backups.count, backups.newest), (1, newest), "the older one is deleted by now");
    assert_eq!(rig.board.status()["backups"]["count"], 1);
    assert!(rig.metrics.render().contains("nepenthe_backups 1"));
    // Without a backup there is nothing to tell.
    rig.service.keep(Keep { backups: Some(Duration::from_secs(3600)), ..Keep::default() });
    rig.forget(r#"{"request_id":"s","user":"b","time":5}"#);
    rig.answer(|_| erased(None));
    assert_eq!((rig.receipt("s").status, rig.receipt("s").backups), (Status::Purged, None));
}

#[cfg(test)]
#[path = "canary_tests.rs"]
mod canary_tests;
