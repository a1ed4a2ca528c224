use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::model::fence::{Fences, HashKey};
use crate::model::processor::{InputTopics, Restored, State};
use crate::model::receipt::{Request, RequestKey};
use crate::model::step::{Input, Outgoing, Step, TOGETHER, Tally};
use crate::model::{Certify, Objective, Params};

/// A store that counts what is read of it.
#[derive(Default)]
struct Past {
    plays: BTreeSet<Play>,
    requests: BTreeMap<RequestKey, Request>,
    read: AtomicUsize,
    ranges: AtomicUsize,
}

impl Past {
    fn commit(&mut self, step: &Step) {
        self.plays.extend(step.plays.iter().map(|play| play.0));
        self.plays.retain(|play| step.erased.binary_search(play).is_err());
        self.requests.extend(step.requests.iter().cloned());
    }
}

impl History for Past {
    type Error = Infallible;

    fn plays(&self, range: Range, visit: &mut dyn FnMut(Play, &str)) -> Result<(), Infallible> {
        let (first, last) = match range {
            Range::All => ((0, 0), (u32::MAX, u32::MAX)),
            Range::Users(from, to) => ((from, 0), (to.map_or(u32::MAX, |to| to - 1), u32::MAX)),
            Range::User(user) => ((user, 0), (user, u32::MAX)),
        };
        let end = |(user, item), most: bool| Play {
            user,
            item,
            ident: most.then_some(u64::MAX),
            time: if most { i64::MAX } else { 0 },
            value: if most { u64::MAX } else { 0 },
        };
        self.ranges.fetch_add(1, Ordering::Relaxed);
        for play in self.plays.range(end(first, false)..=end(last, true)) {
            self.read.fetch_add(1, Ordering::Relaxed);
            visit(*play, "");
        }
        Ok(())
    }

    fn request(&self, key: &RequestKey) -> Result<Option<Request>, Infallible> {
        Ok(self.requests.get(key).cloned())
    }
}

fn state() -> State {
    let params = Params {
        objective: Objective::Implicit,
        rank: 2,
        regularization: 0.1,
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-6,
        certify: Certify::Residual,
        max_sweeps: 9,
        seed: 1,
        threads: 1,
    };
    let restored = Restored {
        dictionary: Default::default(),
        fences: Fences::new(HashKey::new([3; 32])),
        positions: Default::default(),
        current: None,
        waiting: Default::default(),
    };
    let topics = InputTopics { interactions: "events".to_owned(), forgets: "events".to_owned() };
    State::open(params, topics, restored, &Past::default()).unwrap()
}

fn take(state: &mut State, past: &mut Past, lines: &[String], from: usize) -> Step {
    let inputs = (from..).zip(lines).map(|(offset, line)| Input {
        topic: 0,
        partition: 0,
        offset: offset as i64,
        timestamp: Some(1_000),
        reset: false,
        key: None,
        payload: Some(line.as_bytes()),
    });
    let step = state.fold(&["events".to_owned()], inputs, 2_000, past).unwrap();
    past.commit(&step);
    step
}

fn play(user: usize, item: usize, event: usize, time: usize) -> String {
    format!(r#"{{"user":"u{user}","item":"i{item}","event_id":"e{event}","time":{time}}}"#)
}

fn record() -> impl Strategy<Value = String> {
    let plays = (0usize..4, 0usize..4, 0usize..5, 0usize..9).prop_map(|(user, item, event, time)| play(user, item, event, time));
    let list = |name: &'static str, prefix: &'static str| {
        prop::option::of(prop::collection::vec(0usize..6, 1..3)).prop_map(move |ids| {
            ids.map_or(String::new(), |ids| {
                let ids: Vec<String> = ids.iter().map(|id| format!(r#""{prefix}{id}""#)).collect();
                format!(r#","{name}":[{}]"#, ids.join(","))
            })
        })
    };
    let asks = (0usize..12, prop::option::of(0usize..5), list("items", "i"), list("event_ids", "e"), 0usize..9, 0usize..9).prop_map(
        |(id, user, items, events, a, b)| {
            let user = user.map_or(String::new(), |user| format!(r#","user":"u{user}""#));
            format!(r#"{{"type":"forget","request_id":"r{id}"{user}{items}{events},"from":{},"to":{},"time":9}}"#, a.min(b), a.max(b))
        },
    );
    // What selects nobody is refused, which is an order of records like any other.
    prop_oneof![3 => plays.prop_map(|play| play.replacen('{', r#"{"type":"interaction","#, 1)), 2 => asks]
}

fn added(tally: &mut Tally, more: Tally) {
    tally.interactions += more.interactions;
    tally.fenced += more.fenced;
    tally.forgets += more.forgets;
    tally.repeated += more.repeated;
    tally.rejected += more.rejected;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_first_span_that_holds_an_instant_is_found(spans in prop::collection::vec((0i64..20, 0i64..20), 0..12)) {
        let spans: Vec<(i64, i64)> = spans.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        let spans_by_number = (0..).zip(&spans).map(|(at, span)| (span.0, span.1, at)).collect();
        let mut earliest = Earliest { spans: spans_by_number, ..Earliest::default() };
        earliest.close();
        for time in -1..22 {
            let wanted = spans.iter().position(|span| (span.0..=span.1).contains(&time)).map(|at| at as u32);
            prop_assert_eq!(earliest.at(time), wanted, "{} in {:?}", time, spans);
        }
    }

    /// One batch does to the store, the counts, the requests and what is answered exactly what its records do one by one.
    #[test]
    fn a_batch_is_its_records_one_by_one(lines in prop::collection::vec(record(), 1..60), cut in 0usize..60) {
        let (mut one, mut at_once) = (state(), state());
        let (mut slow, mut quick) = (Past::default(), Past::default());
        let (mut tallies, mut answers) = ([Tally::default(); 2], [Vec::new(), Vec::new()]);
        for (at, line) in lines.iter().enumerate() {
            let step = take(&mut one, &mut slow, std::slice::from_ref(line), at);
            added(&mut tallies[0], step.tally);
            answers[0].extend(step.outbox);
        }
        let cut = cut.min(lines.len());
        for (from, lines) in [(0, &lines[..cut]), (cut, &lines[cut..])] {
            let step = take(&mut at_once, &mut quick, lines, from);
            added(&mut tallies[1], step.tally);
            answers[1].extend(step.outbox);
        }
        prop_assert_eq!(&slow.plays, &quick.plays);
        prop_assert_eq!(&slow.requests, &quick.requests);
        prop_assert_eq!(tallies[0], tallies[1]);
        prop_assert_eq!(&answers[0], &answers[1]);
        prop_assert_eq!(one.waiting(), at_once.waiting());
        prop_assert_eq!(one.changed(), at_once.changed());
    }
}

fn removed(step: &Step) -> Vec<u64> {
    let receipts = step.outbox.iter().filter_map(|message| match message {
        Outgoing::Receipt(receipt) => Some(receipt.removed.interactions),
        _ => None,
    });
    receipts.collect()
}

#[test]
fn a_person_is_read_once_however_many_requests_name_them() {
    let (mut state, mut past) = (state(), Past::default());
    let plays: Vec<String> =
        (0..3_000).map(|n| play(1, n % 700, n, n)).map(|play| play.replacen('{', r#"{"type":"interaction","#, 1)).collect();
    take(&mut state, &mut past, &plays, 0);
    let ask = |n: usize| match n % 3 {
        0 => format!(r#"{{"type":"forget","user":"u1","event_ids":["e{n}"],"time":5000}}"#),
        1 => format!(r#"{{"type":"forget","user":"u1","from":{n},"to":{n},"time":5000}}"#),
        _ => format!(r#"{{"type":"forget","user":"u1","items":["i{}"],"from":{n},"to":{n},"time":5000}}"#, n % 700),
    };
    let asks: Vec<String> = (0..3_000).map(ask).collect();
    past.read.store(0, Ordering::Relaxed);
    let step = take(&mut state, &mut past, &asks, plays.len());
    assert_eq!(past.read.load(Ordering::Relaxed), 3_000, "each of the interactions once");
    assert_eq!(removed(&step), vec![1; 3_000]);
    assert!(past.plays.is_empty());
}

#[test]
fn owners_are_read_once_however_many_things_everybody_forgets() {
    let (mut state, mut past) = (state(), Past::default());
    let plays: Vec<String> =
        (0..20_000).map(|n| play(n / 100, n % 100, n, 5)).map(|play| play.replacen('{', r#"{"type":"interaction","#, 1)).collect();
    take(&mut state, &mut past, &plays, 0);
    past.read.store(0, Ordering::Relaxed);
    past.ranges.store(0, Ordering::Relaxed);
    // All 200 people are changed and in no frozen pairs: each is looked at for each request, or once for all of them.
    let asks: Vec<String> = (0..99).map(|item| format!(r#"{{"type":"forget","items":["i{item}"],"time":5000}}"#)).collect();
    let step = take(&mut state, &mut past, &asks, plays.len());
    let groups = 200usize.div_ceil(TOGETHER as usize);
    assert_eq!((past.ranges.load(Ordering::Relaxed), past.read.load(Ordering::Relaxed)), (groups, 20_000));
    assert_eq!(removed(&step), vec![200; 99]);
    assert_eq!(past.plays.len(), 200);
}

#[test]
fn a_batch_holds_what_it_brings_of_the_known_against_its_own_fences() {
    let (mut state, mut past) = (state(), Past::default());
    take(&mut state, &mut past, &[play(1, 1, 1, 1), play(2, 1, 2, 1)], 0);
    let forget = r#"{"type":"forget","request_id":"r","user":"u1","to":5,"time":9}"#.to_owned();
    // All of known names, so each is a play before the fence of its own batch stands.
    let lines = [play(1, 1, 3, 2), forget, play(1, 1, 4, 3), play(2, 1, 5, 3), play(1, 1, 6, 6)];
    let step = take(&mut state, &mut past, &lines, 2);
    assert_eq!((step.tally.interactions, step.tally.fenced), (3, 1));
    let left: Vec<(u32, i64)> = past.plays.iter().map(|play| (play.user, play.time)).collect();
    assert_eq!(left, [(0, 6), (1, 1), (1, 3)]);
}
