//! What changed is readable ahead of the solve of everything, and the end is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::model::generation::Job;
use crate::model::receipt::{Manifest, Status};
use crate::model::step::History;
use crate::model::{Objective, Params};
use crate::run::simulation::*;

const FORGET: &str = r#"{"request_id":"r","user":"u3","time":1000}"#;

/// A world of some people and things, its service with one certified generation published.
fn settled(interim_after: Duration) -> (World, Service, Shell, Millis) {
    let mut world = World::default();
    for user in 0..9 {
        for item in (0..8).filter(|item| (user * 5 + item * 3) % 4 != 1 || user % 3 == item % 3) {
            world.inputs[0].push(format!(r#"{{"user":"u{user}","item":"i{item}","value":{},"time":{item}}}"#, 1 + (user + item) % 3));
        }
    }
    let (mut service, mut shell) = open(&world, &model(1), interim_after);
    let mut now = 2_000_000;
    settle(&mut world, &mut service, &mut shell, &mut now);
    (world, service, shell, now)
}

fn model(seed: u64) -> Params {
    params(Objective::Implicit, seed)
}

fn manifests(world: &World) -> Vec<Manifest> {
    world.outputs["generations"].iter().map(|record| serde_json::from_slice(record.value.as_ref().unwrap()).unwrap()).collect()
}

/// Some turns in which a running solve does not end.
fn turns(world: &mut World, service: &mut Service, shell: &mut Shell, now: &mut Millis, n: usize, solve: bool) {
    for _ in 0..n {
        *now += 200;
        shell.take = ((*now / 200 % 2) as usize, 50);
        turn(world, service, shell, *now, solve);
    }
}

/// Predictions of a loop that only ever saw what is left.
fn never_seen(world: &World, left: impl Fn(&str) -> bool) -> BTreeMap<(String, String), f64> {
    let mut fresh = World::default();
    fresh.inputs[0] = world.inputs[0].iter().filter(|line| left(line)).cloned().collect();
    let (mut service, mut shell) = open(&fresh, &model(2), Duration::MAX);
    settle(&mut fresh, &mut service, &mut shell, &mut 0);
    predictions(&service)
}

fn assert_equal(mine: &BTreeMap<(String, String), f64>, theirs: &BTreeMap<(String, String), f64>) {
    assert_eq!(mine.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let apart = mine.iter().map(|(pair, x)| (x - theirs[pair]).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-6, "{apart}");
}

fn status(service: &Service, id: &str) -> Status {
    service.tables().request(&key().request(id)).unwrap().unwrap().receipt.status
}

#[test]
fn a_forget_is_readable_before_the_solve_of_everything() {
    let (mut world, mut service, mut shell, mut now) = settled(Duration::ZERO);
    world.inputs[1].push(FORGET.to_owned());
    let before = manifests(&world).len();
    while manifests(&world).len() == before {
        // The solve that follows takes longer than the interim takes to its readers.
        let solve = !service.unpublished;
        turns(&mut world, &mut service, &mut shell, &mut now, 1, solve);
    }
    let (digest, interim) = reader(&world);
    assert!(interim.interim && interim.certificate.sweeps == 0 && interim.certificate.residual > interim.certificate.tolerance);
    assert_eq!((digest, interim.requests.len(), interim.counts.users), (interim.digest.clone(), 0, 8));
    let gone = world.outputs["factors"].iter().rfind(|record| record.key.as_deref() == Some(b"u/u3")).unwrap();
    assert_eq!(gone.value, None, "a tombstone");
    assert!(interim.counts.changed <= 8, "only what was touched is published: {:?}", interim.counts);
    assert_eq!(status(&service, "r"), Status::Erased, "no claim without a certificate");
    let measured = crate::model::certificate::measure(
        pulp::Arch::new(),
        service.state().ratings(),
        &service.state().current().unwrap().factors,
        &crate::model::als::Weights::new(&model(1), 0.0),
    );
    let apart = interim.certificate.residual / measured.residual - 1.0;
    assert!(apart.abs() < 1e-12, "the manifest says what is measured: {apart}");

    settle(&mut world, &mut service, &mut shell, &mut now);
    let last = manifests(&world).pop().unwrap();
    assert!(!last.interim && last.certificate.holds() && last.parent == Some(interim.generation));
    assert_eq!((last.requests, status(&service, "r")), (vec!["r".to_owned()], Status::Published));
    assert_equal(&predictions(&service), &never_seen(&world, |line| !line.contains(r#""u3""#)));
}

#[test]
fn a_new_play_is_readable_at_once_too() {
    let (mut world, mut service, mut shell, mut now) = settled(Duration::ZERO);
    world.inputs[0].push(r#"{"user":"new","item":"i1","time":99}"#.to_owned());
    world.inputs[0].push(r#"{"user":"newer","item":"newest","time":99}"#.to_owned());
    settle(&mut world, &mut service, &mut shell, &mut now);
    let found: Vec<bool> = manifests(&world).iter().rev().take(2).map(|manifest| manifest.interim).collect();
    assert_eq!(found, [false, true]);
    assert_equal(&predictions(&service), &never_seen(&world, |_| true));
}

#[test]
fn a_quick_solve_has_nothing_ahead_of_it() {
    let (mut world, mut service, mut shell, mut now) = settled(Duration::from_secs(1));
    world.inputs[1].push(FORGET.to_owned());
    settle(&mut world, &mut service, &mut shell, &mut now);
    assert!(manifests(&world).iter().all(|manifest| !manifest.interim));
}

/// The process dies at any turn after the forget came; sends fail on the way.
#[test]
fn an_interim_survives_crashes_and_failed_sends() {
    let mut interims = 0;
    for dies_after in 0..14 {
        let (mut world, _, _, mut now) = settled(Duration::ZERO);
        // A restart knows no Gram matrices, and that nothing changed meanwhile.
        let (mut service, mut shell) = open(&world, &model(1), Duration::ZERO);
        world.inputs[1].push(FORGET.to_owned());
        turns(&mut world, &mut service, &mut shell, &mut now, 4, true);
        shell.fail_send = true;
        turns(&mut world, &mut service, &mut shell, &mut now, dies_after, true);
        interims += usize::from(service.state().current().unwrap().manifest.interim);
        (service, shell) = open(&world, &model(1), Duration::ZERO);
        settle(&mut world, &mut service, &mut shell, &mut now);
        let (digest, last) = reader(&world);
        assert!(!last.interim && last.certificate.holds() && digest == last.digest, "after {dies_after}");
        assert_eq!(status(&service, "r"), Status::Published);
        assert_equal(&predictions(&service), &never_seen(&world, |line| !line.contains(r#""u3""#)));
    }
    assert!(interims > 2, "some of them died on an interim: {interims}");
}

#[test]
fn a_solve_that_serves_nobody_gives_way_to_a_forget() {
    let (mut world, mut service, mut shell, mut now) = settled(Duration::ZERO);
    // So much that there is nothing quick about it.
    for user in 20..40 {
        world.inputs[0].push(format!(r#"{{"user":"u{user}","item":"i{}","time":99}}"#, user % 8));
    }
    turns(&mut world, &mut service, &mut shell, &mut now, 40, false);
    assert!(shell.job.as_ref().is_some_and(|job| !job.is_interim()) && !shell.cancelled);
    world.inputs[1].push(FORGET.to_owned());
    for _ in 0..6 {
        let n = usize::from(!shell.cancelled);
        turns(&mut world, &mut service, &mut shell, &mut now, n, false);
    }
    assert!(shell.cancelled, "the forget does not wait for the end");
    turns(&mut world, &mut service, &mut shell, &mut now, 2, false);
    assert!(shell.job.as_ref().is_some_and(Job::serves), "the next one is for it");

    world.inputs[1].push(r#"{"request_id":"s","user":"u4","time":1000}"#.to_owned());
    turns(&mut world, &mut service, &mut shell, &mut now, 20, false);
    assert!(!shell.cancelled && shell.job.as_ref().is_some_and(Job::serves), "one that serves a forget is let finish");
    settle(&mut world, &mut service, &mut shell, &mut now);
    assert_eq!((status(&service, "r"), status(&service, "s")), (Status::Published, Status::Published));
    assert_equal(&predictions(&service), &never_seen(&world, |line| !line.contains(r#""u3""#) && !line.contains(r#""u4""#)));
}

/// Four seconds a solve: the first two are open to others who forget, and only once.
#[test]
fn a_forget_joins_a_solve_in_its_first_half() {
    let forget = |id: &str, user: u32| format!(r#"{{"request_id":"{id}","user":"u{user}","time":1000}}"#);
    for late in [false, true] {
        let (mut world, mut service, mut shell, mut now) = settled(Duration::from_secs(3600));
        shell.seconds = 4.0;
        world.inputs[1].push(forget("p", 8));
        settle(&mut world, &mut service, &mut shell, &mut now);
        world.inputs[1].push(forget("r", 3));
        while shell.job.is_none() {
            turns(&mut world, &mut service, &mut shell, &mut now, 1, false);
        }
        if late {
            now += 2_000;
        }
        world.inputs[1].push(forget("s", 4));
        turns(&mut world, &mut service, &mut shell, &mut now, 6, false);
        let joined = |shell: &Shell| shell.job.as_ref().map(Job::requests);
        assert_eq!(joined(&shell), Some(if late { 1 } else { 2 }), "late: {late}");
        world.inputs[1].push(forget("t", 5));
        turns(&mut world, &mut service, &mut shell, &mut now, 6, false);
        assert_eq!(joined(&shell), Some(if late { 1 } else { 2 }), "once is enough; late: {late}");
        settle(&mut world, &mut service, &mut shell, &mut now);
        for id in ["r", "s", "t"] {
            assert_eq!(status(&service, id), Status::Published);
        }
        let left = |line: &str| [8, 3, 4, 5].iter().all(|user| !line.contains(&format!(r#""u{user}""#)));
        assert_equal(&predictions(&service), &never_seen(&world, left));
        world.inputs[1].push(forget("v", 6));
        while shell.job.is_none() {
            turns(&mut world, &mut service, &mut shell, &mut now, 1, false);
        }
        world.inputs[1].push(forget("w", 7));
        turns(&mut world, &mut service, &mut shell, &mut now, 6, false);
        assert_eq!(joined(&shell), Some(2), "the next may be joined again");
    }
}

/// A little changed, and the solve of everything that follows the interim gives way: the interim stands, and the next
/// solve goes on from where the other was.
#[test]
fn a_solve_after_an_interim_gives_way_too() {
    let (mut world, mut service, mut shell, mut now) = settled(Duration::ZERO);
    world.inputs[0].push(r#"{"user":"u1","item":"i9","time":99}"#.to_owned());
    while !service.state().current().unwrap().manifest.interim {
        turns(&mut world, &mut service, &mut shell, &mut now, 1, true);
    }
    turns(&mut world, &mut service, &mut shell, &mut now, 8, false);
    assert!(shell.job.as_ref().is_some_and(|job| !job.is_interim()));
    world.inputs[1].push(FORGET.to_owned());
    turns(&mut world, &mut service, &mut shell, &mut now, 4, false);
    let before = manifests(&world).len();
    settle(&mut world, &mut service, &mut shell, &mut now);
    let after = manifests(&world);
    assert_eq!(after.len(), before + 1, "no second interim: the rows of the first are not stationary");
    assert_equal(&predictions(&service), &never_seen(&world, |line| !line.contains(r#""u3""#)));
}

/// What is left are ratings that are all their mean: nothing pulls at the rows that the step leaves alone.
#[test]
fn an_interim_that_nothing_pulls_at_is_found_again() {
    let (mut world, params) = (World::default(), params(Objective::Explicit, 1));
    for (user, item) in (0..9).flat_map(|user| (0..8).map(move |item| (user, item))) {
        let value = if user == 3 { 3 + item % 3 } else { 3 };
        world.inputs[0].push(format!(r#"{{"user":"u{user}","item":"i{item}","value":{value},"time":{item}}}"#));
    }
    let (mut service, mut shell) = open(&world, &params, Duration::ZERO);
    let mut now = 2_000_000;
    settle(&mut world, &mut service, &mut shell, &mut now);
    world.inputs[1].push(FORGET.to_owned());
    while !service.state().current().unwrap().manifest.interim {
        turns(&mut world, &mut service, &mut shell, &mut now, 1, true);
    }
    assert_eq!(service.state().current().unwrap().manifest.certificate.residual, 1.0);
    (service, shell) = open(&world, &params, Duration::ZERO);
    settle(&mut world, &mut service, &mut shell, &mut now);
    assert_eq!(status(&service, "r"), Status::Published);
}
