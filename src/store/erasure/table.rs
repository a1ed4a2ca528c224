//! The table files of RocksDB, with the age of their oldest row.

use std::ffi::{CStr, c_char};

use librocksdb_sys as ffi;
use rocksdb::{AsRawPtr, DB};

use super::super::rocks::io;
use super::{Column, StoreError, numbered};

/// A table file that the store reads from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Files are numbered as they are begun. 0 for a name that is none: nothing is older.
    pub number: u64,
    /// Name of its column family.
    pub family: String,
    pub level: i32,
    /// Its first and its last key; `None` when RocksDB does not say.
    pub keys: Option<(Vec<u8>, Vec<u8>)>,
    /// Tombstones in it.
    pub deletions: u64,
    /// Sequence number of its oldest row; 0 where a compaction has left the numbers out, since nothing lies below.
    pub oldest: u64,
    pub bytes: u64,
}

impl Table {
    pub fn column(&self) -> Option<Column> {
        Column::named(&self.family)
    }
}

/// What RocksDB answers to [`tables`]; its own memory.
struct Listed(*const ffi::rocksdb_livefiles_t);

impl Drop for Listed {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "RocksDB's own list, given back once; see `tables`")]
        unsafe {
            ffi::rocksdb_livefiles_destroy(self.0);
        }
    }
}

/// All table files at one moment. What the crate answers to this lacks the sequence numbers, which RocksDB's interface for C has.
#[expect(unsafe_code, reason = "the crate does not wrap these functions; see below")]
pub fn tables(db: &DB) -> Result<Vec<Table>, StoreError> {
    // SAFETY: `db` is open for as long as it is borrowed. The list belongs to us until it is destroyed, which `Listed` does after
    // the last use; texts and keys of it are copied at once. Numbers run from 0 to below the count.
    unsafe {
        let files = ffi::rocksdb_livefiles(db.as_raw_ptr());
        if files.is_null() {
            return Err(io("list the files of", "RocksDB answers nothing"));
        }
        let listed = Listed(files);
        let key = |ask: unsafe extern "C" fn(*const ffi::rocksdb_livefiles_t, i32, *mut usize) -> *const c_char, at| {
            let mut length = 0;
            let key = ask(listed.0, at, &raw mut length);
            (!key.is_null()).then(|| std::slice::from_raw_parts(key.cast::<u8>(), length).to_vec())
        };
        let text = |text: *const c_char| if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() };
        let table = |at| Table {
            number: numbered(text(ffi::rocksdb_livefiles_name(listed.0, at)).trim_start_matches('/'), "", ".sst").unwrap_or(0),
            family: text(ffi::rocksdb_livefiles_column_family_name(listed.0, at)),
            level: ffi::rocksdb_livefiles_level(listed.0, at),
            keys: key(ffi::rocksdb_livefiles_smallestkey, at).zip(key(ffi::rocksdb_livefiles_largestkey, at)),
            deletions: ffi::rocksdb_livefiles_deletions(listed.0, at),
            oldest: ffi::rocksdb_livefiles_smallest_seqno(listed.0, at),
            bytes: ffi::rocksdb_livefiles_size(listed.0, at) as u64,
        };
        Ok((0..ffi::rocksdb_livefiles_count(listed.0)).map(table).collect())
    }
}
