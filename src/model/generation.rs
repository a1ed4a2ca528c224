//! The life of a generation: freeze the cut, solve beside the loop, adopt the result, hand it out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::digest::LtHash;
use super::factors::{Factors, Side, initial_row};
use super::fence::Subject;
use super::job::Quick;
pub use super::job::{Job, Outcome};
use super::local;
use super::pairs;
use super::processor::State;
use super::ratings::{Changes, Refresh};
use super::receipt::{Certificate, Counts, Manifest, Model, Request, RequestKey, Status, fitting, instant};
use super::step::{History, Outgoing, Positions, RowChange};
use super::unlearn::Problem;
use super::{Millis, Objective, Params};

/// Beyond this share of changed pairs the old factors are no better a start than fresh ones.
pub const COLD_SHARE: f64 = 0.25;
/// Rows in one outbox row.
const ROWS_PER_MESSAGE: usize = 4096;

/// The generation that stands.
#[derive(Debug, Clone)]
pub struct Current {
    /// `upto` is complete once it is published.
    pub manifest: Manifest,
    pub factors: Arc<Factors>,
    /// Digest of all live rows as published.
    pub digest: LtHash,
}

impl Current {
    /// The cut by topic and partition.
    pub fn cut(&self) -> Positions {
        let of_topic = |(topic, parts): (&String, &BTreeMap<i32, i64>)| {
            parts.iter().map(|(&partition, &next)| ((topic.clone(), partition), next)).collect::<Vec<_>>()
        };
        self.manifest.cut.iter().flat_map(of_topic).collect()
    }
}

/// What a new generation changes in the store; committed as a whole.
#[derive(Debug)]
pub struct NewGeneration {
    /// Rows of which a bit differs from what the store has, ascending; those that the factors do not have are gone.
    pub stored: Vec<(Side, u32)>,
    pub requests: Vec<(RequestKey, Request)>,
    pub outbox: Vec<Outgoing>,
    /// It sends all rows and removes what else readers have: see [`State::publish_afresh`].
    pub afresh: bool,
}

/// A name that is gone with its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    pub side: Side,
    pub number: u32,
    /// Keyed hash of the key that its records have on the factors topic.
    pub key: Subject,
}

/// What the publication of a generation changes in the store.
#[derive(Debug, Default)]
pub struct Published {
    /// Names whose rows are gone for good.
    pub forgotten: Vec<Gone>,
    pub requests: Vec<(RequestKey, Request)>,
    pub outbox: Vec<Outgoing>,
}

impl State {
    /// Is there anything that the current generation does not reflect?
    pub fn is_behind(&self) -> bool {
        self.changed > 0 || self.waiting.values().any(|request| request.receipt.status == Status::Erased)
    }

    /// Freezes the cut: reads the changed rows from the store and hands out everything that a solve needs. Reading
    /// goes on in the meantime.
    ///
    /// Costs a scan of those changed users' rows of which something was erased or repeated, or came in masses.
    ///
    /// # Errors
    /// Whatever the store answers; the state is then of no use.
    pub fn freeze<H: History>(&mut self, history: &H) -> Result<Job, H::Error> {
        self.freeze_for(history, Duration::MAX)
    }

    /// As [`State::freeze`]; but when little changed since a certified generation and a solve is expected to take
    /// `interim_after` or longer, the job is an interim generation: what changed is solved at once.
    ///
    /// # Errors
    /// As [`State::freeze`].
    pub fn freeze_for<H: History>(&mut self, history: &H, interim_after: Duration) -> Result<Job, H::Error> {
        let dirty = [self.dirty[0].take(), self.dirty[1].take()];
        let changes = self.refresh(history, &dirty[0])?;
        let mut changed = changes.count();
        let listed = Changes::listed_of(self.ratings.pairs());
        self.since = self.since.take().map(|since| since.then(changes, listed));
        if let Some(since) = &self.since {
            changed = since.count();
        }
        let little = changed as f64 <= COLD_SHARE * self.ratings.pairs().max(1) as f64;
        let candidates =
            if std::mem::take(&mut self.recheck) { Side::BOTH.map(|side| (0..self.dictionary.next(side)).collect()) } else { dirty };
        let published = self.current.as_ref().map(|current| current.factors.clone());
        let there = |side: Side, row: u32| match &self.afresh {
            Some(afresh) => afresh.rows[side as usize].contains(row),
            None => published.as_ref().is_some_and(|factors| factors.side(side).is_live(row as usize)),
        };
        let dropped = self.dropped(&candidates, there);
        let quick = if little && self.is_worth_an_interim(interim_after) { self.quick() } else { None };
        let same_rank = |factors: &Arc<Factors>| factors.users.rank() == self.params.rank;
        let resumed = if quick.is_none() { self.resume.take() } else { None };
        let previous = resumed.or_else(|| published.clone().filter(|_| little)).filter(same_rank);
        let mut requests: Vec<RequestKey> =
            self.waiting.iter().filter(|(_, request)| request.receipt.status == Status::Erased).map(|(key, _)| *key).collect();
        requests.sort_unstable();
        self.changed = 0;
        let own = self.current.as_ref().map(|current| current.manifest.generation);
        let parent = own.max(self.afresh.as_ref().map(|afresh| afresh.generation)).filter(|parent| *parent > 0);
        let known = if self.afresh.is_some() { None } else { self.current.as_ref() };
        Ok(Job {
            number: parent.unwrap_or(0) + 1,
            parent,
            cut: self.positions.clone(),
            names: Side::BOTH.map(|side| self.dictionary.names(side).clone()),
            digest: known.map(|current| current.digest.clone()).unwrap_or_default(),
            afresh: self.afresh.as_ref().map(|afresh| afresh.rows.clone()),
            problem: Problem {
                initial: self.initial(previous.as_deref()),
                params: self.params.clone(),
                ratings: self.ratings.clone(),
                previous,
            },
            published,
            dropped,
            requests,
            quick,
        })
    }

    /// Only from a certified generation of the same model: its rows are stationary.
    fn is_worth_an_interim(&self, interim_after: Duration) -> bool {
        let (Some(current), Some(Changes::Few(changes))) = (&self.current, &self.since) else { return false };
        let manifest = &current.manifest;
        !changes.is_empty()
            && !manifest.interim
            && manifest.certificate.holds()
            && manifest.model.params == self.params
            && self.solve_seconds >= interim_after.as_secs_f64()
            && local::is_quick(&self.ratings, changes, self.params.rank)
    }

    fn quick(&self) -> Option<Quick> {
        let (current, changes) = (self.current.as_ref()?, self.since.as_ref()?.listed()?);
        let mean = current.manifest.model.mean.unwrap_or(0.0);
        let rank_binds = current.manifest.certificate.rank_binds;
        Some(Quick { changes: changes.to_vec(), base: self.base.clone(), mean, rank_binds })
    }

    /// Brings the pairs in memory up to date with the store in the rows of these users, ascending.
    fn refresh<H: History>(&mut self, history: &H, users: &[u32]) -> Result<Changes, H::Error> {
        let objective = self.params.objective;
        let (known, unknown) = std::mem::take(&mut self.young).rows(&self.ratings, users, objective);
        let mut refresh = Refresh::new(std::mem::take(&mut self.ratings));
        let mut known = known.into_iter().peekable();
        pairs::read(history, objective, &unknown, |user, row| {
            while let Some((earlier, row)) = known.next_if(|(earlier, _)| *earlier < user) {
                refresh.put(earlier, row);
            }
            refresh.put(user, row);
        })?;
        known.for_each(|(user, row)| refresh.put(user, row));
        let (ratings, changes) = refresh.finish();
        self.ratings = ratings;
        Ok(changes)
    }

    /// Named rows without data that readers do not have.
    fn dropped(&self, candidates: &[Vec<u32>; 2], there: impl Fn(Side, u32) -> bool) -> Vec<(Side, u32)> {
        let mut dropped = Vec::new();
        for (side, rows) in Side::BOTH.into_iter().zip([&self.ratings.users, &self.ratings.items]) {
            for &row in &candidates[side as usize] {
                let empty = rows.degree(row as usize) == 0 && self.dictionary.name(side, row).is_some();
                if empty && !there(side, row) {
                    dropped.push((side, row));
                }
            }
        }
        dropped
    }

    /// First values of items that have none.
    fn initial(&self, previous: Option<&Factors>) -> Vec<(u32, Vec<f64>)> {
        let Params { seed, rank, .. } = self.params;
        (0..self.ratings.items.len())
            .filter(|&item| self.ratings.items.degree(item) > 0 && !previous.is_some_and(|factors| factors.items.is_live(item)))
            .filter_map(|item| {
                let name = self.dictionary.name(Side::Item, item as u32)?;
                Some((item as u32, initial_row(seed, Side::Item, name, rank)))
            })
            .collect()
    }

    /// Makes a solved generation the current one. `seconds` is what the solve took.
    pub fn adopt(&mut self, outcome: Outcome, seconds: f64, now: Millis) -> NewGeneration {
        let Outcome { job, solution, interim, base, rows, stored, digest } = outcome;
        let certificate = Certificate::of(&solution, job.problem.params.tolerance, seconds);
        let requests = self.unlearned(&job, &solution.factors, &certificate, now);
        let (ids, requests_omitted) = fitting(requests.iter().map(|(_, request)| request.receipt.request_id.clone()));
        let mut cut: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        for ((topic, partition), next) in &job.cut {
            cut.entry(topic.clone()).or_default().insert(*partition, *next);
        }
        let afresh = job.afresh.is_some().then(|| self.afresh.take()).flatten();
        let upto = || self.current.as_ref().map(|current| current.manifest.upto.clone()).unwrap_or_default();
        let count = |change| rows.iter().filter(|row| row.2 == change).count() as u64;
        let manifest = Manifest {
            generation: job.number,
            parent: job.parent,
            created: instant(now),
            cut,
            upto: afresh.as_ref().map_or_else(upto, |afresh| afresh.upto.clone()),
            model: Model {
                params: job.problem.params.clone(),
                mean: (job.problem.params.objective == Objective::Explicit).then_some(solution.mean),
            },
            counts: Counts {
                users: solution.factors.users.count() as u64,
                items: solution.factors.items.count() as u64,
                interactions: job.problem.ratings.interactions(),
                changed: count(RowChange::Put),
                removed: count(RowChange::Tombstone),
            },
            digest: digest.finish(),
            requests: ids,
            requests_omitted,
            certificate,
            interim,
        };
        if !interim {
            // A solve that had nothing to do says little about the next one.
            self.solve_seconds = seconds.max(self.solve_seconds / 2.0);
        }
        (self.since, self.base) = (Some(Changes::NONE), base);
        if !manifest.certificate.holds() {
            // Not there yet: the next generation goes on from here.
            self.changed += 1;
        }
        let generation = manifest.generation;
        let mut outbox: Vec<Outgoing> =
            rows.chunks(ROWS_PER_MESSAGE).map(|rows| Outgoing::Rows { generation, rows: rows.to_vec() }).collect();
        outbox.extend(requests.iter().map(|(_, request)| Outgoing::Receipt(request.receipt.clone())));
        outbox.push(Outgoing::Manifest { generation });
        self.current = Some(Current { manifest, factors: Arc::new(solution.factors), digest });
        NewGeneration { stored, requests, outbox, afresh: afresh.is_some() }
    }

    /// Requests that this generation serves. Without a certificate there is no claim: they go on waiting.
    fn unlearned(&mut self, job: &Job, factors: &Factors, certificate: &Certificate, now: Millis) -> Vec<(RequestKey, Request)> {
        if !certificate.holds() {
            return Vec::new();
        }
        // Asked of the result, not of what changed: an uncertified generation before this one may have removed the rows.
        let count = |side, rows: &[u32]| rows.iter().filter(|&&row| !factors.side(side).is_live(row as usize)).count() as u64;
        let mut served = Vec::new();
        for key in &job.requests {
            let Some(request) = self.waiting.get_mut(key) else { continue };
            let receipt = &mut request.receipt;
            // A request that is served again, after a restore, has been counted.
            receipt.removed.users = receipt.removed.users.max(count(Side::User, &request.users));
            receipt.removed.items = receipt.removed.items.max(count(Side::Item, &request.items));
            (request.users, request.items) = Default::default();
            receipt.status = Status::Unlearned;
            receipt.stages.unlearned = Some(instant(now));
            receipt.generation = Some(job.number);
            receipt.certificate = Some(certificate.clone());
            receipt.exactness.push("E1".to_owned());
            served.push((*key, request.clone()));
        }
        served
    }

    /// A frozen job came to nothing: what it knew is asked for again.
    pub fn failed(&mut self) {
        self.recheck = true;
        self.changed += 1;
        // Whatever was in the way of a quick step is met and named by a solve of everything.
        self.since = None;
    }

    /// A solve was ended for something more urgent: no generation, but the next solve goes on from where it was.
    pub fn abandon(&mut self, outcome: Outcome) {
        self.recheck = true;
        self.changed += 1;
        self.resume = Some(Arc::new(outcome.solution.factors));
    }

    /// The current generation can be read up to `ends` on the factors topic: receipts advance, names without rows go.
    pub fn published(&mut self, ends: &BTreeMap<i32, i64>, rows: &[(Side, u32, RowChange)], now: Millis) -> Published {
        let mut published = Published::default();
        let Some(current) = &mut self.current else { return published };
        current.manifest.upto.extend(ends);
        let generation = current.manifest.generation;
        let ratings = [&self.ratings.users, &self.ratings.items];
        for &(side, row, change) in rows {
            // Somebody who came back since the cut keeps the name, and has a row in the next generation.
            let back = self.dirty[side as usize].contains(row) || ratings[side as usize].degree(row as usize) > 0;
            if change != RowChange::Put
                && !back
                && let Some(name) = self.dictionary.name(side, row)
            {
                let key = self.fences.key().record(side.key(name).as_bytes());
                published.forgotten.push(Gone { side, number: row, key });
                self.dictionary.remove(side, row);
            }
        }
        let served: Vec<RequestKey> = self
            .waiting
            .iter()
            .filter(|(_, request)| request.receipt.status == Status::Unlearned && request.receipt.generation == Some(generation))
            .map(|(key, _)| *key)
            .collect();
        for key in served {
            let Some(mut request) = self.waiting.remove(&key) else { continue };
            request.receipt.status = Status::Published;
            request.receipt.stages.published = Some(instant(now));
            published.outbox.push(Outgoing::Receipt(request.receipt.clone()));
            published.requests.push((key, request));
        }
        published.requests.sort_unstable_by_key(|(key, _)| *key);
        published
    }
}
