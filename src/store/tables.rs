//! The rows of the service in a [`Store`]: what each step commits, what a start restores.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::backups::end_comeback;
use super::{Batch, Family, Store, StoreError, after, plays, residue, rows};
use crate::model::dictionary::Dictionary;
use crate::model::digest::LtHash;
use crate::model::factors::{Factors, Side};
use crate::model::fence::{Fences, HashKey, Rule, Subject};
use crate::model::generation::{Current, NewGeneration, Published};
use crate::model::processor::Restored;
use crate::model::receipt::{Manifest, Request, RequestKey, Status};
use crate::model::step::{Outgoing, Positions, Step};
use crate::model::{Millis, Objective};

/// Small rows handed out together; a generation is handed out whole.
const GROUP_ROWS: usize = 1000;
const GROUP_BYTES: usize = 8 << 20;

const GENERATION: &[u8] = b"generation";
const DIGEST: &[u8] = b"digest";
const KEY_CHECK: &[u8] = b"key";
const OBJECTIVE: &[u8] = b"objective";
const NEXT: [&[u8]; 2] = [b"next/user", b"next/item"];
const NEXT_BATCH: &[u8] = b"next/batch";
/// Below it are the numbers of rows that a state of an older format was brought up with.
const FIRST_BATCH: u64 = 1 << 32;

/// What the outbox holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub rows: u64,
    /// Of the dead letters among them: no other row's size is up to a producer.
    pub letter_bytes: u64,
    /// A whole generation is among them.
    pub generation: bool,
}

/// Typed access to a store. One writer; readers may share the store.
pub struct Tables {
    store: Arc<dyn Store>,
    /// Sequence number of the next outbox row.
    sequence: u64,
    /// Number of the next batch that brings plays.
    batch: u64,
    /// Groups of users whose rows were seen to be worth putting together.
    pub(super) untidy: Mutex<BTreeSet<u32>>,
    /// Tells residue of before an erasure from what came during it.
    pub(super) mark: u64,
}

impl Tables {
    /// Takes a store whose objective and hash key are those given, or that has none yet.
    ///
    /// # Errors
    /// [`StoreError::OtherModel`] when the state was made under another objective, [`StoreError::HashKey`] under another key.
    pub fn new(store: Arc<dyn Store>, objective: Objective, key: &HashKey) -> Result<Tables, StoreError> {
        let mut sequence = 0;
        store.scan(Family::Outbox, b"", None, &mut |key, _| {
            sequence = key.try_into().map_or(sequence, u64::from_be_bytes).saturating_add(1);
            ControlFlow::Continue(())
        })?;
        let mut batch = Batch::default();
        let configured = format!("{objective:?}").to_lowercase();
        match text(&*store, OBJECTIVE)? {
            None => batch.put(Family::Meta, OBJECTIVE, &rows::versioned(configured.as_bytes())),
            Some(found) if found == configured => (),
            Some(found) => return Err(StoreError::OtherModel { what: "model.objective", found, configured }),
        }
        match key_check(&*store)? {
            None => batch.put(Family::Meta, KEY_CHECK, &rows::versioned(hex(&key.check()).as_bytes())),
            Some(check) if check == key.check() => (),
            Some(_) => return Err(StoreError::HashKey { path: "given".to_owned(), trouble: "not the one that the state was made with" }),
        }
        if !batch.is_empty() {
            store.write(&batch)?;
        }
        let mark = residue::first_mark(&*store)?;
        let batch = store.get(Family::Meta, NEXT_BATCH)?.map_or(Ok(FIRST_BATCH), |value| read_number(NEXT_BATCH, &value))?;
        Ok(Tables { store, sequence, batch, untidy: Mutex::default(), mark })
    }

    /// For reading only: nothing is checked but what is read, nothing is written.
    pub fn reading(store: Arc<dyn Store>) -> Tables {
        Tables { store, sequence: 0, batch: 0, untidy: Mutex::default(), mark: 0 }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Reads back all that the processor keeps in memory.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the first row that cannot be read.
    pub fn restore(&self, key: HashKey) -> Result<Restored, StoreError> {
        Ok(Restored {
            dictionary: self.dictionary()?,
            fences: self.fences(key)?,
            positions: self.positions()?,
            current: self.current()?,
            waiting: self.waiting()?,
        })
    }

    /// Commits what a batch of events changed.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the step may be taken as done.
    pub fn commit(&mut self, step: &Step, dictionary: &Dictionary) -> Result<(), StoreError> {
        let batch = self.changes(step, dictionary)?;
        self.store.write(&batch)
    }

    /// As [`Tables::commit`], but beside the caller: nothing of the step may be told before [`Tables::settle`] has returned.
    ///
    /// # Errors
    /// [`StoreError`], also that of the step before; nothing of either may be taken as done.
    pub fn commit_behind(&mut self, step: &Step, dictionary: &Dictionary) -> Result<(), StoreError> {
        let batch = self.changes(step, dictionary)?;
        self.store.write_behind(batch)
    }

    fn changes(&mut self, step: &Step, dictionary: &Dictionary) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        if !step.plays.is_empty() {
            plays::put(&mut batch, &step.plays, self.batch);
            self.batch += 1;
            batch.put(Family::Meta, NEXT_BATCH, &rows::versioned(&self.batch.to_le_bytes()));
        }
        plays::take_out(&mut batch, &*self.store, &step.erased)?;
        residue::put_erased(&mut batch, &step.erased, self.mark);
        for &(side, number) in &step.identities {
            let Some(name) = dictionary.name(side, number) else { continue };
            batch.put(Family::Identities, &rows::identity_key(side, number), &rows::versioned(name.as_bytes()));
        }
        if !step.identities.is_empty() {
            for side in Side::BOTH {
                batch.put(Family::Meta, NEXT[side as usize], &rows::versioned(&dictionary.next(side).to_le_bytes()));
            }
        }
        for rule in &step.rules {
            let value = rows::json(rule)?;
            let key = [&rule.subject[..], &blake3::hash(&value).as_bytes()[..16]].concat();
            batch.put(Family::Fences, &key, &value);
        }
        rows::put_positions(&mut batch, &step.positions);
        put_requests(&mut batch, &step.requests)?;
        self.put_outbox(&mut batch, &step.outbox)?;
        Ok(batch)
    }

    /// Waits until all that was committed survives a crash.
    ///
    /// # Errors
    /// [`StoreError`] of the write.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.store.settle()
    }

    /// Commits a new generation: the rows that it changes, its receipts, and all that must be published.
    ///
    /// # Errors
    /// [`StoreError`]; the generation may not be taken as done.
    pub fn commit_generation(&mut self, new: &NewGeneration, current: &Current) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put_factors(current.factors.clone(), new.stored.clone());
        put_current(&mut batch, current)?;
        put_requests(&mut batch, &new.requests)?;
        self.put_outbox(&mut batch, &new.outbox)?;
        if new.afresh {
            end_comeback(&mut batch);
        }
        self.store.write(&batch)
    }

    /// Commits that the outbox is delivered through `last`, with what a published generation changes.
    ///
    /// # Errors
    /// [`StoreError`]; the rows go out again.
    pub fn commit_delivered(&mut self, sequences: &[u64], published: Option<(&Published, &Current)>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for sequence in sequences {
            batch.delete(Family::Outbox, &sequence.to_be_bytes());
        }
        if let Some((published, current)) = published {
            for gone in &published.forgotten {
                batch.delete(Family::Identities, &rows::identity_key(gone.side, gone.number));
            }
            residue::put_gone(&mut batch, &published.forgotten, current.manifest.generation, self.mark);
            put_current(&mut batch, current)?;
            put_requests(&mut batch, &published.requests)?;
            self.put_outbox(&mut batch, &published.outbox)?;
        }
        self.store.write(&batch)
    }

    /// The next outbox rows to publish together, with their sequence numbers: a whole generation, or some small rows.
    ///
    /// # Errors
    /// [`StoreError`] when a row cannot be read.
    pub fn next_group(&self) -> Result<Vec<(u64, Outgoing)>, StoreError> {
        let (mut group, mut bytes, mut whole, mut failed) = (Vec::new(), 0, false, None);
        self.store.scan(Family::Outbox, b"", None, &mut |key, value| {
            let message = match rows::read_outgoing(key, value) {
                Ok(message) => message,
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            whole |= matches!(message, Outgoing::Rows { .. });
            if !whole && (group.len() >= GROUP_ROWS || bytes >= GROUP_BYTES) {
                return ControlFlow::Break(());
            }
            let last = matches!(message, Outgoing::Manifest { .. });
            bytes += value.len();
            group.push((key.try_into().map_or(0, u64::from_be_bytes), message));
            if last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(group), Err)
    }

    /// What waits to be published.
    ///
    /// # Errors
    /// [`StoreError`] when a row cannot be read.
    pub fn backlog(&self) -> Result<Backlog, StoreError> {
        let mut backlog = Backlog::default();
        each(&*self.store, Family::Outbox, |key, value| {
            let message = rows::read_outgoing(key, value)?;
            backlog.rows += 1;
            backlog.letter_bytes += message.letter_bytes();
            backlog.generation |= matches!(message, Outgoing::Manifest { .. });
            Ok(())
        })?;
        Ok(backlog)
    }

    pub(super) fn put_outbox(&mut self, batch: &mut Batch, messages: &[Outgoing]) -> Result<(), StoreError> {
        for message in messages {
            batch.put(Family::Outbox, &self.sequence.to_be_bytes(), &rows::outgoing(message)?);
            self.sequence += 1;
        }
        Ok(())
    }

    /// All names, under their numbers.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the first row that cannot be read.
    pub fn dictionary(&self) -> Result<Dictionary, StoreError> {
        let mut dictionary = Dictionary::default();
        let given = self.given()?;
        each(&*self.store, Family::Identities, |key, value| {
            let name = std::str::from_utf8(rows::unversioned(Family::Identities, key, value)?).ok();
            match (rows::identity(key), name) {
                // Room is made up to the number: one that was never given may ask for all memory.
                (Some((side, number)), Some(name)) if number < given[side as usize] => dictionary.restore(side, number, name),
                _ => return Err(StoreError::damaged(Family::Identities, key, "not an identity")),
            }
            Ok(())
        })?;
        Side::BOTH.into_iter().for_each(|side| dictionary.used_up_to(side, given[side as usize]));
        Ok(dictionary)
    }

    /// How many numbers each side has given away; the next one is the number itself.
    pub(super) fn given(&self) -> Result<[u32; 2], StoreError> {
        let mut given = [0; 2];
        for (key, given) in NEXT.into_iter().zip(&mut given) {
            let Some(value) = self.store.get(Family::Meta, key)? else { continue };
            *given = u32::from_le_bytes(read_bytes(key, &value)?);
        }
        Ok(given)
    }

    pub(super) fn fences(&self, key: HashKey) -> Result<Fences, StoreError> {
        let mut fences = Fences::new(key);
        each(&*self.store, Family::Fences, |key, value| {
            fences.insert(&rows::from_json::<Rule>(Family::Fences, key, value)?);
            Ok(())
        })?;
        Ok(fences)
    }

    /// Deletes fences that were raised before this; those that are left and how many are gone, if any are. Costs a scan of
    /// all fences.
    ///
    /// # Errors
    /// [`StoreError`] when a fence cannot be read or the store not be written; no fence is gone then.
    pub fn expire_fences(&mut self, before: Millis, key: &HashKey) -> Result<Option<(Fences, u64)>, StoreError> {
        let (mut batch, mut left, mut gone) = (Batch::default(), Fences::new(key.clone()), 0);
        each(&*self.store, Family::Fences, |key, value| {
            let rule = rows::from_json::<Rule>(Family::Fences, key, value)?;
            if rule.raised.is_some_and(|raised| raised < before) {
                batch.delete(Family::Fences, key);
                gone += 1;
            } else {
                left.insert(&rule);
            }
            Ok(())
        })?;
        if gone == 0 {
            return Ok(None);
        }
        self.store.write(&batch)?;
        Ok(Some((left, gone)))
    }

    /// Stored offsets.
    pub fn positions(&self) -> Result<Positions, StoreError> {
        let mut positions = Positions::new();
        within(&*self.store, Family::Meta, &[rows::OFFSET, b'/'], |key, value| {
            let (at, next) = rows::read_position(key, value)?;
            positions.insert(at, next);
            Ok(())
        })?;
        Ok(positions)
    }

    /// The manifest of the generation that stands.
    pub fn manifest(&self) -> Result<Option<Manifest>, StoreError> {
        self.store.get(Family::Meta, GENERATION)?.map(|value| rows::from_json(Family::Meta, GENERATION, &value)).transpose()
    }

    /// The generation that stands.
    pub fn current(&self) -> Result<Option<Current>, StoreError> {
        let Some(manifest) = self.manifest()? else { return Ok(None) };
        let digest = self.store.get(Family::Meta, DIGEST)?.unwrap_or_default();
        let digest = LtHash::from_bytes(rows::unversioned(Family::Meta, DIGEST, &digest)?)
            .ok_or_else(|| StoreError::damaged(Family::Meta, DIGEST, "not a digest"))?;
        let rank = manifest.model.params.rank;
        let mut factors = Factors::new(rank);
        let given = self.given()?;
        for side in Side::BOTH {
            let (family, table) = (rows::factor_family(side), factors.side_mut(side));
            each(&*self.store, family, |key, value| {
                let row = rows::read_factors(family, key, value)?;
                match key.try_into().map(u32::from_be_bytes) {
                    Ok(number) if row.len() == rank && number < given[side as usize] => table.set(number as usize, &row),
                    _ => return Err(StoreError::damaged(family, key, format!("not a row of rank {rank}"))),
                }
                Ok(())
            })?;
        }
        Ok(Some(Current { manifest, factors: Arc::new(factors), digest }))
    }

    fn waiting(&self) -> Result<HashMap<RequestKey, Request>, StoreError> {
        let mut waiting = HashMap::new();
        each(&*self.store, Family::Ledger, |key, value| {
            let request: Request = rows::from_json(Family::Ledger, key, value)?;
            if request.receipt.status < Status::Published {
                let key = key.try_into().map_err(|_| StoreError::damaged(Family::Ledger, key, "not a request key"))?;
                waiting.insert(key, request);
            }
            Ok(())
        })?;
        Ok(waiting)
    }
}

/// What tells the state's hash key from others; `None` in a new state.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub fn key_check(store: &dyn Store) -> Result<Option<Subject>, StoreError> {
    let Some(text) = text(store, KEY_CHECK)? else { return Ok(None) };
    let bytes = u128::from_str_radix(&text, 16).ok().filter(|_| text.len() == 32).map(u128::to_be_bytes);
    bytes.map(Some).ok_or_else(|| StoreError::damaged(Family::Meta, KEY_CHECK, "not the check of a key"))
}

fn read_bytes<const N: usize>(key: &[u8], value: &[u8]) -> Result<[u8; N], StoreError> {
    rows::unversioned(Family::Meta, key, value)?.try_into().map_err(|_| StoreError::damaged(Family::Meta, key, "not a number"))
}

fn read_number(key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    read_bytes(key, value).map(u64::from_le_bytes)
}

fn text(store: &dyn Store, key: &[u8]) -> Result<Option<String>, StoreError> {
    let Some(value) = store.get(Family::Meta, key)? else { return Ok(None) };
    Ok(Some(String::from_utf8_lossy(rows::unversioned(Family::Meta, key, &value)?).into_owned()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request of the ledger.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub fn request(store: &dyn Store, key: &RequestKey) -> Result<Option<Request>, StoreError> {
    store.get(Family::Ledger, key)?.map(|value| rows::from_json(Family::Ledger, key, &value)).transpose()
}

pub(super) fn each(store: &dyn Store, family: Family, visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
    within(store, family, b"", visit)
}

/// Visits all rows under a prefix; the first error ends it.
pub(super) fn within(
    store: &dyn Store,
    family: Family,
    prefix: &[u8],
    visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    between(store, family, prefix, after(prefix).as_deref(), visit)
}

/// Visits all rows with `from <= key < to`; the first error ends it.
pub(super) fn between(
    store: &dyn Store,
    family: Family,
    from: &[u8],
    to: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut failed = None;
    store.scan(family, from, to, &mut |key, value| match visit(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn put_current(batch: &mut Batch, current: &Current) -> Result<(), StoreError> {
    batch.put(Family::Meta, GENERATION, &rows::json(&current.manifest)?);
    batch.put(Family::Meta, DIGEST, &rows::versioned(&current.digest.to_bytes()));
    Ok(())
}

pub(super) fn put_requests(batch: &mut Batch, requests: &[(RequestKey, Request)]) -> Result<(), StoreError> {
    for (key, request) in requests {
        batch.put(Family::Ledger, key, &rows::json(request)?);
    }
    Ok(())
}
