//! Which version of the format lies in a state directory, looked at before anything is written, and the way from an older one.
//!
//! Format 1 kept all interactions in one column family; format 2 deals them out over several (see [`super::columns`]); format 3
//! has a row for what a batch brought of some users (see [`super::plays`]), where there was one for each play before.

use std::ops::ControlFlow;
use std::path::Path;

use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, IteratorMode, Options, ReadOptions};

use super::columns::{self, Column};
use super::rocks::{failed, options};
use super::rows::{self, FORMAT, FORMAT_KEY};
use super::{Batch, Family, StoreError, beside, plays};
use crate::model::play::Play;
use crate::model::step::TOGETHER;

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
    /// A state of an older format, whole or on its way to this one.
    Old(u8),
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
        Some(&[format @ (2 | FORMAT)]) => {
            let found = if format == FORMAT { Found::Current } else { Found::Old(format) };
            missing(Column::all().map(|column| (column.family, column.name())), has).map_or(Ok(found), Err)
        }
        Some([1]) => missing(Family::ALL.into_iter().map(|family| (family, family.name())), has).map_or(Ok(Found::Old(1)), Err),
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
    if matches!(format.as_deref(), Some([1 | 2])) {
        regroup(db)?;
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
    tracing::info!("bringing the state to format 2: its interactions are moved");
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
    columns::scan(db, Family::Interactions, b"", None, &mut |key, _| {
        // An earlier start may have come as far as the next format with some.
        found += u64::from(key.len() != plays::KEY);
        ControlFlow::Continue(())
    })?;
    if found == moved {
        return Ok(());
    }
    Err(StoreError::damaged(Family::Interactions, b"", format!("{found} of {moved} rows arrived in the new format")))
}

/// Plays of a group, one row each until now.
#[derive(Default)]
struct Single {
    plays: Vec<(Play, Box<str>)>,
    keys: Vec<Vec<u8>>,
}

impl Single {
    /// Puts them together in the place of what they are: at once, so that none is missing or twice at any time.
    fn regroup(&mut self, batch: &mut Batch) {
        // Below the numbers of all batches.
        for (number, plays) in (0..).zip(self.plays.chunks(plays::OF_A_ROW)) {
            plays::put(batch, plays, number);
        }
        self.keys.drain(..).for_each(|key| batch.delete(Family::Interactions, &key));
        self.plays.clear();
    }
}

fn regroup(db: &DB) -> Result<(), StoreError> {
    tracing::info!("bringing the state to format {FORMAT}: its interactions are put together");
    let (mut single, mut batch, mut all, mut failed) = (Single::default(), Batch::default(), 0u64, None);
    let mut visit = |key: &[u8], value: &[u8]| -> Result<(), StoreError> {
        if key.len() == plays::KEY {
            return Ok(());
        }
        let play = one(key).ok_or_else(|| StoreError::damaged(Family::Interactions, key, "not a play"))?;
        let name = std::str::from_utf8(rows::unversioned(Family::Interactions, key, value)?);
        let name = name.map_err(|_| StoreError::damaged(Family::Interactions, key, "not an event id"))?;
        if single.plays.last().is_some_and(|(last, _)| last.user / TOGETHER != play.user / TOGETHER) {
            single.regroup(&mut batch);
            if batch.size() >= MOVED_AT_ONCE {
                columns::write(db, &std::mem::take(&mut batch))?;
            }
        }
        single.plays.push((play, name.into()));
        single.keys.push(key.to_vec());
        all += 1;
        Ok(())
    };
    columns::scan(db, Family::Interactions, b"", None, &mut |key, value| match visit(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    single.regroup(&mut batch);
    columns::write(db, &batch)?;
    tracing::info!("{all} interactions put together");
    Ok(())
}

/// The play of a row that held one: its fields in order, big endian.
fn one(key: &[u8]) -> Option<Play> {
    let (user, rest) = key.split_first_chunk()?;
    let (item, rest) = rest.split_first_chunk()?;
    let (ident, rest) = match rest.split_first()? {
        (0, rest) => (None, rest),
        (1, rest) => rest.split_first_chunk().map(|(ident, rest)| (Some(u64::from_be_bytes(*ident)), rest))?,
        _ => return None,
    };
    let (time, rest) = rest.split_first_chunk()?;
    let value = u64::from_be_bytes(rest.try_into().ok()?);
    let (user, item, time) = (u32::from_be_bytes(*user), u32::from_be_bytes(*item), i64::from_be_bytes(*time));
    // Times are never negative.
    (time >= 0).then_some(Play { user, item, ident, time, value })
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
