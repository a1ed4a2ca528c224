//! The way out: the outbox in groups to the sink, and what becomes of them.

use super::allocator;
use super::parcel::{Packer, factor_ends};
use super::restoring::Restoring;
use super::service::{Service, TurnError};
use crate::kafka::{Parcel, Parceled, Positions, Sink};
use crate::metrics::Happening;
use crate::model::Millis;
use crate::model::factors::Side;
use crate::model::step::{Outgoing, RowChange};

/// A group of outbox rows that is on its way.
pub(super) struct Sending {
    pub(super) sequences: Vec<u64>,
    pub(super) letter_bytes: u64,
    /// The generation that it ends, with all its rows.
    pub(super) generation: Option<Vec<(Side, u32, RowChange)>>,
    pub(super) since: Millis,
}

impl Service {
    pub(super) fn send(&mut self, sink: &mut dyn Sink, now: Millis) -> Result<bool, TurnError> {
        let known = self.restoring.as_ref().map(Restoring::published);
        if known == Some(None) {
            return Ok(false);
        }
        let group = self.tables.next_group()?;
        let doubt = std::mem::take(&mut self.contested);
        if group.is_empty() && !doubt {
            (self.outbox, self.letter_bytes, self.unpublished) = (0, 0, false);
            return Ok(false);
        }
        let packer = Packer {
            topics: &self.topics,
            signer: &self.signer,
            dictionary: self.state.dictionary(),
            current: self.state.current(),
            known: known.flatten(),
        };
        let parcel = Parcel { doubt, ..packer.parcel(&group) };
        let ends_generation = group.iter().any(|(_, message)| matches!(message, Outgoing::Manifest { .. }));
        let mut rows = Vec::new();
        for (_, message) in &group {
            if let Outgoing::Rows { rows: more, .. } = message {
                rows.extend(more);
            }
        }
        self.sending = Some(Sending {
            sequences: group.iter().map(|(sequence, _)| *sequence).collect(),
            letter_bytes: group.iter().map(|(_, message)| message.letter_bytes()).sum(),
            generation: ends_generation.then_some(rows),
            since: now,
        });
        sink.send(parcel);
        Ok(true)
    }

    pub(super) fn parceled(&mut self, parceled: Parceled, now: Millis) -> Result<(), TurnError> {
        let Some(sending) = self.sending.take() else { return Ok(()) };
        let (ends, sent) = match parceled {
            Parceled::Delivered { ends, sent } => (ends, sent),
            Parceled::Failed(reason) => {
                self.metrics.observe(&Happening::PublishFailed { reason: &reason });
                self.board.sink_trouble(Some(reason));
                self.sink_pause.fail(now);
                return Ok(());
            }
            Parceled::Superseded(reason) => return Err(TurnError::Superseded(reason)),
        };
        self.sink_pause.succeed();
        self.board.sink_trouble(None);
        self.tell_sent(&sent);
        match &sending.generation {
            None => self.tables.commit_delivered(&sending.sequences, None)?,
            Some(rows) => self.publish(&sending, rows, &ends, now)?,
        }
        self.outbox -= (sending.sequences.len() as u64).min(self.outbox);
        self.letter_bytes -= sending.letter_bytes.min(self.letter_bytes);
        Ok(())
    }

    fn publish(&mut self, sending: &Sending, rows: &[(Side, u32, RowChange)], ends: &Positions, now: Millis) -> Result<(), TurnError> {
        let published = self.state.published(&factor_ends(&self.topics.factors, ends), rows, now);
        let Some(current) = self.state.current() else { return Ok(()) };
        self.tables.commit_delivered(&sending.sequences, Some((&published, current)))?;
        self.outbox += published.outbox.len() as u64;
        self.unpublished = false;
        allocator::give_back_after(rows.len() as u64);
        self.restored();
        self.purging.published(&published.requests, now);
        published.requests.iter().for_each(|(_, request)| self.tell_receipt(&request.receipt, now));
        for (seen, count) in std::mem::take(&mut self.ages_adopted) {
            self.metrics.observe(&Happening::EventAge { seconds: (now - seen).max(0) as f64 / 1e3, count });
        }
        self.metrics.observe(&Happening::Phase { phase: "publish", seconds: (now - sending.since).max(0) as f64 / 1e3 });
        self.show_model();
        Ok(())
    }
}
