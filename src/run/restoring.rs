//! The way back of a state that came from a backup. It may have missed forgets: until every one of them is taken in, and a
//! generation without what they forget stands, it neither serves nor publishes.
//!
//! The forgets come from their topic, from the offset of the backup on. Where the topic no longer has them, or receipts tell
//! of requests that it does not bring, nothing can be made good: the process ends and says what would help. The generation
//! then sends every row, and tombstones for rows that only readers have, under a number above all that were published.

use std::time::Duration;

use super::backoff::{Backoff, passed};
use super::purger::{Order, Purged, Purger};
use super::service::{Service, TurnError};
use super::survey::Survey;
use crate::kafka::{Positions, SourceState};
use crate::model::Millis;
use crate::model::step::History;
use crate::store::backups::Comeback;

/// Pause between two looks whether everything is taken in.
const LOOK: Duration = Duration::from_millis(100);
/// Receipts without a request that a message names.
const NAMED: usize = 5;

/// Why a state of a backup cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this state came from a backup, and forgets that came after it are lost: {0}. What they forgot would come back. Restore again with a \
     later state directory or backup that knows them (`nepenthe restore --ledger`), or with --without-later-forgets if there were none"
)]
pub struct ForgetsLost(String);

/// How far the way back is.
#[derive(Debug)]
pub(super) struct Restoring {
    comeback: Comeback,
    stage: Stage,
    pause: Backoff,
    looked: Option<Millis>,
    /// Why it does not go on, for an operator.
    reason: String,
    /// Generations up to this one are on the topics, and known to be; `None` until that was looked at.
    published: Option<u64>,
}

#[derive(Debug)]
enum Stage {
    /// The topics are to be looked at; true while somebody does.
    Survey(bool),
    /// Forgets are taken in.
    Forgets(Survey),
    /// The generation is on its way to readers.
    Generation,
}

impl Restoring {
    pub(super) fn new(comeback: Comeback) -> Restoring {
        let reason = "the topics are being looked at".to_owned();
        Restoring { comeback, stage: Stage::Survey(false), pause: Backoff::default(), looked: None, reason, published: None }
    }

    /// May a generation be made?
    pub(super) fn may_solve(&self) -> bool {
        matches!(self.stage, Stage::Generation)
    }

    /// The newest generation that others may have published without being taken for a stranger's; `None` while nothing may be
    /// sent, because it is not known yet.
    pub(super) fn published(&self) -> Option<u64> {
        self.published
    }

    pub(super) fn reason(&self) -> String {
        format!("restored from a backup, not caught up: {}", self.reason)
    }
}

impl Service {
    /// Does what can be done now; true when anything was.
    pub(super) fn restore(&mut self, purger: &mut dyn Purger, source: &SourceState, now: Millis) -> Result<bool, TurnError> {
        let Some(restoring) = &mut self.restoring else { return Ok(false) };
        let progress = match &mut restoring.stage {
            Stage::Survey(under_way) => match purger.poll() {
                Some(Purged::Survey(Ok(survey))) => {
                    lost_offsets(&survey, &restoring.comeback, &self.topics.forgets)?;
                    tell_lost_interactions(&survey, self.state.positions(), &self.topics.interactions);
                    restoring.published = Some(survey.topics.generation);
                    (restoring.stage, restoring.reason) = (Stage::Forgets(survey), "forgets are being taken in".to_owned());
                    true
                }
                Some(Purged::Survey(Err(reason)) | Purged::Lost(reason)) => {
                    tracing::warn!(reason, "the topics could not be looked at; it is tried again");
                    restoring.pause.fail(now);
                    (*under_way, restoring.reason) = (false, format!("the topics cannot be looked at: {reason}"));
                    true
                }
                Some(_) => false,
                None if !*under_way && restoring.pause.is_over(now) => {
                    *under_way = true;
                    purger.start(Order::Survey { since: restoring.comeback.taken });
                    true
                }
                None => false,
            },
            Stage::Forgets(survey) if restoring.looked.is_none() || passed(restoring.looked, LOOK, now) => {
                restoring.looked = Some(now);
                match unread(survey, self.state.positions(), source, &self.topics.forgets) {
                    Some(reason) => {
                        restoring.reason = reason;
                        false
                    }
                    None => {
                        let survey = std::mem::take(survey);
                        self.caught_up(survey)?;
                        true
                    }
                }
            }
            Stage::Forgets(_) | Stage::Generation => false,
        };
        self.board.restoring(self.restoring.as_ref().map(Restoring::reason));
        Ok(progress)
    }

    /// Every forget that the topic has is taken in.
    fn caught_up(&mut self, survey: Survey) -> Result<(), TurnError> {
        let mut missing = Vec::new();
        for (key, partition, offset) in &survey.requests {
            if self.tables.request(key)?.is_none() {
                missing.push(format!("{partition}/{offset}"));
            }
        }
        let Some(restoring) = &mut self.restoring else { return Ok(()) };
        missing.dedup();
        let n = missing.len();
        if n > 0 {
            missing.truncate(NAMED);
            let which = missing.join(", ");
            let lost = format!("{n} receipts on {} are of requests that no topic brings (partition/offset: {which})", self.topics.receipts);
            refuse(lost, &restoring.comeback)?;
        }
        let step = self.state.publish_afresh(survey.topics).map_err(crate::model::processor::FoldError::Exhausted)?;
        self.tables.commit(&step, self.state.dictionary())?;
        (restoring.stage, restoring.reason) = (Stage::Generation, "the generation without what was forgotten is being made".to_owned());
        self.at_once();
        Ok(())
    }

    /// The first generation is published.
    pub(super) fn restored(&mut self) {
        if self.restoring.take_if(|restoring| restoring.may_solve()).is_some() {
            tracing::info!("the restored state has caught up");
            self.board.restoring(None);
        }
    }
}

fn refuse(lost: String, comeback: &Comeback) -> Result<(), ForgetsLost> {
    if comeback.unchecked {
        tracing::warn!(lost, "forgets may be lost; the restore was told to go on without them");
        return Ok(());
    }
    Err(ForgetsLost(lost))
}

/// Does the forgets topic still have everything that the backup does not?
fn lost_offsets(survey: &Survey, comeback: &Comeback, forgets: &str) -> Result<(), ForgetsLost> {
    if let Some(gone) = comeback.partitions(forgets).find(|partition| !survey.inputs.contains_key(&(forgets.to_owned(), *partition))) {
        refuse(format!("{forgets} has no partition {gone} any more: it was made anew"), comeback)?;
    }
    for ((topic, partition), (first, end)) in survey.inputs.iter().filter(|((topic, _), _)| topic == forgets) {
        let known = comeback.known(topic, *partition);
        if known < *first {
            refuse(format!("{topic}/{partition} begins at offset {first} now, the backup ends at {known}"), comeback)?;
        } else if known > *end {
            refuse(format!("{topic}/{partition} ends at offset {end}, the backup at {known}: it was made anew"), comeback)?;
        }
    }
    Ok(())
}

/// Interactions that are gone for good are a loss, but nothing comes back by it.
fn tell_lost_interactions(survey: &Survey, positions: &Positions, interactions: &str) {
    for ((topic, partition), (first, _)) in survey.inputs.iter().filter(|((topic, _), _)| topic == interactions) {
        let next = positions.get(&(topic.clone(), *partition)).copied().unwrap_or(0);
        if next < *first {
            tracing::warn!(topic, partition, records = first - next, "records since the backup are no longer on the topic");
        }
    }
}

/// What is still to be read of the forgets, in words; `None` when nothing is.
fn unread(survey: &Survey, positions: &Positions, source: &SourceState, forgets: &str) -> Option<String> {
    survey.inputs.iter().filter(|((topic, _), _)| topic == forgets).find_map(|(at, (first, end))| {
        // What the topic no longer has is known, or known to be lost.
        let next = positions.get(at).copied().unwrap_or(0).max(*first);
        // Markers of transactions take offsets too: what the source calls the end counts as well.
        let reached = next >= *end || source.ends.get(at).is_some_and(|end| next >= *end);
        let (topic, partition) = at;
        (!reached).then(|| format!("{topic}/{partition} is read up to offset {next} of {end}"))
    })
}

#[cfg(test)]
#[path = "restoring_tests.rs"]
mod tests;
