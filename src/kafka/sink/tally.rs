//! Counts what the brokers acknowledge. Filled by delivery reports, on the thread that polls the producer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::Message;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};

use super::super::Positions;
use super::super::client;
use super::super::trouble::Trouble;

/// Time between two polls for delivery reports: the delay that it can add to what waits for them.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// Waits for delivery reports, asleep: a poll with a timeout goes on until it is over, and spins for its last millisecond.
pub(crate) fn wait(producer: &BaseProducer<Ledger>) {
    let before = producer.context().settled();
    producer.poll(Duration::ZERO);
    if producer.context().settled() == before {
        std::thread::sleep(PAUSE);
    }
}

/// What became of the records since the last [`Ledger::reset`].
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub acknowledged: u64,
    pub failed: u64,
    /// Records acknowledged, by topic.
    pub sent: BTreeMap<String, u64>,
    /// Last offset + 1, by topic and partition.
    ends: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Partitions that have a record whose offset the broker did not tell (it knew the record from an earlier try).
    pub unknown: Vec<(String, i32)>,
    /// The first failure, and the topic of the record.
    pub failure: Option<(KafkaError, String)>,
}

impl Tally {
    pub(super) fn ends(&self) -> Positions {
        let flat = |(topic, of_topic): (&String, &BTreeMap<i32, i64>)| {
            let topic = topic.clone();
            of_topic.iter().map(move |(&partition, &end)| ((topic.clone(), partition), end)).collect::<Vec<_>>()
        };
        self.ends.iter().flat_map(flat).collect()
    }

    fn acknowledge(&mut self, topic: &str, partition: i32, offset: i64) {
        self.acknowledged += 1;
        // By `&str` first: a name is copied once per topic, not once per record.
        match self.sent.get_mut(topic) {
            Some(count) => *count += 1,
            None => drop(self.sent.insert(topic.to_owned(), 1)),
        }
        if offset < 0 {
            let place = (topic.to_owned(), partition);
            if !self.unknown.contains(&place) {
                self.unknown.push(place);
            }
            return;
        }
        match self.ends.get_mut(topic) {
            Some(of_topic) => {
                let end = of_topic.entry(partition).or_insert(0);
                *end = (*end).max(offset + 1);
            }
            None => drop(self.ends.insert(topic.to_owned(), BTreeMap::from([(partition, offset + 1)]))),
        }
    }
}

/// The producer's context.
#[derive(Default)]
pub(crate) struct Ledger {
    tally: Mutex<Tally>,
    pub trouble: Trouble,
}

impl Ledger {
    pub(crate) fn read(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reset(&self) {
        *self.read() = Tally::default();
    }

    /// Records reported on, one way or the other.
    pub(crate) fn settled(&self) -> u64 {
        let tally = self.read();
        tally.acknowledged + tally.failed
    }
}

impl rdkafka::ClientContext for Ledger {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.trouble.heard(facility, message);
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // What matters comes back with a record or a call; the rest is a broker that comes and goes.
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ProducerContext for Ledger {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut tally = self.read();
        match result {
            Ok(message) => tally.acknowledge(message.topic(), message.partition(), message.offset()),
            Err((error, message)) => {
                tally.failed += 1;
                if tally.failure.is_none() {
                    tally.failure = Some((error.clone(), message.topic().to_owned()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_the_highest_and_unknown_offsets_are_kept_apart() {
        let mut tally = Tally::default();
        for (topic, partition, offset) in [("a", 0, 4), ("a", 0, 3), ("a", 1, 0), ("b", 0, -1001), ("b", 0, -1001)] {
            tally.acknowledge(topic, partition, offset);
        }
        assert_eq!(tally.ends(), [(("a".to_owned(), 0), 5), (("a".to_owned(), 1), 1)].into());
        assert_eq!(tally.sent, [("a".to_owned(), 3), ("b".to_owned(), 2)].into());
        assert_eq!((tally.acknowledged, tally.unknown), (5, vec![("b".to_owned(), 0)]));
    }
}
