//! The way in and the way out: what the loop needs from Kafka, as traits, and librdkafka behind them.
//!
//! Both ports are polled and never block. Each rings the [`Bell`] it was given whenever a poll would
//! answer something, so that the loop sleeps without missing anything.

pub mod admin;
pub mod client;
#[cfg(test)]
mod mock;
pub mod sink;
pub mod source;
mod trouble;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Next offset to read, per topic and partition.
pub type Positions = BTreeMap<(String, i32), i64>;

/// Wakes the loop. Cheap to clone; ringing twice wakes once.
#[derive(Clone, Default)]
pub struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    /// Makes the current or the next [`Bell::wait`] return at once.
    pub fn ring(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Sleeps until somebody rings or `timeout` has passed.
    pub fn wait(&self, timeout: Duration) {
        let rung = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) = self.0.1.wait_timeout_while(rung, timeout, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

/// Records of one or more partitions, in the order of each partition, with their bytes in one arena.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The topics that `Record::topic` points into.
    pub topics: Arc<[String]>,
    /// Records, ascending by offset within a partition.
    pub records: Vec<Record>,
    /// Payloads and keys, end to end.
    pub bytes: Vec<u8>,
}

/// One record of a [`Batch`]; its bytes live in the batch's arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Index into [`Batch::topics`].
    pub topic: u16,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch; `None` when the broker has none.
    pub timestamp: Option<i64>,
    /// Range of the key in the arena.
    pub key: Option<(usize, usize)>,
    /// Range of the payload in the arena; `None` for a record without a value.
    pub payload: Option<(usize, usize)>,
    /// The broker no longer had the offset we asked for and the partition starts over here:
    /// the one case in which an offset may go back.
    pub reset: bool,
}

impl Batch {
    /// The record's payload, `None` for a tombstone.
    pub fn payload(&self, record: &Record) -> Option<&[u8]> {
        record.payload.map(|(start, end)| &self.bytes[start..end])
    }

    /// The record's key.
    pub fn key(&self, record: &Record) -> Option<&[u8]> {
        record.key.map(|(start, end)| &self.bytes[start..end])
    }

    /// Copies one record to the end of the batch.
    pub fn push(&mut self, mut record: Record, key: Option<&[u8]>, payload: Option<&[u8]>) {
        let mut keep = |part: Option<&[u8]>| {
            part.map(|part| {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(part);
                (start, self.bytes.len())
            })
        };
        record.key = keep(key);
        record.payload = keep(payload);
        self.records.push(record);
    }
}

/// What is known of the way in, for `/readyz`, lag and the status page.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// Partitions this process reads.
    pub assigned: Vec<(String, i32)>,
    /// End of each assigned partition as last heard of (exclusive).
    pub ends: Positions,
    /// Why nothing can be read just now (broker away, topic missing), in words for an operator.
    pub trouble: Option<String>,
    /// Rebalances seen since the start.
    pub rebalances: u64,
}

/// The way in.
pub trait Source: Send {
    /// The next batch, if one is here. Never blocks.
    fn poll(&mut self) -> Option<Batch>;
    /// Takes back a batch that is of no more use: its room serves a later one.
    fn spent(&mut self, _batch: Batch) {}
    /// What the loop has stored: where a reassigned partition resumes, and what is committed to the
    /// group for lag tools.
    fn stored(&mut self, positions: &Positions);
    fn state(&self) -> SourceState;
    /// Did somebody take our place in the group since the last call? It may be a later process on a copy of the state, or
    /// a request of our own that came late: the group does not tell, the [`Claim`] does.
    fn contested(&mut self) -> bool {
        false
    }
}

/// One record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRecord {
    pub topic: String,
    /// `None` is a record without a key, which is not one with an empty key.
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

/// Records that are made one by one as they are sent: those of a generation together are several times its size.
pub type Records = Box<dyn Iterator<Item = OutRecord> + Send>;

/// Makes the last records of a [`Parcel`] from where its first ones ended.
pub type Then = Box<dyn FnOnce(&Positions) -> Vec<OutRecord> + Send>;

/// What must hold before a producer sends its first parcel: nobody else has written meanwhile. A producer that was fenced is
/// replaced by one that fences the other in turn, so only what was published tells which of two is the later.
pub struct Claim {
    /// The topic to read from its first to its last committed record.
    pub topic: String,
    pub holds: Holds,
}

/// Says of a value why it is not ours, if it is not.
pub type Holds = Box<dyn Fn(&[u8]) -> Result<(), String> + Send>;

/// Records that become visible together (one Kafka transaction where the broker has them).
pub struct Parcel {
    pub records: Records,
    /// Called once all `records` are acknowledged, with the end offset (last + 1) that they reached in each
    /// partition of each topic; what it returns is sent in the same transaction. Here the manifest learns its `upto`.
    pub then: Option<Then>,
    /// Looked at by each new producer, after it has locked out all others with its identity.
    pub claim: Option<Claim>,
    /// A new producer is wanted: there may be another process with our identity.
    pub doubt: bool,
}

/// What became of a [`Parcel`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parceled {
    /// All acknowledged (and committed); end offsets reached by `records` per topic and partition, and the number
    /// of records sent per topic.
    Delivered { ends: Positions, sent: BTreeMap<String, u64> },
    /// Nothing of it counts; it may be handed in again. In words for an operator.
    Failed(String),
    /// Its [`Claim`] does not hold: this process must not write again.
    Superseded(String),
}

/// The way out. One parcel is under way at a time.
pub trait Sink: Send {
    /// Starts to send. Must not be called before the last parcel has come back through [`Sink::poll`].
    fn send(&mut self, parcel: Parcel);
    /// What became of the parcel, once. Never blocks.
    fn poll(&mut self) -> Option<Parceled>;
}
