//! A world around the loop: topics, a store in memory, a solver and a sink that do what they are told. Below it, for a
//! world that is left to chance, a broker with transactions, a disk that fails, and the invariants that hold all the same.

#[cfg(test)]
mod beside;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod chance;
#[cfg(test)]
pub(in crate::run) mod events;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod trial;
#[cfg(test)]
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::board::Board;
use super::keys::Signer;
use super::purger::{Idle, Purger};
use super::service::{Parts, Ports, Service, TurnError};
use super::solver::{Progress, Solved, Solver};
use crate::config::{Generation, Purge, TopicProof, Topics};
use crate::kafka::{Batch, OutRecord, Parcel, Parceled, Positions, Record, Sink, Source, SourceState};
use crate::metrics::Metrics;
use crate::model::dictionary::Dictionary;
use crate::model::digest::LtHash;
use crate::model::event::Refusal;
use crate::model::factors::{Factors, Side};
use crate::model::fence::HashKey;
use crate::model::generation::Job;
use crate::model::play::Play;
use crate::model::processor::{InputTopics, State};
use crate::model::receipt::Manifest;
use crate::model::step::{History, Range};
use crate::model::unlearn::{Unwatched, Watch};
use crate::model::{Millis, Objective, Params};
use crate::store::memory::MemoryStore;
use crate::store::tables::Tables;
use crate::store::{Store, StoreError};

pub(in crate::run) const PLAYS: &str = "plays";
pub(in crate::run) const FORGETS: &str = "forgets";

pub(in crate::run) fn params(objective: Objective, seed: u64) -> Params {
    Params {
        objective,
        rank: 8,
        regularization: if objective == Objective::Implicit { 0.4 } else { 0.6 },
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.2,
        tolerance: 1e-9,
        certify: crate::model::Certify::Residual,
        max_sweeps: 20_000,
        seed,
        threads: 1,
    }
}

pub(in crate::run) fn topics() -> Topics {
    let name = |name: &str| name.to_owned();
    Topics {
        interactions: name(PLAYS),
        forgets: name(FORGETS),
        factors: name("factors"),
        generations: name("generations"),
        receipts: name("receipts"),
        dead_letters: name("dead"),
    }
}

pub(in crate::run) fn key() -> HashKey {
    HashKey::new([9; 32])
}

/// Everything outside the process: survives a crash of the service.
#[derive(Default)]
pub(in crate::run) struct World {
    pub store: Arc<MemoryStore>,
    /// Records of each input topic.
    pub inputs: [Vec<String>; 2],
    /// Records of each output topic, as they were sent.
    pub outputs: BTreeMap<String, Vec<OutRecord>>,
}

/// The part of the shell that dies with the process.
#[derive(Default)]
pub(in crate::run) struct Shell {
    pub next: [usize; 2],
    /// Records handed over at a time, and of which topic.
    pub take: (usize, usize),
    pub job: Option<Job>,
    /// The running job was told to end.
    pub cancelled: bool,
    pub parcel: Option<Parcel>,
    /// The next send fails after its records went out.
    pub fail_send: bool,
    /// What a solve takes.
    pub seconds: f64,
}

pub(in crate::run) struct In<'w>(pub &'w mut Shell, pub &'w World);

impl Source for In<'_> {
    fn poll(&mut self) -> Option<Batch> {
        let (topic, n) = self.0.take;
        let (topics, mut batch) = (Arc::from([PLAYS.to_owned(), FORGETS.to_owned()]), Batch::default());
        batch.topics = topics;
        let log = &self.1.inputs[topic];
        for (offset, line) in log.iter().enumerate().skip(self.0.next[topic]).take(n) {
            let record = Record {
                topic: topic as u16,
                partition: 0,
                offset: offset as i64,
                timestamp: Some(1_000_000),
                key: None,
                payload: None,
                reset: false,
            };
            batch.push(record, None, Some(line.as_bytes()));
            self.0.next[topic] += 1;
        }
        (!batch.records.is_empty()).then_some(batch)
    }

    fn stored(&mut self, _: &Positions) {}

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

pub(in crate::run) struct Solve<'w> {
    pub job: &'w mut Option<Job>,
    pub may: bool,
    pub cancelled: &'w mut bool,
    pub seconds: f64,
}

/// Ends a solve after two sweeps.
#[derive(Default)]
struct Impatient(AtomicU32);

impl Watch for Impatient {
    fn swept(&self, sweep: u32, _: f64) {
        self.0.store(sweep, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 2
    }
}

impl Solver for Solve<'_> {
    fn start(&mut self, job: Job) {
        (*self.job, *self.cancelled) = (Some(job), false);
    }

    fn cancel(&mut self) {
        *self.cancelled = true;
    }

    fn poll(&mut self) -> Option<Solved> {
        let job = (self.may || *self.cancelled).then(|| self.job.take()).flatten()?;
        let outcome = if *self.cancelled { job.run(&Impatient::default()) } else { job.run(&Unwatched) };
        Some(Solved { result: outcome.map_err(|e| e.to_string()), seconds: self.seconds })
    }
}

pub(in crate::run) struct Out<'w>(pub &'w mut Option<Parcel>, pub &'w mut BTreeMap<String, Vec<OutRecord>>, pub &'w mut bool);

impl Sink for Out<'_> {
    fn send(&mut self, parcel: Parcel) {
        assert!(self.0.replace(parcel).is_none(), "one parcel at a time");
    }

    fn poll(&mut self) -> Option<Parceled> {
        let parcel = self.0.take()?;
        let (mut ends, mut sent) = (Positions::new(), BTreeMap::new());
        let mut put = |record: OutRecord, count: bool| {
            let log = self.1.entry(record.topic.clone()).or_default();
            if count {
                ends.insert((record.topic.clone(), 0), log.len() as i64 + 1);
                *sent.entry(record.topic.clone()).or_default() += 1;
            }
            log.push(record);
        };
        parcel.records.for_each(|record| put(record, true));
        if std::mem::take(self.2) {
            return Some(Parceled::Failed("torn".to_owned()));
        }
        if let Some(then) = parcel.then {
            let more = then(&ends);
            for record in more {
                self.1.entry(record.topic.clone()).or_default().push(record);
            }
        }
        Some(Parceled::Delivered { ends, sent })
    }
}

/// What a service is told besides its model.
#[derive(Debug, Clone)]
pub(in crate::run) struct Manner {
    pub timing: Generation,
    pub purge: Purge,
}

/// Starts a service on what `store` holds.
pub(in crate::run) fn serve(
    store: Arc<dyn Store>,
    params: &Params,
    manner: Manner,
    signing_key: &Path,
    now: Millis,
) -> Result<Service, StoreError> {
    let tables = Tables::new(store.clone(), params.objective, &key())?;
    let inputs = InputTopics { interactions: PLAYS.to_owned(), forgets: FORGETS.to_owned() };
    let state = State::open(params.clone(), inputs, tables.restore(key())?, &tables)?;
    let metrics = Arc::new(Metrics::new(Refusal::CODES).unwrap());
    let board = Arc::new(Board::new(store, key(), metrics.clone(), Arc::new(Progress::default()), now));
    let signer = Signer::open(signing_key)?;
    let Manner { timing, purge } = manner;
    Service::new(Parts { state, tables, topics: topics(), timing, purge, signer, metrics, board }, now)
}

pub(in crate::run) fn open(world: &World, params: &Params, interim_after: Duration) -> (Service, Shell) {
    let timing = Generation { max_delay: Duration::from_secs(5), max_events: 12, forget_delay: Duration::from_millis(300), interim_after };
    let purge = Purge { interval: Duration::from_secs(9), proof: TopicProof::Rows, heartbeat: Duration::from_secs(9) };
    let dir = tempfile::tempdir().unwrap();
    let service = serve(world.store.clone(), params, Manner { timing, purge }, &dir.path().join("key.pem"), 0).unwrap();
    let positions = service.state().positions();
    let next = [PLAYS, FORGETS].map(|topic| positions.get(&(topic.to_owned(), 0)).map_or(0, |&next| next as usize));
    (service, Shell { next, ..Shell::default() })
}

/// One turn; `solve` says whether a running solve may finish in it.
pub(in crate::run) fn turn(world: &mut World, service: &mut Service, shell: &mut Shell, now: Millis, solve: bool) -> bool {
    turn_with(world, service, shell, now, solve, &mut Idle).unwrap()
}

/// As [`turn`], with somebody who purges.
pub(in crate::run) fn turn_with(
    world: &mut World,
    service: &mut Service,
    shell: &mut Shell,
    now: Millis,
    solve: bool,
    purger: &mut dyn Purger,
) -> Result<bool, TurnError> {
    let mut outputs = std::mem::take(&mut world.outputs);
    let seconds = shell.seconds;
    let (mut job, mut cancelled, mut parcel, mut fail) = (shell.job.take(), shell.cancelled, shell.parcel.take(), shell.fail_send);
    let progress = {
        let mut source = In(shell, world);
        let mut solver = Solve { job: &mut job, may: solve, cancelled: &mut cancelled, seconds };
        let mut sink = Out(&mut parcel, &mut outputs, &mut fail);
        let mut ports = Ports { source: &mut source, sink: &mut sink, solver: &mut solver, purger };
        service.turn(&mut ports, now, true)
    };
    (shell.job, shell.cancelled, shell.parcel, shell.fail_send) = (job, cancelled, parcel, fail);
    world.outputs = outputs;
    progress
}

/// Runs until everything is taken in, solved and published.
pub(in crate::run) fn settle(world: &mut World, service: &mut Service, shell: &mut Shell, now: &mut Millis) {
    for round in 0..2_000 {
        *now += 400;
        shell.take = (round % 2, 50);
        turn(world, service, shell, *now, true);
        let read = (0..2).all(|topic| shell.next[topic] == world.inputs[topic].len());
        if read && service.is_settled() && shell.job.is_none() && shell.parcel.is_none() {
            return;
        }
    }
    panic!("not settled: {:?}", service.state().waiting());
}

/// A stored play: user, item, keyed hash of the event id, time, ordered bits of the value.
pub(in crate::run) type Named = (String, String, Option<u64>, i64, u64);

/// Stored plays under their natural names.
pub(in crate::run) fn plays(service: &Service) -> BTreeSet<Named> {
    named(service.tables(), service.state().dictionary()).expect("a play has names")
}

/// Stored plays under the names of a dictionary; the first number without a name is an error.
pub(in crate::run) fn named(tables: &Tables, dictionary: &Dictionary) -> Result<BTreeSet<Named>, String> {
    let (mut plays, mut nameless) = (BTreeSet::new(), None);
    let name = |side, number| dictionary.name(side, number).map(|name| name.to_string());
    let visit = &mut |play: Play, _: &str| match (name(Side::User, play.user), name(Side::Item, play.item)) {
        (Some(user), Some(item)) => drop(plays.insert((user, item, play.ident, play.time, play.value))),
        _ => nameless = Some(format!("a play without names: {play:?}")),
    };
    tables.plays(Range::All, visit).map_err(|error| error.to_string())?;
    nameless.map_or(Ok(plays), Err)
}

/// Predictions by name.
pub(in crate::run) fn predictions(service: &Service) -> BTreeMap<(String, String), f64> {
    let current = service.state().current().expect("a generation");
    let named = |side| {
        let rows = current.factors.side(side).rows();
        rows.map(move |row| (row, service.state().dictionary().name(side, row as u32).expect("a row has a name").to_string()))
            .collect::<Vec<_>>()
    };
    let (users, items, factors): (_, _, &Factors) = (named(Side::User), named(Side::Item), &current.factors);
    let mut all = BTreeMap::new();
    for (u, user) in &users {
        for (i, item) in &items {
            let dot: f64 = factors.users.raw(*u).iter().zip(factors.items.raw(*i)).map(|(x, y)| x * y).sum();
            all.insert((user.clone(), item.clone()), dot);
        }
    }
    all
}

/// Rows that exist, bit by bit.
pub(in crate::run) fn bits(factors: &Factors) -> Vec<(Side, usize, Vec<u64>)> {
    let of = |side| {
        let table = factors.side(side);
        table.rows().map(move |row| (side, row, table.raw(row).iter().map(|value| value.to_bits()).collect()))
    };
    Side::BOTH.into_iter().flat_map(of).collect()
}

/// The digest and the newest manifest that a reader of the topics arrives at.
pub(in crate::run) fn reader(world: &World) -> (String, Manifest) {
    crate::schemas::hold_outputs(&world.outputs);
    let manifests = &world.outputs["generations"];
    let manifest: Manifest = serde_json::from_slice(manifests.last().unwrap().value.as_ref().unwrap()).unwrap();
    let upto = manifest.upto.get(&0).copied().unwrap_or(0) as usize;
    let mut copy: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for record in world.outputs.get("factors").map_or(&[][..], |log| &log[..upto]) {
        match &record.value {
            Some(value) => copy.insert(record.key.as_deref().unwrap(), value),
            None => copy.remove(record.key.as_deref().unwrap()),
        };
    }
    let mut digest = LtHash::default();
    copy.iter().for_each(|(key, value)| digest.add(key, value));
    (digest.finish(), manifest)
}
