//! What the loop says about itself: counters, log lines and the board, from the facts of each step.

use std::collections::BTreeMap;

use super::board::Waiting;
use super::service::Service;
use crate::http::Views;
use crate::kafka::Source;
use crate::metrics::{Committed, Happening};
use crate::model::Millis;
use crate::model::event::Refusal;
use crate::model::receipt::{Manifest, Receipt, Request, RequestKey, Status};
use crate::model::step::{Outgoing, Step, Tally};
use crate::store::Disk;

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
            let next = self.stored.get(&at).copied().unwrap_or(0);
            // Without news of the end there is no lag to tell.
            let Some(&end) = state.ends.get(&at) else { continue };
            let records = (end - next).max(0) as u64;
            self.metrics.observe(&Happening::Lag { topic, partition: *partition, records });
            lag.push((topic.clone(), *partition, next, end));
        }
        self.metrics.observe(&Happening::Outbox { records: self.outbox });
        self.metrics.observe(&Happening::Fences { rules: self.state.fences().len() });
        let since = |at: Option<Millis>| at.map_or(0.0, |at| (now - at).max(0) as f64 / 1e3);
        // Of each stage how many, and since when the first of them.
        let mut stages: BTreeMap<&'static str, (u64, Option<Millis>)> = BTreeMap::new();
        let mut oldest: Option<Millis> = None;
        for Request { receipt, .. } in self.state.waiting().values() {
            let accepted = receipt.stages.accepted.map(|at| at.as_millisecond());
            let (count, first) = stages.entry(receipt.status.name()).or_default();
            *count += 1;
            *first = earlier(*first, receipt.reached().map(|at| at.as_millisecond()));
            oldest = earlier(oldest, accepted);
        }
        let oldest_seconds = since(oldest);
        let unpurged = self.purging.pending();
        stages.insert(Status::Published.name(), unpurged);
        self.metrics.observe(&Happening::Unpurged { oldest_seconds: since(unpurged.1) });
        self.board.purging(self.purging.shown());
        // A store that cannot be read ends the loop at its next step.
        if let Ok(backups) = self.tables.backups(self.keep.backups_since(now)) {
            let newest = backups.map_or(0.0, |backups| backups.newest.as_millisecond() as f64 / 1e3);
            self.metrics.observe(&Happening::Backups { count: backups.map_or(0, |backups| backups.count), newest_seconds: newest });
            self.board.backups(backups);
        }
        let pending: Vec<_> = stages.iter().map(|(&stage, &(count, _))| (stage, count)).collect();
        self.metrics.observe(&Happening::Pending { stages: &pending, oldest_seconds });
        let stages = stages.into_iter().map(|(stage, (count, first))| Waiting { stage, count, longest_seconds: since(first) }).collect();
        let unseen = [&self.ages_adopted, &self.ages_under_way, &self.ages].into_iter().find_map(|ages| ages.first());
        let seconds = unseen.map_or(0.0, |(seen, _)| (now - seen).max(0) as f64 / 1e3);
        self.metrics.observe(&Happening::EventOldest { seconds });
        if let Some(Disk { bytes, free }) = self.tables.store().disk() {
            self.metrics.observe(&Happening::Disk { bytes, free });
        }
        let sizes = self.tables.store().sizes();
        for (family, bytes) in &sizes {
            self.metrics.observe(&Happening::StoreBytes { family: family.name(), bytes: *bytes });
        }
        let sizes = sizes.iter().map(|(family, bytes)| (family.name(), *bytes)).collect();
        self.board.observed(&state, lag, stages, oldest_seconds, self.outbox, sizes, self.state.fences().len(), now);
        self.metrics.observe(&Happening::Ready { ready: self.board.ready().is_ok() });
    }
}

fn earlier(one: Option<Millis>, other: Option<Millis>) -> Option<Millis> {
    one.into_iter().chain(other).min()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::Signed;
    use crate::kafka::{Batch, Positions, SourceState};
    use crate::model::Objective;
    use crate::run::keyring::Keyring;
    use crate::run::simulation::*;

    /// A source that says nothing.
    struct Still;

    impl Source for Still {
        fn poll(&mut self) -> Option<Batch> {
            None
        }

        fn stored(&mut self, _: &Positions) {}

        fn state(&self) -> SourceState {
            SourceState::default()
        }
    }

    fn oldest(service: &Service, now: Millis) -> f64 {
        service.observe(&Still, now);
        let text = service.metrics.render();
        let line = text.lines().find(|line| line.starts_with("nepenthe_event_oldest_seconds ")).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// From being read until a generation with them is published; a restart counts anew, for what is committed and not seen.
    #[test]
    fn events_that_no_reader_sees_grow_old() {
        let (mut world, params) = (World::default(), params(Objective::Implicit, 1));
        world.inputs[0] = (0..3).map(|n| format!(r#"{{"user":"u{n}","item":"i","time":{n}}}"#)).collect();
        let (mut service, mut shell) = open(&world, &params, Duration::MAX);
        assert_eq!(oldest(&service, 500), 0.0);
        shell.take = (0, 1);
        turn(&mut world, &mut service, &mut shell, 1_000, false);
        turn(&mut world, &mut service, &mut shell, 3_000, false);
        assert_eq!(oldest(&service, 3_500), 2.5);
        shell.take = (0, 0);
        turn(&mut world, &mut service, &mut shell, 9_000, false);
        assert!(shell.job.is_some(), "a solve is under way");
        assert_eq!(oldest(&service, 9_000), 8.0);

        let (mut service, mut shell) = open(&world, &params, Duration::MAX);
        assert_eq!(oldest(&service, 4_000), 4.0, "the restart was at 0");
        settle(&mut world, &mut service, &mut shell, &mut 5_000);
        assert_eq!(oldest(&service, 90_000), 0.0);
    }

    /// The age of a request counts from its acceptance, that of its stage from when it came there.
    #[test]
    fn a_request_that_waits_is_told_with_its_stage() {
        let (mut world, params) = (World::default(), params(Objective::Implicit, 1));
        world.inputs[0] = (0..3).map(|n| format!(r#"{{"user":"u{n}","item":"i","time":{n}}}"#)).collect();
        world.inputs[1] = vec![r#"{"request_id":"r","user":"u1","time":9}"#.to_owned()];
        let (mut service, mut shell) = open(&world, &params, Duration::MAX);
        shell.take = (0, 3);
        turn(&mut world, &mut service, &mut shell, 1_000, false);
        shell.take = (1, 1);
        turn(&mut world, &mut service, &mut shell, 2_000, false);
        service.observe(&Still, 3_500);
        let told = service.board.status()["forgets"].clone();
        assert_eq!((&told["pending"]["erased"], &told["pending"]["published"]), (&1.into(), &0.into()));
        assert_eq!((&told["longest_seconds"]["erased"], &told["oldest_seconds"]), (&1.5.into(), &1.5.into()));
        settle(&mut world, &mut service, &mut shell, &mut 5_000);
        let receipt = service.board.receipt("r").unwrap().unwrap();
        let published = serde_json::from_slice::<Receipt>(&receipt.value).unwrap().reached().unwrap().as_millisecond();
        service.observe(&Still, published + 4_000);
        let told = service.board.status()["forgets"].clone();
        assert_eq!((&told["longest_seconds"]["published"], &told["oldest_seconds"]), (&4.0.into(), &0.0.into()));
    }

    /// Who checks a signature needs the bytes that were signed.
    #[test]
    fn the_page_answers_what_the_topic_holds() {
        let (mut world, params) = (World::default(), params(Objective::Implicit, 1));
        world.inputs[0] = (0..3).map(|n| format!(r#"{{"user":"u{n}","item":"i","time":{n}}}"#)).collect();
        world.inputs[1] = vec![r#"{"request_id":"r","user":"u1","time":9}"#.to_owned()];
        let (mut service, mut shell) = open(&world, &params, Duration::MAX);
        settle(&mut world, &mut service, &mut shell, &mut 5_000);
        assert_eq!(service.board.receipt("r").unwrap().unwrap().signature, None, "nobody signs yet");
        service.board.signing(&Keyring::default(), service.signer.clone());
        let record = world.outputs[&service.topics.receipts].last().unwrap();
        let header = |wanted: &str| {
            let found = record.headers.iter().find(|(name, _)| *name == wanted).unwrap();
            String::from_utf8(found.1.clone()).unwrap()
        };
        let signed = Signed { value: record.value.clone().unwrap(), signature: Some((header("key_id"), header("signature"))) };
        assert_eq!(service.board.receipt("r").unwrap(), Some(signed));
        assert_eq!(service.board.receipt("another").unwrap(), None);
    }
}
