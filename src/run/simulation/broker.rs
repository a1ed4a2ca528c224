//! A broker: topics of partitions, transactions, and a cleaner. Only committed records count for a `read_committed`
//! reader, and only up to the first transaction that is still open.

use std::collections::BTreeMap;

use crate::kafka::OutRecord;
use crate::kafka::admin::HEARTBEAT;

use super::chance::Chance;

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

/// One record where it lies.
#[derive(Debug, Clone)]
pub(in crate::run) struct Entry {
    pub offset: i64,
    pub timestamp: i64,
    pub record: OutRecord,
    transaction: Option<usize>,
}

/// One partition.
#[derive(Debug, Clone, Default)]
pub(in crate::run) struct Log {
    pub entries: Vec<Entry>,
    /// Offset of the next record.
    pub end: i64,
    /// Times that the partition was made anew; the consumer noticed the first `noticed` of them.
    pub epoch: u64,
    pub noticed: u64,
    /// Records from here on are in the open segment, which is not cleaned.
    open_from: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::run) struct Broker {
    topics: BTreeMap<String, Vec<Log>>,
    fates: Vec<Fate>,
    /// Counts everything that a reader could see.
    pub version: u64,
}

impl Broker {
    pub fn create(&mut self, topic: &str, partitions: usize) {
        self.topics.insert(topic.to_owned(), vec![Log::default(); partitions]);
    }

    pub fn logs(&self, topic: &str) -> &[Log] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    pub fn log(&mut self, topic: &str, partition: usize) -> &mut Log {
        self.version += 1;
        &mut self.topics.get_mut(topic).expect("a topic that was created")[partition]
    }

    /// All records of one key go to one partition.
    fn partition(&self, record: &OutRecord) -> usize {
        let sum: usize = record.key.as_deref().unwrap_or_default().iter().map(|&byte| usize::from(byte)).sum();
        sum % self.logs(&record.topic).len()
    }

    pub fn begin(&mut self) -> usize {
        self.fates.push(Fate::Open);
        self.fates.len() - 1
    }

    /// Appends; answers partition and offset.
    pub fn append(&mut self, record: OutRecord, timestamp: i64, transaction: Option<usize>) -> (usize, i64) {
        let partition = self.partition(&record);
        let topic = record.topic.clone();
        (partition, self.log(&topic, partition).push(record, timestamp, transaction))
    }

    /// Ends a transaction; its marker takes an offset in every partition that it wrote to.
    pub fn end(&mut self, transaction: usize, commit: bool) {
        self.version += 1;
        self.fates[transaction] = if commit { Fate::Committed } else { Fate::Aborted };
        for log in self.topics.values_mut().flatten() {
            if log.entries.iter().any(|entry| entry.transaction == Some(transaction)) {
                log.end += 1;
            }
        }
    }

    /// What a producer does before its first transaction: whatever was left open ends.
    pub fn fence(&mut self) {
        for transaction in 0..self.fates.len() {
            if self.fates[transaction] == Fate::Open {
                self.end(transaction, false);
            }
        }
    }

    fn fate(&self, entry: &Entry) -> Fate {
        entry.transaction.map_or(Fate::Committed, |transaction| self.fates[transaction])
    }

    /// What a `read_committed` reader gets of a partition, from its first record on.
    pub fn committed<'b>(&'b self, log: &'b Log) -> impl Iterator<Item = &'b Entry> {
        let closed = log.entries.iter().take_while(|entry| self.fate(entry) != Fate::Open);
        closed.filter(|entry| self.fate(entry) == Fate::Committed)
    }

    /// One record a partition, so that segments roll.
    pub fn beat(&mut self, topic: &str) {
        for partition in 0..self.logs(topic).len() {
            let record = OutRecord { topic: topic.to_owned(), key: Some(HEARTBEAT.to_vec()), value: None, headers: Vec::new() };
            self.log(topic, partition).push(record, 0, None);
        }
    }

    /// Closes open segments and cleans closed ones, here and there.
    pub fn clean(&mut self, topic: &str, chance: &mut Chance, all: bool) {
        for partition in 0..self.logs(topic).len() {
            if all || chance.one_in(2) {
                let log = self.log(topic, partition);
                log.open_from = log.end;
            }
            if all || chance.one_in(2) {
                let tombstones = all || chance.one_in(3);
                self.compact(topic, partition, tombstones);
            }
        }
    }

    /// Of the closed segments keeps the newest committed record of each key; removes tombstones of which it is sure.
    fn compact(&mut self, topic: &str, partition: usize, tombstones: bool) {
        let log = &self.topics[topic][partition];
        // The cleaner stops at the first transaction that is open.
        let undecided = log.entries.iter().find(|entry| self.fate(entry) == Fate::Open).map_or(i64::MAX, |entry| entry.offset);
        let upto = log.open_from.min(undecided);
        let mut newest: BTreeMap<&[u8], i64> = BTreeMap::new();
        for entry in log.entries.iter().filter(|entry| entry.offset < upto && self.fate(entry) == Fate::Committed) {
            newest.insert(entry.record.key.as_deref().unwrap_or_default(), entry.offset);
        }
        let stays = |entry: &&Entry| {
            let last = newest.get(entry.record.key.as_deref().unwrap_or_default()) == Some(&entry.offset);
            let gone = entry.record.value.is_none() && tombstones;
            entry.offset >= upto || (last && !gone && self.fate(entry) == Fate::Committed)
        };
        let kept: Vec<Entry> = log.entries.iter().filter(stays).cloned().collect();
        self.log(topic, partition).entries = kept;
    }
}

impl Log {
    pub fn push(&mut self, record: OutRecord, timestamp: i64, transaction: Option<usize>) -> i64 {
        let offset = self.end;
        self.entries.push(Entry { offset, timestamp, record, transaction });
        self.end += 1;
        offset
    }

    /// The partition is deleted and made anew; producers send again what nobody has read, `from` on. Only where that leaves
    /// it shorter than what was read: else no consumer could notice.
    pub fn start_over(&mut self, from: i64) -> bool {
        let unread: Vec<Entry> = self.entries.iter().filter(|entry| entry.offset >= from).cloned().collect();
        if self.epoch > self.noticed || unread.len() as i64 >= from {
            return false;
        }
        *self = Log { epoch: self.epoch + 1, noticed: self.noticed, ..Log::default() };
        for entry in unread {
            self.push(entry.record, entry.timestamp, None);
        }
        true
    }
}
