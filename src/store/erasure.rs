//! Physical erasure: after a delete, RocksDB keeps the bytes in its log, in table files and in the manifest until it happens
//! to rewrite them. Here it is made to, and then looked at.
//!
//! The sequence: close the log and flush every family (one that is not flushed keeps the log, and the log keeps the bytes),
//! compact the ranges down to the last level, roll the manifest. What proves it, since `compact_range` reports nothing: a
//! deleted or replaced value hides below a tombstone or a newer value in another file. Once everything is flushed, that row, or
//! a later one of its key that a flush or a compaction put in its place, is in one of the files that are then listed. When, of
//! those, all over a range lie at the last level, which has one value of a key, and none has a tombstone, then nothing is
//! hidden. What is compacted meanwhile has other files: every row has a sequence number, and a file tells that of its oldest, so
//! they are held against the moment at which the erasure began. A compaction, too, may put a later row in the place of one that
//! was listed: its file was to be rewritten, so all of its column family's ranges are, and what it hid with them. (A snapshot
//! would make compactions keep more; nothing here ever opens one, and that is looked at too.)

use std::path::Path;
use std::time::Duration;

use rocksdb::{BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, FlushOptions, WriteOptions, properties};

use super::backups::CHECKPOINT;
use super::columns::{Column, DEFAULT};
use super::rocks::{failed, io};
use super::{Family, StoreError, after};
use table::{Table, tables};

mod table;

/// Row of RocksDB's own column family that is rewritten so that there is something to flush and to compact.
const MARK: &[u8] = b"erasure";
/// RocksDB removes files on its own threads: looks at the directory, and the pause between two of them.
const LOOKS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(10);
/// Threads that wait for compactions; only one compacts at a time.
const THREADS: usize = 32;
/// Passes over files that a compaction left where they were.
const ROUNDS: usize = 4;
/// The last level of RocksDB's default of seven.
const LAST: i32 = 6;

/// Rows of a family with `from <= key < to`, to the end without `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRange {
    pub family: Family,
    pub from: Vec<u8>,
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    /// All keys that start with `prefix`.
    pub fn under(family: Family, prefix: &[u8]) -> KeyRange {
        KeyRange { family, from: prefix.to_vec(), to: after(prefix) }
    }

    pub fn all(family: Family) -> KeyRange {
        KeyRange::under(family, b"")
    }
}

/// The steps of an erasure, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseStep {
    Flush,
    Rewrite,
    Roll,
    Verify,
}

impl EraseStep {
    pub const ALL: [EraseStep; 4] = [EraseStep::Flush, EraseStep::Rewrite, EraseStep::Roll, EraseStep::Verify];
}

/// What an erasure did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// Table files that were written anew, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Why it is not proven that the bytes are gone; `None` when it is.
    pub leftover: Option<String>,
}

impl Erased {
    /// A store that only shows another one proves nothing of it.
    pub(super) fn of_view() -> Erased {
        Erased { leftover: Some("this is a view; erase in the store that it shows".to_owned()), ..Erased::default() }
    }

    pub(super) fn interrupted() -> Erased {
        Erased { leftover: Some("the erasure was interrupted; it begins anew".to_owned()), ..Erased::default() }
    }
}

/// Keys between which files are rewritten: `from` and `to` are both inclusive, `None` is the end of the family.
type Span = (Vec<u8>, Option<Vec<u8>>);
type Spans = [(Column, Vec<Span>)];

/// See [`super::Store::erase`].
pub(super) fn erase(db: &DB, ranges: &[KeyRange], go_on: &dyn Fn(EraseStep) -> bool) -> Result<Erased, StoreError> {
    erase_within(db, ranges, LOOKS, go_on)
}

fn erase_within(db: &DB, ranges: &[KeyRange], looks: u32, go_on: &dyn Fn(EraseStep) -> bool) -> Result<Erased, StoreError> {
    let upto = db.latest_sequence_number();
    if !go_on(EraseStep::Flush) {
        return Ok(Erased::interrupted());
    }
    let before = Folder::read(db.path())?;
    let spans = spans(ranges);
    // The mark is in the newest log: flushing it begins another.
    mark(db)?;
    flush(db, default(db)?)?;
    // Both at once: neither needs what the other makes, and at full ingest each waits. What is compacted here is next to
    // nothing, but it begins when no other compaction is left, and keeps others from beginning.
    std::thread::scope(|scope| {
        let default = default(db)?;
        scope.spawn(move || compact(db, default, &(Vec::new(), None), false));
        flush_all(db)
    })?;
    let mut files = tables(db)?;
    let known: Vec<u64> = files.iter().map(|file| file.number).collect();
    let past = Past { upto, newest: known.iter().copied().max().unwrap_or(0) };
    let failures = failed_jobs(db)?;
    for round in 0..ROUNDS {
        let stale: Vec<&Table> = files.iter().filter(|file| past.may_hide(file) && is_over(file, &spans)).collect();
        if stale.is_empty() {
            break;
        }
        if !go_on(EraseStep::Rewrite) {
            return Ok(Erased::interrupted());
        }
        compact_all(db, &work(round, &spans, &stale, &files), round > 0)?;
        files = tables(db)?;
    }
    if failed_jobs(db)? > failures {
        // `compact_range` does not tell.
        let leftover = Some("RocksDB failed to rewrite tables, perhaps for lack of space; it is tried again later".to_owned());
        return Ok(Erased { leftover, ..Erased::default() });
    }
    // What is in no table by now does not come back, whatever else is compacted.
    let unsettled = files.iter().any(|file| past.may_hide(file) && is_over(file, &spans)).then_some(past);
    let mut erased = Erased::default();
    let made = |file: &&Table| file.level > 0 && is_over(file, &spans) && !known.contains(&file.number);
    for file in files.iter().filter(made) {
        erased.files += 1;
        erased.bytes += file.bytes;
    }
    // Whatever is replaced by now has no higher number. A table that is being written has none either, and is waited for, too.
    let replaced = Folder::read(db.path())?.newest_table();
    if !go_on(EraseStep::Roll) {
        return Ok(Erased { leftover: Erased::interrupted().leftover, ..erased });
    }
    // A manifest begins with the files as they are and ends with the change that called for it: the second change is the
    // first whose manifest does not know the rewritten files.
    for _ in 0..2 {
        mark(db)?;
        flush(db, default(db)?)?;
    }
    if !go_on(EraseStep::Verify) {
        return Ok(Erased { leftover: Erased::interrupted().leftover, ..erased });
    }
    erased.leftover = remains(db, looks, &Sought { spans: &spans, unsettled, replaced, before: &before })?;
    Ok(erased)
}

/// What an erasure is about.
#[derive(Debug, Clone, Copy)]
struct Past {
    /// Sequence number of the last row when it began.
    upto: u64,
    /// Number of the newest table file when all of these rows were in one.
    newest: u64,
}

impl Past {
    /// Can this file hide something, or hold what another hides? Not when it was made later and all of it was written later, nor
    /// when it is of the last level and has no tombstones. The rows of a file that was there are no measure: a row of before may
    /// have given way to a later one of its key as they were flushed, and what it hid is hidden still.
    fn may_hide(self, file: &Table) -> bool {
        let is_of_then = file.number <= self.newest || file.oldest <= self.upto;
        is_of_then && (file.level != LAST || file.deletions > 0)
    }
}

/// What is compacted in a round: first the ranges, then, file by file, what they left. A compaction passes over a level
/// where no key of its range is stored, although a file there spans it, and a file that it only moves keeps its tombstones.
fn work(round: usize, spans: &Spans, stale: &[&Table], files: &[Table]) -> Vec<(Column, Span)> {
    if round > 0 {
        let own = |file: &&Table| file.column().zip(file.keys.clone()).map(|(column, (start, end))| (column, (start, Some(end))));
        return stale.iter().filter_map(own).collect();
    }
    let of_column = |(column, spans): &(Column, Vec<Span>)| {
        let mut rows: Vec<&Table> = files.iter().filter(|file| file.level > 0 && file.column() == Some(*column)).collect();
        rows.sort_unstable_by(|a, b| a.keys.cmp(&b.keys));
        let held = stale.iter().any(|file| file.column() == Some(*column));
        let spans = if held { joined(spans, &rows) } else { Vec::new() };
        spans.into_iter().map(|span| (*column, span)).collect::<Vec<_>>()
    };
    spans.iter().flat_map(of_column).collect()
}

/// The ranges in each column family that they touch.
fn spans(ranges: &[KeyRange]) -> Vec<(Column, Vec<Span>)> {
    let touched = Column::all().map(|column| (column, merged(ranges, column)));
    touched.filter(|(_, spans)| !spans.is_empty()).collect()
}

/// Spans of one column family, sorted; those with no whole file between them become one. So there are never many more
/// compactions than files, however many rows were deleted.
fn joined(spans: &[Span], files: &[&Table]) -> Vec<Span> {
    let mut out: Vec<Span> = Vec::new();
    for span in spans {
        if let Some((_, last)) = out.last_mut() {
            let Some(end) = last.as_ref() else { break };
            let first_after = files.partition_point(|file| file.keys.as_ref().is_some_and(|(start, _)| start <= end));
            let between = files.get(first_after).is_some_and(|file| file.keys.as_ref().is_some_and(|(_, end)| *end < span.0));
            if !between {
                *last = span.1.clone();
                continue;
            }
        }
        out.push(span.clone());
    }
    out
}

/// The ranges of one column family, sorted, those that touch made one.
fn merged(ranges: &[KeyRange], column: Column) -> Vec<Span> {
    let is_here = |range: &&KeyRange| Column::over(range.family, &range.from, range.to.as_deref()).contains(&column);
    let mut here: Vec<&KeyRange> = ranges.iter().filter(is_here).collect();
    here.sort_unstable();
    let mut spans: Vec<Span> = Vec::new();
    for range in here {
        match spans.last_mut() {
            Some((_, end)) if end.as_ref().is_none_or(|end| range.from <= *end) => {
                // `None` is beyond every key.
                if end.is_some() && (range.to.is_none() || range.to > *end) {
                    end.clone_from(&range.to);
                }
            }
            _ => spans.push((range.from.clone(), range.to.clone())),
        }
    }
    spans
}

fn is_over(file: &Table, spans: &Spans) -> bool {
    let Some((_, spans)) = spans.iter().find(|(column, _)| column.name() == file.family) else { return false };
    let Some((start, end)) = &file.keys else { return !spans.is_empty() };
    let first = spans.partition_point(|(_, to)| to.as_ref().is_some_and(|to| to <= start));
    spans.get(first).is_some_and(|(from, _)| from <= end)
}

/// The number in a file's name.
fn numbered(name: &str, head: &str, tail: &str) -> Option<u64> {
    name.strip_prefix(head)?.strip_suffix(tail)?.parse().ok()
}

/// Flushes and compactions that failed since the store was opened.
fn failed_jobs(db: &DB) -> Result<u64, StoreError> {
    Ok(db.property_int_value(properties::BACKGROUND_ERRORS).map_err(|e| failed("look at", &e))?.unwrap_or(0))
}

fn default(db: &DB) -> Result<&ColumnFamily, StoreError> {
    db.cf_handle(DEFAULT).ok_or_else(|| io("mark", "RocksDB's own column family is missing"))
}

fn mark(db: &DB) -> Result<(), StoreError> {
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    db.put_cf_opt(default(db)?, MARK, b"", &durable).map_err(|e| failed("write", &e))
}

fn flush(db: &DB, handle: &ColumnFamily) -> Result<(), StoreError> {
    let mut options = FlushOptions::default();
    options.set_wait(true);
    db.flush_cf_opt(handle, &options).map_err(|e| failed("flush", &e))
}

/// Flushes every family. All at once: each waits for its turn among the flushes that writing calls for, and one after the
/// other these waits would be most of an erasure during ingest.
fn flush_all(db: &DB) -> Result<(), StoreError> {
    std::thread::scope(|scope| {
        let begun: Vec<_> = Column::all().map(|column| scope.spawn(move || flush(db, column.handle(db)?))).collect();
        let panicked = |_| Err(io("flush", "a thread of it panicked"));
        begun.into_iter().map(|flush| flush.join().unwrap_or_else(panicked)).fold(Ok(()), Result::and)
    })
}

/// Moves everything between the ends to the last level; `anew` also rewrites what is there already. Waits for whatever
/// compaction is under way, in any column family, and keeps others from beginning.
fn compact(db: &DB, handle: &ColumnFamily, (from, to): &Span, anew: bool) {
    use BottommostLevelCompaction::{ForceOptimized, Skip};
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(true);
    options.set_bottommost_level_compaction(if anew { ForceOptimized } else { Skip });
    let from = (!from.is_empty()).then_some(from);
    db.compact_range_cf_opt(handle, from, to.as_ref(), &options);
}

/// Compacts all of these. All at once: they wait for each other, but while one waits no automatic compaction begins, of
/// whatever column family, and at full ingest there always is one to be waited for.
fn compact_all(db: &DB, work: &[(Column, Span)], anew: bool) -> Result<(), StoreError> {
    let work: Vec<(&ColumnFamily, &Span)> =
        work.iter().map(|(column, span)| Ok((column.handle(db)?, span))).collect::<Result<_, StoreError>>()?;
    std::thread::scope(|scope| {
        for some in work.chunks(work.len().div_ceil(THREADS).max(1)) {
            scope.spawn(move || some.iter().for_each(|(handle, span)| compact(db, handle, span, anew)));
        }
    });
    Ok(())
}

/// The numbered files of the state directory.
#[derive(Debug, Default)]
struct Folder {
    tables: Vec<u64>,
    logs: Vec<u64>,
    manifests: Vec<u64>,
    /// Logs that RocksDB keeps for replication; it is told to keep none.
    archived: bool,
    /// A copy that a backup is made from: it keeps what was deleted.
    copied: bool,
}

impl Folder {
    fn newest_table(&self) -> u64 {
        self.tables.iter().copied().max().unwrap_or(0)
    }

    fn read(path: &Path) -> Result<Folder, StoreError> {
        let unread = |e: std::io::Error| io("list the files of", format!("{}: {e}", path.display()));
        let mut folder = Folder::default();
        for entry in std::fs::read_dir(path).map_err(unread)? {
            let name = entry.map_err(unread)?.file_name();
            let Some(name) = name.to_str() else { continue };
            folder.tables.extend(numbered(name, "", ".sst"));
            folder.logs.extend(numbered(name, "", ".log"));
            folder.manifests.extend(numbered(name, "MANIFEST-", ""));
            folder.copied |= name.starts_with(CHECKPOINT);
            if name == "archive" {
                folder.archived = std::fs::read_dir(path.join(name)).map_err(unread)?.next().is_some();
            }
        }
        Ok(folder)
    }
}

/// What must be gone.
struct Sought<'a> {
    spans: &'a Spans,
    /// Unless it was seen before that none hides anything.
    unsettled: Option<Past>,
    /// Table files up to this number that nothing reads any more.
    replaced: u64,
    /// Logs and manifests of these.
    before: &'a Folder,
}

/// Looks until everything is gone, so many times at most; what is left then, in words.
fn remains(db: &DB, looks: u32, sought: &Sought<'_>) -> Result<Option<String>, StoreError> {
    let mut left = None;
    for _ in 0..looks {
        left = look(db, sought)?;
        if left.is_none() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(left)
}

fn look(db: &DB, sought: &Sought<'_>) -> Result<Option<String>, StoreError> {
    let Sought { spans, unsettled, replaced, before } = *sought;
    if db.property_int_value(properties::NUM_SNAPSHOTS).map_err(|e| failed("look at", &e))? != Some(0) {
        return Ok(Some("a snapshot is open and keeps deleted rows".to_owned()));
    }
    let files = tables(db)?;
    let may_hide = |file: &&Table| unsettled.is_some_and(|past| past.may_hide(file)) && is_over(file, spans);
    if let Some(Table { number, family, level, deletions, .. }) = files.iter().find(may_hide) {
        return Ok(Some(format!("table file {number} of {family} was not compacted; level {level}, {deletions} tombstones")));
    }
    let folder = Folder::read(db.path())?;
    let is_live = |table: &u64| files.iter().any(|file| file.number == *table);
    let newest_of = |numbers: &[u64]| numbers.iter().copied().max().unwrap_or(0);
    Ok(if let Some(table) = folder.tables.iter().find(|table| **table <= replaced && !is_live(table)) {
        Some(format!("the table file {table}, replaced or not finished, is still in the directory"))
    } else if let Some(log) = folder.logs.iter().find(|log| **log <= newest_of(&before.logs)) {
        Some(format!("the log {log} is still in the directory"))
    } else if let Some(manifest) = folder.manifests.iter().find(|manifest| **manifest <= newest_of(&before.manifests)) {
        Some(format!("the manifest {manifest} is still in the directory"))
    } else if folder.copied {
        Some("a backup is being taken, from a copy that keeps what was deleted; it is tried again later".to_owned())
    } else if folder.archived {
        Some("logs are kept in `archive`; remove that directory".to_owned())
    } else {
        None
    })
}

#[cfg(test)]
#[path = "erasure_tests.rs"]
mod tests;
