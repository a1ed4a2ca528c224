//! The way in and the way out over the simulated broker, with everything that can go wrong on them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kafka::{Batch, OutRecord, Parcel, Parceled, Positions, Record, Sink, Source, SourceState};
use crate::store::disk::Disk;
use crate::store::tables::Tables;

use super::broker::Broker;
use super::chance::Chance;
use super::{FORGETS, PLAYS};

pub(in crate::run) type Shared = Arc<Mutex<Broker>>;

pub(in crate::run) fn lock(broker: &Shared) -> MutexGuard<'_, Broker> {
    broker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A partition of an input topic.
pub(in crate::run) type Place = (usize, i32);

/// Where a partition is read.
#[derive(Debug, Clone, Copy)]
struct At {
    next: i64,
    epoch: u64,
    /// Least offset that goes on where the partition was.
    expected: i64,
}

/// What the group was told, and what was stored then.
pub(in crate::run) struct Told {
    pub positions: Positions,
    pub stored: Positions,
}

/// A consumer: it fetches ahead of the loop, and partitions are taken from it and given back.
pub(in crate::run) struct Fetcher {
    broker: Shared,
    chance: Chance,
    assigned: BTreeMap<Place, At>,
    away: Vec<Place>,
    stored: Positions,
    queue: VecDeque<Batch>,
    /// Partitions of which a record of this epoch was handed over that starts them over.
    restarts: Vec<(Place, u64)>,
    /// What the loop got in this turn.
    pub polled: Option<Batch>,
    disk: Arc<Disk>,
    /// What the loop said is stored, in this turn.
    pub told: Option<Told>,
    /// Batches that were handed over, and nothing is told of them yet.
    untold: Vec<Batch>,
    pub rebalances: u64,
    /// Nothing goes wrong any more, and nothing is slow.
    pub calm: bool,
}

const TOPICS: [&str; 2] = [PLAYS, FORGETS];

impl Fetcher {
    pub fn new(broker: Shared, disk: Arc<Disk>, chance: Chance, stored: Positions) -> Fetcher {
        let away = {
            let broker = lock(&broker);
            let of_topic = |topic: usize| (0..broker.logs(TOPICS[topic]).len() as i32).map(move |partition| (topic, partition));
            (0..2).flat_map(of_topic).collect()
        };
        let mut fetcher = Fetcher {
            broker,
            chance,
            assigned: BTreeMap::new(),
            away,
            stored,
            queue: VecDeque::new(),
            restarts: Vec::new(),
            polled: None,
            disk,
            told: None,
            untold: Vec::new(),
            rebalances: 0,
            calm: false,
        };
        fetcher.assign(|_| true);
        fetcher
    }

    /// Partitions go to others of the group, or come back: in the middle of what was fetched and is not handed over.
    pub fn rebalance(&mut self) {
        self.rebalances += 1;
        let mut chance = self.chance.fork();
        self.assign(|_| chance.one_in(2));
        let taken: Vec<Place> = self.assigned.keys().copied().filter(|_| chance.one_in(2)).collect();
        self.assigned.retain(|place, _| !taken.contains(place));
        self.away.extend(taken);
    }

    pub fn calm_down(&mut self) {
        self.calm = true;
        self.assign(|_| true);
    }

    fn assign(&mut self, mut comes: impl FnMut(Place) -> bool) {
        let (coming, away): (Vec<Place>, Vec<Place>) = self.away.iter().partition(|place| comes(**place));
        self.away = away;
        for place in coming {
            let at = (TOPICS[place.0].to_owned(), place.1);
            let next = self.stored.get(&at).copied().unwrap_or(0);
            let epoch = lock(&self.broker).logs(TOPICS[place.0])[place.1 as usize].noticed;
            self.assigned.insert(place, At { next, epoch, expected: next });
        }
    }

    /// Everything of the partitions that are ours was handed over.
    pub fn is_drained(&self) -> bool {
        let broker = lock(&self.broker);
        let at_end = |(place, at): (&Place, &At)| {
            let log = &broker.logs(TOPICS[place.0])[place.1 as usize];
            at.epoch == log.epoch && log.entries.last().is_none_or(|last| last.offset < at.next)
        };
        self.queue.is_empty() && self.away.is_empty() && self.assigned.iter().all(at_end)
    }

    fn fetch(&mut self) {
        let mut batch = Batch { topics: TOPICS.map(str::to_owned).into(), ..Batch::default() };
        let broker = lock(&self.broker);
        for (place, at) in &mut self.assigned {
            let log = &broker.logs(TOPICS[place.0])[place.1 as usize];
            if at.epoch != log.epoch {
                (at.next, at.epoch) = (0, log.epoch);
            }
            let most = if self.calm { 1_000 } else { self.chance.below(6) };
            let unread = log.entries.iter().filter(|entry| entry.offset >= at.next).take(most);
            for entry in unread.collect::<Vec<_>>() {
                let reset = entry.offset < at.expected;
                if reset {
                    self.restarts.push((*place, log.epoch));
                }
                (at.next, at.expected) = (entry.offset + 1, entry.offset + 1);
                let timestamp = Some(entry.timestamp);
                let record =
                    Record { topic: place.0 as u16, partition: place.1, offset: entry.offset, timestamp, key: None, payload: None, reset };
                batch.push(record, entry.record.key.as_deref(), entry.record.value.as_deref());
            }
        }
        drop(broker);
        if !batch.records.is_empty() {
            self.queue.push_back(batch);
        }
    }
}

impl Source for Fetcher {
    fn poll(&mut self) -> Option<Batch> {
        while self.queue.len() < 4 && (self.calm && self.queue.is_empty() && !self.is_drained() || self.chance.one_in(2)) {
            self.fetch();
        }
        if !self.calm && self.chance.one_in(3) {
            return None;
        }
        self.polled = self.queue.pop_front();
        self.untold.extend(self.polled.clone());
        self.polled.clone()
    }

    fn stored(&mut self, positions: &Positions) {
        self.stored = positions.clone();
        let stored = Tables::reading(self.disk.rows()).positions().expect("memory does not fail");
        self.told = Some(Told { positions: positions.clone(), stored });
        // What was handed over in this turn is told in a later one.
        let later = usize::from(self.polled.is_some()).min(self.untold.len());
        let told: Vec<Batch> = self.untold.drain(..self.untold.len() - later).collect();
        let handed = |place: &Place| {
            let of_place = |record: &Record| (record.topic as usize, record.partition) == *place && record.reset;
            told.iter().any(|batch| batch.records.iter().any(of_place))
        };
        let (noticed, rest): (Vec<_>, Vec<_>) = self.restarts.iter().copied().partition(|(place, _)| handed(place));
        self.restarts = rest;
        for ((topic, partition), epoch) in noticed {
            lock(&self.broker).log(TOPICS[topic], partition as usize).noticed = epoch;
        }
    }

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

/// A parcel that is being sent.
struct Flying {
    parcel: Parcel,
    records: VecDeque<OutRecord>,
    ends: Positions,
    sent: BTreeMap<String, u64>,
    /// Where the records ended was told, and what was made of it follows.
    told: bool,
    transaction: Option<usize>,
}

/// A producer: slow, failing at any record, its commits without an answer.
pub(in crate::run) struct Courier {
    broker: Shared,
    chance: Chance,
    transactions: bool,
    flying: Option<Flying>,
    /// A transaction of this process was begun, so that what others left open has ended.
    fenced: bool,
    pub failures: u64,
    pub calm: bool,
}

impl Courier {
    pub fn new(broker: Shared, chance: Chance, transactions: bool) -> Courier {
        Courier { broker, chance, transactions, flying: None, fenced: false, failures: 0, calm: false }
    }

    pub fn is_idle(&self) -> bool {
        self.flying.is_none()
    }

    /// The process dies. What it asked of the broker last may still be done.
    pub fn die(mut self) {
        if let Some(Flying { transaction: Some(transaction), records, parcel, .. }) = self.flying.take()
            && parcel.then.is_none()
            && records.is_empty()
            && self.chance.one_in(2)
        {
            lock(&self.broker).end(transaction, true);
        }
    }

    fn fail(&mut self, flying: &Flying, reason: &str) -> Parceled {
        self.failures += 1;
        if let Some(transaction) = flying.transaction {
            // Where the abort has no answer either, the next producer ends it.
            if self.chance.one_in(2) {
                lock(&self.broker).end(transaction, false);
            }
            self.fenced = false;
        }
        Parceled::Failed(reason.to_owned())
    }
}

impl Sink for Courier {
    fn send(&mut self, mut parcel: Parcel) {
        assert!(self.flying.is_none(), "one parcel at a time");
        let mut broker = lock(&self.broker);
        if self.transactions && !std::mem::replace(&mut self.fenced, true) {
            broker.fence();
        }
        let transaction = self.transactions.then(|| broker.begin());
        drop(broker);
        let records = std::mem::replace(&mut parcel.records, Box::new(std::iter::empty())).collect();
        self.flying = Some(Flying { parcel, records, ends: Positions::new(), sent: BTreeMap::new(), told: false, transaction });
    }

    fn poll(&mut self) -> Option<Parceled> {
        let mut flying = self.flying.take()?;
        loop {
            if !self.calm && self.chance.one_in(6) {
                self.flying = Some(flying);
                return None;
            }
            if !self.calm && self.chance.one_in(40) {
                return Some(self.fail(&flying, "the broker went away"));
            }
            if let Some(record) = flying.records.pop_front() {
                let topic = record.topic.clone();
                let (partition, offset) = lock(&self.broker).append(record, 0, flying.transaction);
                if !flying.told {
                    flying.ends.insert((topic.clone(), partition as i32), offset + 1);
                    *flying.sent.entry(topic).or_default() += 1;
                }
            } else if let Some(then) = flying.parcel.then.take() {
                // What comes now has no part in where the records ended.
                flying.told = true;
                flying.records.extend(then(&flying.ends));
            } else {
                break;
            }
        }
        if let Some(transaction) = flying.transaction.take() {
            lock(&self.broker).end(transaction, true);
        }
        if !self.calm && self.chance.one_in(30) {
            self.fenced = false;
            return Some(self.fail(&flying, "the commit had no answer"));
        }
        Some(Parceled::Delivered { ends: flying.ends, sent: flying.sent })
    }
}
