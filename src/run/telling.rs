//! What the loop says about itself: counters, log lines and the board, from the facts of each step.

use std::collections::BTreeMap;

use super::service::Service;
use crate::kafka::Source;
use crate::metrics::{Committed, Happening};
use crate::model::Millis;
use crate::model::event::Refusal;
use crate::model::receipt::{Manifest, Receipt, RequestKey, Status};
use crate::model::step::{Outgoing, Step, Tally};

impl Service {
    /// Counters and log lines of a step.
    pub(super) fn tell(&self, step: &Step, now: Millis) {
        let Tally { interactions, fenced, forgets, repeated, rejected, empty, seen } = step.tally;
        for (kind, outcome, count) in [
            ("interaction", "accepted", interactions),
            ("interaction", "fenced", fenced),
            ("interaction", "duplicate_offset", seen),
            ("forget", "accepted", forgets),
            ("forget", "ignored", repeated),
            ("forget", "rejected", rejected),
            ("empty", "ignored", empty),
        ] {
            if count > 0 {
                self.metrics.observe(&Happening::Events { kind, outcome, count });
            }
        }
        for message in &step.outbox {
            match message {
                Outgoing::DeadLetter(letter) => {
                    let error = Refusal::CODES.iter().find(|code| **code == letter.error).copied().unwrap_or("invalid_json");
                    let (topic, partition, offset) = (&*letter.topic, letter.partition, letter.offset);
                    self.metrics.observe(&Happening::DeadLetter { error, topic, partition, offset });
                }
                Outgoing::Receipt(receipt) if receipt.status == Status::Rejected => self.tell_receipt(receipt, now),
                _ => (),
            }
        }
        for (_, request) in &step.requests {
            for status in [Status::Accepted, request.receipt.status] {
                self.tell_receipt(&Receipt { status, ..request.receipt.clone() }, now);
            }
        }
        self.board.accepted(interactions + forgets);
    }

    pub(super) fn tell_receipt(&self, receipt: &Receipt, now: Millis) {
        let accepted = receipt.stages.accepted.map_or(now, |at| at.as_millisecond());
        let hash = short(&self.state.fences().key().request(&receipt.request_id));
        self.metrics.observe(&Happening::Forget {
            status: receipt.status.name(),
            seconds_since_accept: (now - accepted).max(0) as f64 / 1e3,
            request_hash: &hash,
        });
    }

    pub(super) fn tell_sent(&self, sent: &BTreeMap<String, u64>) {
        for (topic, &count) in sent {
            self.metrics.observe(&Happening::Published { topic, count });
        }
    }

    /// Gauges that need no event: lag, outbox, pending forgets, sizes. Called now and then.
    pub fn observe(&self, source: &dyn Source, now: Millis) {
        let state = source.state();
        self.metrics.observe(&Happening::Assigned { partitions: &state.assigned });
        let mut lag = Vec::new();
        for (topic, partition) in &state.assigned {
            let at = (topic.clone(), *partition);
            let next = self.state.positions().get(&at).copied().unwrap_or(0);
            // Without news of the end there is no lag to tell.
            let Some(&end) = state.ends.get(&at) else { continue };
            let records = (end - next).max(0) as u64;
            self.metrics.observe(&Happening::Lag { topic, partition: *partition, records });
            lag.push((topic.clone(), *partition, next, end));
        }
        self.metrics.observe(&Happening::Outbox { records: self.outbox });
        self.metrics.observe(&Happening::Fences { rules: self.state.fences().len() });
        let mut stages: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut oldest = None;
        for request in self.state.waiting().values() {
            *stages.entry(request.receipt.status.name()).or_default() += 1;
            oldest = oldest.min(request.receipt.stages.accepted).or(request.receipt.stages.accepted);
        }
        let oldest_seconds = oldest.map_or(0.0, |at: jiff::Timestamp| (now - at.as_millisecond()).max(0) as f64 / 1e3);
        let (unpurged, published) = self.purging.pending();
        stages.insert(Status::Published.name(), unpurged);
        let unpurged_seconds = published.map_or(0.0, |at| (now - at).max(0) as f64 / 1e3);
        self.metrics.observe(&Happening::Unpurged { oldest_seconds: unpurged_seconds });
        self.board.purging(self.purging.shown());
        // A store that cannot be read ends the loop at its next step.
        if let Ok(backups) = self.tables.backups(self.keep.backups_since(now)) {
            let newest = backups.map_or(0.0, |backups| backups.newest.as_millisecond() as f64 / 1e3);
            self.metrics.observe(&Happening::Backups { count: backups.map_or(0, |backups| backups.count), newest_seconds: newest });
            self.board.backups(backups);
        }
        let stages: Vec<_> = stages.into_iter().collect();
        self.metrics.observe(&Happening::Pending { stages: &stages, oldest_seconds });
        let sizes = self.tables.store().sizes();
        for (family, bytes) in &sizes {
            self.metrics.observe(&Happening::StoreBytes { family: family.name(), bytes: *bytes });
        }
        let sizes = sizes.iter().map(|(family, bytes)| (family.name(), *bytes)).collect();
        self.board.observed(&state, lag, &stages, oldest_seconds, self.outbox, sizes, self.state.fences().len(), now);
    }
}

/// A generation as the metrics tell it.
pub(super) fn committed<'a>(manifest: &'a Manifest, phases: &'a [(&'static str, f64)]) -> Committed<'a> {
    let (certificate, counts) = (&manifest.certificate, &manifest.counts);
    Committed {
        number: manifest.generation,
        created_seconds: manifest.created.as_millisecond() as f64 / 1e3,
        sweeps: u64::from(certificate.sweeps),
        residual: certificate.residual,
        tolerance: certificate.tolerance,
        objective: certificate.objective,
        gap: certificate.gap,
        rank: manifest.model.params.rank as u64,
        effective_rank: certificate.effective_rank.unwrap_or(0) as u64,
        rank_binds: certificate.rank_binds,
        refused: certificate.refused.as_deref(),
        warning: certificate.warning.as_deref(),
        users: counts.users,
        items: counts.items,
        interactions: counts.interactions,
        phases,
        certified: certificate.holds(),
        interim: manifest.interim,
    }
}

/// Enough of a request's keyed hash to follow it through a log.
fn short(key: &RequestKey) -> String {
    key[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
