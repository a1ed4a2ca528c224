//! One step is written while the next is decided: nothing of it is told before it is durable, a crash in between loses
//! nothing, and a write that fails ends the loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::board::Board;
use super::super::keys::Signer;
use super::super::purger::Idle;
use super::super::service::{Parts, Ports};
use super::super::simulation::{FORGETS, PLAYS, key, params, plays, topics};
use super::super::solver::{Progress, Solved, Solver};
use super::*;
use crate::config::{Generation, Purge, TopicProof};
use crate::kafka::{OutRecord, Parcel, Parceled, Positions, Record, Sink, SourceState};
use crate::metrics::Metrics;
use crate::model::Objective;
use crate::model::event::Refusal;
use crate::model::generation::Job;
use crate::model::processor::{InputTopics, State};
use crate::store::memory::MemoryStore;
use crate::store::tables::Tables;
use crate::store::{self, Family, Store, StoreError, Visit};

/// As late as a store may be: what is written behind becomes durable when somebody must wait for it.
#[derive(Default)]
struct Late {
    durable: Arc<MemoryStore>,
    pending: Mutex<Option<store::Batch>>,
    broken: AtomicBool,
}

impl Store for Late {
    fn write(&self, batch: &store::Batch) -> Result<(), StoreError> {
        self.settle()?;
        self.durable.write(batch)
    }

    fn write_behind(&self, batch: store::Batch) -> Result<(), StoreError> {
        self.settle()?;
        *self.pending.lock().unwrap() = Some(batch);
        Ok(())
    }

    fn settle(&self) -> Result<(), StoreError> {
        match self.pending.lock().unwrap().take() {
            Some(_) if self.broken.load(Ordering::Relaxed) => Err(StoreError::Io { action: "write", cause: "no space left".to_owned() }),
            Some(batch) => self.durable.write(&batch),
            None => Ok(()),
        }
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.settle()?;
        self.durable.get(family, key)
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.settle()?;
        self.durable.scan(family, from, to, visit)
    }

    fn sizes(&self) -> Vec<(Family, u64)> {
        self.durable.sizes()
    }
}

/// A log of both topics, read some lines at a time; looks at the disk whenever it is told what is stored.
struct Log {
    lines: Vec<(u16, String)>,
    next: usize,
    /// Records of a batch that the loop has and did not give back.
    lent: usize,
    store: Arc<Late>,
    told: Positions,
}

impl Source for Log {
    fn poll(&mut self) -> Option<Batch> {
        assert_eq!(self.lent, 0, "the room of a batch comes back before the next one");
        let mut batch = Batch { topics: Arc::from([PLAYS.to_owned(), FORGETS.to_owned()]), ..Batch::default() };
        for (offset, (topic, line)) in self.lines.iter().enumerate().skip(self.next).take(7) {
            let (topic, offset) = (*topic, offset as i64);
            let record = Record { topic, partition: 0, offset, timestamp: Some(1_000_000), key: None, payload: None, reset: false };
            batch.push(record, None, Some(line.as_bytes()));
            self.next += 1;
        }
        self.lent = batch.records.len();
        (!batch.records.is_empty()).then_some(batch)
    }

    fn spent(&mut self, batch: Batch) {
        self.lent -= batch.records.len();
    }

    fn stored(&mut self, positions: &Positions) {
        assert_eq!(*positions, durable(&self.store), "told when it is durable, and then all of it");
        self.told.clone_from(positions);
    }

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

fn durable(store: &Late) -> Positions {
    Tables::reading(store.durable.clone()).positions().unwrap()
}

struct Never;

impl Solver for Never {
    fn start(&mut self, _: Job) {}

    fn cancel(&mut self) {}

    fn poll(&mut self) -> Option<Solved> {
        None
    }
}

/// Delivers everything, and looks whether the store has the request that a receipt is of.
struct Heard {
    store: Arc<Late>,
    parcel: Option<Parcel>,
    receipts: Vec<OutRecord>,
}

impl Sink for Heard {
    fn send(&mut self, parcel: Parcel) {
        self.parcel = Some(parcel);
    }

    fn poll(&mut self) -> Option<Parceled> {
        let parcel = self.parcel.take()?;
        let mut requests = 0;
        let mut count = |_: &[u8], _: &[u8]| {
            requests += 1;
            std::ops::ControlFlow::Continue(())
        };
        self.store.durable.scan(Family::Ledger, b"", None, &mut count).unwrap();
        self.receipts.extend(parcel.records);
        assert!(self.receipts.len() <= requests, "a receipt of what a crash would undo");
        Some(Parceled::Delivered { ends: Positions::new(), sent: BTreeMap::new() })
    }
}

struct Rig {
    service: Service,
    log: Log,
    sink: Heard,
    now: Millis,
}

impl Rig {
    /// A process on the store as it is.
    fn open(durable: &Arc<MemoryStore>, lines: &[(u16, String)]) -> Rig {
        let store = Arc::new(Late { durable: durable.clone(), ..Late::default() });
        let dynamic: Arc<dyn Store> = store.clone();
        let tables = Tables::new(dynamic.clone(), Objective::Implicit, &key()).unwrap();
        let inputs = InputTopics { interactions: PLAYS.to_owned(), forgets: FORGETS.to_owned() };
        let state = State::open(params(Objective::Implicit, 1), inputs, tables.restore(key()).unwrap(), &tables).unwrap();
        let next = state.positions().values().max().map_or(0, |&next| next as usize);
        let metrics = Arc::new(Metrics::new(Refusal::CODES).unwrap());
        let board = Arc::new(Board::new(dynamic, key(), metrics.clone(), Arc::new(Progress::default()), 0));
        let hour = Duration::from_secs(3600);
        let timing = Generation { max_delay: hour, max_events: u64::MAX, forget_delay: hour, interim_after: hour };
        let purge = Purge { interval: hour, proof: TopicProof::None, heartbeat: hour };
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(&dir.path().join("key.pem")).unwrap();
        let service = Service::new(Parts { state, tables, topics: topics(), timing, purge, signer, metrics, board }, 0).unwrap();
        let log = Log { lines: lines.to_vec(), next, lent: 0, store: store.clone(), told: Positions::new() };
        Rig { service, log, sink: Heard { store, parcel: None, receipts: Vec::new() }, now: 1_000 }
    }

    fn turn(&mut self) -> Result<bool, TurnError> {
        self.now += 10;
        let mut ports = Ports { source: &mut self.log, sink: &mut self.sink, solver: &mut Never, purger: &mut Idle };
        self.service.turn(&mut ports, self.now, true)
    }
}

/// Plays, and forgets between them.
fn lines() -> Vec<(u16, String)> {
    let line = |n: u64| match n % 10 {
        9 => (1, format!(r#"{{"request_id":"r{n}","user":"u{}","items":["i{}"],"time":{n}}}"#, n % 7, n % 3)),
        _ => (0, format!(r#"{{"user":"u{}","item":"i{}","time":{n}}}"#, n % 7, n % 3)),
    };
    (0..150).map(line).collect()
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let mut rig = Rig::open(&Arc::default(), &lines());
    let (mut behind, mut turns) = (0, 0);
    while rig.turn().unwrap() {
        turns += 1;
        behind += u32::from(rig.service.state().positions() != &rig.log.told);
    }
    assert!(behind > 5 && turns > behind, "the loop decides while the store writes: {behind} of {turns} turns");
    assert_eq!(&rig.log.told, rig.service.state().positions());
    assert_eq!((rig.sink.receipts.len(), rig.service.is_drained()), (15, true));
}

#[test]
fn a_crash_between_deciding_and_writing_loses_nothing() {
    let whole = {
        let mut rig = Rig::open(&Arc::default(), &lines());
        while rig.turn().unwrap() {}
        plays(&rig.service)
    };
    for crash in 1..25 {
        let disk = Arc::default();
        let mut rig = Rig::open(&disk, &lines());
        for _ in 0..crash {
            rig.turn().unwrap();
        }
        // The pending write goes with the process.
        drop(rig);
        let mut rig = Rig::open(&disk, &lines());
        while rig.turn().unwrap() {}
        assert_eq!(plays(&rig.service), whole, "after {crash} turns");
    }
}

#[test]
fn a_write_that_fails_ends_the_loop_and_is_not_told() {
    let mut rig = Rig::open(&Arc::default(), &lines());
    rig.turn().unwrap();
    rig.turn().unwrap();
    rig.log.store.broken.store(true, Ordering::Relaxed);
    let error = rig.turn().unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_eq!(rig.log.told, durable(&rig.log.store));
    assert_ne!(&rig.log.told, rig.service.state().positions());
}
