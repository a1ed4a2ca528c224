use super::super::canary::{canary, holders};
use super::super::rocks::RocksStore;
use super::super::{EraseStep, KeyRange, Store};
use super::*;

/// Users of several shards and groups, three plays each, the second with an event id.
fn plays() -> Vec<(Play, &'static str)> {
    let of_user = |user: u32| {
        let ident = |n: u64| (n == 1).then_some(9);
        (0..3).map(move |n| (Play { user, item: 5, ident: ident(n), time: n as i64, value: 7 }, if n == 1 { "e9" } else { "" }))
    };
    let mut plays: Vec<_> = (0..3_000).step_by(7).chain([u32::MAX]).flat_map(of_user).collect();
    plays.sort();
    plays
}

/// A row of one play, as it was until format 2.
fn single((play, name): &(Play, &str)) -> (Vec<u8>, Vec<u8>) {
    let mut key = [play.user.to_be_bytes(), play.item.to_be_bytes()].concat();
    key.push(u8::from(play.ident.is_some()));
    key.extend(play.ident.into_iter().flat_map(u64::to_be_bytes));
    key.extend(play.time.to_be_bytes());
    key.extend(play.value.to_be_bytes());
    (key, rows::versioned(name.as_bytes()))
}

fn singles() -> Vec<(Vec<u8>, Vec<u8>)> {
    plays().iter().map(single).collect()
}

/// A state as format 1 laid it down.
fn make_one(path: &Path) -> DB {
    let mut options = options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf(&options, path, Family::ALL.map(Family::name)).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), FORMAT_KEY, [1]).unwrap();
    for (key, value) in singles() {
        db.put_cf(db.cf_handle(ONE).unwrap(), key, value).unwrap();
    }
    db
}

/// A state as format 2 laid it down, its rows in the families where this format has others.
fn make_two(path: &Path) -> DB {
    let mut options = options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf_descriptors(&options, path, descriptors(&[]).unwrap()).unwrap();
    let mut batch = Batch::default();
    batch.put(Family::Meta, FORMAT_KEY, &[2]);
    singles().iter().for_each(|(key, value)| batch.put(Family::Interactions, key, value));
    columns::write(&db, &batch).unwrap();
    db
}

fn interactions(store: &RocksStore) -> Vec<(Play, String)> {
    let mut found = Vec::new();
    let keep = &mut |play: Play, name: &str| {
        found.push((play, name.to_owned()));
        Ok(())
    };
    plays::each(store, (0, None), keep).unwrap();
    found
}

fn expected() -> Vec<(Play, String)> {
    plays().into_iter().map(|(play, name)| (play, name.to_owned())).collect()
}

#[test]
fn a_state_of_format_2_is_brought_up_when_it_is_opened_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    drop(make_two(dir.path()));
    let error = RocksStore::read(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::OldVersion { found: 2, .. }), "{error}");
    for _ in 0..2 {
        assert_eq!(interactions(&RocksStore::open(dir.path()).unwrap()), expected());
    }
    let store = RocksStore::read(dir.path()).unwrap();
    assert_eq!(interactions(&store), expected());
    let mut rows = 0;
    let count = &mut |_: &[u8], _: &[u8]| {
        rows += 1;
        ControlFlow::Continue(())
    };
    store.scan(Family::Interactions, b"", None, count).unwrap();
    assert!(rows < expected().len() / 2, "{rows} rows of {} plays", expected().len());
}

/// The process may end after any write of the regrouping; what came as far as the new format stays as it is.
#[test]
fn a_crash_while_plays_are_put_together_is_gone_on_from() {
    for done in [1, 50, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let (db, mut batch) = (make_two(dir.path()), Batch::default());
        let plays = plays();
        for group in plays.chunk_by(|a, b| a.0.user / TOGETHER == b.0.user / TOGETHER).take(done) {
            let plays = group.iter().map(|(play, name)| (*play, Box::from(*name))).collect();
            let keys = group.iter().map(|play| single(play).0).collect();
            Single { plays, keys }.regroup(&mut batch);
        }
        columns::write(&db, &batch).unwrap();
        drop(db);
        assert_eq!(interactions(&RocksStore::open(dir.path()).unwrap()), expected(), "{done}");
    }
}

/// One user's plays of many batches must not become one row: each forget of them would write it all anew.
#[test]
fn a_long_history_is_put_in_several_rows() {
    let plays: Vec<(Play, Box<str>)> =
        (0..10_000).map(|time| (Play { user: 3, item: 1, ident: None, time, value: 1 }, Box::default())).collect();
    let mut batch = Batch::default();
    Single { plays, keys: Vec::new() }.regroup(&mut batch);
    assert_eq!(batch.len(), 3);
}

/// What an older format left of a play is erased with what this one leaves.
#[test]
fn what_is_forgotten_after_is_erased_where_it_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let old = make_two(dir.path());
    let canary = canary();
    let play = Play { user: 37, item: 1, ident: Some(1), time: 1, value: 1 };
    let (key, value) = single(&(play, &canary));
    let column = Column::of(Family::Interactions, &key).handle(&old).unwrap();
    old.put_cf(column, key, value).unwrap();
    old.flush_cf(column).unwrap();
    drop(old);
    let store = RocksStore::open(dir.path()).unwrap();
    store.leave_uncompressed().unwrap();
    let mut batch = Batch::default();
    plays::take_out(&mut batch, &store, &[play]).unwrap();
    assert_eq!(batch.len(), 1);
    store.write(&batch).unwrap();
    let erased = store.erase(&[plays::range_of(37)], &|_: EraseStep| true).unwrap();
    assert_eq!((erased.leftover, holders(dir.path(), &[&canary])), (None, Vec::new()));
    assert_eq!(interactions(&store), expected());
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
        assert_eq!(interactions(&store), expected());
        drop(store);
        assert!(!made(dir.path()).unwrap().iter().any(|name| name == ONE));
    }
    assert_eq!(interactions(&RocksStore::read(dir.path()).unwrap()), expected());
}

/// The process may end after any write: with some rows moved, with all of them, and after the version was written.
#[test]
fn a_crash_on_the_way_up_is_gone_on_from() {
    for (moved, format) in [(0, 1), (1, 1), (500, 1), (usize::MAX, 1), (usize::MAX, 2)] {
        let dir = tempfile::tempdir().unwrap();
        drop(make_one(dir.path()));
        let mut options = options();
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, dir.path(), descriptors(&made(dir.path()).unwrap()).unwrap()).unwrap();
        let mut batch = Batch::default();
        singles().iter().take(moved).for_each(|(key, value)| batch.put(Family::Interactions, key, value));
        batch.put(Family::Meta, FORMAT_KEY, &[format]);
        if moved == usize::MAX {
            // All are there, and those of the first group are already put together.
            let plays: Vec<(Play, Box<str>)> = plays().iter().take(9).map(|(play, name)| (*play, Box::from(*name))).collect();
            let keys = singles().into_iter().take(9).map(|(key, _)| key).collect();
            Single { plays, keys }.regroup(&mut batch);
        }
        columns::write(&db, &batch).unwrap();
        drop(db);
        assert_eq!(interactions(&RocksStore::open(dir.path()).unwrap()), expected(), "{moved} {format}");
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
    assert_eq!(interactions(&store), expected());
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
