//! Which version of the format lies in a state directory, looked at before anything is written, and the way from an older one.
//!
//! Format 1 kept all interactions in one column family; format 2 deals them out over several (see [`super::columns`]).

use std::ops::ControlFlow;
use std::path::Path;

use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, IteratorMode, Options, ReadOptions};

use super::columns::{self, Column};
use super::rocks::{failed, options};
use super::rows::{FORMAT, FORMAT_KEY};
use super::{Batch, Family, StoreError, beside};

/// The column family of all interactions in format 1.
const ONE: &str = "interactions";
/// Bytes of interactions that are moved in one write.
const MOVED_AT_ONCE: usize = 4 << 20;

/// What lies in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No state yet, or one whose first start ended before its first write.
    Nothing,
    Current,
    /// A state of format 1, whole or half moved.
    One,
}

/// The names of the column families that are there, whatever version made them.
pub(super) fn made(path: &Path) -> Result<Vec<String>, StoreError> {
    beside::opened(path, || DB::list_cf(&options(), path))
}

/// Looks at a directory that has these column families; nothing is written to it.
///
/// # Errors
/// [`StoreError::UnknownVersion`]; [`StoreError::Damaged`] where a column family is missing: it is not made anew, empty.
pub(super) fn look(path: &Path, made: &[String]) -> Result<Found, StoreError> {
    view(path, made).map(|(found, _)| found)
}

/// As [`look`], with the view that it took; none of nothing.
///
/// # Errors
/// As [`look`].
pub(super) fn view(path: &Path, made: &[String]) -> Result<(Found, Option<DB>), StoreError> {
    let has = |name: &str| made.iter().any(|made| made == name);
    // The last that is made: without it nothing was written to the others.
    if !has(Family::Meta.name()) {
        return Ok((Found::Nothing, None));
    }
    let db = beside::opened(path, || DB::open_cf_for_read_only(&options(), path, made, false))?;
    let found = match stored(&db)?.as_deref() {
        Some([FORMAT]) => missing(Column::all().map(|column| (column.family, column.name())), has).map_or(Ok(Found::Current), Err),
        Some([1]) => missing(Family::ALL.into_iter().map(|family| (family, family.name())), has).map_or(Ok(Found::One), Err),
        None if made.iter().all(|name| db.cf_handle(name).is_some_and(|handle| is_empty(&db, handle))) => Ok(Found::Nothing),
        other => Err(StoreError::UnknownVersion {
            path: path.display().to_string(),
            found: other.map_or("none".to_owned(), |bytes| format!("{bytes:?}")),
            expected: FORMAT,
        }),
    };
    Ok((found?, Some(db)))
}

fn missing(mut all: impl Iterator<Item = (Family, &'static str)>, has: impl Fn(&str) -> bool) -> Option<StoreError> {
    let (family, _) = all.find(|(_, name)| !has(name))?;
    Some(StoreError::damaged(family, b"", "the column family is missing"))
}

fn is_empty(db: &DB, handle: &ColumnFamily) -> bool {
    db.iterator_cf(handle, IteratorMode::Start).next().is_none()
}

fn stored(db: &DB) -> Result<Option<Vec<u8>>, StoreError> {
    db.get_cf(Column::of(Family::Meta, FORMAT_KEY).handle(db)?, FORMAT_KEY).map_err(|e| failed("read", &e))
}

/// The column families to open a directory with that has those in `made`: ours, and those of before, for RocksDB wants to be
/// told of each that is there.
pub(super) fn descriptors(made: &[String]) -> Result<Vec<ColumnFamilyDescriptor>, StoreError> {
    let mut all = columns::descriptors()?;
    if made.iter().any(|name| name == ONE) {
        // It is about to go.
        let mut options = Options::default();
        options.set_disable_auto_compactions(true);
        all.push(ColumnFamilyDescriptor::new(ONE, options));
    }
    Ok(all)
}

/// Brings what was opened to this format. A crash at any instruction leaves a state that this is done to again: what was
/// moved is put where it is already, the version is written when all is there, and only then the old place is dropped.
///
/// # Errors
/// [`StoreError`] when a row cannot be read or written.
pub(super) fn bring_up(db: &mut DB) -> Result<(), StoreError> {
    let format = stored(db)?;
    if let Some(one) = db.cf_handle(ONE) {
        match format.as_deref() {
            Some([1]) => move_all(db, one)?,
            // Nothing was ever in it, or it was moved and the process ended before it was dropped.
            Some(_) => {}
            None if is_empty(db, one) => {}
            None => return Err(StoreError::damaged(Family::Interactions, b"", "rows of a state that has no version")),
        }
    }
    if format.as_deref() != Some(&[FORMAT]) {
        let mut batch = Batch::default();
        batch.put(Family::Meta, FORMAT_KEY, &[FORMAT]);
        columns::write(db, &batch)?;
    }
    if db.cf_handle(ONE).is_some() {
        db.drop_cf(ONE).map_err(|e| failed("drop the old interactions of", &e))?;
    }
    Ok(())
}

fn move_all(db: &DB, one: &ColumnFamily) -> Result<(), StoreError> {
    tracing::info!("bringing the state to format {FORMAT}: its interactions are moved");
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let (mut batch, mut moved) = (Batch::default(), 0u64);
    let mut rows = db.raw_iterator_cf_opt(one, options);
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        batch.put(Family::Interactions, key, value);
        moved += 1;
        if batch.size() >= MOVED_AT_ONCE {
            columns::write(db, &std::mem::take(&mut batch))?;
            tracing::debug!("{moved} interactions moved");
        }
        rows.next();
    }
    // An iterator that ends on an error says so here; silence would be lost data.
    rows.status().map_err(|e| failed("scan", &e))?;
    columns::write(db, &batch)?;
    check(db, moved)?;
    tracing::info!("{moved} interactions moved");
    Ok(())
}

/// What was moved can be read where it is looked for, before the place it came from goes.
fn check(db: &DB, moved: u64) -> Result<(), StoreError> {
    let mut found = 0;
    columns::scan(db, Family::Interactions, b"", None, &mut |_, _| {
        found += 1;
        ControlFlow::Continue(())
    })?;
    if found == moved {
        return Ok(());
    }
    Err(StoreError::damaged(Family::Interactions, b"", format!("{found} of {moved} rows arrived in the new format")))
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
