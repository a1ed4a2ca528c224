//! What every store must do, run against each.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::disk::Disk;
use super::memory::MemoryStore;
use super::rocks::RocksStore;
use super::rows::read_factors;
use super::{Batch, Family, Store, after};
use crate::model::factors::{Factors, Side};

fn rows(store: &dyn Store, family: Family, from: &[u8], to: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut keep = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    store.scan(family, from, to, &mut keep).unwrap();
    rows
}

fn conforms(store: &dyn Store) {
    let mut batch = Batch::default();
    for key in [&b"b"[..], b"a", b"\xff\xff", b"ab"] {
        batch.put(Family::Interactions, key, key);
    }
    batch.put(Family::Fences, b"a", b"other family");
    batch.put(Family::Ledger, b"gone", b"1");
    batch.delete(Family::Ledger, b"gone");
    batch.delete(Family::Ledger, b"back");
    batch.put(Family::Ledger, b"back", b"2");
    store.write(&batch).unwrap();
    let keys =
        |from: &[u8], to: Option<&[u8]>| rows(store, Family::Interactions, from, to).into_iter().map(|row| row.0).collect::<Vec<_>>();
    assert_eq!(keys(b"", None), [&b"a"[..], b"ab", b"b", b"\xff\xff"]);
    assert_eq!(keys(b"a", after(b"a").as_deref()), [&b"a"[..], b"ab"]);
    assert_eq!(keys(b"aa", Some(b"b")), [&b"ab"[..]]);
    assert_eq!(keys(b"\xff", after(b"\xff").as_deref()), [&b"\xff\xff"[..]]);
    assert!(keys(b"b", Some(b"a")).is_empty());
    assert_eq!(store.get(Family::Fences, b"a").unwrap().as_deref(), Some(&b"other family"[..]));
    assert_eq!((store.get(Family::Ledger, b"gone").unwrap(), store.get(Family::Ledger, b"back").unwrap()), (None, Some(b"2".to_vec())));
    let mut first = Vec::new();
    let mut once = |key: &[u8], _: &[u8]| {
        first.push(key.to_vec());
        ControlFlow::Break(())
    };
    store.scan(Family::Interactions, b"", None, &mut once).unwrap();
    assert_eq!(first, [b"a"]);
    let mut again = Batch::default();
    again.put(Family::Interactions, b"a", b"a");
    again.delete(Family::Interactions, b"missing");
    store.write(&again).unwrap();
    assert_eq!(keys(b"", None).len(), 4, "a repeated write changes nothing");
    writes_rows_of_a_generation(store);
    // Users far apart and close together; each has three rows.
    let users: Vec<u32> = (0..700).chain((1..60).map(|n| n * 1_000)).chain([u32::MAX - 1, u32::MAX]).collect();
    let mut many = Batch::default();
    for user in users.iter().rev() {
        (0..3).for_each(|n| many.put(Family::Identities, &[&user.to_be_bytes()[..], &[n]].concat(), b""));
        (0..3).for_each(|n| many.put(Family::Interactions, &[&user.to_be_bytes()[..], &[n]].concat(), &[n]));
    }
    store.write_behind(many).unwrap();
    for (from, to) in [(0, None), (100, Some(101)), (255, Some(256)), (200, Some(900)), (3_000, Some(u32::MAX)), (u32::MAX, None)] {
        let (from, to) = (u32::to_be_bytes(from), to.map(u32::to_be_bytes));
        let to = to.as_ref().map(|to| &to[..]);
        let strip = |rows: Vec<(Vec<u8>, Vec<u8>)>| rows.into_iter().map(|row| row.0).filter(|key| key.len() == 5).collect::<Vec<_>>();
        let plain = strip(rows(store, Family::Identities, &from, to));
        assert_eq!(strip(rows(store, Family::Interactions, &from, to)), plain, "ascending, whatever lies where");
        assert_eq!(
            plain.len(),
            3 * users.iter().filter(|user| user.to_be_bytes() >= from && to.is_none_or(|to| user.to_be_bytes()[..] < *to)).count()
        );
    }
    assert_eq!(store.get(Family::Interactions, &[&59_000u32.to_be_bytes()[..], &[2]].concat()).unwrap(), Some(vec![2]));
    store.settle().unwrap();
    assert!(store.sizes().iter().any(|(family, bytes)| *family == Family::Interactions && *bytes > 0));
}

/// What a generation has is put, what it does not have is deleted, and all of it goes with the rest of the batch.
fn writes_rows_of_a_generation(store: &dyn Store) {
    let mut factors = Factors::new(2);
    factors.users.set(1, &[1.5, -2.5]);
    factors.items.set(700, &[0.25, f64::MIN_POSITIVE]);
    let mut batch = Batch::default();
    batch.put(Family::UserFactors, &3u32.to_be_bytes(), b"of before");
    store.write(&batch).unwrap();
    let mut batch = Batch::default();
    batch.put_factors(Arc::new(factors), vec![(Side::User, 1), (Side::User, 3), (Side::Item, 700)]);
    assert_eq!((batch.is_empty(), batch.len(), batch.size()), (false, 3, 3 * (4 + 1 + 16)));
    store.write(&batch).unwrap();
    let stored = |family| -> Vec<(Vec<u8>, Vec<f64>)> {
        let read = |(key, value): (Vec<u8>, Vec<u8>)| (key.clone(), read_factors(family, &key, &value).unwrap());
        rows(store, family, b"", None).into_iter().map(read).collect()
    };
    assert_eq!(stored(Family::UserFactors), [(1u32.to_be_bytes().to_vec(), vec![1.5, -2.5])]);
    assert_eq!(stored(Family::ItemFactors), [(700u32.to_be_bytes().to_vec(), vec![0.25, f64::MIN_POSITIVE])]);
}

#[test]
fn memory_conforms() {
    conforms(&MemoryStore::default());
}

#[test]
fn the_disk_of_simulations_conforms() {
    conforms(&Disk::default());
}

#[test]
fn rocksdb_conforms_and_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    conforms(&store);
    let before = rows(&store, Family::Interactions, b"", None);
    drop(store);
    let again = RocksStore::open(dir.path()).unwrap();
    assert_eq!((rows(&again, Family::Interactions, b"", None), before.len()), (before, 4 + 3 * 761));
}

#[test]
fn the_end_of_a_prefix() {
    assert_eq!((after(b"a"), after(b"a\xff"), after(b"\xff")), (Some(b"b".to_vec()), Some(b"b".to_vec()), None));
}
