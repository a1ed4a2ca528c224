//! Everything derived forgets too. Each test has one quantity: data that changed it are forgotten, and it is what it is
//! where these data were never seen. There are no sample sets: nothing in the service is estimated from a sample.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::http::Views;
use crate::model::factors::Table;
use crate::model::receipt::Manifest;
use crate::model::{Objective, Params};
use crate::run::simulation::*;

const BOTH: [Objective; 2] = [Objective::Implicit, Objective::Explicit];

/// A service and the world around it.
struct Running {
    world: World,
    service: Service,
    shell: Shell,
    now: Millis,
    params: Params,
}

impl Running {
    /// Knows `lines`, in a certified generation that is published.
    fn settled(objective: Objective, lines: &[String]) -> Running {
        let (mut world, params) = (World::default(), params(objective, 1));
        world.inputs[0] = lines.to_vec();
        let (service, shell) = open(&world, &params, Duration::ZERO);
        let mut running = Running { world, service, shell, now: 2_000_000, params };
        running.settle();
        running
    }

    fn settle(&mut self) {
        settle(&mut self.world, &mut self.service, &mut self.shell, &mut self.now);
    }

    /// Turns until the current generation is an interim; a solve of everything does not end meanwhile.
    fn until_interim(&mut self) {
        for _ in 0..100 {
            if self.current().interim {
                return;
            }
            let may = self.shell.job.as_ref().is_some_and(|job| job.is_interim());
            self.turn(may);
        }
        panic!("no interim generation comes");
    }

    fn turn(&mut self, may: bool) {
        self.now += 200;
        self.shell.take = ((self.now / 200 % 2) as usize, 50);
        turn(&mut self.world, &mut self.service, &mut self.shell, self.now, may);
    }

    fn restart(&mut self) {
        (self.service, self.shell) = open(&self.world, &self.params, Duration::ZERO);
    }

    fn forget(&mut self, what: &str) {
        let n = self.world.inputs[1].len();
        self.world.inputs[1].push(format!(r#"{{"request_id":"r{n}",{what},"time":1000}}"#));
    }

    fn current(&self) -> &Manifest {
        &self.service.state().current().unwrap().manifest
    }

    /// Every bit of the rows that exist.
    fn bits(&self) -> Vec<Vec<u64>> {
        let factors = &self.service.state().current().unwrap().factors;
        let rows =
            |table: &Table| table.rows().flat_map(|row| table.raw(row).iter().map(|value| value.to_bits()).collect::<Vec<_>>()).collect();
        [rows(&factors.users), rows(&factors.items)].into()
    }

    /// Number of counterparts of every row, by name.
    fn degrees(&self) -> BTreeMap<String, usize> {
        let (state, mut degrees) = (self.service.state(), BTreeMap::new());
        for (side, rows) in [(Side::User, &state.ratings().users), (Side::Item, &state.ratings().items)] {
            for (number, name) in state.dictionary().names(side).iter().enumerate() {
                if let Some(name) = name {
                    degrees.insert(side.key(name), rows.degree(number));
                }
            }
        }
        degrees
    }
}

fn play(user: &str, item: &str, value: usize) -> String {
    format!(r#"{{"user":"{user}","item":"{item}","value":{value},"time":99}}"#)
}

/// What is left in the end.
fn kept() -> Vec<String> {
    let has = |user: usize, item: usize| (user * 5 + item * 3) % 4 != 1 || user % 3 == item % 3;
    (0..12)
        .flat_map(|user| (0..13).filter(move |&item| has(user, item)).map(move |item| (user, item)))
        .map(|(user, item)| play(&format!("u{user}"), &format!("i{item}"), 1 + (user + item) % 3))
        .collect()
}

/// What is forgotten: a person who has everything, a thing that everybody has, values far above the others.
fn passing() -> Vec<String> {
    let person = (0..8).map(|item| play("gone", &format!("i{item}"), 5));
    let thing = (0..12).map(|user| play(&format!("u{user}"), "lost", 4));
    person.chain(thing).chain([play("gone", "only", 9), play("u2", "far", 40)]).collect()
}

/// One that knew and forgot, and one that never knew.
fn forgetful_and_innocent(objective: Objective) -> (Running, Running) {
    let mut forgetful = Running::settled(objective, &[kept(), passing()].concat());
    forgetful.forget(r#""user":"gone""#);
    forgetful.forget(r#""items":["lost","far"]"#);
    (forgetful, Running::settled(objective, &kept()))
}

fn differing(bits: &[Vec<Vec<u64>>; 2]) -> String {
    let pairs = bits[0].iter().flatten().zip(bits[1].iter().flatten());
    let of = |side: usize| (bits[0][side].len(), bits[1][side].len());
    format!("{} values differ; lengths {:?} {:?}", pairs.filter(|(a, b)| a != b).count(), of(0), of(1))
}

fn near(a: f64, b: f64, within: f64) -> bool {
    (a - b).abs() <= within * b.abs()
}

#[test]
fn the_mean() {
    let (mut forgetful, innocent) = forgetful_and_innocent(Objective::Explicit);
    let (before, never) = (forgetful.current().model.mean.unwrap(), innocent.current().model.mean.unwrap());
    assert!(!near(before, never, 0.1), "it was another: {before} {never}");
    forgetful.until_interim();
    assert!(near(forgetful.current().model.mean.unwrap(), never, 1e-14), "already ahead of the solve of everything");
    forgetful.settle();
    assert!(near(forgetful.current().model.mean.unwrap(), never, 1e-14));
}

/// `n` of a row in its regularization.
#[test]
fn counts_of_counterparts() {
    for objective in BOTH {
        let (mut forgetful, innocent) = forgetful_and_innocent(objective);
        assert_ne!(forgetful.degrees(), innocent.degrees());
        forgetful.settle();
        assert_eq!(forgetful.degrees(), innocent.degrees());
    }
}

/// `N` of a side in the regularization of the other one, and what the manifest counts.
#[test]
fn counts_of_rows() {
    let counts = |running: &Running| {
        let current = running.service.state().current().unwrap();
        let told = current.manifest.counts;
        (current.factors.users.count(), current.factors.items.count(), told.users, told.items, told.interactions)
    };
    for objective in BOTH {
        let (mut forgetful, innocent) = forgetful_and_innocent(objective);
        assert_ne!(counts(&forgetful), counts(&innocent));
        forgetful.until_interim();
        assert_eq!(counts(&forgetful), counts(&innocent), "already ahead of the solve of everything");
        forgetful.settle();
        assert_eq!(counts(&forgetful), counts(&innocent));
    }
}

/// Those that a certified generation keeps are those of its factors, bit for bit: the quick step after it comes to the
/// same as in a process that keeps nothing and computes them and their decomposition anew.
#[test]
fn gram_matrices_and_their_factorisations() {
    for objective in BOTH {
        let steps = [false, true].map(|restarts| {
            let (mut running, _) = forgetful_and_innocent(objective);
            running.settle();
            if restarts {
                running.restart();
            }
            running.forget(r#""user":"u5""#);
            running.until_interim();
            running.bits()
        });
        assert!(steps[0] == steps[1], "{objective:?}: {}", differing(&steps));
    }
}

/// The solve after an interim is that of a process that did nothing else before, bit for bit.
#[test]
fn the_history_of_the_accelerator() {
    for objective in BOTH {
        let ends = [false, true].map(|restarts| {
            let (mut running, _) = forgetful_and_innocent(objective);
            running.until_interim();
            if restarts {
                running.restart();
            }
            running.settle();
            running.bits()
        });
        assert!(ends[0] == ends[1], "{objective:?}");
    }
}

/// What was forgotten comes back as something new: it starts from its name, not from where it was.
#[test]
fn first_values() {
    for objective in BOTH {
        let starts = |mut running: Running| {
            running.settle();
            let again = [play("u1", "lost", 2), play("u4", "lost", 1)].map(|line| line.replace(r#""time":99"#, r#""time":2000"#));
            running.world.inputs[0].extend(again);
            (0..100).for_each(|_| {
                if running.shell.job.is_none() {
                    running.turn(false)
                }
            });
            let job = running.shell.job.take().unwrap();
            let number = running.service.state().dictionary().get(Side::Item, "lost").unwrap();
            job.problem.initial.iter().find(|(item, _)| *item == number).map(|(_, row)| row.clone()).unwrap()
        };
        let (forgetful, innocent) = forgetful_and_innocent(objective);
        assert_eq!(starts(forgetful), starts(innocent));
    }
}

#[test]
fn names() {
    let known = |running: &Running, side: Side| {
        let mut names: Vec<String> = running.service.state().dictionary().names(side).iter().flatten().map(|n| n.to_string()).collect();
        names.sort();
        names
    };
    let (mut forgetful, innocent) = forgetful_and_innocent(Objective::Implicit);
    assert!(forgetful.service.board.recommendations("gone", 3).unwrap().is_some(), "the pages knew the name");
    forgetful.settle();
    for side in Side::BOTH {
        assert_eq!(known(&forgetful, side), known(&innocent, side));
    }
    assert!(forgetful.service.board.recommendations("gone", 3).unwrap().is_none());
}

/// What the pages and the metrics say of the model.
#[test]
fn what_is_told() {
    let told = |running: &Running| {
        let status = running.service.board.status();
        let text = running.service.metrics.render();
        let gauge = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name} "))).map(str::to_owned);
        let gauges = ["nepenthe_users", "nepenthe_items", "nepenthe_interactions"].map(gauge);
        assert!(gauges.iter().all(Option::is_some), "{gauges:?}");
        let counts = &status["counts"];
        (gauges, ["users", "items", "interactions"].map(|name| counts[name].clone()))
    };
    let (mut forgetful, innocent) = forgetful_and_innocent(Objective::Implicit);
    assert_ne!(told(&forgetful), told(&innocent));
    forgetful.settle();
    assert_eq!(told(&forgetful), told(&innocent));
    let objective = |running: &Running| running.current().certificate.objective;
    assert!(near(objective(&forgetful), objective(&innocent), 1e-9));
}

/// Everything together: rows, and with them every quantity above.
#[test]
fn predictions_of_both() {
    let (mut forgetful, innocent) = forgetful_and_innocent(Objective::Implicit);
    forgetful.settle();
    let (mine, theirs) = (predictions(&forgetful.service), predictions(&innocent.service));
    assert!(mine.keys().eq(theirs.keys()));
    assert!(mine.iter().all(|(pair, x)| (x - theirs[pair]).abs() < 1e-6));
}
