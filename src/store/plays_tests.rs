use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::columns::Column;
use super::super::memory::MemoryStore;
use super::super::tables::Tables;
use super::*;
use crate::model::Objective;
use crate::model::dictionary::Dictionary;
use crate::model::factors::Side;
use crate::model::fence::HashKey;
use crate::model::step::{History, Range, Step};

/// Of few users in few groups, the last of all among them.
fn any_play() -> impl Strategy<Value = Play> {
    let user = prop_oneof![0u32..40, Just(u32::MAX - 1), Just(u32::MAX)];
    (user, 0u32..4, prop::option::of(0u64..3), 0i64..3, 0u64..2).prop_map(|(user, item, ident, time, value)| Play {
        user,
        item,
        ident,
        time,
        value,
    })
}

/// An event id goes with its hash.
fn name(play: &Play) -> Box<str> {
    play.ident.map_or_else(Box::default, |ident| "é".repeat(ident as usize).into())
}

fn step(plays: &[Play], erased: &[Play]) -> Step {
    let mut plays: Vec<(Play, Box<str>)> = plays.iter().map(|play| (*play, name(play))).collect();
    plays.sort();
    plays.dedup();
    Step { plays, erased: erased.to_vec(), ..Step::default() }
}

fn stored(tables: &Tables, from: u32, to: Option<u32>) -> Vec<(Play, Box<str>)> {
    let mut plays = Vec::new();
    let keep = &mut |play: Play, name: &str| {
        plays.push((play, name.into()));
        Ok(())
    };
    each(&**tables.store(), (from, to), keep).unwrap();
    plays
}

fn rows_of(store: &dyn Store) -> usize {
    let mut rows = 0;
    let count = &mut |_: &[u8], _: &[u8]| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    };
    store.scan(Family::Interactions, b"", None, count).unwrap();
    rows
}

proptest! {
    /// Whatever is brought and erased, in whatever order and however often, the store holds the set of it.
    #[test]
    fn rows_are_a_set_of_plays(
        steps in prop::collection::vec((prop::collection::vec(any_play(), 0..20), prop::collection::vec(any_play(), 0..6)), 1..12),
        from in 0u32..40,
        length in prop::option::of(0u32..40),
    ) {
        let store = Arc::new(MemoryStore::default());
        let key = HashKey::new([1; 32]);
        let mut tables = Tables::new(store.clone(), Objective::Explicit, &key).unwrap();
        let mut set = BTreeMap::new();
        for (plays, erased) in &steps {
            // Of one batch either, for what is erased was stored before.
            let plays: Vec<Play> = plays.iter().filter(|play| !erased.contains(play)).copied().collect();
            tables.commit(&step(&plays, erased), &Dictionary::default()).unwrap();
            set.retain(|play, _| !erased.contains(play));
            set.extend(plays.iter().map(|play| (*play, name(play))));
            // A restart goes on with numbers of its own.
            tables = Tables::new(store.clone(), Objective::Explicit, &key).unwrap();
        }
        let all: Vec<(Play, Box<str>)> = set.iter().map(|(play, name)| (*play, name.clone())).collect();
        prop_assert_eq!(&stored(&tables, 0, None), &all);
        let to = length.map(|length| from + length);
        let within = |(play, _): &(Play, Box<str>)| play.user >= from && to.is_none_or(|to| play.user < to);
        prop_assert_eq!(stored(&tables, from, to), all.iter().filter(|play| within(play)).cloned().collect::<Vec<_>>());
        for user in [from, u32::MAX] {
            let mut of_user = Vec::new();
            tables.plays(Range::User(user), &mut |play, name| of_user.push((play, name.into()))).unwrap();
            prop_assert_eq!(of_user, all.iter().filter(|(play, _)| play.user == user).cloned().collect::<Vec<_>>());
        }
        while tables.tidy().unwrap() {}
        prop_assert_eq!(&stored(&tables, 0, None), &all, "and so it is when rows were put together");
        // When all of it is erased no row is left.
        let everything: Vec<Play> = set.into_keys().collect();
        tables.commit(&step(&[], &everything), &Dictionary::default()).unwrap();
        prop_assert_eq!(rows_of(&*store), 0);
    }

    #[test]
    fn a_play_is_read_as_it_was_written(user: u32, item: u32, ident: Option<u64>, time in 0i64.., value: u64, name in "[^\0]{0,40}") {
        let play = Play { user, item, ident, time, value };
        let mut batch = Batch::default();
        put(&mut batch, &[(play, &*name)], 7);
        let mut found = Vec::new();
        batch.each(&mut |change| {
            let super::super::Change::Put(_, key, value) = change else { panic!("only puts") };
            read(key, value, |play, name| found.push((play, name.to_owned()))).unwrap();
        });
        prop_assert_eq!(found, [(play, name)]);
    }

    #[test]
    fn damaged_rows_are_refused_not_guessed(key: Vec<u8>, value: Vec<u8>) {
        let _ = read(&key, &value, |_, _| ());
        let _ = read(&super::key(77, 1), &rows::versioned(&value), |_, _| ());
    }
}

#[test]
fn rows_that_nobody_wrote_are_damage() {
    let play = |user, item| Play { user, item, ident: Some(9), time: 5, value: 6 };
    let written = |plays: &[Play]| {
        let mut bytes = rows::versioned(&[]);
        plays.iter().for_each(|play| put_play(&mut bytes, play, "e"));
        bytes
    };
    let good = written(&[play(16, 1), play(16, 2), play(31, 0)]);
    let key = key(20, 3);
    assert_eq!(read(&key, &good, |_, _| ()).unwrap(), 16);
    let bad = [
        ("empty", rows::versioned(&[])),
        ("another version", [&[2], &good[1..]].concat()),
        ("out of order", written(&[play(16, 2), play(16, 1)])),
        ("twice", written(&[play(16, 1), play(16, 1)])),
        ("cut", good[..good.len() - 1].to_vec()),
        ("more", [&good[..], &[0]].concat()),
        ("beyond the group", [&[1, (TOGETHER as u8) << PLACE], &good[2..22]].concat()),
    ];
    for (what, value) in bad {
        assert!(matches!(read(&key, &value, |_, _| ()), Err(StoreError::Damaged { .. })), "{what}");
    }
    for key in [&17u32.to_be_bytes()[..], &[&17u32.to_be_bytes()[..], &[0; 8]].concat(), &key[..11], b""] {
        assert!(matches!(read(key, &good, |_, _| ()), Err(StoreError::Damaged { .. })), "{key:?}");
    }
}

#[test]
fn a_number_that_was_never_given_is_damage_to_whoever_reads_many() {
    let store = Arc::new(MemoryStore::default());
    let mut tables = Tables::new(store, Objective::Implicit, &HashKey::new([1; 32])).unwrap();
    let mut names = Dictionary::default();
    for (side, name) in [(Side::User, "u"), (Side::Item, "i")] {
        names.assign(side, name).unwrap();
    }
    let play = |user, item| Play { user, item, ident: None, time: 1, value: 1 };
    tables.commit(&Step { identities: vec![(Side::User, 0), (Side::Item, 0)], ..step(&[play(0, 0)], &[]) }, &names).unwrap();
    assert!(tables.plays(Range::All, &mut |_, _| ()).is_ok());
    for (user, item) in [(1, 0), (0, 1)] {
        tables.commit(&step(&[play(user, item)], &[]), &names).unwrap();
        assert!(matches!(tables.plays(Range::All, &mut |_, _| ()), Err(StoreError::Damaged { .. })));
        tables.commit(&step(&[], &[play(user, item)]), &names).unwrap();
    }
    assert!(tables.plays(Range::All, &mut |_, _| ()).is_ok());
}

/// A forget writes the rows anew that hold what it erases, and no others.
#[test]
fn only_rows_that_have_it_are_written_anew() {
    let play = |user, time| Play { user, item: 1, ident: None, time, value: 1 };
    let store = MemoryStore::default();
    for number in 0..4 {
        let mut batch = Batch::default();
        put(&mut batch, &[(play(1, number), ""), (play(2, number), "")], number as u64);
        store.write(&batch).unwrap();
    }
    let mut batch = Batch::default();
    take_out(&mut batch, &store, &[play(2, 3), play(1, 3), play(1, 1), play(9, 9)]).unwrap();
    let mut changes = Vec::new();
    batch.each(&mut |change| match change {
        super::super::Change::Put(_, at, value) => {
            read(at, value, |left, _| changes.push((at.to_vec(), Some(left)))).unwrap();
        }
        super::super::Change::Delete(_, at) => changes.push((at.to_vec(), None)),
    });
    assert_eq!(changes, [(key(1, 1).to_vec(), Some(play(2, 1))), (key(1, 3).to_vec(), None)]);
}

/// A topic that comes again and again takes no more room.
#[test]
fn rows_that_repeat_each_other_are_put_together() {
    let store = Arc::new(MemoryStore::default());
    let mut tables = Tables::new(store.clone(), Objective::Explicit, &HashKey::new([1; 32])).unwrap();
    let plays: Vec<Play> =
        (0..500).map(|n| Play { user: n % 40, item: n % 7, ident: Some(u64::from(n % 3)), time: i64::from(n), value: 1 }).collect();
    for _ in 0..3 {
        for part in plays.chunks(100) {
            tables.commit(&step(part, &[]), &Dictionary::default()).unwrap();
        }
    }
    assert!(!tables.tidy().unwrap(), "nobody has looked yet");
    let before = (rows_of(&*store), stored(&tables, 0, None));
    tables.each_play((0, None), &mut |_, _| Ok(())).unwrap();
    assert!(tables.tidy().unwrap() && !tables.tidy().unwrap());
    assert_eq!((before.0, rows_of(&*store)), (45, 3));
    assert_eq!(stored(&tables, 0, None), before.1);
    tables.each_play((0, None), &mut |_, _| Ok(())).unwrap();
    assert!(!tables.tidy().unwrap(), "it is done");
}

/// What came event by event, as a quiet topic brings it, is read as fast as what came by the thousand.
#[test]
fn many_short_rows_are_put_together() {
    let store = Arc::new(MemoryStore::default());
    let mut tables = Tables::new(store.clone(), Objective::Implicit, &HashKey::new([1; 32])).unwrap();
    let bring = |tables: &mut Tables, times: std::ops::Range<i64>| {
        for time in times {
            let play = Play { user: (time % 3) as u32, item: 1, ident: None, time, value: 1 };
            tables.commit(&step(&[play], &[]), &Dictionary::default()).unwrap();
        }
        tables.each_play((0, None), &mut |_, _| Ok(())).unwrap();
    };
    bring(&mut tables, 0..SCATTERED as i64);
    assert!(!tables.tidy().unwrap(), "few are left as they are");
    bring(&mut tables, 100..1_500);
    let before = stored(&tables, 0, None);
    assert!(tables.tidy().unwrap() && !tables.tidy().unwrap());
    assert_eq!((rows_of(&*store), stored(&tables, 0, None)), (1, before));
    // As many as a sixteenth of what there is.
    bring(&mut tables, 2_000..2_080);
    assert!(!tables.tidy().unwrap());
    bring(&mut tables, 3_000..3_080);
    assert!(tables.tidy().unwrap());
    assert_eq!(rows_of(&*store), 1);
}

#[test]
fn a_long_history_stays_in_several_rows() {
    let (store, mut batch) = (MemoryStore::default(), Batch::default());
    let plays: Vec<(Play, &str)> =
        (0..3 * OF_A_ROW as i64).map(|time| (Play { user: 1, item: 1, ident: None, time, value: 1 }, "")).collect();
    for (number, part) in (0..).zip(plays.chunks(1_000).chain(plays.chunks(1_000))) {
        put(&mut batch, part, number);
    }
    store.write(&batch).unwrap();
    let mut batch = Batch::default();
    put_together(&mut batch, &store, 0).unwrap();
    store.write(&batch).unwrap();
    let mut found = 0;
    each(&store, (0, None), &mut |_, _| {
        found += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!((rows_of(&store), found), (3, plays.len()));
}

/// An erasure of one user must not become one of everybody, nor leave out the rows of an older format.
#[test]
fn the_range_of_a_user_is_in_one_place() {
    for user in [0, 15, 16, 240, 255, 256, 65_535, 0xff_ffff, u32::MAX] {
        let KeyRange { family, from, to } = range_of(user);
        assert_eq!(Column::over(family, &from, to.as_deref()), [Column::of(family, &key(user, 0))], "{user}");
        let holds = |key: &[u8]| key >= &from[..] && to.as_ref().is_none_or(|to| key < &to[..]);
        assert!(holds(&key(user, 0)) && holds(&key(user, u64::MAX)) && holds(&user.to_be_bytes()), "{user}");
        let (first, last) = (group_of(user), group_of(user) + (TOGETHER - 1));
        assert!(first.checked_sub(1).is_none_or(|user| !holds(&key(user, u64::MAX))), "{user}");
        assert!(last.checked_add(1).is_none_or(|user| !holds(&key(user, 0))), "{user}");
    }
}

#[test]
fn fuzz_plays() {
    let play = |user, ident| Play { user, item: 2, ident, time: 4, value: 5 };
    let seed = |plays: &[(Play, &str)]| {
        let mut batch = Batch::default();
        put(&mut batch, plays, 3);
        let mut row = Vec::new();
        batch.each(&mut |change| {
            if let super::super::Change::Put(_, key, value) = change {
                row = [key, value].concat();
            }
        });
        row
    };
    let seeds = [seed(&[(play(1, None), "")]), seed(&[(play(16, None), ""), (play(17, Some(3)), "e3"), (play(31, Some(4)), "")])];
    crate::fuzz::fuzz("plays", &seeds, |bytes| {
        let (key, value) = bytes.split_at(bytes.len().min(KEY));
        let mut plays = Vec::new();
        if read(key, value, |play, name| plays.push((play, name.to_owned()))).is_err() {
            return;
        }
        // What is read is what would be written: no two values mean the same.
        let mut again = rows::versioned(&[]);
        plays.iter().for_each(|(play, name)| put_play(&mut again, play, name));
        assert_eq!(again, value);
    });
}
