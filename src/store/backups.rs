//! What a state knows of its backups, and a state that came from one of what it has missed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tables::{Tables, each, put_requests, within};
use super::{Batch, Family, Store, StoreError, rows};
use crate::model::Millis;
use crate::model::factors::Side;
use crate::model::fence::{HashKey, Rule, Suspect};
use crate::model::receipt::{Backups, Request, RequestKey, Status, instant};
use crate::model::step::{History, Outgoing, Positions, Range, Step};

/// How the names of directories in the state directory begin that a backup is made from.
pub const CHECKPOINT: &str = "checkpoint-";
/// Rows of `meta`: `backup/<time, 8 bytes>`, one for each backup that was taken.
const BACKUP: &[u8] = b"backup/";
const COMEBACK: &[u8] = b"comeback";
/// Plays that are deleted in one write.
const AT_ONCE: usize = 20_000;

/// A state that came from a backup: until it has caught up with the forgets, it must neither serve nor publish.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comeback {
    /// When the backup was taken: every request that was accepted before is in its ledger.
    pub taken: Millis,
    /// Topic, partition and offset below which every forget is known, of all topics that were read.
    known: Vec<(String, i32, i64)>,
    /// Whoever restored it answers for forgets that cannot be found any more.
    pub unchecked: bool,
}

impl Comeback {
    /// Offset below which every forget of a partition is known.
    pub fn known(&self, topic: &str, partition: i32) -> i64 {
        let at = |(of, number, _): &&(String, i32, i64)| of == topic && *number == partition;
        self.known.iter().find(at).map_or(0, |(_, _, next)| *next)
    }

    /// Partitions of a topic of which something is known.
    pub fn partitions(&self, topic: &str) -> impl Iterator<Item = i32> {
        self.known.iter().filter(move |(of, _, next)| of == topic && *next > 0).map(|(_, partition, _)| *partition)
    }
}

/// What a later ledger has brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Requests that the backup did not have.
    pub requests: u64,
    pub rules: u64,
    /// Plays that they had forgotten, deleted again.
    pub plays: u64,
}

/// Notes that a backup is taken now; it is part of the backup.
///
/// # Errors
/// [`StoreError`] when it cannot be written.
pub fn note_backup(store: &dyn Store, now: Millis) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.put(Family::Meta, &[BACKUP, &now.to_be_bytes()].concat(), &rows::versioned(b""));
    store.write(&batch)
}

impl Tables {
    /// Backups taken at or after `since`, if there are any.
    ///
    /// # Errors
    /// [`StoreError`] when a row cannot be read.
    pub fn backups(&self, since: Millis) -> Result<Option<Backups>, StoreError> {
        let (mut count, mut newest) = (0, None);
        within(&**self.store(), Family::Meta, BACKUP, |key, _| {
            let time = key.get(BACKUP.len()..).and_then(|time| time.try_into().ok()).map(Millis::from_be_bytes);
            let time = time.ok_or_else(|| StoreError::damaged(Family::Meta, key, "not a time"))?;
            if time >= since {
                (count, newest) = (count + 1, newest.max(Some(time)));
            }
            Ok(())
        })?;
        Ok(newest.map(|newest| Backups { count, newest: instant(newest) }))
    }

    /// What the state has missed, if it came from a backup and has made no generation since.
    ///
    /// # Errors
    /// [`StoreError`] when the row cannot be read.
    pub fn comeback(&self) -> Result<Option<Comeback>, StoreError> {
        self.store().get(Family::Meta, COMEBACK)?.map(|value| rows::from_json(Family::Meta, COMEBACK, &value)).transpose()
    }

    /// Makes a state of a backup: what waits to be sent goes, but for receipts of what is final, as the generation of then is
    /// history; requests that wait for that generation wait for the next one.
    ///
    /// # Errors
    /// [`StoreError`]; the state is then of no use.
    pub fn come_back(&mut self, unchecked: bool) -> Result<Comeback, StoreError> {
        let positions = self.positions()?;
        let known = positions.into_iter().map(|((topic, partition), next)| (topic, partition, next)).collect();
        let comeback = Comeback { taken: self.backups(0)?.map_or(0, |backups| backups.newest.as_millisecond()), known, unchecked };
        let mut batch = Batch::default();
        each(&**self.store(), Family::Outbox, |key, value| {
            let stays = match rows::read_outgoing(key, value)? {
                Outgoing::Receipt(receipt) => receipt.status >= Status::Purged,
                Outgoing::DeadLetter(_) => true,
                Outgoing::Rows { .. } | Outgoing::Manifest { .. } => false,
            };
            if !stays {
                batch.delete(Family::Outbox, key);
            }
            Ok(())
        })?;
        let mut again = Vec::new();
        each(&**self.store(), Family::Ledger, |key, value| {
            let mut request: Request = rows::from_json(Family::Ledger, key, value)?;
            if request.receipt.status == Status::Unlearned {
                begin_again(&mut request);
                again.push((request_key(key)?, request));
            }
            Ok(())
        })?;
        put_requests(&mut batch, &again)?;
        batch.put(Family::Meta, COMEBACK, &rows::json(&comeback)?);
        self.store().write(&batch)?;
        Ok(comeback)
    }

    /// Takes the fences and requests of a later state of the same installation, and deletes what they cover.
    ///
    /// # Errors
    /// [`StoreError`]; the state is then of no use.
    pub fn merge_ledger(&mut self, later: &Tables, key: &HashKey, mut progress: impl FnMut(u64)) -> Result<Merged, StoreError> {
        let (mut batch, mut merged) = (Batch::default(), Merged::default());
        each(&**later.store(), Family::Fences, |key, value| {
            if self.store().get(Family::Fences, key)?.is_none() {
                rows::from_json::<Rule>(Family::Fences, key, value)?;
                batch.put(Family::Fences, key, value);
                merged.rules += 1;
            }
            Ok(())
        })?;
        let mut requests = Vec::new();
        each(&**later.store(), Family::Ledger, |key, value| {
            if self.store().get(Family::Ledger, key)?.is_none() {
                let mut request: Request = rows::from_json(Family::Ledger, key, value)?;
                match request.receipt.status {
                    // What was forgotten is in the files of the backup: the proof that it is gone begins anew.
                    Status::Published | Status::Purged => be_published(&mut request),
                    _ => begin_again(&mut request),
                }
                requests.push((request_key(key)?, request));
            }
            Ok(())
        })?;
        merged.requests = requests.len() as u64;
        put_requests(&mut batch, &requests)?;
        let mut comeback = self.comeback()?.unwrap_or_default();
        let mut known: BTreeMap<(String, i32), i64> = later.positions()?;
        for (topic, partition, next) in std::mem::take(&mut comeback.known) {
            let there = known.entry((topic, partition)).or_insert(next);
            *there = next.max(*there);
        }
        comeback.known = known.into_iter().map(|((topic, partition), next)| (topic, partition, next)).collect();
        batch.put(Family::Meta, COMEBACK, &rows::json(&comeback)?);
        self.store().write(&batch)?;
        merged.plays = self.enforce(key, &mut progress)?;
        Ok(merged)
    }

    /// Deletes every play that a fence covers. `progress` is told how many were looked at.
    fn enforce(&mut self, key: &HashKey, progress: &mut impl FnMut(u64)) -> Result<u64, StoreError> {
        let (dictionary, fences) = (self.dictionary()?, self.fences(key.clone())?);
        let (mut covered, mut seen) = (Vec::new(), 0);
        self.plays(Range::All, &mut |play, _| {
            let name = |side, number| dictionary.name(side, number).map(|name| &**name);
            let (user, item) = (name(Side::User, play.user), name(Side::Item, play.item));
            if let (Some(user), Some(item)) = (user, item)
                && fences.hold(Suspect { user, item, event_id: None, ident: play.ident, time: play.time })
            {
                covered.push(play);
            }
            seen += 1;
            if seen % 65_536 == 0 {
                progress(seen);
            }
        })?;
        for erased in covered.chunks(AT_ONCE) {
            let step = Step { erased: erased.to_vec(), positions: Positions::new(), ..Step::default() };
            self.commit(&step, &dictionary)?;
        }
        Ok(covered.len() as u64)
    }
}

/// Part of the write of the first generation after a comeback.
pub(super) fn end_comeback(batch: &mut Batch) {
    batch.delete(Family::Meta, COMEBACK);
}

fn request_key(key: &[u8]) -> Result<RequestKey, StoreError> {
    key.try_into().map_err(|_| StoreError::damaged(Family::Ledger, key, "not a request key"))
}

/// As when its data had just been erased. The rows that it counted may have other numbers by now.
fn begin_again(request: &mut Request) {
    let receipt = &mut request.receipt;
    receipt.status = Status::Erased;
    (receipt.stages.unlearned, receipt.stages.published, receipt.stages.purged) = (None, None, None);
    (receipt.generation, receipt.certificate, receipt.exactness) = (None, None, vec!["E0".to_owned()]);
    (request.users, request.items) = Default::default();
}

fn be_published(request: &mut Request) {
    let receipt = &mut request.receipt;
    receipt.status = Status::Published;
    receipt.stages.purged = None;
    (receipt.purged_from, receipt.backups) = (Vec::new(), None);
    (request.users, request.items) = Default::default();
}
