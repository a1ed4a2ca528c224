use super::super::canary::{canary, holders};
use super::super::rocks::RocksStore;
use super::super::{EraseStep, KeyRange, Store};
use super::*;

/// Users of several shards, three rows each.
fn rows() -> Vec<(Vec<u8>, Vec<u8>)> {
    let of_user = |user: u32| (0..3u8).map(move |n| ([&user.to_be_bytes()[..], &[n]].concat(), vec![1, n]));
    (0..3_000).step_by(7).chain([u32::MAX]).flat_map(of_user).collect()
}

/// A state as format 1 laid it down.
fn make_one(path: &Path) -> DB {
    let mut options = options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf(&options, path, Family::ALL.map(Family::name)).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), FORMAT_KEY, [1]).unwrap();
    for (key, value) in rows() {
        db.put_cf(db.cf_handle(ONE).unwrap(), key, value).unwrap();
    }
    db
}

fn interactions(store: &RocksStore) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut keep = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    store.scan(Family::Interactions, b"", None, &mut keep).unwrap();
    rows
}

#[test]
fn a_state_of_format_1_is_brought_up_when_it_is_opened_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    drop(make_one(dir.path()));
    let error = RocksStore::read(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::OldVersion { found: 1, .. }), "{error}");
    assert!(made(dir.path()).unwrap().iter().any(|name| name == ONE), "a reader leaves it as it is");
    for _ in 0..2 {
        let store = RocksStore::open(dir.path()).unwrap();
        assert_eq!(interactions(&store), rows());
        drop(store);
        assert!(!made(dir.path()).unwrap().iter().any(|name| name == ONE));
    }
    assert_eq!(interactions(&RocksStore::read(dir.path()).unwrap()), rows());
}

/// The process may end after any write: with some rows moved, with all of them, and after the version was written.
#[test]
fn a_crash_on_the_way_up_is_gone_on_from() {
    for (moved, format) in [(0, 1), (1, 1), (500, 1), (usize::MAX, 1), (usize::MAX, FORMAT)] {
        let dir = tempfile::tempdir().unwrap();
        drop(make_one(dir.path()));
        let mut options = options();
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, dir.path(), descriptors(&made(dir.path()).unwrap()).unwrap()).unwrap();
        let mut batch = Batch::default();
        rows().iter().take(moved).for_each(|(key, value)| batch.put(Family::Interactions, key, value));
        batch.put(Family::Meta, FORMAT_KEY, &[format]);
        columns::write(&db, &batch).unwrap();
        drop(db);
        assert_eq!(interactions(&RocksStore::open(dir.path()).unwrap()), rows(), "{moved} {format}");
        assert!(!made(dir.path()).unwrap().iter().any(|name| name == ONE));
    }
}

/// A row that was deleted under format 1 is not brought back, and an erasure after the move finds nothing of it.
#[test]
fn what_was_deleted_before_is_erased_after() {
    let dir = tempfile::tempdir().unwrap();
    let (old, canary) = (make_one(dir.path()), canary());
    let one = old.cf_handle(ONE).unwrap();
    old.put_cf(one, b"gone", &canary).unwrap();
    old.flush_cf(one).unwrap();
    old.delete_cf(one, b"gone").unwrap();
    drop(old);
    assert!(!holders(dir.path(), &[&canary]).is_empty());
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(interactions(&store), rows());
    let erased = store.erase(&[KeyRange::under(Family::Interactions, b"gone")], &|_: EraseStep| true).unwrap();
    assert_eq!((erased.leftover, holders(dir.path(), &[&canary])), (None, Vec::new()));
}

#[test]
fn a_lost_family_is_not_made_anew() {
    for lost in ["interactions-07", "ledger"] {
        let dir = tempfile::tempdir().unwrap();
        drop(RocksStore::open(dir.path()).unwrap());
        let mut db = DB::open_cf(&options(), dir.path(), made(dir.path()).unwrap()).unwrap();
        db.drop_cf(lost).unwrap();
        drop(db);
        for opened in [RocksStore::open(dir.path()), RocksStore::read(dir.path())] {
            assert!(matches!(opened.err().unwrap(), StoreError::Damaged { .. }));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    make_one(dir.path()).drop_cf("fences").unwrap();
    for opened in [RocksStore::open(dir.path()), RocksStore::read(dir.path())] {
        assert!(matches!(opened.err().unwrap(), StoreError::Damaged { .. }));
    }
}

#[test]
fn an_unknown_version_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let mut batch = Batch::default();
    batch.put(Family::Meta, FORMAT_KEY, &[99]);
    store.write(&batch).unwrap();
    drop(store);
    for opened in [RocksStore::open(dir.path()), RocksStore::read(dir.path())] {
        assert!(matches!(opened.err().unwrap(), StoreError::UnknownVersion { .. }));
    }
}

#[test]
fn a_first_start_that_was_killed_early_is_taken_up() {
    // RocksDB makes the directory before it makes the families; those of format 1 may be there, empty.
    for families in [&[][..], &["identities", ONE], &Family::ALL.map(Family::name)] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        drop(DB::open_cf(&options, dir.path(), families).unwrap());
        RocksStore::open(dir.path()).unwrap();
        assert!(RocksStore::read(dir.path()).is_ok());
    }
}
