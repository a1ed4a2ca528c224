//! Taking a batch in: while one step is written, the next is decided.

use super::service::{Service, TurnError};
use crate::kafka::{Batch, Source};
use crate::model::Millis;
use crate::model::step::{Input, Outgoing, Step, Tally};

/// A step that is being written, and when its batch was taken in.
pub(super) type Untold = (Step, Millis);

impl Service {
    /// Decides what a batch changes and hands it to the store. The step before must be durable then: memory is ahead of
    /// the store by what is being decided and what is being written, and by nothing else.
    pub(super) fn take_in(&mut self, batch: &Batch, source: &mut dyn Source, now: Millis) -> Result<(), TurnError> {
        let inputs = batch.records.iter().map(|record| Input {
            topic: record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            reset: record.reset,
            key: batch.key(record),
            payload: batch.payload(record),
        });
        let mut step = self.state.fold(&batch.topics, inputs, now, &self.tables)?;
        self.settle(source)?;
        self.tables.commit_behind(&step, self.state.dictionary())?;
        step.plays = Vec::new();
        self.outbox += step.outbox.len() as u64;
        self.letter_bytes += step.outbox.iter().map(Outgoing::letter_bytes).sum::<u64>();
        let Tally { interactions, forgets, .. } = step.tally;
        if interactions + forgets > 0 || !step.erased.is_empty() {
            self.first_change.get_or_insert(now);
        }
        if forgets > 0 {
            self.first_forget.get_or_insert(now);
        }
        if interactions + forgets > 0 {
            self.ages.push((now, interactions + forgets));
        }
        self.untold = Some((step, now));
        Ok(())
    }

    /// Waits until the step that is being written is durable; only then are its offsets and counts told. False when there
    /// is none.
    pub(super) fn settle(&mut self, source: &mut dyn Source) -> Result<bool, TurnError> {
        let Some((step, at)) = self.untold.take() else { return Ok(false) };
        self.tables.settle()?;
        self.stored.extend(step.positions.clone());
        source.stored(&self.stored);
        self.tell(&step, at);
        Ok(true)
    }
}

#[cfg(test)]
#[path = "taking_tests.rs"]
mod tests;
