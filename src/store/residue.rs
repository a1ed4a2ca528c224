//! What forgetting leaves behind until it is purged: where deleted rows may still be on the disk (residue), and which
//! records of the factors topic must not be found any more (gone rows). Both are written with the deletion itself, so
//! that a crash loses neither.

use std::collections::BTreeSet;

use super::tables::{Tables, each, put_requests, within};
use super::{Batch, Family, KeyRange, StoreError, plays, rows};
use crate::model::fence::Subject;
use crate::model::generation::Gone;
use crate::model::play::Play;
use crate::model::receipt::{Request, RequestKey, Status};
use crate::model::step::{Outgoing, TOGETHER};

/// Rows of `meta`: `residue/<family>/<key prefix>`, value the mark of the write.
const RESIDUE: &[u8] = b"residue/";
/// Rows of `meta`: `gone/<side><number>`, value generation and keyed hash of the topic key.
const GONE: &[u8] = b"gone/";
/// Beyond this many groups of users in one step the whole family is named: a list of everybody would cost more than the rewriting.
const USERS: usize = 10_000;

/// Where deleted rows may still be on the disk.
#[derive(Debug, Default)]
pub struct Residue {
    pub ranges: Vec<KeyRange>,
    /// For [`Tables::commit_erased`]: what is written later is not part of this.
    pub through: u64,
}

/// A row that left the factors topic by a tombstone of `generation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoneRow {
    /// Keyed hash of the record's key.
    pub key: Subject,
    pub generation: u64,
}

/// Notes where the plays were, by a user of each group.
pub(super) fn put_erased(batch: &mut Batch, erased: &[Play], mark: u64) {
    let users: BTreeSet<u32> = erased.iter().map(|play| play.user - play.user % TOGETHER).collect();
    if users.len() > USERS {
        put(batch, Family::Interactions, b"", mark);
        return;
    }
    users.iter().for_each(|user| put(batch, Family::Interactions, &user.to_be_bytes(), mark));
}

/// Notes where names were, and that their rows are gone from the topic as of `generation`.
pub(super) fn put_gone(batch: &mut Batch, gone: &[Gone], generation: u64, mark: u64) {
    for row in gone {
        let key = rows::identity_key(row.side, row.number);
        put(batch, Family::Identities, &key, mark);
        let value = [&generation.to_le_bytes()[..], &row.key].concat();
        batch.put(Family::Meta, &[GONE, &key].concat(), &rows::versioned(&value));
    }
}

fn put(batch: &mut Batch, family: Family, prefix: &[u8], mark: u64) {
    let key = [RESIDUE, family.name().as_bytes(), b"/", prefix].concat();
    batch.put(Family::Meta, &key, &rows::versioned(&mark.to_le_bytes()));
}

fn read_residue(key: &[u8], value: &[u8]) -> Result<(KeyRange, u64), StoreError> {
    let damaged = || StoreError::damaged(Family::Meta, key, "not a residue");
    let rest = key.strip_prefix(RESIDUE).ok_or_else(damaged)?;
    let slash = rest.iter().position(|byte| *byte == b'/').ok_or_else(damaged)?;
    let (name, prefix) = (&rest[..slash], &rest[slash + 1..]);
    let family = Family::ALL.into_iter().find(|family| family.name().as_bytes() == name).ok_or_else(damaged)?;
    let mark = rows::unversioned(Family::Meta, key, value)?.try_into().map(u64::from_le_bytes).map_err(|_| damaged())?;
    let range = match prefix.try_into().map(u32::from_be_bytes) {
        // Of whichever version: one user's rows, or a group's.
        Ok(user) if family == Family::Interactions => plays::range_of(user),
        _ => KeyRange::under(family, prefix),
    };
    Ok((range, mark))
}

fn read_gone(key: &[u8], value: &[u8]) -> Result<GoneRow, StoreError> {
    let damaged = || StoreError::damaged(Family::Meta, key, "not a gone row");
    let (generation, hash) = rows::unversioned(Family::Meta, key, value)?.split_first_chunk::<8>().ok_or_else(damaged)?;
    let key = hash.try_into().map_err(|_| damaged())?;
    Ok(GoneRow { key, generation: u64::from_le_bytes(*generation) })
}

/// The mark for the first write after a start: above all that are stored.
pub(super) fn first_mark(store: &dyn super::Store) -> Result<u64, StoreError> {
    let mut first = 0;
    within(store, Family::Meta, RESIDUE, |key, value| {
        first = first.max(read_residue(key, value)?.1.saturating_add(1));
        Ok(())
    })?;
    Ok(first)
}

impl Tables {
    /// Everything that deletions have left on the disk so far. Families whose rows are replaced rather than deleted (factors,
    /// ledger, the generation in `meta`), or come and go (`outbox`), are named whole: what they held before was
    /// derived from what is forgotten, or held it.
    ///
    /// # Errors
    /// [`StoreError`] when a row cannot be read.
    pub fn residue(&mut self) -> Result<Residue, StoreError> {
        let whole = [Family::UserFactors, Family::ItemFactors, Family::Ledger, Family::Outbox, Family::Meta];
        let mut ranges: Vec<KeyRange> = whole.map(KeyRange::all).into();
        within(&**self.store(), Family::Meta, RESIDUE, |key, value| {
            ranges.push(read_residue(key, value)?.0);
            Ok(())
        })?;
        let through = self.mark;
        self.mark += 1;
        Ok(Residue { ranges, through })
    }

    /// Rows that must not be found on the factors topic any more.
    ///
    /// # Errors
    /// [`StoreError`] when a row cannot be read.
    pub fn gone(&self) -> Result<Vec<GoneRow>, StoreError> {
        let mut gone = Vec::new();
        within(&**self.store(), Family::Meta, GONE, |key, value| {
            gone.push(read_gone(key, value)?);
            Ok(())
        })?;
        Ok(gone)
    }

    /// Requests that are published and not purged.
    ///
    /// # Errors
    /// [`StoreError`] when a row of the ledger cannot be read.
    pub fn unpurged(&self) -> Result<Vec<(RequestKey, Request)>, StoreError> {
        let mut requests = Vec::new();
        each(&**self.store(), Family::Ledger, |key, value| {
            let request: Request = rows::from_json(Family::Ledger, key, value)?;
            if request.receipt.status == Status::Published {
                requests.push((key.try_into().map_err(|_| StoreError::damaged(Family::Ledger, key, "not a request key"))?, request));
            }
            Ok(())
        })?;
        Ok(requests)
    }

    /// Commits that the disk holds nothing more of a residue.
    ///
    /// # Errors
    /// [`StoreError`]; it is erased again.
    pub fn commit_erased(&mut self, through: u64) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        within(&**self.store(), Family::Meta, RESIDUE, |key, value| {
            if read_residue(key, value)?.1 <= through {
                batch.delete(Family::Meta, key);
            }
            Ok(())
        })?;
        if batch.is_empty() { Ok(()) } else { self.store().write(&batch) }
    }

    /// Commits that the topic holds nothing more of the rows that were gone by `generation`.
    ///
    /// # Errors
    /// [`StoreError`]; it is proven again.
    pub fn commit_proven(&mut self, generation: u64) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        within(&**self.store(), Family::Meta, GONE, |key, value| {
            if read_gone(key, value)?.generation <= generation {
                batch.delete(Family::Meta, key);
            }
            Ok(())
        })?;
        if batch.is_empty() { Ok(()) } else { self.store().write(&batch) }
    }

    /// Commits purged requests and their receipts.
    ///
    /// # Errors
    /// [`StoreError`]; they count as published.
    pub fn commit_purged(&mut self, requests: &[(RequestKey, Request)]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        put_requests(&mut batch, requests)?;
        let receipts: Vec<Outgoing> = requests.iter().map(|(_, request)| Outgoing::Receipt(request.receipt.clone())).collect();
        self.put_outbox(&mut batch, &receipts)?;
        self.store().write(&batch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Objective;
    use crate::model::factors::Side;
    use crate::model::fence::HashKey;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    fn tables(store: &Arc<MemoryStore>) -> Tables {
        let store: Arc<dyn Store> = store.clone();
        Tables::new(store, Objective::Implicit, &HashKey::new([1; 32])).unwrap()
    }

    fn played(users: impl Iterator<Item = u32>) -> Vec<Play> {
        users.map(|user| Play { user, item: 0, ident: None, time: 0, value: 0 }).collect()
    }

    fn commit(tables: &mut Tables, erased: &[Play], gone: &[Gone], generation: u64) {
        let mut batch = Batch::default();
        put_erased(&mut batch, erased, tables.mark);
        put_gone(&mut batch, gone, generation, tables.mark);
        tables.store().write(&batch).unwrap();
    }

    fn deleted(residue: &Residue) -> Vec<KeyRange> {
        residue.ranges.iter().filter(|range| matches!(range.family, Family::Interactions | Family::Identities)).cloned().collect()
    }

    #[test]
    fn what_is_deleted_during_an_erasure_waits_for_the_next() {
        let store = Arc::new(MemoryStore::default());
        let mut tables = tables(&store);
        commit(&mut tables, &played([7, 8, 99].into_iter()), &[], 0);
        let residue = tables.residue().unwrap();
        let user = plays::range_of;
        assert_eq!(deleted(&residue), [user(7), user(99)], "the first two lie together");
        commit(&mut tables, &played([99].into_iter()), &[], 0);
        tables.commit_erased(residue.through).unwrap();
        assert_eq!(deleted(&tables.residue().unwrap()), [user(99)]);
    }

    #[test]
    fn marks_go_on_after_a_restart() {
        let store = Arc::new(MemoryStore::default());
        let through = {
            let mut tables = tables(&store);
            tables.residue().unwrap();
            commit(&mut tables, &played([7].into_iter()), &[], 0);
            tables.residue().unwrap().through
        };
        let mut tables = tables(&store);
        commit(&mut tables, &played([80].into_iter()), &[], 0);
        tables.commit_erased(through).unwrap();
        assert_eq!(deleted(&tables.residue().unwrap()), [plays::range_of(80)]);
    }

    #[test]
    fn too_many_users_are_everybody() {
        let store = Arc::new(MemoryStore::default());
        let mut tables = tables(&store);
        commit(&mut tables, &played((0..=USERS as u32).map(|n| n * TOGETHER)), &[], 0);
        assert_eq!(deleted(&tables.residue().unwrap()), [KeyRange::all(Family::Interactions)]);
    }

    #[test]
    fn gone_rows_are_kept_until_they_are_proven() {
        let store = Arc::new(MemoryStore::default());
        let mut tables = tables(&store);
        let gone = |number, generation| (Gone { side: Side::Item, number, key: [number as u8; 16] }, generation);
        for (row, generation) in [gone(1, 4), gone(2, 5)] {
            commit(&mut tables, &[], &[row], generation);
        }
        assert_eq!(deleted(&tables.residue().unwrap())[1], KeyRange::under(Family::Identities, &rows::identity_key(Side::Item, 2)));
        tables.commit_proven(4).unwrap();
        assert_eq!(tables.gone().unwrap(), [GoneRow { key: [2; 16], generation: 5 }]);
        assert_eq!(deleted(&tables.residue().unwrap()).len(), 2, "the disk is another matter");
    }
}
