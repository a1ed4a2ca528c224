//! The last stage of a forget: published, then gone from the disk, then gone from the factors topic, then `purged`.
//!
//! Decides only; a [`Purger`] does the work beside the loop. Nothing of it is kept but what the store has anyway: which
//! requests are published, where deletions left bytes, which rows are gone. A restart begins the proof anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use super::purger::{Order, Purged, Purger, TopicOrder};
use super::service::{Service, TurnError};
use crate::config::{Keep, Purge, TopicProof};
use crate::kafka::admin::Finding;
use crate::metrics::Happening;
use crate::model::Millis;
use crate::model::generation::Current;
use crate::model::receipt::{Request, RequestKey, Status, instant};
use crate::model::step::History;
use crate::store::tables::Tables;
use crate::store::{Erased, StoreError};

/// Receipts that advance in one turn.
const AT_ONCE: usize = 1_000;
/// Outbox rows beyond which no more receipts are added.
const OUTBOX_ROOM: u64 = 10_000;
/// A look at the topic may take this share of the time at most.
const TOPIC_SHARE: f64 = 0.1;
/// Seconds between two looks at the topic at most, unless the heartbeat is slower.
const LONGEST_PAUSE: f64 = 3600.0;

/// Requests that left the disk together and wait for the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cohort {
    pub requests: Vec<RequestKey>,
    /// What the topic must be clean of: records below these offsets, and of rows that were gone by this generation.
    pub target: BTreeMap<i32, i64>,
    pub generation: u64,
}

impl Cohort {
    /// Made while the requests are published: what readers had then.
    ///
    /// # Errors
    /// [`StoreError`] when the gone rows cannot be read.
    pub fn new(requests: Vec<RequestKey>, current: Option<&Current>, tables: &Tables) -> Result<Cohort, StoreError> {
        let target = current.map(|current| current.manifest.upto.clone()).unwrap_or_default();
        let generation = tables.gone()?.iter().map(|row| row.generation).max().unwrap_or(0);
        Ok(Cohort { requests, target, generation })
    }
}

/// What is under way.
#[derive(Debug)]
enum Work {
    Disk { cohort: Cohort, through: u64 },
    Topic,
}

/// Where each published request is.
#[derive(Debug)]
pub struct Purging {
    settings: Purge,
    /// Perhaps still on the disk, and when each was published.
    fresh: BTreeMap<RequestKey, Millis>,
    work: Option<Work>,
    /// Gone from the disk, oldest first; targets never go back.
    proving: VecDeque<Cohort>,
    /// Proven; their receipts follow.
    proven: VecDeque<RequestKey>,
    /// When every request that is not purged was published.
    since: BTreeMap<RequestKey, Millis>,
    next_disk: Due,
    next_topic: Due,
    /// Why nothing advances.
    reason: Option<String>,
}

impl Purging {
    /// Takes up what the ledger says is published.
    ///
    /// # Errors
    /// [`StoreError`] when the ledger cannot be read.
    pub fn new(settings: Purge, tables: &Tables, now: Millis) -> Result<Purging, StoreError> {
        let at = |request: &Request| request.receipt.stages.published.map_or(now, |at| at.as_millisecond());
        let since: BTreeMap<RequestKey, Millis> = tables.unpurged()?.iter().map(|(key, request)| (*key, at(request))).collect();
        Ok(Purging {
            next_disk: Due::after(now, settings.interval),
            settings,
            fresh: since.clone(),
            since,
            work: None,
            proving: VecDeque::new(),
            proven: VecDeque::new(),
            next_topic: Due::after(now, Duration::ZERO),
            reason: None,
        })
    }

    /// These are published now.
    pub(super) fn published(&mut self, requests: &[(RequestKey, Request)], now: Millis) {
        if self.fresh.is_empty() && !requests.is_empty() {
            self.next_disk = Due::after(now, self.settings.interval);
        }
        for (key, _) in requests {
            self.fresh.insert(*key, now);
            self.since.insert(*key, now);
        }
    }

    /// Requests that wait, and when the oldest was published.
    pub(super) fn pending(&self) -> (u64, Option<Millis>) {
        (self.since.len() as u64, self.since.values().min().copied())
    }

    /// For the status page.
    pub(super) fn shown(&self) -> Value {
        let erasing = match &self.work {
            Some(Work::Disk { cohort, .. }) => cohort.requests.len(),
            _ => 0,
        };
        let on_disk = self.fresh.len() + erasing;
        let on_topic: usize = self.proving.iter().map(|cohort| cohort.requests.len()).sum();
        json!({"disk": on_disk, "topic": on_topic, "proof": self.settings.proof.name(), "reason": self.reason})
    }
}

impl Service {
    /// Does what can be done now; true when anything was.
    pub(super) fn purge(&mut self, purger: &mut dyn Purger, now: Millis) -> Result<bool, TurnError> {
        let mut progress = false;
        if let Some(purged) = purger.poll() {
            self.purged(purged, now)?;
            progress = true;
        }
        if !self.purging.proven.is_empty() && self.outbox < OUTBOX_ROOM {
            self.advance(now)?;
            progress = true;
        }
        if self.purging.work.is_none()
            && let Some((work, order)) = self.next_work(now)?
        {
            self.purging.work = Some(work);
            purger.start(order);
            progress = true;
        }
        Ok(progress)
    }

    fn next_work(&mut self, now: Millis) -> Result<Option<(Work, Order)>, TurnError> {
        let purging = &mut self.purging;
        if !purging.fresh.is_empty() && purging.next_disk.is_over(now) {
            let requests = std::mem::take(&mut purging.fresh).into_keys().collect();
            let residue = self.tables.residue()?;
            let cohort = Cohort::new(requests, self.state.current(), &self.tables)?;
            return Ok(Some((Work::Disk { cohort, through: residue.through }, Order::Disk(residue.ranges))));
        }
        let (Some(first), Some(last)) = (purging.proving.front(), purging.proving.back()) else { return Ok(None) };
        if !purging.next_topic.is_over(now) {
            return Ok(None);
        }
        let names = purging.settings.proof == TopicProof::Names;
        let order = TopicOrder { need: first.target.clone(), upto: last.target.clone(), names, gone: self.tables.gone()? };
        Ok(Some((Work::Topic, Order::Topic(order))))
    }

    fn purged(&mut self, purged: Purged, now: Millis) -> Result<(), TurnError> {
        match (self.purging.work.take(), purged) {
            (Some(Work::Disk { cohort, through }), Purged::Disk { result, seconds }) => {
                self.erased(cohort, through, &result?, seconds, now)
            }
            (Some(Work::Topic), Purged::Topic { result, seconds }) => self.looked(result, seconds, now),
            (_, Purged::Lost(reason)) => {
                // Nothing more can be ordered: `work` stays taken.
                self.purging.work = Some(Work::Topic);
                self.purge_failed(reason);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn erased(&mut self, cohort: Cohort, through: u64, erased: &Erased, seconds: f64, now: Millis) -> Result<(), TurnError> {
        if let Some(leftover) = &erased.leftover {
            // Once more, with whatever was published since.
            let again = cohort.requests.iter().map(|key| (*key, now));
            self.purging.fresh.extend(again);
            self.purging.next_disk = Due::after(now, self.purging.settings.interval);
            self.purge_failed(format!("the disk: {leftover}"));
            return Ok(());
        }
        self.tables.commit_erased(through)?;
        self.metrics.observe(&Happening::Erased { files: erased.files, bytes: erased.bytes, seconds });
        let purging = &mut self.purging;
        purging.reason = None;
        if purging.settings.proof == TopicProof::None {
            self.prove(cohort)
        } else {
            purging.proving.push_back(cohort);
            Ok(())
        }
    }

    fn looked(&mut self, result: Result<Finding, String>, seconds: f64, now: Millis) -> Result<(), TurnError> {
        let purging = &mut self.purging;
        let pause = Duration::from_secs_f64((seconds / TOPIC_SHARE).clamp(0.0, LONGEST_PAUSE));
        purging.next_topic = Due::after(now, pause.max(purging.settings.heartbeat));
        let finding = match result {
            Ok(finding) => finding,
            Err(reason) => {
                self.purge_failed(format!("the factors topic: {reason}"));
                return Ok(());
            }
        };
        self.metrics.observe(&Happening::TopicLooked { seconds });
        let names = self.purging.settings.proof == TopicProof::Names;
        while let Some(cohort) = self.purging.proving.pop_front() {
            if let Err(left) = finding.covers(&cohort.target, cohort.generation, names) {
                tracing::debug!(left, "the factors topic is not clean yet");
                self.purging.reason =
                    Some(format!("the factors topic: {left}; brokers clean it by the settings that `nepenthe topics` gives"));
                self.purging.proving.push_front(cohort);
                return Ok(());
            }
            self.prove(cohort)?;
        }
        self.purging.reason = None;
        Ok(())
    }

    fn prove(&mut self, cohort: Cohort) -> Result<(), TurnError> {
        self.tables.commit_proven(cohort.generation)?;
        self.purging.proven.extend(cohort.requests);
        Ok(())
    }

    /// Receipts of what is proven.
    fn advance(&mut self, now: Millis) -> Result<(), TurnError> {
        let some = AT_ONCE.min(self.purging.proven.len());
        let keys: Vec<RequestKey> = self.purging.proven.drain(..some).collect();
        let requests = purged_requests(&self.tables, &keys, self.purging.settings.proof, &self.keep, now)?;
        self.tables.commit_purged(&requests)?;
        self.outbox += requests.len() as u64;
        requests.iter().for_each(|(_, request)| self.tell_receipt(&request.receipt, now));
        for key in &keys {
            self.purging.since.remove(key);
        }
        Ok(())
    }

    fn purge_failed(&mut self, reason: String) {
        self.metrics.observe(&Happening::PurgeFailed { reason: &reason });
        self.purging.reason = Some(reason);
    }
}

/// The requests under `keys` as they are once purged; one that is not `published` is left alone.
///
/// # Errors
/// [`StoreError`] when the ledger cannot be read.
pub fn purged_requests(
    tables: &Tables,
    keys: &[RequestKey],
    proof: TopicProof,
    keep: &Keep,
    now: Millis,
) -> Result<Vec<(RequestKey, Request)>, StoreError> {
    let from: &[&str] = match proof {
        TopicProof::None => &["disk"],
        TopicProof::Rows => &["disk", "rows"],
        TopicProof::Names => &["disk", "rows", "names"],
    };
    let backups = tables.backups(keep.backups_since(now))?;
    let mut requests = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(mut request) = tables.request(key)?.filter(|request| request.receipt.status == Status::Published) else { continue };
        request.receipt.status = Status::Purged;
        request.receipt.stages.purged = Some(instant(now));
        request.receipt.purged_from = from.iter().map(|&what| what.to_owned()).collect();
        request.receipt.backups = backups;
        requests.push((*key, request));
    }
    Ok(requests)
}

/// A time to wait for.
#[derive(Debug)]
struct Due {
    at: Millis,
    pause: Millis,
}

impl Due {
    fn after(now: Millis, pause: Duration) -> Due {
        let pause = pause.as_millis() as Millis;
        Due { at: now + pause, pause }
    }

    /// A clock that was set back must not make the pause longer than it is meant to be.
    fn is_over(&self, now: Millis) -> bool {
        now >= self.at || self.at - now > self.pause
    }
}

#[cfg(test)]
#[path = "purging_tests.rs"]
mod tests;
