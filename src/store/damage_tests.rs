//! A state of which a row is not what was written: it is refused by name, or read as what it says, and nothing else.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::memory::MemoryStore;
use super::tables::Tables;
use super::{Batch, Family, Store, StoreError, plays, rows};
use crate::model::factors::Side;
use crate::model::fence::HashKey;
use crate::model::processor::{InputTopics, State};
use crate::model::step::Input;
use crate::model::unlearn::Unwatched;
use crate::model::{Certify, Objective, Params};

pub(super) fn key() -> HashKey {
    HashKey::new([5; 32])
}

fn params() -> Params {
    Params {
        objective: Objective::Explicit,
        rank: 2,
        regularization: 0.5,
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-3,
        certify: Certify::Residual,
        max_sweeps: 50,
        seed: 1,
        threads: 1,
    }
}

/// A state with a generation, a waiting request, fences, residue and an outbox.
pub(super) fn state() -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::default());
    let mut tables = Tables::new(store.clone(), Objective::Explicit, &key()).unwrap();
    let topics = InputTopics { interactions: "i".to_owned(), forgets: "f".to_owned() };
    let mut state = State::open(params(), topics, tables.restore(key()).unwrap(), &tables).unwrap();
    let mut take = |state: &mut State, lines: &[&str], from: i64| {
        let inputs = (from..).zip(lines).map(|(offset, line)| Input {
            topic: 0,
            partition: 0,
            offset,
            timestamp: Some(9),
            reset: false,
            key: Some(b"k"),
            payload: Some(line.as_bytes()),
        });
        let step = state.fold(&["i".to_owned()], inputs, 10, &tables).unwrap();
        tables.commit(&step, state.dictionary()).unwrap();
    };
    let plays = [
        r#"{"event_id":"e1","user":"a","item":"x","value":3,"time":1}"#,
        r#"{"user":"b","item":"x","value":4,"time":2}"#,
        r#"{"user":"b","item":"y","value":1,"time":3}"#,
        "{",
    ];
    take(&mut state, &plays, 0);
    take(&mut state, &[r#"{"type":"forget","request_id":"r1","user":"b","items":["y"],"time":5}"#], 4);
    let mut tables = Tables::new(store.clone(), Objective::Explicit, &key()).unwrap();
    let job = state.freeze(&tables).unwrap();
    let new = state.adopt(job.run(&Unwatched).unwrap(), 0.1, 11);
    tables.commit_generation(&new, state.current().unwrap()).unwrap();
    store
}

type Row = (Family, Vec<u8>, Vec<u8>);

fn all(store: &MemoryStore) -> Vec<Row> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let keep = &mut |key: &[u8], value: &[u8]| {
            all.push((family, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        store.scan(family, b"", None, keep).unwrap();
    }
    all
}

/// Reads everything that a start reads.
fn read(store: Arc<MemoryStore>) -> Result<(), StoreError> {
    let mut tables = Tables::new(store, Objective::Explicit, &key())?;
    let restored = tables.restore(key())?;
    tables.backlog()?;
    tables.next_group()?;
    tables.residue()?;
    tables.gone()?;
    tables.unpurged()?;
    let topics = InputTopics { interactions: "i".to_owned(), forgets: "f".to_owned() };
    let state = State::open(params(), topics, restored, &tables)?;
    state.nameless().map_or(Ok(()), |(side, number)| Err(StoreError::nameless(side, number)))
}

fn with(rows: &[Row], change: (Family, &[u8], Option<&[u8]>)) -> Arc<MemoryStore> {
    let (store, mut batch) = (MemoryStore::default(), Batch::default());
    rows.iter().for_each(|(family, key, value)| batch.put(*family, key, value));
    match change.2 {
        Some(value) => batch.put(change.0, change.1, value),
        None => batch.delete(change.0, change.1),
    }
    store.write(&batch).unwrap();
    Arc::new(store)
}

#[test]
fn numbers_that_were_never_given_are_damage_and_no_reason_to_take_memory() {
    let rows = all(&state());
    for number in [2, 70_000, u32::MAX - 1, u32::MAX] {
        let identity = with(&rows, (Family::Identities, &rows::identity_key(Side::Item, number), Some(&rows::versioned(b"z"))));
        let mut row = Vec::new();
        rows::put_factors(&mut row, &[1.0, 2.0]);
        let factors = with(&rows, (Family::UserFactors, &number.to_be_bytes(), Some(&row)));
        let play = crate::model::play::Play { user: number, item: 0, ident: None, time: 1, value: 1 };
        let (mut batch, others) = (Batch::default(), with(&rows, (Family::Meta, b"x", None)));
        plays::put(&mut batch, &[(play, "")], 99);
        others.write(&batch).unwrap();
        let play = others;
        for (what, store) in [("identity", identity), ("factors", factors), ("play", play)] {
            assert!(matches!(read(store), Err(StoreError::Damaged { .. })), "{what} {number}");
        }
    }
    let nameless = with(&rows, (Family::Identities, &rows::identity_key(Side::User, 0), None));
    assert!(matches!(read(nameless), Err(StoreError::Damaged { .. })));
}

#[test]
fn fuzz_stored_rows() {
    let rows = all(&state());
    assert!(Family::ALL.iter().all(|family| rows.iter().any(|row| row.0 == *family)), "a row of every family");
    // An input is a row: which it takes the place of, then its value.
    let seeds: Vec<Vec<u8>> = (0u8..).zip(&rows).map(|(at, row)| [&[at], &row.2[..]].concat()).collect();
    read(with(&rows, (Family::Meta, b"x", None))).unwrap();
    crate::fuzz::fuzz_costly("stored rows", &seeds, |bytes| {
        let Some((&at, value)) = bytes.split_first() else { return };
        let (family, key, _) = &rows[usize::from(at) % rows.len()];
        match read(with(&rows, (*family, key, Some(value)))) {
            Ok(()) | Err(StoreError::Damaged { .. } | StoreError::OtherModel { .. } | StoreError::HashKey { .. }) => (),
            Err(other) => panic!("{other}"),
        }
    });
}

#[test]
fn fuzz_stored_keys() {
    let rows = all(&state());
    let seeds: Vec<Vec<u8>> = (0u8..).zip(&rows).map(|(at, row)| [&[at], &row.1[..]].concat()).collect();
    crate::fuzz::fuzz_costly("stored keys", &seeds, |bytes| {
        let Some((&at, key)) = bytes.split_first() else { return };
        let (family, _, value) = &rows[usize::from(at) % rows.len()];
        match read(with(&rows, (*family, key, Some(value)))) {
            Ok(()) | Err(StoreError::Damaged { .. } | StoreError::OtherModel { .. } | StoreError::HashKey { .. }) => (),
            Err(other) => panic!("{other}"),
        }
    });
}
