//! A canary of random bytes is written, deleted and erased; then no file of the directory may hold it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::store::canary::{canary, holders};
use crate::store::rocks::RocksStore;
use crate::store::{Batch, Store};

fn put(store: &RocksStore, family: Family, keys: std::ops::Range<u32>, value: impl Fn(u32) -> String) {
    let mut batch = Batch::default();
    keys.for_each(|key| batch.put(family, &key.to_be_bytes(), value(key).as_bytes()));
    store.write(&batch).unwrap();
}

fn delete(store: &RocksStore, family: Family, key: u32) {
    let mut batch = Batch::default();
    batch.delete(family, &key.to_be_bytes());
    store.write(&batch).unwrap();
}

fn handle(store: &RocksStore, family: Family) -> &ColumnFamily {
    Column::of(family, b"").handle(store.db()).unwrap()
}

fn settle(store: &RocksStore, family: Family) {
    flush(store.db(), handle(store, family)).unwrap();
    compact(store.db(), handle(store, family), &(Vec::new(), None), true);
}

fn one(key: u32) -> [KeyRange; 2] {
    [KeyRange::under(Family::Identities, &key.to_be_bytes()), KeyRange::all(Family::Outbox)]
}

/// A canary as a value in `identities` and in `outbox`, at the bottom, with neighbours, and deleted since.
fn deleted(store: &RocksStore) -> String {
    let canary = canary();
    store.leave_uncompressed().unwrap();
    put(store, Family::Identities, 0..5_000, |key| if key == 77 { canary.clone() } else { format!("name of {key}") });
    put(store, Family::Outbox, 0..3, |_| canary.clone());
    settle(store, Family::Identities);
    settle(store, Family::Outbox);
    delete(store, Family::Identities, 77);
    (0..3).for_each(|key| delete(store, Family::Outbox, key));
    canary
}

#[test]
fn nothing_is_left_in_any_file() {
    for compressed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let canary = canary();
        if !compressed {
            store.leave_uncompressed().unwrap();
        }
        // In the log, in a file of level 0 and at the bottom; as a value that is deleted and as one that is replaced.
        for (family, key) in [(Family::Identities, 5), (Family::Ledger, 6), (Family::Meta, 7)] {
            put(&store, family, 0..2_000, |n| if n == key { canary.clone() } else { format!("{n}") });
        }
        settle(&store, Family::Identities);
        flush(store.db(), handle(&store, Family::Ledger)).unwrap();
        // Compression may cut a canary in two where a piece of it was seen before; the log never does.
        let (found, least) = (holders(dir.path(), &[&canary]), if compressed { 1 } else { 3 });
        assert!(found.len() >= least, "the search finds what is there: {found:?}");
        delete(&store, Family::Identities, 5);
        put(&store, Family::Ledger, 6..7, |_| "replaced".to_owned());
        delete(&store, Family::Meta, 7);
        let ranges = [one(5)[0].clone(), KeyRange::all(Family::Ledger), KeyRange::under(Family::Meta, &7u32.to_be_bytes())];
        let erased = store.erase(&ranges, &|_| true).unwrap();
        assert_eq!((erased.leftover, erased.files > 0), (None, true));
        assert_eq!(holders(dir.path(), &[&canary]), [""; 0]);
        assert_eq!(store.get(Family::Identities, &6u32.to_be_bytes()).unwrap().as_deref(), Some(&b"6"[..]));
        assert_eq!(store.get(Family::Ledger, &6u32.to_be_bytes()).unwrap().as_deref(), Some(&b"replaced"[..]));
        let again = store.erase(&ranges, &|_| true).unwrap();
        assert_eq!(again.leftover, None, "a second time finds nothing to complain of");
        drop(store);
        assert!(RocksStore::open(dir.path()).is_ok());
        assert_eq!(holders(dir.path(), &[&canary]), [""; 0]);
    }
}

#[test]
fn an_erasure_that_was_cut_short_is_taken_up() {
    for cut in EraseStep::ALL {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let canary = deleted(&store);
        // Once as a stop in order, once as a crash: a copy of the directory as it is when the step is due.
        let copy = tempfile::tempdir().unwrap();
        let go_on = |step| {
            if step == cut {
                for entry in std::fs::read_dir(dir.path()).unwrap() {
                    let entry = entry.unwrap();
                    // What is gone meanwhile was on its way out.
                    let _ = std::fs::copy(entry.path(), copy.path().join(entry.file_name()));
                }
            }
            step != cut
        };
        let erased = store.erase(&one(77), &go_on).unwrap();
        assert!(erased.leftover.is_some(), "{cut:?}: not proven");
        drop(store);
        for dir in [dir.path(), copy.path()] {
            let store = RocksStore::open(dir).unwrap();
            assert_eq!(store.erase(&one(77), &|_| true).unwrap().leftover, None, "{cut:?}");
            assert_eq!(holders(dir, &[&canary]), [""; 0], "{cut:?}");
            assert_eq!(store.get(Family::Identities, &78u32.to_be_bytes()).unwrap().as_deref(), Some(&b"name of 78"[..]));
        }
    }
}

#[test]
fn writing_goes_on_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let canary = deleted(&store);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0u32.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let from = 10_000 + round * 100;
                put(&store, Family::Identities, from..from + 100, |key| format!("late {key}"));
                put(&store, Family::Outbox, from..from + 1, |key| format!("late {key}"));
                delete(&store, Family::Outbox, from);
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        while written.load(Ordering::Relaxed) < 10 {
            std::thread::yield_now();
        }
        let before = written.load(Ordering::Relaxed);
        let erased = store.erase(&one(77), &|_| true);
        let during = written.load(Ordering::Relaxed) - before;
        stop.store(true, Ordering::Relaxed);
        assert_eq!(erased.unwrap().leftover, None);
        assert!(during > 0);
        assert_eq!(holders(dir.path(), &[&canary]), [""; 0]);
    });
    let last = 10_000 + written.load(Ordering::Relaxed) as u32 * 100 - 1;
    let kept = store.get(Family::Identities, &last.to_be_bytes()).unwrap();
    assert_eq!(kept, Some(format!("late {last}").into_bytes()));
}

/// Rows that come, and go, after the erasure began are none of its business, whatever file they get into. But one that takes the
/// place of a tombstone before that was in any file still hides what the tombstone hid.
#[test]
fn what_is_written_meanwhile_is_not_in_the_way() {
    for late in EraseStep::ALL {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let canary = deleted(&store);
        let go_on = |step| {
            if step == late {
                put(&store, Family::Identities, 70..90, |key| format!("late {key}"));
                delete(&store, Family::Identities, 80);
                put(&store, Family::Outbox, 0..3, |key| format!("late {key}"));
                flush(store.db(), handle(&store, Family::Identities)).unwrap();
                let files = tables(store.db()).unwrap();
                assert!(files.iter().any(|file| file.level == 0 && file.deletions == 1 && file.family == "identities"), "{files:?}");
            }
            true
        };
        assert_eq!(store.erase(&one(77), &go_on).unwrap().leftover, None, "{late:?}");
        assert_eq!(holders(dir.path(), &[&canary]), [""; 0], "{late:?}");
        assert_eq!(store.get(Family::Identities, &77u32.to_be_bytes()).unwrap().as_deref(), Some(&b"late 77"[..]));
    }
}

#[test]
fn a_snapshot_and_a_kept_log_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let canary = deleted(&store);
    let spans = spans(&one(77));
    let look_for = |store: &RocksStore, replaced, before: &Folder| {
        look(store.db(), &Sought { spans: &spans, unsettled: Some(Past { upto: 0, newest: 0 }), replaced, before }).unwrap()
    };
    let held = |store: &RocksStore| look_for(store, 0, &Folder::default());
    assert_eq!(held(&store), None);
    let snapshot = store.db().snapshot();
    assert!(held(&store).unwrap().contains("snapshot"));
    drop(snapshot);
    std::fs::create_dir(dir.path().join("archive")).unwrap();
    assert_eq!(held(&store), None);
    std::fs::write(dir.path().join("archive/000001.log"), &canary).unwrap();
    assert!(held(&store).unwrap().contains("archive"));
    std::fs::remove_dir_all(dir.path().join("archive")).unwrap();
    let copy = dir.path().join("checkpoint-0123456789abcdef");
    store.checkpoint(&copy).unwrap();
    assert!(held(&store).unwrap().contains("a backup is being taken"), "the copy holds what is erased here");
    std::fs::remove_dir_all(copy).unwrap();
    flush(store.db(), handle(&store, Family::Identities)).unwrap();
    let numbers = tables(store.db()).unwrap().into_iter().map(|file| file.number);
    let (by_row, by_file) =
        (Past { upto: store.db().latest_sequence_number(), newest: 0 }, Past { upto: 0, newest: numbers.max().unwrap() });
    for past in [by_row, by_file] {
        let hidden = look(store.db(), &Sought { spans: &spans, unsettled: Some(past), replaced: 0, before: &Folder::default() }).unwrap();
        assert!(hidden.unwrap().contains("not compacted"));
    }
    let now = Folder::read(dir.path()).unwrap();
    let logs = Folder { logs: now.logs.clone(), ..Folder::default() };
    assert!(look_for(&store, 0, &logs).unwrap().contains("log"));
    let manifests = Folder { manifests: now.manifests.clone(), ..Folder::default() };
    assert!(look_for(&store, 0, &manifests).unwrap().contains("manifest"));
    let newest = now.newest_table() + 1;
    std::fs::write(dir.path().join(format!("{newest:06}.sst")), "as a compaction that replaces it would leave it").unwrap();
    assert!(look_for(&store, newest, &Folder::default()).unwrap().contains("replaced or not finished"));
}

#[test]
fn a_level_that_only_spans_the_range_is_rewritten_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let canary = deleted(&store);
    settle(&store, Family::Identities);
    // The tombstone has met its row already; a later file spans the range and holds none of its keys.
    put(&store, Family::Identities, 10..11, |_| "before".to_owned());
    put(&store, Family::Identities, 4_000..4_001, |_| "after".to_owned());
    assert_eq!(store.erase(&one(77), &|_| true).unwrap().leftover, None);
    assert_eq!(holders(dir.path(), &[&canary]), [""; 0]);
}

/// `compact_range` reports nothing, so what it did not do must be seen in the tables themselves.
#[test]
fn a_compaction_that_did_nothing_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let canary = deleted(&store);
    switch_manual_compactions(store.db(), false);
    let erased = erase_within(store.db(), &one(77), 2, &|_| true).unwrap();
    assert!(erased.leftover.unwrap().contains("was not compacted"));
    assert_ne!(holders(dir.path(), &[&canary]), [""; 0]);
    switch_manual_compactions(store.db(), true);
    assert_eq!(store.erase(&one(77), &|_| true).unwrap().leftover, None);
    assert_eq!(holders(dir.path(), &[&canary]), [""; 0]);
}

#[expect(unsafe_code, reason = "the crate does not wrap these functions")]
fn switch_manual_compactions(db: &DB, on: bool) {
    let switch = if on { librocksdb_sys::rocksdb_enable_manual_compaction } else { librocksdb_sys::rocksdb_disable_manual_compaction };
    // SAFETY: the database is open for as long as it is borrowed.
    unsafe { switch(rocksdb::AsRawPtr::as_raw_ptr(db)) }
}

#[test]
fn a_table_that_cannot_be_read_is_never_proven_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let canary = deleted(&store);
    let table = dir.path().join(&holders(dir.path(), &[&canary])[0]);
    assert_eq!(table.extension().unwrap(), "sst");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    match store.erase(&one(77), &|_| true) {
        Ok(erased) => assert!(erased.leftover.unwrap().contains("failed to rewrite tables")),
        Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{error}"),
    }
}

/// A large family has more than one level below the first, and a tombstone may be at each.
#[test]
fn every_level_is_brought_to_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    store.leave_uncompressed().unwrap();
    let small = [("max_bytes_for_level_base", "20000"), ("target_file_size_base", "10000"), ("max_bytes_for_level_multiplier", "4")];
    store.db().set_options_cf(handle(&store, Family::Identities), &small).unwrap();
    let canary = canary();
    for round in 0..30 {
        // The canary at several levels, as what was replaced.
        put(&store, Family::Identities, 0..300, |key| if key == 77 { canary.clone() } else { format!("{round} of {key:0100}") });
        let from = 1_000 + 200 * round;
        put(&store, Family::Identities, from..from + 200, |key| format!("name of {key:0100}"));
        flush(store.db(), handle(&store, Family::Identities)).unwrap();
    }
    delete(&store, Family::Identities, 77);
    flush(store.db(), handle(&store, Family::Identities)).unwrap();
    store.db().wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
    let levels = || tables(store.db()).unwrap().into_iter().filter(|file| file.family == "identities").map(|file| file.level);
    let used: std::collections::BTreeSet<i32> = levels().collect();
    assert!(used.range(1..).count() >= 2, "{used:?}");
    assert_eq!(store.erase(&[KeyRange::under(Family::Identities, &77u32.to_be_bytes())], &|_| true).unwrap().leftover, None);
    assert_eq!(holders(dir.path(), &[&canary]), [""; 0]);
    assert_eq!(store.get(Family::Identities, &78u32.to_be_bytes()).unwrap(), Some(format!("29 of {:0100}", 78).into_bytes()));
    assert!(store.get(Family::Identities, &6_999u32.to_be_bytes()).unwrap().is_some());
}

/// What is flushed is soon read again to be compacted, and packing it twice is wasted.
#[test]
fn interactions_are_packed_when_they_are_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let bytes = || tables(store.db()).unwrap().iter().filter(|file| file.family == "interactions-00").map(|file| file.bytes).sum::<u64>();
    put(&store, Family::Interactions, 0..200, |_| "the same again and again ".repeat(20));
    flush(store.db(), handle(&store, Family::Interactions)).unwrap();
    let flushed = bytes();
    assert!(flushed > 200 * 500, "{flushed}");
    settle(&store, Family::Interactions);
    assert!(bytes() < flushed / 4, "{} of {flushed}", bytes());
}

#[test]
fn automatic_compactions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let asked = Cell::new(0);
    store
        .erase(&[KeyRange::all(Family::Meta)], &|_| {
            asked.set(asked.get() + 1);
            true
        })
        .unwrap();
    assert!(asked.get() >= 4);
    // Four files at level 0 are what starts one.
    for n in 0..8 {
        put(&store, Family::Ledger, n..n + 1, |_| "x".repeat(1_000));
        put(&store, Family::Ledger, 100..101, |_| "y".to_owned());
        flush(store.db(), handle(&store, Family::Ledger)).unwrap();
    }
    store.db().wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
    let levels: Vec<i32> = tables(store.db()).unwrap().iter().filter(|f| f.family == "ledger").map(|f| f.level).collect();
    assert!(levels.iter().any(|level| *level > 0), "{levels:?}");
}

#[test]
fn ranges_are_merged_and_gaps_are_kept() {
    let range = |from: &str, to: Option<&str>| KeyRange { family: Family::Ledger, from: from.into(), to: to.map(Into::into) };
    let span = |from: &str, to: Option<&str>| (from.as_bytes().to_vec(), to.map(|to| to.as_bytes().to_vec()));
    let ranges =
        [range("m", Some("n")), range("a", Some("c")), range("b", Some("b5")), range("c", Some("d")), range("x", None), range("y", None)];
    let ledger = Column::of(Family::Ledger, b"");
    let spans = merged(&ranges, ledger);
    assert_eq!(spans, [span("a", Some("d")), span("m", Some("n")), span("x", None)]);
    assert!(merged(&ranges, Column::of(Family::Meta, b"")).is_empty());
    let file = |start: &str, end: &str| Table {
        number: 9,
        family: "ledger".into(),
        level: LAST,
        keys: Some((start.into(), end.into())),
        deletions: 0,
        oldest: 0,
        bytes: 1,
    };
    let far = [file("a", "c"), file("f", "g"), file("l", "z")];
    let far: Vec<&Table> = far.iter().collect();
    assert_eq!(joined(&spans, &far), [span("a", Some("d")), span("m", None)], "a file lies between the first two only");
    let all = [(ledger, spans)];
    let over = |start, end| is_over(&file(start, end), &all);
    assert!(over("0", "a") && over("c", "e") && over("n", "x") && over("z", "zz"));
    assert!(!over("d", "e") && !over("0", "9") && !over("n", "w"));
    let may_hide = |number, level, deletions, oldest| {
        let past = Past { upto: 100, newest: 20 };
        past.may_hide(&Table { number, level, deletions, oldest, ..file("a", "b") })
    };
    assert!(may_hide(21, 0, 0, 100) && may_hide(21, 5, 0, 0) && may_hide(21, LAST, 1, 0), "rows of before");
    assert!(may_hide(20, 0, 0, 101) && may_hide(20, LAST, 1, 101), "a file of then, whatever its rows");
    assert!(!may_hide(21, 0, 0, 101) && !may_hide(21, 0, 7, 101) && !may_hide(21, 5, 0, 101), "later rows in a later file");
    assert!(!may_hide(20, LAST, 0, 0) && !may_hide(21, LAST, 0, 0), "one value of each key and no tombstone");
}
