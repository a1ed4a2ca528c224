//! The batch that is being filled, and for each partition the offset that must come next.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{Batch, Positions, Record};
use super::context::End;
use super::lane::Taken;

pub(super) struct Tray {
    topics: Arc<[String]>,
    batch: Batch,
    /// Least offset that goes on where the partition was, by topic and partition.
    next: Vec<BTreeMap<i32, i64>>,
}

impl Tray {
    pub(super) fn new(topics: Arc<[String]>) -> Tray {
        let next = vec![BTreeMap::new(); topics.len()];
        let batch = Batch { topics: topics.clone(), ..Batch::default() };
        Tray { topics, batch, next }
    }

    pub(super) fn records(&self) -> usize {
        self.batch.records.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.batch.bytes.len()
    }

    /// A partition was assigned at `position`; `None` is its beginning.
    pub(super) fn start(&mut self, topic: &str, partition: i32, position: Option<i64>) {
        if let Some(index) = self.index(topic) {
            self.next[index].insert(partition, position.unwrap_or(0));
        }
    }

    /// Where the partitions end for a reader: what is drained ends where the records did, for the rest is markers.
    pub(super) fn ends(&self, ends: Vec<End>, trust_drained: bool) -> Positions {
        let mut positions = Positions::new();
        for end in ends {
            let next = self.index(&end.topic).and_then(|index| self.next[index].get(&end.partition).copied());
            let offset = match next {
                Some(next) if trust_drained && end.drained => next,
                _ => end.offset,
            };
            positions.insert((end.topic, end.partition), offset);
        }
        positions
    }

    /// Copies a record into the batch.
    pub(super) fn push(&mut self, taken: &Taken<'_>) {
        let &Taken { topic, partition, offset, timestamp, key, payload } = taken;
        let Some(index) = self.index(topic) else { return };
        let next = self.next[index].entry(partition).or_insert(offset);
        let reset = offset < *next;
        if reset {
            tracing::warn!("{topic}/{partition} starts over at offset {offset}, we were at {next}: cut off or made anew at the broker");
        }
        *next = offset + 1;
        let record = Record {
            // At most as many topics as were subscribed: a handful.
            topic: index as u16,
            partition,
            offset,
            timestamp,
            key: None,
            payload: None,
            reset,
        };
        self.batch.push(record, key, payload);
    }

    fn index(&self, topic: &str) -> Option<usize> {
        self.topics.iter().position(|known| known == topic)
    }

    /// Takes the batch out; the next one gets as much room as this one needed: that of `spent`, if it is about as much. A
    /// batch takes megabytes, and memory that comes fresh from the system costs more than what is written to it.
    pub(super) fn take(&mut self, spent: Batch) -> Batch {
        let mut next = Batch { topics: self.topics.clone(), records: spent.records, bytes: spent.bytes };
        fit(&mut next.records, self.batch.records.len());
        fit(&mut next.bytes, self.batch.bytes.len());
        std::mem::replace(&mut self.batch, next)
    }
}

/// Empties `room`, and keeps it unless most of it would not be used.
fn fit<T>(room: &mut Vec<T>, needed: usize) {
    room.clear();
    if room.capacity() > 4 * needed {
        *room = Vec::new();
    }
    room.reserve(needed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, partition: i32, offset: i64) -> Taken<'_> {
        Taken { topic, partition, offset, timestamp: Some(5), key: None, payload: Some(&[7]) }
    }

    #[test]
    fn an_offset_that_goes_back_is_marked_once() {
        let mut tray = Tray::new(vec!["a".to_owned(), "b".to_owned()].into());
        tray.start("b", 0, Some(10));
        for offset in [10, 12, 0, 1] {
            tray.push(&message("b", 0, offset));
        }
        tray.push(&message("b", 1, 3));
        tray.push(&message("unknown", 0, 3));
        let batch = tray.take(Batch::default());
        assert_eq!(batch.records.iter().map(|record| record.reset).collect::<Vec<_>>(), [false, false, true, false, false]);
        assert!(batch.records.iter().all(|record| record.topic == 1 && record.timestamp == Some(5) && record.key.is_none()));
        assert_eq!(batch.payload(&batch.records[4]), Some(&[7][..]));
    }

    #[test]
    fn a_reassigned_partition_goes_back_without_a_mark() {
        let mut tray = Tray::new(vec!["a".to_owned()].into());
        tray.start("a", 0, None);
        tray.push(&message("a", 0, 8));
        tray.start("a", 0, Some(4));
        tray.push(&message("a", 0, 4));
        assert!(tray.take(Batch::default()).records.iter().all(|record| !record.reset));
    }

    #[test]
    fn markers_of_transactions_are_no_lag() {
        let mut tray = Tray::new(vec!["a".to_owned()].into());
        tray.start("a", 0, None);
        tray.start("a", 1, Some(4));
        tray.push(&message("a", 0, 8));
        let end = |partition, drained| End { topic: "a".into(), partition, offset: 20, drained };
        let at = |partition, offset| (("a".to_owned(), partition), offset);
        assert_eq!(tray.ends(vec![end(0, true), end(1, false)], true), [at(0, 9), at(1, 20)].into());
        assert_eq!(tray.ends(vec![end(0, true), end(1, true)], false), [at(0, 20), at(1, 20)].into());
        assert_eq!(tray.ends(vec![end(1, true)], true), [at(1, 4)].into());
    }

    #[test]
    fn a_spent_batch_gives_its_room_and_nothing_else() {
        let mut tray = Tray::new(vec!["a".to_owned()].into());
        let fill = |tray: &mut Tray, count: i64| (0..count).for_each(|offset| tray.push(&message("a", 0, offset)));
        fill(&mut tray, 1_000);
        let spent = tray.take(Batch::default());
        let room = spent.records.as_ptr();
        fill(&mut tray, 900);
        assert_eq!(tray.take(spent).records.len(), 900);
        fill(&mut tray, 1);
        assert_eq!((tray.records(), tray.bytes(), tray.batch.records.as_ptr()), (1, 1, room));
        // A small batch does not keep the room of a large one.
        let large = Batch { records: Vec::with_capacity(1_000), ..Batch::default() };
        tray.take(large);
        assert!(tray.batch.records.capacity() < 10);
    }
}
