//! RocksDB behind the [`Store`] trait.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, LogLevel, Options};

use super::behind::Behind;
use super::columns::{self, Column};
use super::format::Found;
use super::rows::FORMAT;
use super::{Batch, Disk, EraseStep, Erased, Family, KeyRange, Store, StoreError, Visit, erasure, format};

/// Lies in a state directory while it is being restored.
pub const UNFINISHED: &str = "restore.unfinished";
/// File of the lock in the state directory.
pub const LOCK_FILE: &str = "nepenthe.lock";

/// A RocksDB directory, held by this process alone (or opened for reading only).
pub struct RocksStore {
    /// Writes beside the caller; `None` for readers. First, so that it ends before the rest is let go.
    behind: Option<Behind>,
    db: Arc<DB>,
    /// Held as long as the store is open; `None` for readers.
    _lock: Option<Held>,
}

/// A state directory kept from every other process that would write to it; let go when dropped.
pub struct Held {
    _file: File,
}

/// Holds an existing state before it is opened, so that what is read from it stays true until it is written.
///
/// # Errors
/// [`StoreError::InUse`] when another process has it, [`StoreError::Io`] when there is none.
pub fn hold(path: &Path) -> Result<Held, StoreError> {
    if path.join("CURRENT").exists() { lock(path) } else { Err(no_state(path)) }
}

/// Holds a directory that is to become a state; makes it (mode 0700) when it is missing.
///
/// # Errors
/// [`StoreError::InUse`] when another process has it, [`StoreError::Io`] when it cannot be made.
pub fn claim(path: &Path) -> Result<Held, StoreError> {
    create_private(path).map_err(|e| io("make", format!("{}: {e}", path.display())))?;
    lock(path)
}

/// A state that was only half restored must not be taken for one.
fn whole(path: &Path) -> Result<(), StoreError> {
    if path.join(UNFINISHED).exists() {
        let detail = "a restore was not finished; empty the directory and restore again".to_owned();
        return Err(StoreError::Damaged { family: "RocksDB", key: path.display().to_string(), detail });
    }
    Ok(())
}

fn no_state(path: &Path) -> StoreError {
    io("read", format!("{} holds no state; name the service's [store] path", path.display()))
}

impl RocksStore {
    /// Opens or makes the state directory (mode 0700 when made). A state of an older format is brought to this one.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it; [`StoreError::UnknownVersion`] and [`StoreError::Damaged`]
    /// before anything is written to it.
    pub fn open(path: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::open_held(path, claim(path)?)
    }

    /// As [`RocksStore::open`], for a directory that is already held.
    ///
    /// # Errors
    /// As [`RocksStore::open`], but for `InUse`.
    pub fn open_held(path: &Path, held: Held) -> Result<RocksStore, StoreError> {
        whole(path)?;
        RocksStore::open_unfinished(path, held)
    }

    /// As [`RocksStore::open_held`], for whoever is restoring it.
    ///
    /// # Errors
    /// As [`RocksStore::open_held`].
    pub fn open_unfinished(path: &Path, held: Held) -> Result<RocksStore, StoreError> {
        let made = if path.join("CURRENT").exists() { format::made(path)? } else { Vec::new() };
        // Before anything is written.
        format::look(path, &made)?;
        let mut options = rolling(options())?;
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let mut db = DB::open_cf_descriptors(&options, path, format::descriptors(&made)?).map_err(|e| opening(path, &e))?;
        format::bring_up(&mut db)?;
        let db = Arc::new(db);
        let own = db.clone();
        let behind = Behind::start(move |batch| columns::write(&own, batch))?;
        Ok(RocksStore { behind: Some(behind), db, _lock: Some(held) })
    }

    /// Opens the state as it is now for reading, whether or not a service holds it.
    ///
    /// # Errors
    /// As [`RocksStore::open`], but for `InUse`; [`StoreError::OldVersion`] for a state that must be opened for writing first.
    pub fn read(path: &Path) -> Result<RocksStore, StoreError> {
        if !path.join("CURRENT").exists() {
            return Err(no_state(path));
        }
        whole(path)?;
        match format::view(path, &format::made(path)?)? {
            (Found::Current, Some(db)) => Ok(RocksStore { behind: None, db: Arc::new(db), _lock: None }),
            (Found::Old(found), _) => Err(StoreError::OldVersion { path: path.display().to_string(), found, expected: FORMAT }),
            _ => Err(no_state(path)),
        }
    }

    #[cfg(test)]
    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    /// Blocks are written as they are, so that a search of the files finds everything.
    #[cfg(test)]
    pub(crate) fn leave_uncompressed(&self) -> Result<(), StoreError> {
        let options = [("compression", "kNoCompression"), ("compression_per_level", "kNoCompression")];
        let mut columns = Column::all();
        columns.try_for_each(|column| self.db.set_options_cf(column.handle(&self.db)?, &options).map_err(|e| failed("configure", &e)))
    }
}

impl Store for RocksStore {
    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        self.settle()?;
        columns::write(&self.db, batch)
    }

    fn write_behind(&self, batch: Batch) -> Result<(), StoreError> {
        match &self.behind {
            Some(behind) => behind.write(batch),
            None => self.write(&batch),
        }
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.behind.as_ref().map_or(Ok(()), Behind::settle)
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.settle()?;
        self.db.get_cf(Column::of(family, key).handle(&self.db)?, key).map_err(|e| failed("read", &e))
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.settle()?;
        columns::scan(&self.db, family, from, to, visit)
    }

    fn sizes(&self) -> Vec<(Family, u64)> {
        let property = |column: Column, name: &str| {
            let handle = column.handle(&self.db).ok()?;
            self.db.property_int_value_cf(handle, name).ok().flatten()
        };
        let size = |column| {
            property(column, "rocksdb.total-sst-files-size").unwrap_or(0) + property(column, "rocksdb.cur-size-all-mem-tables").unwrap_or(0)
        };
        Family::ALL.map(|family| (family, Column::of_family(family).map(size).sum())).into()
    }

    fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        self.settle()?;
        let taken = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(to));
        taken.map_err(|e| failed("copy", &e))
    }

    fn disk(&self) -> Option<Disk> {
        let disk = rustix::fs::statvfs(self.db.path()).ok()?;
        Some(Disk { bytes: disk.f_blocks * disk.f_frsize, free: disk.f_bavail * disk.f_frsize })
    }

    fn erase(&self, ranges: &[KeyRange], go_on: &dyn Fn(EraseStep) -> bool) -> Result<Erased, StoreError> {
        self.settle()?;
        erasure::erase(&self.db, ranges, go_on)
    }
}

/// Settings that erasure needs: small files, no recycled logs (their tails keep old bytes), no keys in LOG.
pub(super) fn options() -> Options {
    let mut options = Options::default();
    options.set_recycle_log_file_num(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_background_jobs(2);
    // Large compactions are those of factor rows for an erasure, and that is waited for.
    options.set_max_subcompactions(2);
    options.set_bytes_per_sync(1 << 20);
    // A log is kept as long as any family has rows of it in memory, and is read again at a start.
    options.set_max_total_wal_size(256 << 20);
    options
}

/// A manifest lists the first and last keys of every file, also of files that are gone: each change begins a new one.
/// It is some hundred bytes a file, so this costs less than the file that it announces. The setters alone do not roll it.
fn rolling(mut options: Options) -> Result<Options, StoreError> {
    options.get_options_from_string("max_manifest_file_size=1;max_manifest_space_amp_pct=0").map_err(|e| failed("configure", &e))
}

/// RocksDB reports a bad file in many words; all of them mean that the state must not be used.
pub(super) fn opening(path: &Path, error: &rocksdb::Error) -> StoreError {
    match error.kind() {
        rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument | rocksdb::ErrorKind::NotSupported => {
            let said = error.to_string();
            // What is wrong with a table's own description is told of the list that was being read.
            let listed = said.contains("MANIFEST-") && !said.replace(&path.display().to_string(), "").contains(".sst");
            let hint = if listed { " It, or a table file (.sst) that it lists, is not what was written." } else { "" };
            let detail = format!("{} cannot be opened: {said}{hint}", path.display());
            StoreError::Damaged { family: "RocksDB", key: "-".to_owned(), detail }
        }
        // CURRENT is there, and what it points to is not.
        _ if error.to_string().contains("No such file") => StoreError::Damaged {
            family: "RocksDB",
            key: "-".to_owned(),
            detail: format!("{}: a file is missing: {error}", path.display()),
        },
        _ if error.to_string().contains("LOCK") => StoreError::InUse { path: path.display().to_string() },
        _ => io("open", format!("{}: {error}", path.display())),
    }
}

/// A flipped bit shows when its block is read, not when the files are opened.
pub(super) fn failed(action: &'static str, error: &rocksdb::Error) -> StoreError {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            StoreError::Damaged { family: "RocksDB", key: "-".to_owned(), detail: format!("cannot {action}: {error}") }
        }
        _ => io(action, error),
    }
}

pub(super) fn io(action: &'static str, cause: impl std::fmt::Display) -> StoreError {
    StoreError::Io { action, cause: cause.to_string() }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The lock goes with the process, however it ends.
fn lock(path: &Path) -> Result<Held, StoreError> {
    let file = path.join(LOCK_FILE);
    let lock =
        File::options().create(true).truncate(false).write(true).open(&file).map_err(|e| io("lock", format!("{}: {e}", file.display())))?;
    match lock.try_lock() {
        Ok(()) => Ok(Held { _file: lock }),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.display().to_string() }),
        Err(TryLockError::Error(e)) => Err(io("lock", format!("{}: {e}", file.display()))),
    }
}

/// Writes a new file that only its owner may read; whole or not at all, whenever the process ends.
///
/// # Errors
/// Whatever the file system answers.
pub fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let draft = path.with_extension("draft");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Reads a secret of 32 bytes beside the state, or makes it at the first start (mode 0600, hex).
///
/// # Errors
/// [`StoreError::Io`] when it cannot be read or written, [`StoreError::Damaged`] when it is not 64 hex digits.
pub fn secret(path: &Path, fresh: impl FnOnce() -> std::io::Result<[u8; 32]>) -> Result<[u8; 32], StoreError> {
    let failed = |action, e: std::io::Error| io(action, format!("{}: {e}", path.display()));
    if !path.exists() {
        let bytes = fresh().map_err(|e| failed("make a key for", e))?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_private(path, hex.as_bytes()).map_err(|e| failed("write", e))?;
        return Ok(bytes);
    }
    let mut text = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map_err(|e| failed("read", e))?;
    let bytes: Option<Vec<u8>> = (text.trim().len() == 64)
        .then(|| (0..32).map(|at| text.trim().get(2 * at..2 * at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok())).collect())
        .flatten();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| StoreError::Damaged {
        family: "key file",
        key: path.display().to_string(),
        detail: "not 64 hex digits".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_told_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RocksStore::open(dir.path()).unwrap().disk().unwrap();
        assert!(disk.free > 0 && disk.bytes > disk.free, "{disk:?}");
        assert_eq!(crate::store::memory::MemoryStore::default().disk(), None);
    }

    #[test]
    fn a_second_process_is_refused_and_a_reader_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        assert!(matches!(RocksStore::open(dir.path()), Err(StoreError::InUse { .. })));
        assert!(RocksStore::read(dir.path()).is_ok());
        drop(store);
        assert!(RocksStore::open(dir.path()).is_ok());
    }

    #[test]
    fn a_held_state_is_read_and_then_opened_and_nobody_comes_between() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(hold(dir.path()), Err(StoreError::Io { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made where no state is");
        drop(RocksStore::open(dir.path()).unwrap());
        let held = hold(dir.path()).unwrap();
        assert!(RocksStore::read(dir.path()).is_ok());
        assert!(matches!(RocksStore::open(dir.path()), Err(StoreError::InUse { .. })));
        let store = RocksStore::open_held(dir.path(), held).unwrap();
        assert!(matches!(hold(dir.path()), Err(StoreError::InUse { .. })));
        drop(store);
        assert!(hold(dir.path()).is_ok());
    }

    #[test]
    fn a_damaged_file_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        drop(RocksStore::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("CURRENT"), "MANIFEST-999999\n").unwrap();
        let error = RocksStore::open(dir.path()).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }

    /// RocksDB then blames the manifest alone, and nobody would look for the file that must be replaced.
    #[test]
    fn a_table_whose_description_is_damaged_is_among_what_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let mut batch = Batch::default();
        batch.put(Family::Meta, b"key", b"value");
        store.write(&batch).unwrap();
        store.db.flush_cf(Column::of(Family::Meta, b"key").handle(&store.db).unwrap()).unwrap();
        drop(store);
        let table = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        let table = table.filter(|path| path.extension().is_some_and(|end| end == "sst")).max().unwrap();
        let mut bytes = std::fs::read(&table).unwrap();
        // Of "rocksdb.raw.key.size" as the table holds it: names that begin alike are stored by what follows.
        let property = b"raw.key.size";
        let at = bytes.windows(property.len()).position(|window| window == property).unwrap();
        bytes[at] = b'a';
        std::fs::write(&table, bytes).unwrap();
        let error = RocksStore::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("MANIFEST-") && error.contains("or a table file (.sst) that it lists"), "{error}");
    }

    #[test]
    fn a_secret_is_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert_eq!(secret(&path, || Ok([7; 32])).unwrap(), [7; 32]);
        assert_eq!(secret(&path, || Ok([8; 32])).unwrap(), [7; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "zz").unwrap();
        assert!(matches!(secret(&path, || Ok([8; 32])), Err(StoreError::Damaged { .. })));
    }
}
