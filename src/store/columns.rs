//! Where rows are in RocksDB. A family is one column family there, but interactions are dealt out over several, user by
//! user, so that what is rewritten for one user's erasure is a part of them, and each memtable is small enough for the
//! processor's cache.

use rocksdb::{BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Options};
use rocksdb::{ReadOptions, WriteBatch, WriteOptions};

use super::rocks::failed;
use super::{Batch, Change, Family, StoreError, Visit};

/// Column families of the interactions. Part of the format: a row is looked for only where [`Column::of`] says.
const SHARDS: usize = 16;
const SHARD_NAMES: [&str; SHARDS] = [
    "interactions-00",
    "interactions-01",
    "interactions-02",
    "interactions-03",
    "interactions-04",
    "interactions-05",
    "interactions-06",
    "interactions-07",
    "interactions-08",
    "interactions-09",
    "interactions-10",
    "interactions-11",
    "interactions-12",
    "interactions-13",
    "interactions-14",
    "interactions-15",
];
/// RocksDB insists on this one; of ours nothing is in it.
pub(super) const DEFAULT: &str = "default";
/// Blocks of all column families that are kept for those who come again, in bytes.
const BLOCK_CACHE: usize = 16 << 20;
/// What is written to a family before it becomes a file, in bytes; twice that is in memory while the file is made, and more
/// only for a batch that is larger.
const WRITE_BUFFER: usize = 8 << 20;
/// The same of a shard. 32 MiB of all together: interactions come by the million, and fewer and larger files of them cost
/// less merging, but a larger memtable takes longer to insert into and to flush for an erasure.
const SHARD_BUFFER: usize = 2 << 20;

/// What RocksDB adds to a record of a batch: its kind, its family, two lengths.
const RECORD_OVERHEAD: usize = 8;

/// A column family of RocksDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Column {
    pub family: Family,
    shard: usize,
}

impl Column {
    pub fn all() -> impl Iterator<Item = Column> {
        Family::ALL.into_iter().flat_map(Column::of_family)
    }

    pub fn of_family(family: Family) -> impl Iterator<Item = Column> {
        let shards = if family == Family::Interactions { SHARDS } else { 1 };
        (0..shards).map(move |shard| Column { family, shard })
    }

    /// Where the row of this key is.
    pub fn of(family: Family, key: &[u8]) -> Column {
        // 256 users that came one after the other stay together: reading in order changes the shard only so often.
        let shard = if family == Family::Interactions { usize::from(block(key)[2]) % SHARDS } else { 0 };
        Column { family, shard }
    }

    /// Where rows with `from <= key < to` can be.
    pub fn over(family: Family, from: &[u8], to: Option<&[u8]>) -> Vec<Column> {
        let in_one_block = to.map_or(block(from) == [0xff; 3], |to| is_of_block(to, block(from)));
        if family != Family::Interactions || in_one_block {
            return vec![Column::of(family, from)];
        }
        Column::of_family(family).collect()
    }

    pub fn name(self) -> &'static str {
        if self.family == Family::Interactions { SHARD_NAMES[self.shard] } else { self.family.name() }
    }

    pub fn named(name: &str) -> Option<Column> {
        Column::all().find(|column| column.name() == name)
    }

    pub fn handle(self, db: &DB) -> Result<&ColumnFamily, StoreError> {
        db.cf_handle(self.name()).ok_or_else(|| StoreError::damaged(self.family, b"", "the column family is missing"))
    }

    fn options(self, cache: &Cache) -> Result<Options, StoreError> {
        let mut options = Options::default();
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_format_version(5);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(WRITE_BUFFER);
        options.set_target_file_size_base(8 << 20);
        options.set_level_compaction_dynamic_level_bytes(true);
        match self.family {
            Family::Interactions => {
                options.set_write_buffer_size(SHARD_BUFFER);
                // Shards fill at the same pace, so many wait to be flushed at once.
                options.set_max_write_buffer_number(4);
                // A start and a forget read every file; fewer would be rewritten too often. Writing stops far beyond, but not
                // too far, for a process may not open any number of files.
                options.set_level_zero_file_num_compaction_trigger(8);
                options.set_level_zero_slowdown_writes_trigger(28);
                options.set_level_zero_stop_writes_trigger(36);
                // What is flushed is soon compacted: it is packed then, and in larger blocks, which cost less to begin.
                table.set_block_size(16 << 10);
                options.set_compression_per_level(&[DBCompressionType::None, DBCompressionType::Lz4]);
            }
            Family::UserFactors | Family::ItemFactors => {
                // What a float's bits are is hardly predictable.
                options.set_compression_type(DBCompressionType::None);
            }
            // The one large family that is asked for single keys; elsewhere a filter is memory for nothing.
            Family::Ledger => table.set_bloom_filter(10.0, false),
            _ => {}
        }
        options.set_block_based_table_factory(&table);
        if self.family == Family::Interactions {
            // Batches come sorted: each row is inserted beside the one before, not searched for from the top.
            let hint = "memtable_insert_with_hint_prefix_extractor=capped:0";
            options = options.get_options_from_string(hint).map_err(|e| failed("configure", &e))?;
        }
        Ok(options)
    }
}

/// Users whose rows stay together: their number without its last byte. Shorter keys are filled up.
fn block(key: &[u8]) -> [u8; 3] {
    [0, 1, 2].map(|at| key.get(at).copied().unwrap_or(0))
}

/// Is the greatest key below `to` one of this block, or of an earlier?
fn is_of_block(to: &[u8], of: [u8; 3]) -> bool {
    let [a, b, c] = of;
    let next = (u32::from_be_bytes([0, a, b, c]) + 1).to_be_bytes();
    // The block after the last has a fourth byte and is greater than all.
    next[0] > 0 || to <= &next[1..]
}

/// All column families, as they are opened and made.
///
/// # Errors
/// [`StoreError::Io`] when RocksDB does not take a setting.
pub(super) fn descriptors() -> Result<Vec<ColumnFamilyDescriptor>, StoreError> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE);
    // Only an erasure compacts its marks: nothing else may be compacted meanwhile.
    let mut marks = Options::default();
    marks.set_disable_auto_compactions(true);
    let ours = Column::all().map(|column| Ok(ColumnFamilyDescriptor::new(column.name(), column.options(&cache)?)));
    std::iter::once(Ok(ColumnFamilyDescriptor::new(DEFAULT, marks))).chain(ours).collect()
}

/// Commits a batch, synced.
pub(super) fn write(db: &DB, batch: &Batch) -> Result<(), StoreError> {
    // In one piece: a batch that grows by doubling takes twice its size, and a generation is large.
    let mut writes = WriteBatch::with_capacity_bytes(batch.size() + batch.len() * RECORD_OVERHEAD);
    let mut last: Option<(Column, &ColumnFamily)> = None;
    let mut missing = None;
    batch.each(&mut |change| {
        let (Change::Put(family, key, _) | Change::Delete(family, key)) = change;
        let column = Column::of(family, key);
        // Rows come sorted: most are of the column of the one before.
        let handle = match last {
            Some((known, handle)) if known == column => handle,
            _ => match column.handle(db) {
                Ok(handle) => handle,
                Err(error) => return missing = Some(error),
            },
        };
        last = Some((column, handle));
        match change {
            Change::Put(_, key, value) => writes.put_cf(handle, key, value),
            Change::Delete(_, key) => writes.delete_cf(handle, key),
        }
    });
    missing.map_or(Ok(()), Err)?;
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    db.write_opt(writes, &durable).map_err(|e| failed("write", &e))
}

/// See [`super::Store::scan`]. Shards are read side by side; a block of users is in one of them, so they are compared once a
/// block.
pub(super) fn scan(db: &DB, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
    let mut parts = Vec::new();
    for column in Column::over(family, from, to) {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        // A pass over everything is no reason to keep any of it.
        options.fill_cache(!(from.is_empty() && to.is_none()));
        let mut rows = db.raw_iterator_cf_opt(column.handle(db)?, options);
        rows.seek(from);
        parts.push(rows);
    }
    let several = parts.len() > 1;
    loop {
        let mut least: Option<(usize, &[u8])> = None;
        for (at, part) in parts.iter().enumerate() {
            match part.key() {
                Some(key) if least.is_none_or(|(_, least)| key < least) => least = Some((at, key)),
                Some(_) => {}
                // An iterator that ends on an error says so here; silence would be lost data.
                None => part.status().map_err(|e| failed("scan", &e))?,
            }
        }
        let Some((at, key)) = least else { return Ok(()) };
        let here = block(key);
        while let Some((key, value)) = parts[at].item() {
            if several && block(key) != here {
                break;
            }
            if visit(key, value).is_break() {
                return Ok(());
            }
            parts[at].next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::after;

    #[test]
    fn a_users_rows_are_in_one_place_and_everybodys_everywhere() {
        for user in [0u32, 255, 256, 4_095, 0x00ff_ffff, u32::MAX - 1, u32::MAX] {
            let key = user.to_be_bytes();
            let only = Column::over(Family::Interactions, &key, after(&key).as_deref());
            assert_eq!(only, [Column::of(Family::Interactions, &[&key[..], b"item"].concat())], "{user}");
        }
        let all: Vec<Column> = Column::of_family(Family::Interactions).collect();
        assert_eq!(Column::over(Family::Interactions, b"", None), all);
        assert_eq!(Column::over(Family::Interactions, &255u32.to_be_bytes(), Some(&257u32.to_be_bytes())), all);
        assert_eq!(Column::over(Family::Ledger, b"", None), [Column::of(Family::Ledger, b"any")]);
        let used: std::collections::BTreeSet<Column> = (0..40_000u32).map(|n| Column::of(Family::Interactions, &n.to_be_bytes())).collect();
        assert_eq!(used.into_iter().collect::<Vec<_>>(), all);
    }

    #[test]
    fn names_lead_back() {
        let mut names: Vec<&str> = Column::all().map(Column::name).collect();
        assert!(Column::all().all(|column| Column::named(column.name()) == Some(column)));
        assert_eq!((Column::named(DEFAULT), Column::named("interactions")), (None, None));
        names.dedup();
        assert_eq!(names.len(), Family::ALL.len() - 1 + SHARDS);
    }
}
