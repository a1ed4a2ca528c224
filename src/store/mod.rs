//! The store: ordered families of bytes behind a small trait, RocksDB and its in-memory twin, and the rows in them.

pub mod backups;
mod behind;
mod beside;
mod columns;
pub mod erasure;
mod format;
pub mod glance;
mod history;
pub mod memory;
pub mod plays;
pub mod residue;
pub mod rocks;
pub mod rows;
pub mod tables;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::model::factors::{Factors, Side};

pub use erasure::{EraseStep, Erased, KeyRange};

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Surrogate number → natural identifier: the only place that knows it.
    Identities,
    /// Plays by groups of users and batches: see [`plays`].
    Interactions,
    UserFactors,
    ItemFactors,
    Fences,
    Ledger,
    Outbox,
    /// Offsets, generation, digest, counters, format.
    Meta,
}

impl Family {
    pub const ALL: [Family; 8] = [
        Family::Identities,
        Family::Interactions,
        Family::UserFactors,
        Family::ItemFactors,
        Family::Fences,
        Family::Ledger,
        Family::Outbox,
        Family::Meta,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Family::Identities => "identities",
            Family::Interactions => "interactions",
            Family::UserFactors => "user_factors",
            Family::ItemFactors => "item_factors",
            Family::Fences => "fences",
            Family::Ledger => "ledger",
            Family::Outbox => "outbox",
            Family::Meta => "meta",
        }
    }
}

/// Changes that are committed together; of two changes of one key the later holds.
#[derive(Debug, Default)]
pub struct Batch {
    operations: Vec<Operation>,
    /// Keys, each followed by its value.
    bytes: Vec<u8>,
    /// Rows of a generation, and which of them; encoded when the store asks for them, for they are most of its size.
    factors: Option<FactorRows>,
}

type FactorRows = (Arc<Factors>, Vec<(Side, u32)>);

#[derive(Debug)]
struct Operation {
    family: Family,
    /// Where the key begins.
    start: usize,
    key: u32,
    /// Length of the value; `None` deletes.
    value: Option<u32>,
}

/// One change of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    Put(Family, &'a [u8], &'a [u8]),
    Delete(Family, &'a [u8]),
}

impl Batch {
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.put_with(family, |bytes| bytes.extend_from_slice(key), |bytes| bytes.extend_from_slice(value));
    }

    /// As [`Batch::put`], with key and value written straight into the batch: the way of the many.
    pub fn put_with(&mut self, family: Family, key: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        key(&mut self.bytes);
        let middle = self.bytes.len();
        value(&mut self.bytes);
        // A row is a few MiB at most.
        let (key, value) = ((middle - start) as u32, (self.bytes.len() - middle) as u32);
        self.operations.push(Operation { family, start, key, value: Some(value) });
    }

    /// Makes room for so many changes of so many bytes in all.
    pub fn reserve(&mut self, changes: usize, bytes: usize) {
        self.operations.reserve(changes);
        self.bytes.reserve(bytes);
    }

    pub fn delete(&mut self, family: Family, key: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.operations.push(Operation { family, start, key: key.len() as u32, value: None });
    }

    /// Puts these rows of a generation, after all other changes; those that it does not have are deleted.
    pub fn put_factors(&mut self, factors: Arc<Factors>, rows: Vec<(Side, u32)>) {
        self.factors = Some((factors, rows));
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.factors.as_ref().is_none_or(|(_, rows)| rows.is_empty())
    }

    /// Bytes of all keys and values, roughly.
    pub fn size(&self) -> usize {
        let row = |factors: &Factors| size_of::<u32>() + 1 + factors.users.rank() * size_of::<f64>();
        self.bytes.len() + self.factors.as_ref().map_or(0, |(factors, rows)| rows.len() * row(factors))
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.operations.len() + self.factors.as_ref().map_or(0, |(_, rows)| rows.len())
    }

    /// Visits all changes, in the order in which they were made.
    pub fn each(&self, visit: &mut dyn FnMut(Change<'_>)) {
        for operation in &self.operations {
            let &Operation { family, start, key, value } = operation;
            let middle = start + key as usize;
            let key = &self.bytes[start..middle];
            visit(match value {
                Some(length) => Change::Put(family, key, &self.bytes[middle..middle + length as usize]),
                None => Change::Delete(family, key),
            });
        }
        let Some((factors, stored)) = &self.factors else { return };
        let mut value = Vec::new();
        for &(side, row) in stored {
            let (key, family) = (row.to_be_bytes(), rows::factor_family(side));
            match factors.side(side).row(row as usize) {
                Some(values) => {
                    value.clear();
                    rows::put_factors(&mut value, values);
                    visit(Change::Put(family, &key, &value));
                }
                None => visit(Change::Delete(family, &key)),
            }
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the state directory {path} is in use by another process; stop that one or choose another [store] path")]
    InUse { path: String },
    #[error("the state in {path} has format {found}, this version reads {expected}; use the version of nepenthe that wrote it")]
    UnknownVersion { path: String, found: String, expected: u8 },
    #[error("the state in {path} has format {found}, and whoever only reads needs {expected}; start the service on it, which brings it up")]
    OldVersion { path: String, found: u8, expected: u8 },
    #[error(
        "the state is damaged: {family}, key {key}: {detail}; restore a backup, or start with an empty [store] path and a new factors topic"
    )]
    Damaged { family: &'static str, key: String, detail: String },
    #[error("the state was made with {what} {found}, the configuration says {configured}; change it back or use an empty [store] path")]
    OtherModel { what: &'static str, found: String, configured: String },
    #[error(
        "the hash key {path} is {trouble}: without the key that the state was made with no fence holds and forgotten events would come \
         back; put that file back, every backup has it"
    )]
    HashKey { path: String, trouble: &'static str },
    #[error("cannot {action} the state: {cause}")]
    Io { action: &'static str, cause: String },
}

impl StoreError {
    /// A row that cannot be what was written. The key holds surrogates and hashes only and may be shown.
    pub fn damaged(family: Family, key: &[u8], detail: impl Into<String>) -> StoreError {
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        StoreError::Damaged { family: family.name(), key, detail: detail.into() }
    }

    /// Interactions of a number that stands for nobody.
    pub fn nameless(side: Side, number: u32) -> StoreError {
        let detail = "interactions have this number, and no name has it";
        StoreError::damaged(Family::Identities, &rows::identity_key(side, number), detail)
    }
}

/// Called for each row of a scan with key and value; `Break` ends it.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub bytes: u64,
    /// What a process without privileges may still write.
    pub free: u64,
}

/// Ordered families of bytes with atomic, durable batches.
pub trait Store: Send + Sync {
    /// Commits a batch: when this returns, all of it survives a crash; else none of it is seen.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what is on the disk is then in doubt and the process must end.
    fn write(&self, batch: &Batch) -> Result<(), StoreError>;

    /// As [`Store::write`], but may return before. Whatever is called next sees the batch and waits for it as far as it must;
    /// after a crash it may be missing until [`Store::settle`] has returned. One batch at a time is under way.
    ///
    /// # Errors
    /// Those of the write, or of the one before: the process must end. Then, or at the next call.
    fn write_behind(&self, batch: Batch) -> Result<(), StoreError> {
        self.write(&batch)
    }

    /// Waits until all that was written survives a crash.
    ///
    /// # Errors
    /// That of the write behind.
    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the rows with `from <= key < to` (to the end without `to`), ascending.
    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError>;

    /// Bytes that each family takes, roughly.
    fn sizes(&self) -> Vec<(Family, u64)>;

    /// Makes a copy of everything as it is now, in a directory that is not there yet, without copying the bytes of files that
    /// do not change (hard links): a moment's work, whatever the size.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be made.
    fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        Err(StoreError::Io { action: "copy", cause: format!("it is in memory: {} is not made", to.display()) })
    }

    /// Size and free bytes of the file system that holds the store; `None` in memory, or when the system does not tell.
    fn disk(&self) -> Option<Disk> {
        None
    }

    /// Makes the bytes of rows that were deleted or replaced before this call disappear from the disk, for rows with keys
    /// in `ranges`, and looks whether they did. Reading and writing go on meanwhile. `go_on` is asked before each step;
    /// what was done stays done when it says no.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store itself failed; that something is left is an [`Erased`] with a `leftover`.
    fn erase(&self, _ranges: &[KeyRange], _go_on: &dyn Fn(EraseStep) -> bool) -> Result<Erased, StoreError> {
        Ok(Erased::of_view())
    }
}

/// The end of all keys that start with `prefix`: the next prefix of the same length, `None` past the last.
pub fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}

#[cfg(test)]
pub(crate) mod canary;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
pub(crate) mod disk;
