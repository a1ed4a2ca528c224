//! A state of a backup over the simulated world: what was forgotten since stays forgotten, and readers go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::http::Views;
use crate::kafka::OutRecord;
use crate::model::receipt::{Manifest, Status};
use crate::model::{Objective, Params};
use crate::run::simulation::*;
use crate::run::survey::Rows;
use crate::store::Store;
use crate::store::backups::note_backup;
use crate::store::memory::MemoryStore;
use crate::store::tables::Tables;

const NEVER: Duration = Duration::from_secs(3600);

/// Looks at the world's topics when told to.
#[derive(Default)]
struct Surveyor {
    since: Option<Millis>,
    answer: Option<Survey>,
    /// First offsets that the topics still have.
    first: [i64; 2],
    failures: u32,
}

impl Purger for Surveyor {
    fn start(&mut self, order: Order) {
        if let Order::Survey { since } = order {
            assert!(self.since.replace(since).is_none(), "one order at a time");
        }
    }

    fn poll(&mut self) -> Option<Purged> {
        let answer = self.answer.take()?;
        self.since = None;
        if self.failures > 0 {
            self.failures -= 1;
            return Some(Purged::Survey(Err("the broker is away".to_owned())));
        }
        Some(Purged::Survey(Ok(answer)))
    }
}

impl Surveyor {
    fn look(&mut self, world: &World) {
        let Some(since) = self.since else { return };
        let mut survey = Survey::default();
        for (topic, name) in [PLAYS, FORGETS].into_iter().enumerate() {
            survey.inputs.insert((name.to_owned(), 0), (self.first[topic], world.inputs[topic].len() as i64));
        }
        let of = |topic: &str| world.outputs.get(topic).map_or(&[][..], Vec::as_slice);
        let value = |record: &OutRecord| record.value.clone().unwrap_or_default();
        for (offset, record) in of("receipts").iter().enumerate() {
            survey.receipt(&key(), since, 0, offset as i64, &value(record));
        }
        of("generations").iter().for_each(|record| survey.manifest(&value(record)));
        let mut rows = Rows::default();
        of("factors").iter().for_each(|record| rows.take(record.key.as_deref().unwrap(), record.value.is_some()));
        survey.topics.rows = rows.left();
        survey.topics.upto = BTreeMap::from([(0, of("factors").len() as i64)]);
        self.answer = Some(survey);
    }
}

fn go(world: &mut World, service: &mut Service, shell: &mut Shell, surveyor: &mut Surveyor, now: Millis) -> Result<bool, TurnError> {
    surveyor.look(world);
    turn_with(world, service, shell, now, true, surveyor)
}

/// Runs until everything is read and published again.
fn until_settled(
    world: &mut World,
    service: &mut Service,
    shell: &mut Shell,
    surveyor: &mut Surveyor,
    now: &mut Millis,
) -> Result<(), TurnError> {
    for round in 0..2_000 {
        *now += 400;
        shell.take = (round % 2, 50);
        go(world, service, shell, surveyor, *now)?;
        let read = (0..2).all(|topic| shell.next[topic] == world.inputs[topic].len());
        if read && service.is_settled() && shell.job.is_none() && shell.parcel.is_none() {
            return Ok(());
        }
    }
    panic!("not settled: {:?}", service.restoring);
}

/// A backup: the rows of the store.
fn back_up(world: &World, now: Millis) -> MemoryStore {
    note_backup(&*world.store, now).unwrap();
    world.store.copy()
}

/// The world with the state of a backup in the place of its own.
fn restore(world: &mut World, backup: &MemoryStore, later: Option<&MemoryStore>, unchecked: bool) {
    let store = Arc::new(backup.copy());
    let mut tables = Tables::new(store.clone(), Objective::Implicit, &key()).unwrap();
    tables.come_back(unchecked).unwrap();
    if let Some(later) = later {
        let later: Arc<dyn Store> = Arc::new(later.copy());
        tables.merge_ledger(&Tables::reading(later), &key(), |_| ()).unwrap();
    }
    world.store = store;
}

fn params() -> Params {
    crate::run::simulation::params(Objective::Implicit, 1)
}

fn play(user: &str, item: &str, time: i64) -> String {
    format!(r#"{{"event_id":"{user}{item}{time}","user":"{user}","item":"{item}","time":{time}}}"#)
}

fn forget(id: &str, user: &str) -> String {
    format!(r#"{{"request_id":"{id}","user":"{user}","time":500}}"#)
}

fn sent(world: &World, topic: &str) -> usize {
    world.outputs.get(topic).map_or(0, Vec::len)
}

fn manifests(world: &World) -> Vec<Manifest> {
    world.outputs["generations"].iter().map(|record| serde_json::from_slice(record.value.as_ref().unwrap()).unwrap()).collect()
}

fn people(service: &Service) -> BTreeSet<String> {
    plays(service).into_iter().map(|play| play.0).collect()
}

/// Somebody is forgotten before the backup, a backup is taken, others are forgotten and others come since.
fn since_the_backup() -> (World, MemoryStore, Millis) {
    let (mut world, mut now) = (World::default(), 2_000_000);
    for (n, user) in ["early", "ann", "bob", "cid"].iter().enumerate() {
        for item in ["x", "y", "z"].iter().skip(n % 2) {
            world.inputs[0].push(play(user, item, 10 + n as i64));
        }
    }
    world.inputs[1].push(forget("0", "early"));
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    settle(&mut world, &mut service, &mut shell, &mut now);
    let backup = back_up(&world, now);
    world.inputs[0].extend([play("new", "w", 20), play("gone", "v", 20), play("bob", "w", 21)]);
    settle(&mut world, &mut service, &mut shell, &mut now);
    world.inputs[1].extend([forget("1", "ann"), forget("2", "gone")]);
    world.inputs[1].push(r#"{"request_id":"3","user":"bob","event_ids":["bobz12"],"time":500}"#.to_owned());
    settle(&mut world, &mut service, &mut shell, &mut now);
    assert_eq!(people(&service), ["bob", "cid", "new"].map(str::to_owned).into());
    (world, backup, now)
}

#[test]
fn nothing_is_served_or_published_before_the_forgets_are_taken_in_and_then_readers_go_on() {
    let (mut world, backup, mut now) = since_the_backup();
    let last = manifests(&world).last().unwrap().clone();
    let expected = {
        let (service, _) = open(&world, &params(), NEVER);
        plays(&service)
    };
    restore(&mut world, &backup, None, false);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    let mut surveyor = Surveyor { failures: 2, ..Surveyor::default() };
    let before = (sent(&world, "factors"), sent(&world, "generations"));
    // Whoever is restored is read back, but nobody gets to see it.
    assert!(people(&service).contains("ann"));
    for _ in 0..400 {
        now += 400;
        // Interactions alone, however many, do not end it.
        shell.take = (0, 50);
        go(&mut world, &mut service, &mut shell, &mut surveyor, now).unwrap();
        service.observe(&In(&mut shell, &world), now);
        assert_eq!((sent(&world, "factors"), sent(&world, "generations")), before);
        assert!(service.board.ready().unwrap_err().contains("restored from a backup"));
        assert!(service.board.recommendations("ann", 3).is_err() && service.board.latest_generation().is_none());
    }
    assert!(service.board.ready().unwrap_err().contains("offset 1 of 4"), "{:?}", service.board.ready());
    until_settled(&mut world, &mut service, &mut shell, &mut surveyor, &mut now).unwrap();
    assert_eq!(plays(&service), expected);
    let all = manifests(&world);
    let first = all.iter().position(|manifest| manifest.parent == Some(last.generation) && manifest.generation > last.generation).unwrap();
    assert!(all.windows(2).all(|pair| pair[0].generation < pair[1].generation), "numbers never go back");
    assert_eq!((all[first].generation, all[first].counts.changed), (last.generation + 1, last.counts.users + last.counts.items));
    let (digest, manifest) = reader(&world);
    assert_eq!(digest, manifest.digest, "what a reader holds is the generation");
    assert!(service.board.recommendations("bob", 3).unwrap().is_some());
    assert_eq!(service.board.recommendations("ann", 3), Ok(None));
    for request in ["0", "1", "2", "3"] {
        let receipt = service.tables().request(&key().request(request)).unwrap().unwrap().receipt;
        assert_eq!(receipt.status, Status::Published, "{request}");
    }
    // The next start is like any other.
    let (service, _) = open(&world, &params(), NEVER);
    assert!(service.restoring.is_none() && service.is_settled());
    assert!(["ann", "gone"].iter().all(|name| service.state().dictionary().get(crate::model::factors::Side::User, name).is_none()));
}

#[test]
fn rows_that_only_readers_have_are_removed() {
    let (mut world, backup, mut now) = since_the_backup();
    // The record of a forgotten row that the broker of the disaster lost: readers have it still.
    let live = |world: &World| -> BTreeSet<Vec<u8>> {
        let mut rows = Rows::default();
        world.outputs["factors"].iter().for_each(|record| rows.take(record.key.as_deref().unwrap(), record.value.is_some()));
        rows.left().into_iter().map(|(side, name)| side.key(&name).into_bytes()).collect()
    };
    let stray = world.outputs["factors"].iter().find(|record| record.key.as_deref() == Some(b"u/gone")).unwrap().clone();
    world.outputs.get_mut("factors").unwrap().push(stray);
    assert!(live(&world).contains(&b"u/gone"[..]));
    restore(&mut world, &backup, None, false);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    let mut surveyor = Surveyor::default();
    until_settled(&mut world, &mut service, &mut shell, &mut surveyor, &mut now).unwrap();
    let expected: BTreeSet<Vec<u8>> = ["i/x", "i/y", "i/z", "i/w", "u/bob", "u/cid", "u/new"].map(|key| key.as_bytes().to_vec()).into();
    assert!(live(&world).is_subset(&expected), "{:?}", live(&world));
    assert_eq!(reader(&world).0, reader(&world).1.digest);
    assert!(!service.tables().gone().unwrap().is_empty(), "the proof of the topic knows what must be gone");
}

#[test]
fn forgets_that_the_topic_lost_stop_the_start_unless_a_later_ledger_has_them() {
    let (mut world, backup, mut now) = since_the_backup();
    let later = world.store.copy();
    let lost = |world: &mut World, later: Option<&MemoryStore>, unchecked: bool, first: i64, now: &mut Millis| {
        restore(world, &backup, later, unchecked);
        let (mut service, mut shell) = open(world, &params(), NEVER);
        // What a consumer does whose offset is gone.
        shell.next[1] = shell.next[1].max(first as usize);
        let mut surveyor = Surveyor { first: [0, first], ..Surveyor::default() };
        let ended = until_settled(world, &mut service, &mut shell, &mut surveyor, now);
        ended.map(|()| (people(&service), service))
    };
    let before = world.outputs.clone();
    // One request is cut off; then all are, and receipts are all that is left to tell.
    for first in [2, 4] {
        let error = lost(&mut world, None, false, first, &mut now).err().unwrap().to_string();
        assert!(error.contains("begins at offset") && error.contains("--ledger"), "{error}");
        assert_eq!(world.outputs, before, "nothing was published");
    }
    // With the later ledger nobody comes back, though the topic has nothing any more.
    let (left, mut service) = lost(&mut world, Some(&later), false, 4, &mut now).unwrap();
    assert_eq!(left, ["bob", "cid", "new"].map(str::to_owned).into());
    assert!(!plays(&service).iter().any(|play| (play.0.as_str(), play.1.as_str()) == ("bob", "z")), "also by event id");
    for request in ["1", "2", "3"] {
        let receipt = service.tables().request(&key().request(request)).unwrap().unwrap().receipt;
        assert_eq!((receipt.status, receipt.removed.interactions > 0), (Status::Published, true), "{request}");
    }
    let late = world.inputs[0].len();
    world.inputs[0].push(play("ann", "x", 30));
    let mut shell = Shell { next: [late, 4], ..Shell::default() };
    settle(&mut world, &mut service, &mut shell, &mut now);
    assert!(!people(&service).contains("ann"), "the merged fences hold");
    // Whoever says that nothing is lost is believed.
    let (left, _) = lost(&mut world, None, true, 4, &mut now).unwrap();
    assert!(left.contains("ann"));
}

#[test]
fn a_topic_made_anew_and_receipts_without_requests_stop_the_start() {
    let (mut world, backup, mut now) = since_the_backup();
    // The topic begins again, shorter than the backup has read.
    let forgets = std::mem::take(&mut world.inputs[1]);
    restore(&mut world, &backup, None, false);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    let error = until_settled(&mut world, &mut service, &mut shell, &mut Surveyor::default(), &mut now).unwrap_err();
    assert!(error.to_string().contains("made anew"), "{error}");
    // It is as long again, but without a request that has a receipt.
    world.inputs[1] = vec![forgets[0].clone(), forgets[2].clone(), forgets[3].clone()];
    restore(&mut world, &backup, None, false);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    let error = until_settled(&mut world, &mut service, &mut shell, &mut Surveyor::default(), &mut now).unwrap_err();
    assert!(error.to_string().contains("receipts on receipts"), "{error}");
    world.inputs[1] = forgets;
    restore(&mut world, &backup, None, false);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    until_settled(&mut world, &mut service, &mut shell, &mut Surveyor::default(), &mut now).unwrap();
}

#[derive(Debug, Clone)]
enum Op {
    Play(u8, u8, i64),
    Forget(u8, Option<u8>, i64),
    Turns(usize, usize),
    Crash,
    FailSend,
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let operation = prop_oneof![
        8 => (0u8..6, 0u8..5, 0i64..60).prop_map(|(user, item, time)| Op::Play(user, item, time)),
        2 => (0u8..6, prop::option::of(0u8..5), 0i64..60).prop_map(|(user, item, to)| Op::Forget(user, item, to)),
        6 => (0usize..2, 1usize..9).prop_map(|(topic, take)| Op::Turns(topic, take)),
        1 => Just(Op::Crash),
        1 => Just(Op::FailSend),
    ];
    prop::collection::vec(operation, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 1_000, ..ProptestConfig::default() })]

    /// Whatever happened before the backup, since then, and on the way back.
    #[test]
    fn a_restored_state_ends_where_one_ends_that_was_never_lost(before in operations(), since in operations(), after in operations()) {
        let (mut world, mut now, mut n) = (World::default(), 2_000_000, 0);
        let (mut played, mut wished) = (Vec::new(), Vec::new());
        let mut surveyor = Surveyor::default();
        let mut backup = None;
        let (mut service, mut shell) = open(&world, &params(), NEVER);
        for (phase, operations) in [&before, &since, &after].into_iter().enumerate() {
            for operation in operations {
                match operation {
                    Op::Play(user, item, time) => {
                        world.inputs[0].push(play(&format!("u{user}"), &format!("i{item}"), *time));
                        played.push((*user, *item, *time));
                    }
                    Op::Forget(user, item, to) => {
                        let items = item.map_or(String::new(), |item| format!(r#","items":["i{item}"]"#));
                        world.inputs[1].push(format!(r#"{{"request_id":"r{n}","user":"u{user}"{items},"to":{to},"time":500}}"#));
                        (n, _) = (n + 1, wished.push((*user, *item, *to)));
                    }
                    Op::Turns(topic, take) => {
                        now += 400;
                        shell.take = (*topic, *take);
                        go(&mut world, &mut service, &mut shell, &mut surveyor, now).unwrap();
                    }
                    Op::Crash => {
                        (service, shell) = open(&world, &params(), NEVER);
                        surveyor = Surveyor::default();
                    }
                    Op::FailSend => shell.fail_send = true,
                }
            }
            if phase == 0 {
                backup = Some(back_up(&world, now));
            } else if phase == 1 {
                restore(&mut world, backup.as_ref().unwrap(), None, false);
                (service, shell) = open(&world, &params(), NEVER);
                surveyor = Surveyor::default();
            }
        }
        until_settled(&mut world, &mut service, &mut shell, &mut surveyor, &mut now).unwrap();
        let covers = |wish: &(u8, Option<u8>, i64), play: &(u8, u8, i64)| {
            wish.0 == play.0 && wish.1.is_none_or(|item| item == play.1) && play.2 <= wish.2
        };
        let surviving: BTreeSet<(String, String, i64)> = played
            .iter()
            .filter(|play| !wished.iter().any(|wish| covers(wish, play)))
            .map(|(user, item, time)| (format!("u{user}"), format!("i{item}"), *time))
            .collect();
        let found: BTreeSet<(String, String, i64)> = plays(&service).into_iter().map(|play| (play.0, play.1, play.3)).collect();
        prop_assert_eq!(found, surviving);
        if world.outputs.contains_key("generations") {
            let numbers: Vec<u64> = manifests(&world).iter().map(|manifest| manifest.generation).collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", numbers);
            let (digest, manifest) = reader(&world);
            prop_assert_eq!(digest, manifest.digest);
            let stored = service.tables().current().unwrap().unwrap();
            prop_assert_eq!(bits(&stored.factors), bits(&service.state().current().unwrap().factors));
        }
    }
}
