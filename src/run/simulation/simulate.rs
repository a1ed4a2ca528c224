//! `make simulate`: many seeds, on all cores. A failure prints its seed and how to live through it again.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::setup::Lived;
use super::trial::Trial;

/// Seeds of a plain test run.
const SEEDS: u64 = 200;

/// What is asked for: `SIMULATE_SEED` one seed, `SIMULATE_SEEDS` so many from 0 on, `SIMULATE_FIRST` only until one fails.
#[expect(clippy::disallowed_methods, reason = "which seeds are run is no part of the configuration")]
fn asked(what: &str) -> Option<u64> {
    std::env::var(what).ok().map(|text| text.parse().expect("a number"))
}

/// Lives through a seed; a panic on the way is a failure like any other.
fn live(seed: u64) -> Result<Lived, String> {
    let lived = catch_unwind(|| Trial::run(seed));
    lived.unwrap_or_else(|_| Err("the loop panicked; see the message above".to_owned()))
}

/// What came of many seeds.
#[derive(Default)]
struct Tally {
    seeds: u64,
    lived: Lived,
    failures: Vec<(u64, String)>,
}

impl Tally {
    fn line(&self) -> String {
        let Tally { seeds, lived, failures } = self;
        let Lived { events, forgets, turns, crashes, cuts, full, rebalances, made_anew, failed_sends, generations, interims } = lived;
        format!(
            "{seeds} seeds: {turns} turns, {events} events ({forgets} forgets), {crashes} crashes ({cuts} between two store operations, \
             {full} writes without space), {rebalances} rebalances, {made_anew} partitions made anew, {failed_sends} failed sends, \
             {generations} generations ({interims} interim solves); failures: {}",
            failures.len()
        )
    }
}

/// Lives through `seeds` seeds; with `first` only until all below one that failed are done.
fn simulate(seeds: u64, first: bool, progress: bool) -> Tally {
    let (next, end, tally) = (AtomicU64::new(0), AtomicU64::new(seeds), Mutex::new(Tally::default()));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end.load(Ordering::Relaxed) {
            return;
        }
        let lived = live(seed);
        let mut tally = tally.lock().expect("nobody panics with it");
        tally.seeds += 1;
        match lived {
            Ok(lived) => tally.lived.add(&lived),
            Err(broken) => {
                eprintln!("seed {seed}: {broken}\n  again: make simulate SEED={seed}");
                tally.failures.push((seed, broken));
                if first {
                    end.fetch_min(seed, Ordering::Relaxed);
                }
            }
        }
        if progress && tally.seeds.is_multiple_of(500) {
            eprintln!("{}", tally.line());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut tally = tally.into_inner().expect("nobody panicked with it");
    tally.failures.sort();
    tally
}

#[test]
fn simulate_seeds() {
    if let Some(seed) = asked("SIMULATE_SEED") {
        let lived = live(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        eprintln!("seed {seed}: {lived:?}");
        return;
    }
    let seeds = asked("SIMULATE_SEEDS");
    let tally = simulate(seeds.unwrap_or(SEEDS), asked("SIMULATE_FIRST").is_some(), seeds.is_some());
    eprintln!("{}", tally.line());
    if let Some((seed, broken)) = tally.failures.first() {
        panic!("seed {seed}: {broken}\n{} of {} seeds failed; again: make simulate SEED={seed}", tally.failures.len(), tally.seeds);
    }
    let Lived { crashes, cuts, full, rebalances, made_anew, failed_sends, interims, .. } = tally.lived;
    let all = [crashes, cuts, full, rebalances, made_anew, failed_sends, interims];
    assert!(all.iter().all(|count| *count > 0), "each trouble was met: {all:?}");
}

#[test]
fn simulate_a_seed_twice() {
    for seed in 0..5 {
        assert_eq!(format!("{:?}", live(seed)), format!("{:?}", live(seed)), "a seed decides everything");
    }
}
