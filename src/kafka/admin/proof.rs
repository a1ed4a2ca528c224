//! Proof that what was forgotten has left a compacted topic: reads it from its first offset, also what failed
//! transactions left there, and finds the first record that should be gone.
//!
//! A record that a later one of its key replaced (a tombstone too) is stale. When none is stale below an offset, every
//! record there is the newest of its key: compaction has passed. That needs no names. In addition each record is asked
//! for by the keyed hash of its key, so that a row whose tombstone never arrived is found as well.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::super::Positions;
use super::super::client::{ANSWER, ClientError, ClientSettings, Promise, Seen, creation_error, explain, producer_config};
use super::super::sink::Ledger;
use super::reader::{ReadError, Reader, TopicRecord};

/// Key of the records that only make segments roll. It is no key of a row, and has no value: readers remove nothing.
pub const HEARTBEAT: &[u8] = b"heartbeat";

/// Offsets by partition.
type Offsets = BTreeMap<i32, i64>;

/// The generation by which a record must be gone, from its key and its own generation; `None` when it may be there.
pub type MustBeGone<'q> = &'q dyn Fn(&[u8], Option<u64>) -> Option<u64>;

/// Why a topic was not looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("looking at {topic} was interrupted; it begins anew")]
    Interrupted { topic: String },
    #[error("cannot write a heartbeat to {topic}: {reason}")]
    Heartbeat { topic: String, reason: String },
}

/// What is asked of a topic.
pub struct Question<'q> {
    /// Below these offsets nothing stale may be left; read first, and only while it holds that there is more.
    pub need: &'q Offsets,
    /// How far to look when there is not.
    pub upto: &'q Offsets,
    /// Tombstones count as stale too.
    pub names: bool,
    pub gone: MustBeGone<'q>,
    /// False to give up.
    pub go_on: &'q dyn Fn() -> bool,
}

/// A record that a later one of its key replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stale {
    at: i64,
    /// The first record after it of the same key.
    by: i64,
}

/// What a pass found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// How far each partition was read.
    upto: Offsets,
    /// Of the stale records of each partition the one that was replaced first.
    stale: BTreeMap<i32, Stale>,
    /// The first tombstone of each partition.
    tombstones: Offsets,
    /// A record of a row that is gone: partition, offset, and the earliest generation by which one was gone.
    gone: Option<(i32, i64, u64)>,
    /// One key in two partitions: compaction never brings them together.
    split: Option<(i32, i32)>,
}

impl Finding {
    /// Is nothing left below `target`, of rows that were gone by `generation`?
    ///
    /// # Errors
    /// What is left and where, in words for an operator.
    pub fn covers(&self, target: &Offsets, generation: u64, names: bool) -> Result<(), String> {
        if let Some((one, other)) = self.split {
            return Err(format!(
                "partitions {one} and {other} hold the same key, which compaction never brings together: was the number of partitions \
                 changed? Start with an empty state and a new factors topic"
            ));
        }
        for (partition, &end) in target {
            if self.upto.get(partition).is_none_or(|upto| *upto < end) {
                return Err(format!("partition {partition} was not read up to offset {end}"));
            }
            if let Some(Stale { at, by }) = self.stale.get(partition).filter(|stale| stale.by < end) {
                return Err(format!("partition {partition} still has the record at offset {at}, which the one at {by} replaced"));
            }
            if let Some(at) = self.tombstones.get(partition).filter(|at| names && **at < end) {
                return Err(format!("partition {partition} still has the tombstone at offset {at}"));
            }
        }
        match self.gone {
            Some((partition, offset, by)) if by <= generation => {
                Err(format!("partition {partition} still has the record at offset {offset} of a row that is gone since generation {by}"))
            }
            _ => Ok(()),
        }
    }

    /// What reading these records up to `upto` finds, for tests of what is made of it.
    #[cfg(test)]
    pub(crate) fn of(upto: &Offsets, records: &[(i64, super::super::OutRecord)], gone: MustBeGone<'_>) -> Finding {
        Finding::of_partitions(upto, records.iter().map(|(offset, record)| (0, *offset, record)), gone)
    }

    /// As [`Finding::of`], with the partition of each record.
    #[cfg(test)]
    pub(crate) fn of_partitions<'r>(
        upto: &Offsets,
        records: impl Iterator<Item = (i32, i64, &'r super::super::OutRecord)>,
        gone: MustBeGone<'_>,
    ) -> Finding {
        let mut pass = Pass { finding: Finding { upto: upto.clone(), ..Finding::default() }, newest: HashMap::new(), gone };
        for (partition, offset, record) in records {
            let headers = record.headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
            let (key, payload) = (record.key.as_deref(), record.value.as_deref());
            pass.take(&TopicRecord { partition, offset, timestamp: None, key, payload, headers });
        }
        pass.finding
    }

    /// Records that stand against `need`, one a partition: while they are there, reading everything again shows nothing new.
    fn obstacles(&self, need: &Offsets, names: bool) -> Offsets {
        let obstacle = |(&partition, &end): (&i32, &i64)| {
            let stale = self.stale.get(&partition).filter(|stale| stale.by < end).map(|stale| stale.at);
            let tombstone = || self.tombstones.get(&partition).copied().filter(|at| names && *at < end);
            Some((partition, stale.or_else(tombstone)?))
        };
        need.iter().filter_map(obstacle).collect()
    }
}

/// A pass under way: what was seen of each key.
struct Pass<'q> {
    finding: Finding,
    /// Partition and offset of the newest record, by a hash of its key: keys may be long, and are names.
    newest: HashMap<[u8; 16], (i32, i64)>,
    gone: MustBeGone<'q>,
}

impl Pass<'_> {
    fn take(&mut self, record: &TopicRecord<'_>) {
        let key = record.key.unwrap_or_default();
        if key == HEARTBEAT {
            return;
        }
        let TopicRecord { partition, offset, .. } = *record;
        let found = &mut self.finding;
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
        match self.newest.insert(hash, (partition, offset)) {
            Some((other, at)) if other == partition => drop(found.stale.entry(partition).or_insert(Stale { at, by: offset })),
            Some((other, _)) => drop(found.split.get_or_insert((other, partition))),
            None => (),
        }
        if record.payload.is_none() {
            found.tombstones.entry(partition).or_insert(offset);
            return;
        }
        let generation = record.header("generation").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        if let Some(by) = (self.gone)(key, generation)
            && found.gone.is_none_or(|(_, _, earliest)| by < earliest)
        {
            found.gone = Some((partition, offset, by));
        }
    }
}

/// Looks at the factors topic again and again; keeps what it found last, so that most looks read one record a partition.
pub struct Prover {
    settings: ClientSettings,
    topic: String,
    last: Option<Finding>,
}

impl Prover {
    pub fn new(settings: ClientSettings, topic: String) -> Prover {
        Prover { settings, topic, last: None }
    }

    /// Looks how far the topic is clean.
    ///
    /// # Errors
    /// [`ProofError`] when the topic cannot be read.
    pub fn look(&mut self, question: &Question<'_>) -> Result<Finding, ProofError> {
        let reader = Reader::open(&self.settings, &self.topic, Seen::Everything)?;
        if let Some(last) = &self.last {
            let place = |(partition, offset): (i32, i64)| ((self.topic.clone(), partition), offset);
            let obstacles: Positions = last.obstacles(question.need, question.names).into_iter().map(place).collect();
            if !obstacles.is_empty() {
                let found = reader.first_after(&obstacles)?;
                if obstacles.iter().any(|(place, offset)| found.get(place) == Some(offset)) {
                    return Ok(last.clone());
                }
            }
        }
        let finding = self.read(reader, question)?;
        self.last = Some(finding.clone());
        Ok(finding)
    }

    fn read(&self, reader: Reader<'_>, question: &Question<'_>) -> Result<Finding, ProofError> {
        let ends: Positions = question.upto.iter().map(|(&partition, &end)| ((self.topic.clone(), partition), end)).collect();
        let starts: Positions = ends.keys().map(|place| (place.clone(), 0)).collect();
        let finding = Finding { upto: question.upto.clone(), ..Finding::default() };
        let mut pass = Pass { finding, newest: HashMap::new(), gone: question.gone };
        reader.assign(&starts)?;
        let mut whole = true;
        reader.read(starts, &ends, |record| {
            pass.take(&record);
            whole = (question.go_on)();
            if whole { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if whole { Ok(pass.finding) } else { Err(ProofError::Interrupted { topic: self.topic.clone() }) }
    }

    /// Writes one heartbeat into each partition: an open segment is cleaned only after it has closed, and it closes only
    /// when something is written past its time.
    ///
    /// # Errors
    /// [`ProofError`] when a partition did not take it.
    pub fn beat(&self) -> Result<(), ProofError> {
        let partitions = Reader::open(&self.settings, &self.topic, Seen::Everything)?.partitions()?;
        let config = producer_config(&self.settings, Promise::Acknowledged, None)?;
        let made = config.create_with_context::<_, BaseProducer<Ledger>>(Ledger::default());
        let producer = made.map_err(|error| creation_error("producer", &self.settings, error))?;
        let failed = |error| ProofError::Heartbeat { topic: self.topic.clone(), reason: explain(&self.settings.brokers, &error) };
        for (topic, partition) in &partitions {
            let record = BaseRecord::<[u8], [u8]>::to(topic).key(HEARTBEAT).partition(*partition);
            producer.send(record).map_err(|(error, _)| failed(error))?;
        }
        producer.flush(ANSWER).map_err(failed)?;
        let tally = producer.context().read();
        tally.failure.clone().map_or(Ok(()), |(error, _)| Err(failed(error)))
    }
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
