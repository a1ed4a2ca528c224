//! Opening what a service may be writing meanwhile.
//!
//! Who opens for reading takes the manifest, then the table files and the logs that are there, and the writer knows nothing of
//! it. When a flush comes between, its rows are in a file that this manifest does not name and in a log that is gone: they
//! are not seen at all, and nothing says so. So whoever found a log gone afterwards opens again, as does who came upon a
//! file that was replaced.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::StoreError;
use super::rocks::opening;

/// A log is gone when all is flushed that was written to it, some hundred megabytes later, or when something is purged.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// What `open` answers when nothing that it may have needed was taken away from under it.
///
/// # Errors
/// What it answers while nothing changes; [`StoreError::Io`] when things keep changing.
pub(super) fn opened<T>(path: &Path, mut open: impl FnMut() -> Result<T, rocksdb::Error>) -> Result<T, StoreError> {
    let mut last = None;
    for _ in 0..TRIES {
        let before = files(path)?;
        let opened = open();
        let after = files(path)?;
        let is_log = |name: &&String| name.ends_with(".log");
        match opened {
            Ok(opened) if before.iter().filter(is_log).all(|log| after.contains(log)) => return Ok(opened),
            Ok(_) => last = None,
            Err(error) if before == after => return Err(opening(path, &error)),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(PAUSE);
    }
    let cause = || format!("{}: its service writes faster than it can be opened; ask the service, or try again later", path.display());
    Err(last.map_or_else(|| StoreError::Io { action: "read", cause: cause() }, |error| opening(path, &error)))
}

/// Names of files come once: a number is never used again.
fn files(path: &Path) -> Result<BTreeSet<String>, StoreError> {
    let names = std::fs::read_dir(path).and_then(|files| files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect());
    names.map_err(|e| StoreError::Io { action: "read", cause: format!("{}: {e}", path.display()) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::rocks::RocksStore;
    use crate::store::{Batch, Family, KeyRange, Store};

    /// A purge makes new files of everything, and takes the old ones and the logs away.
    #[test]
    fn a_reader_sees_all_of_a_state_that_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    let mut batch = Batch::default();
                    batch.put(Family::Fences, &n.to_be_bytes(), b"x");
                    store.write(&batch).unwrap();
                    store.erase(&[KeyRange::all(Family::Meta)], &|_| true).unwrap();
                    n += 1;
                    // A state as small as this one is purged faster than it is opened.
                    std::thread::sleep(3 * PAUSE);
                }
            });
            let (mut seen, mut found) = (0, Ok(()));
            for _ in 0..30 {
                let rows = RocksStore::read(dir.path()).and_then(|read| {
                    let mut rows = 0;
                    let mut count = |_: &[u8], _: &[u8]| {
                        rows += 1;
                        std::ops::ControlFlow::Continue(())
                    };
                    read.scan(Family::Fences, &[], None, &mut count).map(|()| rows)
                });
                match rows {
                    Ok(rows) if rows >= seen => seen = rows,
                    other => found = Err(format!("{other:?} after {seen}")),
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(found, Ok(()));
            assert!(seen > 0);
        });
    }

    #[test]
    fn what_never_settles_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = |n: u32| dir.path().join(format!("{n}.log"));
        std::fs::write(log(0), "").unwrap();
        let mut n = 0;
        let mut open = |fails: bool| {
            opened(dir.path(), || {
                std::fs::write(log(n + 1), "").unwrap();
                std::fs::remove_file(log(n)).unwrap();
                n += 1;
                if fails { rocksdb::DB::list_cf(&rocksdb::Options::default(), dir.path()).map(|_| ()) } else { Ok(()) }
            })
        };
        let error = open(false).unwrap_err().to_string();
        assert!(error.contains("try again later"), "{error}");
        let error = open(true).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
        assert_eq!(n, 2 * TRIES);
    }
}
