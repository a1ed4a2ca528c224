//! What fences keep out, and for how long.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::http::Views;
use crate::kafka::{Batch, Positions, Record, Source, SourceState};
use crate::model::{Objective, Params};
use crate::run::purger::Idle;
use crate::run::simulation::*;

const DAY: Millis = 24 * 3_600_000;
const NEVER: Duration = Duration::from_secs(3600);

fn world() -> World {
    let mut world = World::default();
    for user in ["a", "b", "c"] {
        for item in ["x", "y"] {
            world.inputs[0].push(format!(r#"{{"event_id":"{user}{item}","user":"{user}","item":"{item}","time":10}}"#));
        }
    }
    world.inputs[1] = [
        r#"{"request_id":"1","user":"a","time":20}"#,
        r#"{"request_id":"2","user":"b","items":["x"],"time":20}"#,
        r#"{"request_id":"3","user":"c","event_ids":["cy"],"time":20}"#,
        r#"{"request_id":"4","items":["z"],"from":5,"to":15,"time":20}"#,
    ]
    .map(str::to_owned)
    .into();
    world
}

fn params() -> Params {
    crate::run::simulation::params(Objective::Implicit, 1)
}

/// All records of both topics again, under the offsets that they had.
struct Replayed<'w>(&'w World, bool);

impl Source for Replayed<'_> {
    fn poll(&mut self) -> Option<Batch> {
        let mut batch = Batch { topics: Arc::from([PLAYS.to_owned(), FORGETS.to_owned()]), ..Batch::default() };
        for (topic, lines) in self.0.inputs.iter().enumerate().filter(|_| !self.1) {
            for (offset, line) in lines.iter().enumerate() {
                let (offset, timestamp) = (offset as i64, Some(1_000_000));
                let record = Record { topic: topic as u16, partition: 0, offset, timestamp, key: None, payload: None, reset: true };
                batch.push(record, None, Some(line.as_bytes()));
            }
        }
        self.1 = true;
        (!batch.records.is_empty()).then_some(batch)
    }

    fn stored(&mut self, _: &Positions) {}

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

fn names(service: &Service) -> Vec<(String, String)> {
    plays(service).into_iter().map(|play| (play.0, play.1)).collect()
}

fn left() -> Vec<(String, String)> {
    [("b", "y"), ("c", "x")].map(|(user, item)| (user.to_owned(), item.to_owned())).into()
}

#[test]
fn a_replay_of_whole_topics_from_offset_0_brings_nothing_back() {
    let (mut world, mut now) = (world(), 2_000_000);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    settle(&mut world, &mut service, &mut shell, &mut now);
    assert_eq!(names(&service), left());
    let (digest, data) = (service.state().current().unwrap().manifest.digest.clone(), plays(&service));
    for _ in 0..2 {
        let (mut source, mut outputs, mut parcel, mut fail) = (Replayed(&world, false), Default::default(), None, false);
        let mut job = None;
        let mut solver = Solve { job: &mut job, may: true, cancelled: &mut false, seconds: 0.0 };
        let mut sink = Out(&mut parcel, &mut outputs, &mut fail);
        for _ in 0..40 {
            now += 400;
            let mut ports = Ports { source: &mut source, sink: &mut sink, solver: &mut solver, purger: &mut Idle };
            service.turn(&mut ports, now, true).unwrap();
        }
        assert_eq!(plays(&service), data);
        assert_eq!(service.state().current().unwrap().manifest.digest, digest);
        // Once more by a process that starts afterwards.
        (service, _) = open(&world, &params(), NEVER);
    }
    assert!(service.state().fences().len() >= 4);
}

#[test]
fn a_producer_that_is_a_week_late_is_let_in_only_for_what_came_after_the_forget() {
    let (mut world, mut now) = (world(), 2_000_000);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    settle(&mut world, &mut service, &mut shell, &mut now);
    now += 7 * DAY;
    let late =
        |id: &str, user: &str, item: &str, time: i64| format!(r#"{{"event_id":"{id}","user":"{user}","item":"{item}","time":{time}}}"#);
    let forgotten = [late("1", "a", "y", 20), late("2", "b", "x", 19), late("cy", "c", "x", 0), late("3", "d", "z", 15)];
    let wanted = [late("4", "a", "y", 21), late("5", "b", "z", 16), late("6", "c", "y", 20)];
    world.inputs[0].extend(forgotten.into_iter().chain(wanted));
    settle(&mut world, &mut service, &mut shell, &mut now);
    let back = [("a", "y"), ("b", "z"), ("c", "y")].map(|(user, item)| (user.to_owned(), item.to_owned()));
    let mut expected: Vec<_> = left().into_iter().chain(back).collect();
    expected.sort();
    assert_eq!(names(&service), expected);
}

#[test]
fn fences_end_when_told_to_and_only_then() {
    let (mut world, mut now) = (world(), 2_000_000);
    let (mut service, mut shell) = open(&world, &params(), NEVER);
    settle(&mut world, &mut service, &mut shell, &mut now);
    let began = now;
    let late = |time: i64| format!(r#"{{"user":"a","item":"y","time":{time}}}"#);
    for (kept, later, rules) in [(None, 400 * DAY, 4), (Some(400 * DAY), 399 * DAY, 4), (Some(398 * DAY), 400 * DAY, 0)] {
        // A restart reads what the store has.
        (service, shell) = open(&world, &params(), NEVER);
        service.keep(Keep { fences: kept.map(|kept: Millis| Duration::from_millis(kept as u64)), ..Keep::default() });
        now = began + later;
        world.inputs[0].push(late(10));
        settle(&mut world, &mut service, &mut shell, &mut now);
        assert_eq!(service.state().fences().len(), rules, "{kept:?}");
        assert_eq!(names(&service).iter().any(|play| play.0 == "a"), rules == 0, "{kept:?}");
    }
    service.observe(&Replayed(&world, true), now);
    let told = service.board.metrics();
    for line in ["nepenthe_fences 0", "nepenthe_fences_expired_total 4"] {
        assert!(told.contains(line), "{line}");
    }
    (service, _) = open(&world, &params(), NEVER);
    assert!(service.state().fences().is_empty());
}
